package tree

import (
	"iter"

	"github.com/pantala/pantala/image/index"
)

// Types of inodes: the bits of S_IFMT in Inode.Mode (inode(7)).
const (
	TypeMask    = 0o170000
	Fifo        = 0o010000
	CharDevice  = 0o020000
	Directory   = 0o040000
	BlockDevice = 0o060000
	File        = 0o100000
	Symlink     = 0o120000
	Socket      = 0o140000
)

// ID is the number of an inode in a Tree. Ids are dense, and those of a directory's children follow each other, so
// that walking the tree visits them in order.
type ID uint32

// Root is the top directory.
const Root ID = 0

// Tree is a merged tree. It is safe for concurrent use.
type Tree struct {
	Layers []Space // bottom first; Inode.Layer counts in it
	Bytes  int64   // sum of the sizes of all files

	nodes   []node
	kids    []kid
	names   []byte // of kids
	targets []string
	extras  []extra
}

// Space is the address space of a layer.
type Space struct {
	Name string // of the layer, for people
	Size int64  // in bytes
}

// Inode is what stat(2) tells of a file, and where the rest of it is.
type Inode struct {
	Mode         uint32 // type and permission bits
	UID, GID     uint32
	Links        uint32 // names it has; of a directory: 2 and one for each directory in it
	Major, Minor uint32 // of a device
	Nsec         uint32
	Sec          int64 // modification time since 1970
	Size         int64 // of a file, in bytes; length of a symbolic link's target
	Layer        int   // where the bytes of a file lie
	Target       string
	Xattrs       []index.Xattr // sorted by name; not to be changed
}

// node is an inode, packed: there are hundreds of thousands. None of them points anywhere, so that collecting garbage
// does not visit them.
type node struct {
	size  int64 // of a file; of a directory, once the tree is made, the number of its children
	sec   int64
	where int64 // of a file: see wholeFile; of a directory: see finish; of a link: number of its target; of a device: major<<32 | minor
	nsec  uint32
	uid   uint32
	gid   uint32
	links uint32
	extra uint32 // number in extras; 0: none
	mode  uint16
	layer uint16
}

// extra is what few inodes have.
type extra struct {
	xattrs  []index.Xattr
	extents []index.Extent
	mapped  bool // the bytes lie in extents; otherwise in one piece at node.where
}

// kid is an entry of a directory.
type kid struct {
	name   uint32 // offset in names
	inode  ID
	length uint8
}

// Len is the number of inodes.
func (t *Tree) Len() int { return len(t.nodes) }

// Inode is what there is to say of id.
func (t *Tree) Inode(id ID) Inode {
	n := &t.nodes[id]
	i := Inode{
		Mode: uint32(n.mode), UID: n.uid, GID: n.gid, Links: n.links, Sec: n.sec, Nsec: n.nsec, Layer: int(n.layer),
		Xattrs: t.extras[n.extra].xattrs,
	}
	switch n.mode & TypeMask {
	case File:
		i.Size = n.size
	case Symlink:
		i.Target = t.targets[n.where]
		i.Size = int64(len(i.Target))
	case CharDevice, BlockDevice:
		i.Major, i.Minor = uint32(n.where>>32), uint32(n.where)
	}
	return i
}

// Extents appends to buf where the content of file id lies, in ascending order and without two that touch each other
// in the file and in the layer; what none covers is a hole.
func (t *Tree) Extents(id ID, buf []index.Extent) []index.Extent {
	n := &t.nodes[id]
	if n.mode&TypeMask != File || n.size == 0 {
		return buf
	}
	if x := &t.extras[n.extra]; x.mapped {
		return append(buf, x.extents...)
	}
	return append(buf, index.Extent{File: 0, Device: n.where, Length: n.size})
}

// Children are the entries of directory id in the order of their names' bytes. The name is not to be changed.
func (t *Tree) Children(id ID) iter.Seq2[[]byte, ID] {
	n := &t.nodes[id]
	var kids []kid
	if n.mode&TypeMask == Directory {
		first := uint32(n.where)
		kids = t.kids[first : first+uint32(n.size)]
	}
	return func(yield func([]byte, ID) bool) {
		for _, k := range kids {
			end := k.name + uint32(k.length)
			if !yield(t.names[k.name:end:end], k.inode) {
				return
			}
		}
	}
}

// Parent is the directory that directory id is in; of the root, itself.
func (t *Tree) Parent(id ID) ID { return ID(t.nodes[id].where >> 32) }

// Type is the type bits of id's mode.
func (t *Tree) Type(id ID) uint32 { return uint32(t.nodes[id].mode & TypeMask) }
