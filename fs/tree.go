package fs

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Node ids and inode numbers. In a directory mount the file has two nodes with one inode number: the kernel
// refuses to pass an inode through while it has pages of it cached (fuse_file_io_open), so a complete file
// becomes another node, which new opens find, while the old one goes on serving those who have it open.
const (
	nodeRoot     = fuse.FUSE_ROOT_ID // the directory, or the file itself when mounted as a file
	nodeArriving = 2                 // the file, read through the page cache
	nodeComplete = 3                 // the file, passed through to the store's file
	inoFile      = 2
)

// cacheFor is how long the kernel may believe names and attributes: neither changes, but for the switch from
// nodeArriving to nodeComplete, of which it is told.
const cacheFor = time.Hour

// fhCached is the handle of an open of the root file that goes through the page cache; all others are 0.
const fhCached = 1

// tree is the file system that go-fuse calls for everything but READ. It has no state per handle and counts no
// lookups. Whatever would write is EROFS: the mount is read-only, but root may remount it.
type tree struct {
	fuse.RawFileSystem

	// Constant.
	name    string
	asFile  bool
	file    fuse.Attr
	root    fuse.Attr
	values  *attributes
	backing *atomic.Int32 // backing id once complete and passthrough works; 0 before
	opened  *atomic.Uint64

	mu      sync.Mutex
	cached  int  // guarded by mu: opens of the root file that go through the page cache
	passing bool // guarded by mu: an open of the root file was passed through, so all later ones must be
}

func newTree(m *Mounted, uid, gid uint32) *tree {
	t := &tree{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		name:          m.file.Name,
		asFile:        m.opt.AsFile,
		values:        newAttributes(m.file),
		backing:       &m.backing,
		opened:        &m.rare.passthroughOpens,
	}
	when := m.file.ModTime
	if when.IsZero() {
		when = time.Now()
	}
	owner := fuse.Owner{Uid: uid, Gid: gid}
	sec, nsec := uint64(when.Unix()), uint32(when.Nanosecond())
	t.file = fuse.Attr{
		Ino: inoFile, Size: uint64(m.size), Blocks: uint64(m.size+511) / 512,
		Mtime: sec, Ctime: sec, Atime: sec, Mtimensec: nsec, Ctimensec: nsec, Atimensec: nsec,
		Mode: unix.S_IFREG | 0o444, Nlink: 1, Owner: owner, Blksize: 4096,
	}
	t.root = t.file
	if t.asFile {
		t.root.Ino = nodeRoot
	} else {
		t.root.Ino, t.root.Size, t.root.Blocks = nodeRoot, 0, 0
		t.root.Mode, t.root.Nlink = unix.S_IFDIR|0o555, 2
	}
	return t
}

// node is what the file's name leads to now.
func (t *tree) node() uint64 {
	if t.backing.Load() != 0 {
		return nodeComplete
	}
	return nodeArriving
}

func (t *tree) isFile(node uint64) bool {
	return node == nodeArriving || node == nodeComplete || node == nodeRoot && t.asFile
}

func (t *tree) entry(out *fuse.EntryOut) {
	out.NodeId, out.Generation, out.Attr = t.node(), 1, t.file
	out.SetEntryTimeout(cacheFor)
	out.SetAttrTimeout(cacheFor)
}

func (t *tree) String() string { return fsSubtype }

func (t *tree) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if t.asFile || h.NodeId != nodeRoot {
		return fuse.Status(unix.ENOTDIR)
	}
	if name != t.name {
		return fuse.ENOENT
	}
	t.entry(out)
	return fuse.OK
}

func (t *tree) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Attr = t.file
	if in.NodeId == nodeRoot {
		out.Attr = t.root
	}
	out.SetTimeout(cacheFor)
	return fuse.OK
}

// Access answers access(2) and chdir(2); permission bits are the kernel's business (default_permissions).
func (t *tree) Access(_ <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	if in.Mask&unix.W_OK != 0 {
		return fuse.EROFS
	}
	return fuse.OK
}

func (t *tree) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0 {
		return fuse.EROFS
	}
	// FLUSH would make close(2), and so exec(2) of anything by a process that holds the file, wait for us.
	out.OpenFlags = fuse.FOPEN_NOFLUSH
	switch {
	case in.NodeId == nodeComplete:
		t.pass(out)
	case in.NodeId == nodeRoot && t.asFile:
		t.openRoot(out)
	default:
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	}
	return fuse.OK
}

func (t *tree) pass(out *fuse.OpenOut) {
	out.OpenFlags |= fuse.FOPEN_PASSTHROUGH
	out.BackingID = t.backing.Load()
	t.opened.Add(1)
}

// openRoot opens a file that is its own mount, whose node cannot change. The kernel refuses to pass an inode
// through while anybody has it open through the page cache, and to cache it while somebody has it passed through;
// either makes open(2) fail with EIO. So the first open that is passed through waits until all cached ones have
// been released, and after it all are. (Direct IO, which may go over to passthrough at any time, is no way out: a
// shared mapping of such a file counts as cached, the kernel does not tell us of it, and each mmap(2) of it waits
// for page faults of others.)
func (t *tree) openRoot(out *fuse.OpenOut) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.backing.Load() != 0 && (t.passing || t.cached == 0) {
		t.passing = true
		t.pass(out)
		return
	}
	t.cached++
	out.Fh = fhCached
	out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
}

// Release hears of a handle after the kernel has let go of it (fuse_prepare_release), so that a count of zero
// means that the inode is not cached by anybody.
func (t *tree) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if in.Fh == fhCached {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.cached--
	}
}

func (t *tree) Forget(uint64, uint64)                               {}
func (t *tree) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status    { return fuse.ENOSYS }
func (t *tree) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status    { return fuse.OK }
func (t *tree) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }
func (t *tree) ReleaseDir(*fuse.ReleaseIn)                          {}

func (t *tree) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	if in.NodeId != nodeRoot || t.asFile {
		return fuse.ENOTDIR
	}
	return fuse.OK
}

// listing is the directory: offsets are positions in it, so a listing may be resumed by anybody.
func (t *tree) listing() []fuse.DirEntry {
	return []fuse.DirEntry{
		{Name: ".", Ino: nodeRoot, Mode: unix.S_IFDIR, Off: 1},
		{Name: "..", Ino: nodeRoot, Mode: unix.S_IFDIR, Off: 2},
		{Name: t.name, Ino: inoFile, Mode: unix.S_IFREG, Off: 3},
	}
}

func (t *tree) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	for _, e := range t.listing() {
		if e.Off > in.Offset && !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}

func (t *tree) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	for _, e := range t.listing() {
		if e.Off <= in.Offset {
			continue
		}
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			break
		}
		if e.Name == t.name { // node id 0: the kernel does not look "." and ".." up
			t.entry(entry)
		}
	}
	return fuse.OK
}

// StatFs describes a full file system that holds one file.
func (t *tree) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const block = 4096
	out.Bsize, out.Frsize, out.NameLen = block, block, unix.NAME_MAX
	out.Blocks, out.Files = (t.file.Size+block-1)/block, 1
	return fuse.OK
}

func (t *tree) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if !t.isFile(h.NodeId) {
		return 0, fuse.ENOATTR
	}
	value, ok := t.values.get(name)
	if !ok {
		return 0, fuse.ENOATTR
	}
	return fill(dest, value)
}

func (t *tree) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	if !t.isFile(h.NodeId) {
		return 0, fuse.OK
	}
	return fill(dest, t.values.list())
}

// fill copies an attribute as listxattr(2) wants it: a buffer that is too small gets ERANGE and the size.
func fill(dest []byte, value string) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}
