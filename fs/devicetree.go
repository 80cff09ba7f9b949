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
	id      uint64
	handles map[uint64]bool // of open files, by the unique number of their OPEN; true: passed through. Guarded by deviceTree.change
}

// held is what a successor must know of it. Needs deviceTree.change.
func (f *deviceFile) held() heldFile {
	return heldFile{ID: f.id, Name: f.name, Size: f.size, Backing: f.backing.Load(), Handles: maps.Clone(f.handles)}
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
	change sync.Mutex // one change at a time; who opens or releases a file takes it too. Held while the holder is told
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
	n.order = slices.SortedFunc(maps.Values(n.byID), func(a, b *deviceFile) int { return compareIDs(a.id, b.id) })
	return n
}

// adopt makes the table that an earlier process had.
func (t *deviceTree) adopt(files []heldFile) {
	t.table.Store(new(deviceTable).with(func(n *deviceTable) {
		for _, h := range files {
			f := &deviceFile{id: h.ID, leaf: &leaf{blob: newLatch(h.Size), size: h.Size, name: h.Name}, handles: h.Handles}
			if f.handles == nil {
				f.handles = map[uint64]bool{}
			}
			f.backing.Store(h.Backing)
			for _, passed := range h.Handles {
				if passed {
					f.passing = true
				} else {
					f.cached++
				}
			}
			n.byID[f.id], n.byName[f.name] = f, f
		}
	}))
}

func (t *deviceTree) add(id uint64, name string, b Blob) error {
	t.change.Lock()
	defer t.change.Unlock()
	old := t.table.Load()
	if f := old.byID[id]; f != nil && old.byName[name] == f {
		if l, ok := f.blob.(*latch); ok {
			if err := l.open(b); err != nil {
				return fmt.Errorf("device %q (id %d): %w", name, id, err)
			}
			return nil
		}
	}
	if old.byID[id] != nil || old.byName[name] != nil {
		return fmt.Errorf("%w: device %q (id %d) is there already", blob.ErrInvalid, name, id)
	}
	f := &deviceFile{id: id, leaf: &leaf{blob: b, size: b.Size(), name: name}, handles: map[uint64]bool{}}
	t.m.hold.put(f.held())
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
	if len(f.handles) > 0 && !t.m.isDead() {
		return nil, fmt.Errorf("%w: device %q is open; unmount what uses it first", ErrBusy, name)
	}
	t.table.Store(old.with(func(n *deviceTable) {
		delete(n.byID, f.id)
		delete(n.byName, name)
	}))
	t.m.hold.gone(f.id)
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
	t.change.Lock()
	defer t.change.Unlock()
	f := t.table.Load().byID[in.NodeId]
	if f == nil {
		return fuse.ENOENT
	}
	out.OpenFlags = fuse.FOPEN_NOFLUSH // see tree.Open
	handle := in.Unique &^ resendBit
	passed, again := f.handles[handle]
	switch {
	case !again:
		f.handles[handle] = t.m.openOne(f.leaf, true, out)
		t.m.hold.put(f.held())
	case passed: // a process that died before it could answer has counted it
		t.m.pass(f.leaf, out)
	default:
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	}
	out.Fh = handle
	return fuse.OK
}

func (t *deviceTree) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	t.change.Lock()
	defer t.change.Unlock()
	f := t.table.Load().byID[in.NodeId]
	if f == nil {
		return
	}
	passed, open := f.handles[in.Fh]
	if !open {
		return // sent again, by a process that had counted it
	}
	delete(f.handles, in.Fh)
	if !passed {
		f.released()
	}
	t.m.hold.put(f.held())
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
