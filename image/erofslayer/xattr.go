package erofslayer

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/pantala/pantala/image/index"
)

const (
	xattrHeader = 12 // before the attributes of an inode
	xattrEntry  = 4  // before each one's name and value
	longPrefix  = 0x80
	// maxAttributes bounds what all attributes of an image have together, in bytes: shared ones may be told by millions
	// of inodes. Labels of SELinux for 500 000 files have some 50 MB.
	maxAttributes = 512 << 20
)

// shortPrefixes are what names of attributes begin with, by their number.
var shortPrefixes = map[byte]string{
	1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 5: "lustre.", 6: "security.",
}

// readPrefixes reads n prefixes that the image itself defines: each is its length, the number of a short one, and what
// follows that. They stand in the image, or in its packed inode.
func (m *image) readPrefixes(n int, at int64, packed uint64) error {
	read, end := m.read, m.size
	if packed != 0 {
		i, err := m.inode(packed)
		if err != nil {
			return err
		}
		read = func(p []byte, off int64) error {
			if int64(len(p)) > i.size-off {
				return i.bad("has no room for the prefixes of attributes")
			}
			return m.content(i, p, off)
		}
		end = i.size
	}
	for range n {
		var head [2]byte
		if at > end {
			return corrupt("the prefixes of attributes lie behind its end")
		}
		if err := read(head[:], at); err != nil {
			return err
		}
		b := make([]byte, binary.LittleEndian.Uint16(head[:]))
		if len(b) == 0 || len(b) > 256 {
			return corrupt("a prefix of attributes of %d bytes", len(b))
		}
		if err := read(b, at+2); err != nil {
			return err
		}
		m.prefixes = append(m.prefixes, shortPrefixes[b[0]]+string(b[1:]))
		at += (2 + int64(len(b)) + 3) &^ 3
	}
	return nil
}

// attributes are the extended attributes of an inode, sorted by name.
func (m *image) attributes(i *inode) ([]index.Xattr, error) {
	if i.tail == i.xattrs {
		return nil, nil
	}
	if i.tail > m.size {
		return nil, i.bad("has attributes behind its end")
	}
	b := make([]byte, i.tail-i.xattrs)
	if err := m.spend(len(b)); err != nil {
		return nil, err
	}
	if err := m.read(b, i.xattrs); err != nil {
		return nil, err
	}
	shared := int(b[4])
	if len(b) < xattrHeader+4*shared {
		return nil, i.bad("has more shared attributes than it holds")
	}
	var all []index.Xattr
	for n := range shared {
		x, err := m.sharedAttribute(i, m.shared+4*int64(binary.LittleEndian.Uint32(b[xattrHeader+4*n:])))
		if err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	for p := b[xattrHeader+4*shared:]; len(p) >= xattrEntry; {
		x, n, ok := m.attribute(p)
		if !ok {
			return nil, i.bad("has a broken attribute")
		}
		all = append(all, x)
		p = p[min(len(p), n):]
	}
	all = slices.DeleteFunc(all, func(x index.Xattr) bool { return x.Name == "" })
	slices.SortStableFunc(all, func(a, b index.Xattr) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// sharedAttribute reads one that stands where several inodes refer to it.
func (m *image) sharedAttribute(i *inode, at int64) (index.Xattr, error) {
	var head [xattrEntry]byte
	if err := m.read(head[:], at); err != nil {
		return index.Xattr{}, err
	}
	b := make([]byte, xattrEntry+int(head[0])+int(binary.LittleEndian.Uint16(head[2:])))
	if err := m.spend(len(b)); err != nil {
		return index.Xattr{}, err
	}
	if err := m.read(b, at); err != nil {
		return index.Xattr{}, err
	}
	x, _, ok := m.attribute(b)
	if !ok {
		return x, i.bad("has a broken attribute")
	}
	return x, nil
}

// spend counts bytes of attributes.
func (m *image) spend(n int) error {
	if m.attrs += int64(n); m.attrs > maxAttributes {
		return invalid("EROFS image with more than %d bytes of extended attributes", maxAttributes)
	}
	return nil
}

// attribute reads the one at the head of p, which takes n bytes. One whose prefix is not known has no name: the kernel
// does not show it either.
func (m *image) attribute(p []byte) (x index.Xattr, n int, ok bool) {
	length, value := int(p[0]), int(binary.LittleEndian.Uint16(p[2:]))
	n = xattrEntry + length + value
	if len(p) < n {
		return x, n, false
	}
	prefix := shortPrefixes[p[1]]
	if p[1]&longPrefix != 0 {
		k := int(p[1] &^ longPrefix)
		if k >= len(m.prefixes) {
			return x, n, false
		}
		prefix = m.prefixes[k]
	}
	if prefix != "" {
		x = index.Xattr{Name: prefix + string(p[xattrEntry:xattrEntry+length]), Value: string(p[xattrEntry+length : n])}
	}
	return x, (n + 3) &^ 3, true
}
