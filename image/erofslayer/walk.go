package erofslayer

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"

	"github.com/pantala/pantala/image/index"
)

const (
	direntSize = 12
	maxName    = 255
	maxPath    = 4095 // PATH_MAX of Linux without the zero byte
	// maxPieces bounds the extents of all files: as many as the chunks of image/tree.
	maxPieces = 16 << 20
)

// Walk reads an image of size bytes, and calls entry for each of its files: a directory before what is in it, a hard
// link behind the file that it is of. Extents lie in the image, at multiples of a block; where a file has its last bytes
// inline, which lie anywhere, place says where in the address space, behind the image, they shall lie instead.
func Walk(r io.ReaderAt, size int64, place func(at, length int64) (device int64, err error), entry func(index.Entry) error) error {
	m, err := open(r, size)
	if err != nil {
		return err
	}
	w := &walk{image: m, place: place, entry: entry, linked: map[uint64]name{}, seen: map[uint64]bool{}}
	return w.run()
}

// name is a place in the tree: a name in a directory, by its number.
type name struct {
	dir  int
	base string
}

// dir is a directory that was found.
type dir struct {
	name
	inode *inode
	depth int // bytes of its path
}

// walk is one Walk. Directories are numbered as they are found, so that what is remembered of a name is not its path:
// memory is in proportion to the image, however deep it is.
type walk struct {
	*image
	place func(at, length int64) (int64, error)
	entry func(index.Entry) error

	dirs   []dir
	linked map[uint64]name // of files with several names: the first
	seen   map[uint64]bool // nids of directories
	pieces int64           // extents
}

func (w *walk) run() error {
	root, err := w.inode(w.root)
	if err != nil {
		return err
	}
	if root.mode&typeMask != directory {
		return root.bad("is its root, but no directory")
	}
	w.dirs = append(w.dirs, dir{name{-1, ""}, root, 0})
	w.seen[root.nid] = true
	if err := w.tell(root, "."); err != nil {
		return err
	}
	for todo := []int{0}; len(todo) > 0; {
		d := todo[len(todo)-1]
		first := len(w.dirs)
		if err := w.list(d); err != nil {
			return err
		}
		todo = todo[:len(todo)-1]
		for k := len(w.dirs) - 1; k >= first; k-- { // so that the first one is next
			todo = append(todo, k)
		}
	}
	return nil
}

// path is that of a name.
func (w *walk) path(n name) string {
	parts := []string{n.base}
	for d := n.dir; d > 0; d = w.dirs[d].dir {
		parts = append(parts, w.dirs[d].base)
	}
	var b bytes.Buffer
	for k, p := range slices.Backward(parts) {
		if b.WriteString(p); k > 0 {
			b.WriteByte('/')
		}
	}
	return b.String()
}

// list tells what is in a directory.
func (w *walk) list(d int) error {
	i := w.dirs[d].inode
	if w.listed += i.size; w.listed > w.size {
		return i.bad("is a directory that shares its blocks with others")
	}
	block := make([]byte, min(i.size, 1<<w.shift))
	for at := int64(0); at < i.size; at += 1 << w.shift {
		b := block[:min(int64(len(block)), i.size-at)]
		if err := w.content(i, b, at); err != nil {
			return err
		}
		if len(b) < direntSize {
			return i.bad("is a directory with a block too short")
		}
		first := int(binary.LittleEndian.Uint16(b[8:]))
		if first < direntSize || first > len(b) || first%direntSize != 0 {
			return i.bad("is a directory with a broken block")
		}
		for k := range first / direntSize {
			base, ok := direntName(b, k, first/direntSize)
			if !ok {
				return i.bad("is a directory with a broken name")
			}
			if base == "." || base == ".." {
				continue
			}
			if err := w.child(d, base, binary.LittleEndian.Uint64(b[direntSize*k:])); err != nil {
				return err
			}
		}
	}
	return nil
}

// direntName is the name of entry k of n in a block. That of the last one ends at a zero byte or with the block.
func direntName(b []byte, k, n int) (string, bool) {
	start, end := int(binary.LittleEndian.Uint16(b[direntSize*k+8:])), len(b)
	if k+1 < n {
		end = int(binary.LittleEndian.Uint16(b[direntSize*(k+1)+8:]))
	}
	if start > end || end > len(b) {
		return "", false
	}
	p := b[start:end]
	if k+1 == n {
		if z := bytes.IndexByte(p, 0); z >= 0 {
			p = p[:z]
		}
	}
	return string(p), len(p) > 0 && len(p) <= maxName && bytes.IndexByte(p, '/') < 0 && bytes.IndexByte(p, 0) < 0
}

// child tells what one name of a directory is of.
func (w *walk) child(d int, base string, nid uint64) error {
	depth := w.dirs[d].depth + len(base) + 1
	if depth > maxPath+1 {
		return invalid("EROFS image with a path of more than %d bytes", maxPath)
	}
	n := name{d, base}
	if first, ok := w.linked[nid]; ok {
		return w.entry(index.Entry{Name: w.path(n), Link: w.path(first), Type: '1'})
	}
	i, err := w.image.inode(nid)
	if err != nil {
		return err
	}
	switch {
	case i.mode&typeMask == directory:
		if w.seen[nid] {
			return i.bad("is a directory that has two names")
		}
		w.seen[nid] = true
		w.dirs = append(w.dirs, dir{n, i, depth})
	case i.links > 1 && !whiteout(i): // one inode may stand for all whiteouts
		w.linked[nid] = n
	}
	return w.tell(i, w.path(n))
}

// whiteout reports whether an inode hides what lower layers have under its name.
func whiteout(i *inode) bool { return i.mode&typeMask == 0o020000 && i.union == 0 }

// tell calls entry for an inode.
func (w *walk) tell(i *inode, path string) (err error) {
	e := index.Entry{
		Name: path, Type: flags[i.mode&typeMask], Mode: i.mode & 0o7777, UID: i.uid, GID: i.gid, Sec: i.sec, Nsec: i.nsec,
	}
	if e.Xattrs, err = w.attributes(i); err != nil {
		return err
	}
	switch e.Type {
	case '0':
		e.Size = i.size
		if e.Extents, err = w.fileExtents(i); err != nil {
			return err
		}
	case '2':
		if e.Link, err = w.target(i); err != nil {
			return err
		}
	case '3', '4':
		e.Major, e.Minor = i.device()
	}
	return w.entry(e)
}

// fileExtents is where the bytes of a file lie in the address space.
func (w *walk) fileExtents(i *inode) (all []index.Extent, err error) {
	err = w.extents(i, func(x index.Extent, inline bool) (err error) {
		if w.pieces++; w.pieces > maxPieces {
			return invalid("EROFS image whose files have more than %d pieces", maxPieces)
		}
		if inline {
			if x.Device, err = w.place(x.Device, x.Length); err != nil {
				return err
			}
		}
		all = append(all, x)
		return nil
	})
	return all, err
}
