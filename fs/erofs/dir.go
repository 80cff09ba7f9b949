package erofs

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/tree"
)

// Dirent is an entry of a directory.
type Dirent struct {
	Name string
	Nid  uint64
	Type uint32 // type bits of the mode
	Next uint64 // where reading goes on behind it
}

// dirBlock is a block of a directory.
type dirBlock struct {
	b     []byte
	count int
}

// dirBlockAt reads the block of directory i that begins at off into buf, which has the size of a block.
func (m *Image) dirBlockAt(i *Inode, off int64, buf []byte) (dirBlock, error) {
	b := buf[:min(int64(len(buf)), i.Size-off)]
	if err := m.content(i, b, off); err != nil {
		return dirBlock{}, err
	}
	d := dirBlock{b: b}
	if len(b) < direntSize {
		return d, m.bad(i.Nid, "is a directory with a block too short")
	}
	first := int(binary.LittleEndian.Uint16(b[8:]))
	if first < direntSize || first >= len(b) || first%direntSize != 0 {
		return d, m.bad(i.Nid, "is a directory with a broken block")
	}
	d.count = first / direntSize
	return d, nil
}

// name is the name of entry n, nil when it is broken.
func (d dirBlock) name(n int) []byte {
	start, end := int(binary.LittleEndian.Uint16(d.b[direntSize*n+8:])), len(d.b)
	if n+1 < d.count {
		end = int(binary.LittleEndian.Uint16(d.b[direntSize*(n+1)+8:]))
	}
	if start > end || end > len(d.b) {
		return nil
	}
	name := d.b[start:end]
	if n+1 == d.count {
		if z := bytes.IndexByte(name, 0); z >= 0 {
			name = name[:z]
		}
	}
	if len(name) == 0 || len(name) > maxName || bytes.IndexByte(name, '/') >= 0 || bytes.IndexByte(name, 0) >= 0 {
		return nil
	}
	return name
}

func (d dirBlock) entry(n int) (nid uint64, kind uint32) {
	p := d.b[direntSize*n:]
	for t, f := range fileTypes {
		if f != 0 && f == p[10] {
			kind = uint32(t) << 12
		}
	}
	return binary.LittleEndian.Uint64(p), kind
}

// Lookup finds name in directory i by two binary searches, over blocks and inside one. blob.ErrNotFound: it is not
// there.
func (m *Image) Lookup(i *Inode, name string) (uint64, error) {
	if err := m.wantDir(i); err != nil {
		return 0, err
	}
	buf := make([]byte, 1<<m.shift)
	low, high := int64(0), (i.Size-1)>>m.shift
	for low <= high {
		middle := (low + high) / 2
		d, err := m.dirBlockAt(i, middle<<m.shift, buf)
		if err != nil {
			return 0, err
		}
		nid, side, err := m.search(i, d, name)
		switch {
		case err != nil || nid != 0:
			return nid, err
		case side < 0:
			high = middle - 1
		case side > 0:
			low = middle + 1
		default:
			return 0, notFound(name)
		}
	}
	return 0, notFound(name)
}

func notFound(name string) error { return fmt.Errorf("%w: %q", blob.ErrNotFound, name) }

// search looks for name in a block. When it is not there, side tells whether it would come before, inside or behind.
func (m *Image) search(i *Inode, d dirBlock, name string) (nid uint64, side int, err error) {
	low, high := 0, d.count-1
	for low <= high {
		middle := (low + high) / 2
		have := d.name(middle)
		if have == nil {
			return 0, 0, m.bad(i.Nid, "has a broken name")
		}
		switch {
		case string(have) == name:
			nid, _ := d.entry(middle)
			if nid == 0 {
				return 0, 0, m.bad(i.Nid, "has an entry of no inode")
			}
			return nid, 0, nil
		case string(have) > name:
			high = middle - 1
		default:
			low = middle + 1
		}
	}
	switch {
	case low == 0:
		return 0, -1, nil
	case low == d.count:
		return 0, 1, nil
	}
	return 0, 0, nil
}

func (m *Image) wantDir(i *Inode) error {
	if i.Mode&tree.TypeMask != tree.Directory {
		return fmt.Errorf("%w: EROFS inode %d is no directory", blob.ErrInvalid, i.Nid)
	}
	return nil
}

// Readdir calls yield for the entries of directory i, "." and ".." included, from position from on: 0, or Next of an
// entry. It ends early when yield returns false.
func (m *Image) Readdir(i *Inode, from uint64, yield func(Dirent) bool) error {
	if err := m.wantDir(i); err != nil {
		return err
	}
	block := int64(1) << m.shift
	buf := make([]byte, block)
	if from >= uint64(i.Size) {
		return nil
	}
	n := int(from&uint64(block-1)) / direntSize
	for off := int64(from) &^ (block - 1); off < i.Size; off, n = off+block, 0 {
		d, err := m.dirBlockAt(i, off, buf)
		if err != nil {
			return err
		}
		for ; n < d.count; n++ {
			name := d.name(n)
			if name == nil {
				return m.bad(i.Nid, "has a broken name")
			}
			e := Dirent{Name: string(name), Next: uint64(off + direntSize*int64(n+1))}
			if n+1 == d.count {
				e.Next = uint64(off + block)
			}
			e.Nid, e.Type = d.entry(n)
			if !yield(e) {
				return nil
			}
		}
	}
	return nil
}
