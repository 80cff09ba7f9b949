package erofs

import (
	"fmt"
	"strings"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/tree"
)

// spaceAlign is what the places of layers are multiples of: a page, so that pages of a layer's file and of the flat
// file are the same ones.
const spaceAlign = 4096

// layout says where everything of a tree goes.
type layout struct {
	tree   *tree.Tree
	shift  uint  // of the block size
	block  int64 // bytes
	head   int64 // end of superblock and device table; the inodes follow
	data   int64 // end of the inodes; directories and link targets that do not fit there follow
	end    int64 // of the metadata
	starts []int64
	total  int64 // bytes of everything
	nids   []uint32
}

// plan places the inodes in the order of their ids.
func plan(t *tree.Tree, shift uint) (*layout, error) {
	l := &layout{tree: t, shift: shift, block: 1 << shift, nids: make([]uint32, t.Len())}
	l.head = l.up(slotOffset + slotSize*int64(len(t.Layers)))
	pos, outside := l.head, int64(0)
	var extents []index.Extent
	for id := range l.nids {
		s := l.shape(tree.ID(id), &extents)
		pos = (pos + 1<<nidShift - 1) &^ (1<<nidShift - 1)
		// An inode, and what stands inline behind it, does not cross a block (Documentation/filesystems/erofs.rst).
		whole := int64(extendedSize)
		if s.layout == layoutInline {
			whole = s.header + s.tail
		}
		if pos&(l.block-1)+whole > l.block {
			pos = l.up(pos)
		}
		if pos>>nidShift > 1<<32-1 {
			return nil, fmt.Errorf("%w: metadata of more than 128 GiB", blob.ErrInvalid)
		}
		l.nids[id] = uint32(pos >> nidShift)
		pos += s.header + s.tail
		outside += l.up(s.outside)
	}
	l.data = l.up(pos)
	l.end = l.data + outside
	at := l.end
	for _, s := range t.Layers {
		at = (at + spaceAlign - 1) &^ (spaceAlign - 1)
		l.starts = append(l.starts, at)
		// Addresses are 32 bits of blocks; the last one means a hole.
		if at += l.up(s.Size); s.Size > nullBlock<<shift || at > nullBlock<<shift {
			return nil, fmt.Errorf("%w: the layers of the image have more than %d GiB", blob.ErrInvalid, int64(nullBlock)<<shift>>30)
		}
	}
	l.total = at
	return l, nil
}

// up rounds up to a multiple of the block size.
func (l *layout) up(n int64) int64 { return (n + l.block - 1) &^ (l.block - 1) }

// shape is how an inode is stored.
type shape struct {
	tree.Inode
	layout  uint16
	header  int64 // bytes of inode and attributes, and what aligns the tail
	tail    int64 // bytes that stand behind them
	outside int64 // bytes that stand elsewhere
	first   int64 // of a plain file: its place
	granule uint  // of a chunked one: logarithm of the chunk size
}

// shape decides how id is stored; extents, which it fills in for a file, is scratch memory.
func (l *layout) shape(id tree.ID, extents *[]index.Extent) shape {
	s := shape{Inode: l.tree.Inode(id)}
	s.header = extendedSize + xattrSize(s.Xattrs)
	switch s.Mode & tree.TypeMask {
	case tree.Directory:
		s.Size = l.directorySize(id)
		l.inline(&s)
	case tree.Symlink:
		l.inline(&s)
	case tree.File:
		*extents = l.tree.Extents(id, (*extents)[:0])
		if s.Size == 0 {
			break
		}
		if x := *extents; len(x) == 1 && x[0].Length == s.Size {
			if l.starts != nil {
				s.first = l.starts[s.Layer] + x[0].Device
			}
			break
		}
		s.layout, s.granule = layoutChunks, max(tree.Granule(*extents, s.Size), l.shift)
		s.tail = 4 * tree.Pieces(s.Size, s.granule)
	}
	return s
}

// inline puts content behind the inode if that fits into a block.
func (l *layout) inline(s *shape) {
	if s.header+s.Size <= l.block {
		s.layout, s.tail = layoutInline, s.Size
	} else {
		s.outside = s.Size
	}
}

// entries are the entries of a directory in order, "." and ".." included.
func (l *layout) entries(id tree.ID, yield func(name []byte, id tree.ID)) {
	dots := []struct {
		name string
		id   tree.ID
	}{{".", id}, {"..", l.tree.Parent(id)}}
	for name, child := range l.tree.Children(id) {
		for len(dots) > 0 && dots[0].name < string(name) {
			yield([]byte(dots[0].name), dots[0].id)
			dots = dots[1:]
		}
		yield(name, child)
	}
	for _, d := range dots {
		yield([]byte(d.name), d.id)
	}
}

// directorySize is the bytes of a directory: blocks of entries and their names; none crosses a block.
func (l *layout) directorySize(id tree.ID) int64 {
	full, used := int64(0), int64(0)
	l.entries(id, func(name []byte, _ tree.ID) {
		n := direntSize + int64(len(name))
		if used+n > l.block {
			full, used = full+l.block, 0
		}
		used += n
	})
	return full + used
}

// xattrSize is the bytes of an inode's attributes.
func xattrSize(all []index.Xattr) int64 {
	if len(all) == 0 {
		return 0
	}
	n := int64(xattrHeader)
	for _, x := range all {
		_, rest := cutPrefix(x.Name)
		n += (xattrEntry + int64(len(rest)+len(x.Value)) + 3) &^ 3
	}
	return n
}

// cutPrefix shortens the name of an attribute. Merge lets none in that has no prefix.
func cutPrefix(name string) (index byte, rest string) {
	for _, p := range xattrPrefixes {
		if rest, ok := strings.CutPrefix(name, p.prefix); ok {
			return p.index, rest
		}
	}
	return 0, name
}
