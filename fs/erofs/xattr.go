package erofs

import (
	"encoding/binary"

	"github.com/pantala/pantala/image/index"
)

// Xattrs are the extended attributes of an inode, in the order in which they stand there.
func (m *Image) Xattrs(i *Inode) ([]index.Xattr, error) {
	if i.tail == i.xattrs {
		return nil, nil
	}
	b := make([]byte, i.tail-i.xattrs)
	if err := m.read(b, i.xattrs); err != nil {
		return nil, err
	}
	shared := int(b[4])
	if len(b) < xattrHeader+4*shared {
		return nil, m.bad(i.Nid, "has more shared attributes than it holds")
	}
	var all []index.Xattr
	for n := range shared {
		id := binary.LittleEndian.Uint32(b[xattrHeader+4*n:])
		x, err := m.sharedXattr(i, m.shared+4*int64(id))
		if err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	for p := b[xattrHeader+4*shared:]; len(p) >= xattrEntry; {
		x, n, ok := parseXattr(p)
		if !ok {
			return nil, m.bad(i.Nid, "has a broken attribute")
		}
		if x.Name != "" {
			all = append(all, x)
		}
		p = p[min(len(p), n):]
	}
	return all, nil
}

// sharedXattr reads an attribute that stands in the shared area.
func (m *Image) sharedXattr(i *Inode, at int64) (index.Xattr, error) {
	var head [xattrEntry]byte
	if err := m.read(head[:], at); err != nil {
		return index.Xattr{}, err
	}
	b := make([]byte, xattrEntry+int(head[0])+int(binary.LittleEndian.Uint16(head[2:])))
	if err := m.read(b, at); err != nil {
		return index.Xattr{}, err
	}
	x, _, ok := parseXattr(b)
	if !ok || x.Name == "" {
		return x, m.bad(i.Nid, "has a broken attribute")
	}
	return x, nil
}

// parseXattr reads the attribute at the head of p, which takes n bytes. Four zero bytes are one of no name, which
// stands where nothing else does.
func parseXattr(p []byte) (x index.Xattr, n int, ok bool) {
	length, value := int(p[0]), int(binary.LittleEndian.Uint16(p[2:]))
	n = xattrEntry + length + value
	if len(p) < n {
		return x, n, false
	}
	if p[1] == 0 {
		return x, (n + 3) &^ 3, length == 0 && value == 0
	}
	for _, pre := range xattrPrefixes {
		if pre.index == p[1] {
			x.Name = pre.prefix + string(p[xattrEntry:xattrEntry+length])
			x.Value = string(p[xattrEntry+length : n])
			return x, (n + 3) &^ 3, true
		}
	}
	return x, n, false
}
