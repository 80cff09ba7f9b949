package fs

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Node ids and inode numbers: entry e of the tree is node 2+2e, with that inode number. Where a mount is a directory
// with one file in it, that file has two nodes with one inode number: the kernel refuses to pass an inode through
// while it has pages of it cached (fuse_file_io_open), so a complete file becomes another node, which new opens
// find, while the old one goes on serving those who have it open. The files of larger trees, and a file that is its
// own mount, have one node each: see openOne.
const (
	nodeRoot  = fuse.FUSE_ROOT_ID // the directory, or the file itself when mounted as a file
	nodeFirst = 2                 // entry 0; the only file, read through the page cache
	nodeAlone = 3                 // the only file of a directory once it is complete, passed through to the store's file
)

// cacheFor is how long the kernel may believe names and attributes: neither changes, but for the switch from
// nodeFirst to nodeAlone, of which it is told.
const cacheFor = time.Hour

// fhCached is the handle of an open, of a file that has one node, that goes through the page cache; all others are 0.
const fhCached = 1

// leaf is a file of the tree, with its bytes.
type leaf struct {
	blob    Blob  // nil: an empty file
	offset  int64 // of the file in its blob
	size    int64
	name    string // for messages
	backing atomic.Int32

	mu      sync.Mutex
	cached  int  // guarded by mu: opens that go through the page cache, where the file has one node
	passing bool // guarded by mu: an open was passed through, so all later ones must be
	refused bool // guarded by mu: the kernel refuses to pass it through
}

// whole reports whether the file is all of its blob: others cannot be passed through, because the kernel reads a
// backing file from its beginning.
func (f *leaf) whole() bool { return f.blob != nil && f.offset == 0 && f.size == f.blob.Size() }

// entry is a name of the tree.
type entry struct {
	name     string
	attr     fuse.Attr
	leaf     *leaf       // a file
	values   *attributes // extended attributes; nil: none
	link     string      // a symbolic link
	children []*entry    // a directory, sorted by name
	parent   uint64      // inode number
}

// tree is the file system that go-fuse calls for everything but READ. It counts no lookups, and has no state per
// handle. Whatever would write is EROFS: the mount is read-only, but root may remount it.
type tree struct {
	readOnly

	// Constant.
	m       *Mounted
	asFile  bool
	alone   bool // a directory with one file: nodeFirst and nodeAlone
	root    *entry
	entries []*entry
	bytes   uint64
}

// newTree lays the files out. Their paths have been checked.
func newTree(m *Mounted, files []TreeFile, top File, uid, gid uint32) *tree {
	t := &tree{readOnly: newReadOnly(), m: m, asFile: m.opt.AsFile}
	when := top.ModTime
	if when.IsZero() {
		when = time.Now()
	}
	sec, nsec := uint64(when.Unix()), uint32(when.Nanosecond())
	base := fuse.Attr{
		Mtime: sec, Ctime: sec, Atime: sec, Mtimensec: nsec, Ctimensec: nsec, Atimensec: nsec,
		Nlink: 1, Owner: fuse.Owner{Uid: uid, Gid: gid}, Blksize: 4096,
	}
	t.root = &entry{attr: base, parent: nodeRoot}
	t.root.attr.Ino, t.root.attr.Mode, t.root.attr.Nlink = nodeRoot, unix.S_IFDIR|0o555, 2
	dirs := map[string]*entry{"": t.root}
	add := func(parent *entry, name string) *entry {
		e := &entry{name: name, attr: base, parent: parent.attr.Ino}
		e.attr.Ino = nodeFirst + 2*uint64(len(t.entries))
		t.entries = append(t.entries, e)
		parent.children = append(parent.children, e)
		return e
	}
	for i := range files {
		f := &files[i]
		parent := t.root
		for n := 1; n < len(f.Path); n++ {
			at := strings.Join(f.Path[:n], "/")
			d := dirs[at]
			if d == nil {
				d = add(parent, f.Path[n-1])
				d.attr.Mode, d.attr.Nlink = unix.S_IFDIR|0o555, 2
				parent.attr.Nlink++
				dirs[at] = d
			}
			parent = d
		}
		e := add(parent, f.Path[len(f.Path)-1])
		if f.Link != "" {
			e.link, e.attr.Mode, e.attr.Size = f.Link, unix.S_IFLNK|0o777, uint64(len(f.Link))
			continue
		}
		e.leaf = &leaf{blob: f.Blob, offset: f.Offset, size: f.Length, name: strings.Join(f.Path, "/")}
		e.values = newAttributes(f.File)
		e.attr.Mode, e.attr.Size, e.attr.Blocks = unix.S_IFREG|0o444, uint64(f.Length), uint64(f.Length+511)/512
		if f.Executable {
			e.attr.Mode |= 0o111
		}
		t.bytes += e.attr.Size
	}
	for _, d := range dirs {
		slices.SortFunc(d.children, func(a, b *entry) int { return strings.Compare(a.name, b.name) })
	}
	switch {
	case t.asFile:
		ino := t.root.attr.Ino
		*t.root = *t.entries[0]
		t.root.attr.Ino = ino
	case len(t.entries) == 1 && t.entries[0].leaf != nil && t.entries[0].leaf.blob != nil:
		t.alone = true
	default:
		t.root.values = newAttributes(top)
	}
	return t
}

// at is what a node id names; nil: nothing.
func (t *tree) at(node uint64) *entry {
	if node == nodeRoot {
		return t.root
	}
	if i := (node - nodeFirst) / 2; node >= nodeFirst && i < uint64(len(t.entries)) {
		return t.entries[i]
	}
	return nil
}

// node is what an entry's name leads to now.
func (t *tree) node(e *entry) uint64 {
	if t.alone && e.leaf.backing.Load() != 0 {
		return nodeAlone
	}
	return e.attr.Ino
}

func (t *tree) entry(e *entry, out *fuse.EntryOut) {
	out.NodeId, out.Generation, out.Attr = t.node(e), 1, e.attr
	out.SetEntryTimeout(cacheFor)
	out.SetAttrTimeout(cacheFor)
}

// isDir reports whether e is a directory.
func (e *entry) isDir() bool { return e != nil && e.attr.Mode&unix.S_IFMT == unix.S_IFDIR }

func (t *tree) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	d := t.at(h.NodeId)
	if !d.isDir() {
		return fuse.ENOTDIR
	}
	i, ok := slices.BinarySearchFunc(d.children, name, func(e *entry, name string) int { return strings.Compare(e.name, name) })
	if !ok {
		return fuse.ENOENT
	}
	t.entry(d.children[i], out)
	return fuse.OK
}

func (t *tree) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	e := t.at(in.NodeId)
	if e == nil {
		return fuse.ENOENT
	}
	out.Attr = e.attr
	out.SetTimeout(cacheFor)
	return fuse.OK
}

func (t *tree) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	e := t.at(h.NodeId)
	if e == nil || e.link == "" {
		return nil, fuse.EINVAL
	}
	return []byte(e.link), fuse.OK
}

func (t *tree) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0 {
		return fuse.EROFS
	}
	e := t.at(in.NodeId)
	if e == nil || e.leaf == nil {
		return fuse.ENOENT
	}
	// FLUSH would make close(2), and so exec(2) of anything by a process that holds the file, wait for us.
	out.OpenFlags = fuse.FOPEN_NOFLUSH
	switch {
	case t.alone && in.NodeId == nodeAlone:
		t.m.pass(e.leaf, out)
	case t.alone:
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	default:
		t.m.openOne(e.leaf, !t.asFile, out)
	}
	return fuse.OK
}

// pass opens a file that the kernel reads itself.
func (m *Mounted) pass(f *leaf, out *fuse.OpenOut) {
	out.OpenFlags |= fuse.FOPEN_PASSTHROUGH
	out.BackingID = f.backing.Load()
	m.rare.passthroughOpens.Add(1)
}

// openOne opens a file that has one node, which cannot change. The kernel refuses to pass an inode through while
// anybody has it open through the page cache, and to cache it while somebody has it passed through; either makes
// open(2) fail with EIO. So the first open that is passed through waits until all cached ones have been released,
// and after it all are. (Direct IO, which may go over to passthrough at any time, is no way out: a shared mapping of
// such a file counts as cached, the kernel does not tell us of it, and each mmap(2) of it waits for page faults of
// others.) It reports whether it was passed through.
func (m *Mounted) openOne(f *leaf, mayPass bool, out *fuse.OpenOut) (passed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.backing.Load() == 0 && f.cached == 0 && !f.refused && mayPass && f.whole() && f.blob.Complete() {
		f.refused = !m.registerBacking(f)
	}
	if f.backing.Load() != 0 && (f.passing || f.cached == 0) {
		f.passing = true
		m.pass(f, out)
		return true
	}
	f.cached++
	out.Fh = fhCached
	out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	return false
}

// Release hears of a handle after the kernel has let go of it (fuse_prepare_release), so that a count of zero
// means that the inode is not cached by anybody.
func (t *tree) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if e := t.at(in.NodeId); in.Fh == fhCached && e != nil && e.leaf != nil {
		e.leaf.released()
	}
}

// released counts a handle that goes through the page cache as closed.
func (f *leaf) released() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cached--
}

func (t *tree) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	if !t.at(in.NodeId).isDir() {
		return fuse.ENOTDIR
	}
	return fuse.OK
}

// list calls add for the entries of a directory from offset on, until it says false. Offsets are positions in the
// directory, so a listing may be resumed by anybody. child is nil for "." and "..".
func (t *tree) list(d *entry, offset uint64, add func(e fuse.DirEntry, child *entry) bool) {
	for i := offset; i < uint64(len(d.children))+2; i++ {
		e, child := fuse.DirEntry{Off: i + 1, Mode: unix.S_IFDIR}, (*entry)(nil)
		switch i {
		case 0:
			e.Name, e.Ino = ".", d.attr.Ino
		case 1:
			e.Name, e.Ino = "..", d.parent
		default:
			child = d.children[i-2]
			e.Name, e.Ino, e.Mode = child.name, child.attr.Ino, child.attr.Mode&unix.S_IFMT
		}
		if !add(e, child) {
			return
		}
	}
}

func (t *tree) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	d := t.at(in.NodeId)
	if !d.isDir() {
		return fuse.ENOTDIR
	}
	t.list(d, in.Offset, func(e fuse.DirEntry, _ *entry) bool { return out.AddDirEntry(e) })
	return fuse.OK
}

func (t *tree) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	d := t.at(in.NodeId)
	if !d.isDir() {
		return fuse.ENOTDIR
	}
	t.list(d, in.Offset, func(e fuse.DirEntry, child *entry) bool {
		slot := out.AddDirLookupEntry(e)
		if slot != nil && child != nil { // node id 0: the kernel does not look "." and ".." up
			t.entry(child, slot)
		}
		return slot != nil
	})
	return fuse.OK
}

// StatFs describes a full file system that holds the files.
func (t *tree) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const block = 4096
	out.Bsize, out.Frsize, out.NameLen = block, block, unix.NAME_MAX
	out.Blocks, out.Files = (t.bytes+block-1)/block, uint64(len(t.entries))
	return fuse.OK
}

// valuesAt are the extended attributes of a node; nil: it has none.
func (t *tree) valuesAt(node uint64) *attributes {
	if e := t.at(node); e != nil {
		return e.values
	}
	return nil
}

func (t *tree) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	values := t.valuesAt(h.NodeId)
	if values == nil {
		return 0, fuse.ENOATTR
	}
	value, ok := values.get(name)
	if !ok {
		return 0, fuse.ENOATTR
	}
	return fill(dest, value)
}

func (t *tree) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	values := t.valuesAt(h.NodeId)
	if values == nil {
		return 0, fuse.OK
	}
	return fill(dest, values.list())
}

// fill copies an attribute as listxattr(2) wants it: a buffer that is too small gets ERANGE and the size.
func fill(dest []byte, value string) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}
