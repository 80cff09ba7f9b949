package erofs

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/tree"
)

// maxText bounds names, targets and attributes of all entries together, in bytes.
const maxText = 256 << 20

// lister makes entries of an image.
type lister struct {
	m       *Image
	place   func(device int, at, length int64) ([]index.Extent, error)
	entries []index.Entry
	first   map[uint64]string // names of inodes that have several
	visited map[uint64]bool   // directories
	listed  int64             // bytes of directories
	chunks  int64             // addresses of chunks
	text    int64
}

// Entries lists the tree of an EROFS image that others have made as entries of a layer: the top first, each directory
// before what is in it, hard links by the first name. place says where in the layer's address space a stretch of device
// number 1 or higher lies, by extents whose File counts from its beginning.
//
// What is written twice in an image cannot be read twice from it: one whose directories or addresses take more than its
// own length together is refused, and so is one whose directories form a circle.
func Entries(r io.ReaderAt, size int64, place func(device int, at, length int64) ([]index.Extent, error)) ([]index.Entry, error) {
	m, err := Open(r, size)
	if err != nil {
		return nil, err
	}
	l := &lister{m: m, place: place, first: map[uint64]string{}, visited: map[uint64]bool{}}
	type pending struct {
		nid  uint64
		name string
	}
	todo := []pending{{m.root, "."}}
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		i, err := m.Inode(p.nid)
		if err != nil {
			return nil, err
		}
		if p.name == "." && i.Mode&tree.TypeMask != tree.Directory {
			return nil, m.bad(p.nid, "is the top and no directory")
		}
		if err := l.add(&i, p.name); err != nil {
			return nil, fmt.Errorf("%.200q: %w", p.name, err)
		}
		if i.Mode&tree.TypeMask != tree.Directory {
			continue
		}
		if l.visited[p.nid] {
			return nil, m.bad(p.nid, "is a directory in two places")
		}
		l.visited[p.nid] = true
		if l.listed += i.Size; l.listed > m.size {
			return nil, m.bad(p.nid, "is one of directories that take more than the image")
		}
		first := len(todo)
		if err := m.Readdir(&i, 0, func(d Dirent) bool {
			if d.Name != "." && d.Name != ".." {
				name := d.Name
				if p.name != "." {
					name = p.name + "/" + d.Name
				}
				l.text += int64(len(name))
				todo = append(todo, pending{d.Nid, name})
			}
			return l.text <= maxText
		}); err != nil {
			return nil, err
		}
		for a, b := first, len(todo)-1; a < b; a, b = a+1, b-1 { // the first name is next
			todo[a], todo[b] = todo[b], todo[a]
		}
		if l.text > maxText {
			return nil, m.bad(p.nid, fmt.Sprintf("is one of files with more than %d bytes of names and attributes", maxText))
		}
	}
	return l.entries, nil
}

// kinds are the typeflags of index.Entry.
var kinds = map[uint32]byte{
	tree.File: '0', tree.Symlink: '2', tree.CharDevice: '3', tree.BlockDevice: '4', tree.Directory: '5', tree.Fifo: '6', tree.Socket: 's',
}

func (l *lister) add(i *Inode, name string) (err error) {
	kind := i.Mode & tree.TypeMask
	e := index.Entry{
		Name: name, Type: kinds[kind], Mode: i.Mode & 0o7777, UID: i.UID, GID: i.GID, Sec: i.Sec, Nsec: i.Nsec, Major: i.Major, Minor: i.Minor,
	}
	if kind != tree.Directory {
		if first, ok := l.first[i.Nid]; ok {
			l.entries = append(l.entries, index.Entry{Name: name, Link: first, Type: '1'})
			return nil
		}
		l.first[i.Nid] = name
	}
	if e.Xattrs, err = l.m.Xattrs(i); err != nil {
		return err
	}
	slices.SortFunc(e.Xattrs, func(a, b index.Xattr) int { return strings.Compare(a.Name, b.Name) })
	for _, x := range e.Xattrs {
		l.text += int64(len(x.Name) + len(x.Value))
	}
	switch kind {
	case tree.Symlink:
		if e.Link, err = l.m.Readlink(i); err != nil {
			return err
		}
		l.text += int64(len(e.Link))
	case tree.File:
		e.Size = i.Size
		if e.Extents, err = l.extents(i); err != nil {
			return err
		}
	}
	if l.text > maxText {
		return l.m.bad(i.Nid, fmt.Sprintf("is one of files with more than %d bytes of names and attributes", maxText))
	}
	l.entries = append(l.entries, e)
	return nil
}

// extents are those of a file, in the layer's address space.
func (l *lister) extents(i *Inode) (all []index.Extent, err error) {
	if i.layout == layoutChunks && i.Size > 0 {
		if l.chunks += (i.Size-1)>>(l.m.shift+uint(i.union&chunkBits)) + 1; l.chunks > l.m.size/4 {
			return nil, l.m.bad(i.Nid, "is one of files that have more chunks than the image has room for")
		}
	}
	for at := int64(0); at < i.Size; {
		x, err := l.m.Extent(i, at)
		if err != nil {
			return nil, err
		}
		if at += x.Length; x.Device == Hole {
			continue
		}
		if x.Device == 0 {
			return nil, l.m.bad(i.Nid, "has its content in the metadata")
		}
		placed, err := l.place(x.Device, x.Offset, x.Length)
		if err != nil {
			return nil, err
		}
		for _, p := range placed {
			p.File += x.File
			all = append(all, p)
		}
	}
	return all, nil
}
