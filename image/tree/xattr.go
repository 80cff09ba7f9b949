package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/pantala/pantala/image/index"
)

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
	capability = "security.capability"

	// maxValue is the longest value EROFS can hold (16 bits of length); Linux allows one byte more.
	maxValue = 1<<16 - 1
	// maxList is XATTR_LIST_MAX (limits.h): the names of a file, each with a zero byte.
	maxList = 1 << 16
	// maxAll is what EROFS can hold of a file: 16 bits count units of four bytes.
	maxAll = 4 * (1<<16 - 2)
)

// dropped describe the machine where a layer was built: what umoci (0.4.7, oci/layer/tar_generate.go) never unpacks.
var dropped = []string{
	"security.selinux",
	"system.nfs4_acl",
	"trusted.overlay.impure",
	"trusted.overlay.metacopy",
	"trusted.overlay.nlink",
	"trusted.overlay.opaque",
	"trusted.overlay.origin",
	"trusted.overlay.redirect",
	"trusted.overlay.upper",
}

// spaces are the namespaces whose names are free (xattr(7)).
var spaces = []string{"user.", "trusted.", "security."}

// attributes is what setxattr(2) leaves of in, for an inode of type kind, and the permissions perm after it.
func attributes(kind, perm uint16, in []index.Xattr) (out []index.Xattr, _ uint16, err error) {
	if len(in) == 0 {
		return nil, perm, nil
	}
	list, all := 0, 0
	for _, x := range in {
		keep := true
		switch {
		case slices.Contains(dropped, x.Name):
			keep = false
		case len(x.Name) > maxName || strings.IndexByte(x.Name, 0) >= 0 || slices.Contains(spaces, x.Name):
			return nil, 0, fmt.Errorf("the name of the attribute %q cannot be set", shorten(x.Name))
		case len(x.Value) > maxValue:
			return nil, 0, fmt.Errorf("the attribute %q has %d bytes, more than %d", x.Name, len(x.Value), maxValue)
		case x.Name == aclAccess || x.Name == aclDefault:
			if kind == Symlink {
				keep = false
				break
			}
			if x.Value, perm, err = setACL(x.Name, x.Value, kind, perm); err != nil {
				return nil, 0, err
			}
			keep = x.Value != ""
		case strings.HasPrefix(x.Name, "user."):
			keep = kind == File || kind == Directory // xattr(7)
		case strings.HasPrefix(x.Name, "trusted.") || strings.HasPrefix(x.Name, "security."): // any inode may have them
		default:
			keep = false // a namespace of another system
		}
		if !keep {
			continue
		}
		if x.Name == capability && !validCapability(x.Value) {
			return nil, 0, errCapability
		}
		if n := len(out); n > 0 && out[n-1].Name == x.Name {
			out[n-1] = x // the last of several counts
			continue
		}
		list += len(x.Name) + 1
		if all += 4 + (len(x.Name)+len(x.Value)+3)&^3; list > maxList || all > maxAll {
			return nil, 0, errAttributes
		}
		out = append(out, x)
	}
	return out, perm, nil
}

var (
	errAttributes = fmt.Errorf("its attributes have more than %d bytes, or their names more than %d", maxAll, maxList)
	errCapability = errors.New("its file capabilities are malformed")
	errACL        = errors.New("its access control list is malformed")
	errDefaultACL = errors.New("only a directory can have a default access control list")
)

// validCapability reports whether the kernel takes the value (security/commoncap.c, cap_convert_nscap): revision 2 or 3
// of struct vfs_cap_data.
func validCapability(v string) bool {
	const revision, revision2, revision3 = 0xff000000, 0x02000000, 0x03000000
	if len(v) < 4 {
		return false
	}
	magic := binary.LittleEndian.Uint32([]byte(v)) & revision
	return len(v) == 20 && magic == revision2 || len(v) == 24 && magic == revision3
}

// Access control lists as they stand in attributes (linux/posix_acl_xattr.h): a version, then entries of tag,
// permissions and id, all little-endian.
const (
	aclVersion = 2
	aclHeader  = 4
	aclEntry   = 8

	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// acl is a list that was found to be in order.
type acl struct {
	user, group, mask, other uint16 // permissions of the entries that are there once
	extended                 bool   // it has others
	text                     string // its value, with the ids that mean nothing made equal
}

// parseACL refuses what posix_acl_valid (fs/posix_acl.c) refuses.
func parseACL(value string) (a acl, err error) {
	b := []byte(value)
	if len(b) < aclHeader || binary.LittleEndian.Uint32(b) != aclVersion || (len(b)-aclHeader)%aclEntry != 0 {
		return a, errACL
	}
	last, needMask, hasMask := uint16(0), false, false
	for p := b[aclHeader:]; len(p) > 0; p = p[aclEntry:] {
		tag, perm, id := binary.LittleEndian.Uint16(p), binary.LittleEndian.Uint16(p[2:]), binary.LittleEndian.Uint32(p[4:])
		named := tag == aclUser || tag == aclGroup
		if perm > 7 || tag < last || tag == last && !named || named && id == math.MaxUint32 {
			return a, errACL
		}
		last = tag
		switch tag {
		case aclUserObj:
			a.user = perm
		case aclGroupObj:
			a.group = perm
		case aclMask:
			a.mask, hasMask = perm, true
		case aclOther:
			a.other = perm
		case aclUser, aclGroup:
			needMask = true
		default:
			return a, errACL
		}
		if !named {
			binary.LittleEndian.PutUint32(p[4:], math.MaxUint32)
		}
	}
	if !hasTags(b[aclHeader:], aclUserObj, aclGroupObj, aclOther) || needMask && !hasMask {
		return a, errACL
	}
	if !hasMask {
		a.mask = a.group
	}
	a.extended, a.text = needMask || hasMask, string(b)
	return a, nil
}

func hasTags(entries []byte, tags ...uint16) bool {
	for ; len(entries) > 0; entries = entries[aclEntry:] {
		tag := binary.LittleEndian.Uint16(entries)
		tags = slices.DeleteFunc(tags, func(t uint16) bool { return t == tag })
	}
	return len(tags) == 0
}

// bits are the permissions that an access list amounts to (posix_acl_equiv_mode).
func (a acl) bits() uint16 { return a.user<<6 | a.mask<<3 | a.other }

// setACL is what is stored for a list, "" if nothing, and the permissions after it.
func setACL(name, value string, kind, perm uint16) (string, uint16, error) {
	if len(value) == aclHeader && binary.LittleEndian.Uint32([]byte(value)) == aclVersion {
		return "", perm, nil // no entries: there is no list
	}
	a, err := parseACL(value)
	switch {
	case err != nil:
		return "", 0, err
	case name == aclDefault && kind != Directory:
		return "", 0, errDefaultACL
	case name == aclDefault:
		return a.text, perm, nil
	case !a.extended:
		return "", perm&^0o777 | a.bits(), nil
	}
	return a.text, perm&^0o777 | a.bits(), nil
}

// inherit gives directory id what mkdir(2) passes on from its parent: the default access control list.
func (m *merger) inherit(parent, id uint32) {
	for _, x := range m.extras[m.nodes.at(parent).extra].xattrs {
		if x.Name != aclDefault {
			continue
		}
		a, err := parseACL(x.Value)
		if err != nil {
			return // describe lets none in
		}
		n := m.nodes.at(id)
		n.mode = n.mode&^0o777 | a.bits()
		var xattrs []index.Xattr
		if a.extended {
			xattrs = append(xattrs, index.Xattr{Name: aclAccess, Value: x.Value})
		}
		m.setExtra(n, extra{xattrs: append(xattrs, x)})
	}
}
