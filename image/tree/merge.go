package tree

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
)

const (
	// maxName and maxPath are NAME_MAX and PATH_MAX-1 of Linux (limits.h): what is longer cannot be unpacked.
	maxName = 255
	maxPath = 4095
	// MaxLayers is the most layers that Merge takes. Registries and builders stop at 127 (the kernel's limit of old for
	// overlayfs), overlayfs itself at 500; each costs an open file and 128 bytes of the metadata image.
	MaxLayers = 1000
	// maxInodes bounds memory: an inode and its name take about 100 bytes while they are merged. The largest images
	// that are known have some 10^6 files.
	maxInodes = 4 << 20
	// Block is the unit of addresses in bytes: that of tar, which EROFS can address as well. Holes and the places of
	// extents are multiples of it.
	Block = 512
	// maxGranule is 1 TiB, the largest chunk that EROFS can express with blocks of Block bytes (31 bits beyond those).
	maxGranule = 40
	// maxPieces bounds what maps of sparse files take, four bytes each: 64 MiB.
	maxPieces = 16 << 20
	// maxNames bounds the names of inodes, and maxText their bytes, which are addressed by 32 bits.
	maxNames = 2 * maxInodes
	maxText  = 1 << 30
)

// Layer is one layer of an image.
type Layer struct {
	Name    string // for errors: its digest
	Entries iter.Seq2[index.Entry, error]
	Size    int64 // of its address space, in bytes
	// Overlay says that the layer hides files of lower ones in the form of overlayfs, not in that of archives. Then ".wh."
	// at the beginning of a name means nothing.
	Overlay bool
}

// Merge makes one tree of layers, the bottom one first. It reads each layer's entries once, in order.
func Merge(layers []Layer) (*Tree, error) {
	if len(layers) > MaxLayers {
		return nil, fmt.Errorf("%w: the image has %d layers, at most %d are supported", blob.ErrInvalid, len(layers), MaxLayers)
	}
	m := &merger{table: newTable(), extras: make([]extra, 1), lastDir: none}
	m.nodes.add(node{mode: Directory | 0o755, where: int64(none)}) // what umoci starts with; its time is 1970
	spaces := make([]Space, 0, len(layers))
	for i, l := range layers {
		if l.Size < 0 {
			return nil, fmt.Errorf("%w: layer %s has %d bytes", blob.ErrInvalid, l.Name, l.Size)
		}
		spaces = append(spaces, Space{l.Name, l.Size})
		m.layer, m.size, m.overlay = uint16(i+1), l.Size, l.Overlay
		m.forget()
		for e, err := range l.Entries {
			if err != nil {
				return nil, fmt.Errorf("layer %s: %w", l.Name, err)
			}
			if err := m.apply(&e); err != nil {
				return nil, fmt.Errorf("%w: layer %s cannot be unpacked: entry %q: %w", blob.ErrInvalid, l.Name, shorten(e.Name), err)
			}
		}
	}
	return m.finish(spaces), nil
}

// shorten keeps error messages readable.
func shorten(name string) string {
	if len(name) <= maxName {
		return name
	}
	return name[:100] + "…" + name[len(name)-100:]
}

// merger is a tree that layers are unpacked into.
type merger struct {
	*table
	nodes   pages[node] // of a directory, where is its newest dirent
	targets []string
	extras  []extra

	layer   uint16 // that is being unpacked, from 1
	size    int64  // of its address space
	overlay bool   // it is in the form of overlayfs

	// The directory of the entry before: most entries follow their sibling.
	lastName string
	lastDir  uint32 // none: there is nothing to remember

	path   []step // scratch of resolve
	steps  int    // elements of paths that resolve has looked at
	seen   int    // entries
	pieces int64  // of sparse files
}

// Errors of an entry, in the words of the system call that would fail.
var (
	errRootType  = errors.New("the top of the tree must stay a directory")
	errNotDir    = errors.New("its parent is not a directory")
	errName      = fmt.Errorf("a name has more than %d bytes", maxName)
	errPath      = fmt.Errorf("a path has more than %d bytes", maxPath)
	errNul       = errors.New("a name or target contains a zero byte")
	errWhiteout  = errors.New("a whiteout of no name")
	errNoTarget  = errors.New("the target of the hard link does not exist")
	errLinkDir   = errors.New("the target of the hard link is a directory")
	errEmptyLink = errors.New("the symbolic link has no target")
	errLoop      = errors.New("too many symbolic links on the way")
	errTooMany   = fmt.Errorf("more than %d files, %d names, or %d bytes of names", maxInodes, maxNames, maxText)
	errSize      = errors.New("its size is negative")
	errAlign     = fmt.Errorf("an extent does not begin, or a hole does not end, at a multiple of %d bytes", Block)
	errPieces    = fmt.Errorf("the sparse files of the image have more than %d pieces", maxPieces)
	errExtent    = errors.New("an extent lies outside of the file or of the layer's address space, or overlaps another")
)

// apply unpacks one entry.
func (m *merger) apply(e *index.Entry) error {
	if m.seen++; m.dirents.n >= maxNames || len(m.names) > maxText {
		return errTooMany
	}
	name, err := clean(e.Name)
	if err != nil {
		return err
	}
	dir, base := split(name)
	if len(base) > maxName {
		return errName
	}
	opaque := false // what lower layers have in this directory goes
	if m.overlay {
		var hides bool
		if hides, opaque, err = overlaid(e); err != nil {
			return err
		}
		if hides && name != "" {
			return m.hide(dir, "", base)
		}
	} else if hidden, ok := strings.CutPrefix(base, whiteout); ok {
		return m.hide(dir, base, hidden)
	}
	if name == "" {
		if e.Type != '5' {
			return errRootType
		}
		if opaque {
			m.hideBelow(0)
		}
		return m.describe(0, e)
	}
	mode, err := typeOf(e.Type)
	if err != nil {
		return err
	}
	parent, err := m.ensure(dir)
	if err != nil {
		return err
	}
	d := m.entry(parent, base)
	m.dirents.at(d).layer = m.layer
	if old := m.dirents.at(d).inode; old != none && mode == Directory && m.isDir(old) {
		if opaque {
			m.hideBelow(old)
		}
		return m.describe(old, e)
	}
	m.unlink(d)
	if e.Type == '1' {
		target, err := m.target(e.Link)
		if err != nil {
			return err
		}
		m.dirents.at(d).inode = target
		return nil
	}
	id, err := m.create(parent, mode)
	if err != nil {
		return err
	}
	m.dirents.at(d).inode = id
	return m.describe(id, e)
}

// typeOf turns a typeflag into the type bits of a mode; a hard link has none.
func typeOf(flag byte) (uint16, error) {
	switch flag {
	case '0':
		return File, nil
	case '1':
		return 0, nil
	case '2':
		return Symlink, nil
	case '3':
		return CharDevice, nil
	case '4':
		return BlockDevice, nil
	case '5':
		return Directory, nil
	case '6':
		return Fifo, nil
	case 's':
		return Socket, nil
	}
	return 0, fmt.Errorf("its type %q is not one that can be unpacked", flag)
}

func (m *merger) isDir(id uint32) bool { return m.nodes.at(id).mode&TypeMask == Directory }

// entry is the dirent of name in parent, perhaps without an inode.
func (m *merger) entry(parent uint32, name string) uint32 {
	d := m.find(parent, name)
	if d == none {
		n := m.nodes.at(parent)
		d = m.add(parent, name, uint32(n.where))
		n.where = int64(d)
	}
	return d
}

// unlink removes what d names, with everything below it.
func (m *merger) unlink(d uint32) {
	e := m.dirents.at(d)
	if e.inode == none {
		return
	}
	if t := m.nodes.at(e.inode).mode & TypeMask; t == Directory || t == Symlink {
		m.forget() // the remembered directory may be below it
	}
	e.inode = none
}

// forget makes the next entry look its directory up.
func (m *merger) forget() { m.lastDir = none }

// create makes an inode as mkdir(2) and its kin do for root in directory parent.
func (m *merger) create(parent uint32, mode uint16) (uint32, error) {
	if m.nodes.n >= maxInodes {
		return 0, errTooMany
	}
	n := node{mode: mode, where: -1}
	if p := m.nodes.at(parent); p.mode&setgid != 0 {
		n.gid = p.gid // inode(7), S_ISGID of directories
		if mode&TypeMask == Directory {
			n.mode |= setgid
		}
	}
	if mode&TypeMask == Directory {
		n.where = int64(none)
	}
	return m.nodes.add(n), nil
}

const setgid = 0o2000

// describe gives inode id the attributes of e.
func (m *merger) describe(id uint32, e *index.Entry) error {
	n := m.nodes.at(id)
	kind := n.mode & TypeMask
	if e.UID != math.MaxUint32 {
		n.uid = e.UID
	}
	if e.GID != math.MaxUint32 {
		n.gid = e.GID
	}
	perm := uint16(e.Mode & 0o7777)
	if kind == Symlink {
		perm = 0o777 // they have no others
	}
	n.sec, n.nsec = e.Sec, e.Nsec
	xattrs, perm, err := attributes(kind, perm, e.Xattrs)
	if err != nil {
		return err
	}
	n.mode = kind | perm
	x := extra{xattrs: xattrs}
	switch kind {
	case File:
		if err := m.content(n, &x, e); err != nil {
			return err
		}
	case Symlink:
		switch {
		case e.Link == "":
			return errEmptyLink
		case len(e.Link) > maxPath:
			return errPath
		case strings.IndexByte(e.Link, 0) >= 0:
			return errNul
		}
		n.where = int64(len(m.targets))
		m.targets = append(m.targets, e.Link)
	case CharDevice, BlockDevice:
		// mknod(2) takes 12 bits of major and 20 bits of minor number.
		n.where = int64(e.Major&0xfff)<<32 | int64(e.Minor&0xfffff)
	}
	m.setExtra(n, x)
	return nil
}

func (m *merger) setExtra(n *node, x extra) {
	switch {
	case n.extra != 0:
		m.extras[n.extra] = x
	case len(x.xattrs) > 0 || x.mapped:
		n.extra = uint32(len(m.extras))
		m.extras = append(m.extras, x)
	}
}

// content notes where the bytes of a file are.
func (m *merger) content(n *node, x *extra, e *index.Entry) error {
	n.size, n.layer = e.Size, m.layer-1
	if e.Size < 0 {
		return errSize
	}
	end := int64(0)
	for _, t := range e.Extents {
		if (t.File|t.Device)%Block != 0 || t.Length%Block != 0 && t.File+t.Length != e.Size {
			return errAlign
		}
		if t.Length <= 0 || t.File < end || t.Length > e.Size-t.File || t.Device < 0 || t.Length > m.size-t.Device {
			return errExtent
		}
		end = t.File + t.Length
	}
	joined := join(e.Extents)
	if len(joined) == 1 && joined[0].Length == e.Size {
		n.where = joined[0].Device
		return nil
	}
	if e.Size == 0 {
		return nil
	}
	x.extents, x.mapped = slices.Clone(joined), true
	if m.pieces += Pieces(e.Size, Granule(joined, e.Size)); m.pieces > maxPieces {
		return errPieces
	}
	return nil
}

// Granule is the binary logarithm of the largest stretch, at least Block, such that every stretch of a file of size
// bytes lies in one extent or in a hole.
func Granule(extents []index.Extent, size int64) uint {
	edges := uint64(0)
	for _, t := range extents {
		edges |= uint64(t.File)
		if end := t.File + t.Length; end != size {
			edges |= uint64(end)
		}
	}
	whole := bits.Len64(uint64(max(size, Block) - 1))
	return uint(min(bits.TrailingZeros64(edges), whole, maxGranule))
}

// Pieces is the number of stretches of 2^granule bytes that a file has.
func Pieces(size int64, granule uint) int64 { return (size-1)>>granule + 1 }

// join makes one extent of those that follow each other in the file and in the layer.
func join(all []index.Extent) []index.Extent {
	if len(all) < 2 {
		return all
	}
	out := make([]index.Extent, 1, len(all))
	out[0] = all[0]
	for _, t := range all[1:] {
		if p := &out[len(out)-1]; p.File+p.Length == t.File && p.Device+p.Length == t.Device {
			p.Length += t.Length
		} else {
			out = append(out, t)
		}
	}
	return out
}

// target is the inode that a hard link names.
func (m *merger) target(link string) (uint32, error) {
	name, err := clean(link)
	if err != nil {
		return 0, err
	}
	if name == "" {
		return 0, errLinkDir
	}
	dir, base := split(name)
	at, err := m.resolve(dir)
	if err != nil {
		return 0, err
	}
	if len(base) > maxName {
		return 0, errName
	}
	d := none
	if at != none {
		d = m.find(at, base)
	}
	switch {
	case d == none || m.dirents.at(d).inode == none:
		return 0, errNoTarget
	case m.isDir(m.dirents.at(d).inode):
		return 0, errLinkDir
	}
	return m.dirents.at(d).inode, nil
}

// finish numbers what can be reached from the root, sorts directories and counts links.
func (m *merger) finish(spaces []Space) *Tree {
	t := &Tree{Layers: spaces, names: m.names, targets: m.targets, extras: m.extras}
	t.nodes, t.kids = make([]node, 0, m.nodes.n), make([]kid, 0, m.dirents.n)
	number := make([]uint32, m.nodes.n) // new number of an inode, plus 1
	place := func(old uint32) ID {
		if number[old] == 0 {
			t.nodes = append(t.nodes, *m.nodes.at(old))
			number[old] = uint32(len(t.nodes))
		}
		return ID(number[old] - 1)
	}
	type pending struct {
		old    uint32
		parent ID
	}
	place(0)
	todo := []pending{{0, Root}}
	var here []uint32
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		here = here[:0]
		for d := uint32(m.nodes.at(p.old).where); d != none; d = m.dirents.at(d).next {
			if m.dirents.at(d).inode != none {
				here = append(here, d)
			}
		}
		slices.Reverse(here) // as they came, which is often in order
		if !slices.IsSortedFunc(here, m.compare) {
			slices.SortFunc(here, m.compare)
		}
		id := place(p.old)
		first, links := len(t.kids), uint32(2)
		for _, d := range here {
			e := m.dirents.at(d)
			child := place(e.inode)
			t.kids = append(t.kids, kid{name: e.name, length: e.length, inode: child})
			if m.isDir(e.inode) {
				links++
			} else {
				t.nodes[child].links++
			}
		}
		for _, d := range slices.Backward(here) { // so that the first one is next
			if e := m.dirents.at(d); m.isDir(e.inode) {
				todo = append(todo, pending{e.inode, id})
			}
		}
		n := &t.nodes[id]
		n.links, n.size, n.where = links, int64(len(here)), int64(p.parent)<<32|int64(first)
	}
	for i := range t.nodes {
		if t.nodes[i].mode&TypeMask == File {
			t.Bytes = saturate(t.Bytes, t.nodes[i].size)
		}
	}
	return t
}

// saturate adds sizes, which hostile layers may choose.
func saturate(a, b int64) int64 {
	return min(a, math.MaxInt64-b) + b
}
