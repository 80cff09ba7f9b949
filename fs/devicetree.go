package fs

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// deviceFile is a file of a device tree.
type deviceFile struct {
	*leaf
	id    uint64
	opens int // that this process has answered and that were not released since; guarded by deviceTree.change
}

// deviceTable is what there is at one moment; it is never changed.
type deviceTable struct {
	byID   map[uint64]*deviceFile
	byName map[string]*deviceFile
	order  []*deviceFile // by id
}

// deviceTree is the file system of [Devices]: a directory whose files are found by node id, which is also their inode
// number. Who reads takes no lock: a change makes a new table.
type deviceTree struct {
	readOnly

	// Constant.
	m    *Mounted
	attr fuse.Attr // what all have in common

	table  atomic.Pointer[deviceTable]
	change sync.Mutex // one change at a time; who opens or releases a file takes it too
}

func newDeviceTree(m *Mounted) *deviceTree {
	t := &deviceTree{readOnly: newReadOnly(), m: m}
	now := time.Now()
	sec, nsec := uint64(now.Unix()), uint32(now.Nanosecond())
	t.attr = fuse.Attr{
		Mtime: sec, Ctime: sec, Atime: sec, Mtimensec: nsec, Ctimensec: nsec, Atimensec: nsec,
		Nlink: 1, Blksize: 4096,
	}
	t.attr.Owner = fuse.Owner{Uid: uint32(unix.Geteuid()), Gid: uint32(unix.Getegid())}
	t.table.Store(&deviceTable{})
	return t
}

// leafOf is the file of a node; nil: none.
func (t *deviceTree) leafOf(node uint64) *leaf {
	if f := t.table.Load().byID[node]; f != nil {
		return f.leaf
	}
	return nil
}

// with is the table after a change of it.
func (o *deviceTable) with(change func(*deviceTable)) *deviceTable {
	n := &deviceTable{byID: maps.Clone(o.byID), byName: maps.Clone(o.byName)}
	if n.byID == nil {
		n.byID, n.byName = map[uint64]*deviceFile{}, map[string]*deviceFile{}
	}
	change(n)
	n.order = slices.SortedFunc(maps.Values(n.byID), func(a, b *deviceFile) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	return n
}

func (t *deviceTree) add(id uint64, name string, b Blob) error {
	t.change.Lock()
	defer t.change.Unlock()
	old := t.table.Load()
	if old.byID[id] != nil || old.byName[name] != nil {
		return fmt.Errorf("%w: device %q (id %d) is there already", blob.ErrInvalid, name, id)
	}
	f := &deviceFile{id: id, leaf: &leaf{blob: b, size: b.Size(), name: name}}
	t.table.Store(old.with(func(n *deviceTable) { n.byID[id], n.byName[name] = f, f }))
	return nil
}

func (t *deviceTree) remove(name string) (*leaf, error) {
	t.change.Lock()
	defer t.change.Unlock()
	old := t.table.Load()
	f := old.byName[name]
	if f == nil {
		return nil, fmt.Errorf("%w: there is no device %q", blob.ErrNotFound, name)
	}
	if f.opens > 0 {
		return nil, fmt.Errorf("%w: device %q is open; unmount what uses it first", ErrBusy, name)
	}
	t.table.Store(old.with(func(n *deviceTable) {
		delete(n.byID, f.id)
		delete(n.byName, name)
	}))
	return f.leaf, nil
}

// fill describes a node; false: there is none.
func (t *deviceTree) fill(node uint64, out *fuse.Attr) bool {
	*out = t.attr
	if node == nodeRoot {
		out.Ino, out.Mode, out.Nlink = nodeRoot, unix.S_IFDIR|0o500, 2
		return true
	}
	f := t.table.Load().byID[node]
	if f == nil {
		return false
	}
	out.Ino, out.Mode, out.Size, out.Blocks = node, unix.S_IFREG|0o400, uint64(f.size), uint64(f.size+511)/512
	return true
}

func (t *deviceTree) entry(f *deviceFile, out *fuse.EntryOut) {
	out.NodeId, out.Generation = f.id, 1
	t.fill(f.id, &out.Attr)
	out.SetEntryTimeout(cacheFor)
	out.SetAttrTimeout(cacheFor)
}

func (t *deviceTree) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId != nodeRoot {
		return fuse.ENOTDIR
	}
	f := t.table.Load().byName[name]
	if f == nil {
		return fuse.ENOENT
	}
	t.entry(f, out)
	return fuse.OK
}

func (t *deviceTree) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if !t.fill(in.NodeId, &out.Attr) {
		return fuse.ENOENT
	}
	out.SetTimeout(cacheFor)
	return fuse.OK
}

func (t *deviceTree) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0 {
		return fuse.EROFS
	}
	f := t.count(in.NodeId, 1)
	if f == nil {
		return fuse.ENOENT
	}
	out.OpenFlags = fuse.FOPEN_NOFLUSH // see tree.Open
	t.m.openOne(f.leaf, true, out)
	return fuse.OK
}

// count adds n to how often the file of a node is open; nil: there is none.
func (t *deviceTree) count(node uint64, n int) *deviceFile {
	t.change.Lock()
	defer t.change.Unlock()
	f := t.table.Load().byID[node]
	if f != nil {
		f.opens += n
	}
	return f
}

func (t *deviceTree) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if f := t.count(in.NodeId, -1); f != nil && in.Fh == fhCached {
		f.released()
	}
}

func (t *deviceTree) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	if in.NodeId != nodeRoot {
		return fuse.ENOTDIR
	}
	return fuse.OK
}

// list calls add for what comes behind offset, until it says false. The offset of a file is its id plus one, so that a
// listing that is resumed while files come and go neither repeats nor misses one that stays.
func (t *deviceTree) list(offset uint64, add func(e fuse.DirEntry, f *deviceFile) bool) {
	for i, name := range []string{".", ".."} {
		if offset <= uint64(i) && !add(fuse.DirEntry{Name: name, Ino: nodeRoot, Mode: unix.S_IFDIR, Off: uint64(i) + 1}, nil) {
			return
		}
	}
	for _, f := range t.table.Load().order {
		if f.id+1 > offset && !add(fuse.DirEntry{Name: f.name, Ino: f.id, Mode: unix.S_IFREG, Off: f.id + 1}, f) {
			return
		}
	}
}

func (t *deviceTree) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	t.list(in.Offset, func(e fuse.DirEntry, _ *deviceFile) bool { return out.AddDirEntry(e) })
	return fuse.OK
}

func (t *deviceTree) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	t.list(in.Offset, func(e fuse.DirEntry, f *deviceFile) bool {
		slot := out.AddDirLookupEntry(e)
		if slot != nil && f != nil {
			t.entry(f, slot)
		}
		return slot != nil
	})
	return fuse.OK
}

// StatFs describes a full file system that holds the files.
func (t *deviceTree) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const block = 4096
	out.Bsize, out.Frsize, out.NameLen = block, block, unix.NAME_MAX
	files := t.table.Load().order
	out.Files = uint64(len(files))
	for _, f := range files {
		out.Blocks += uint64(f.size+block-1) / block
	}
	return fuse.OK
}
