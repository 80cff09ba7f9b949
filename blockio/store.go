package blockio

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// Options of a store.
type Options struct {
	Quota int64        // bytes of blocks kept on disk; 0: as much as the disk takes
	Log   *slog.Logger // nil: nothing is logged
}

// Store is a folder of blobs that belongs to this process alone.
type Store struct {
	dir   string
	quota int64
	log   *slog.Logger
	lock  *os.File
	boot  [16]byte

	used     atomic.Int64  // bytes of present blocks, reservations of running Puts included
	removals atomic.Uint64 // numbers the temporary names of what is being removed

	evicting sync.Mutex // one eviction at a time

	mu      sync.Mutex // guards what follows and the mu-fields of entries; no I/O under it
	entries map[blob.ID]*entry
	ghosts  ghosts
	closed  bool

	syncer syncer
}

// entry is one blob of the store, open or not.
type entry struct {
	id  blob.ID
	dir string

	// change is held across everything that opens, closes, rewrites or removes the blob's folder. Order:
	// change, then Blob.life, then Store.mu.
	change sync.Mutex

	// Guarded by Store.mu.
	meta    metaFile
	blob    *Blob // nil: closed
	refs    int   // how often blob was opened and not yet closed
	present int64 // bytes present, while closed
	use     use
	turn    time.Time // place in its eviction queue: last open, or when it got another round
	ready   bool      // files exist and were read; false while it is being created
	gone    bool      // removed: look the id up again
}

// ErrLocked is wrapped by [Open] when another process uses the folder.
var ErrLocked = fmt.Errorf("%w: locked by another process", blob.ErrUnavailable)

// tmpPrefix starts the name of folders that are being created or removed.
const tmpPrefix = "tmp-"

// Open takes the folder dir, created with mode 0700 when it is not there, for this process. It removes what
// an earlier process left half done. Blobs are checked when they are opened, see [Store.Open].
func Open(dir string, o Options) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, createErr("the cache folder "+dir, err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, quota: o.Quota, log: o.Log, lock: lock, boot: bootID(), entries: map[blob.ID]*entry{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.load(); err != nil {
		lock.Close()
		return nil, err
	}
	if s.quota > 0 { // it may have been lowered
		if _, err := s.GC(0); err != nil {
			s.log.Warn("cache: evicting failed", "err", err)
		}
	}
	s.syncer.start()
	return s, nil
}

// lockDir takes the exclusive flock(2) of a store; it ends with the process.
func lockDir(dir string) (*os.File, error) {
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, createErr(name, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		var pid [20]byte
		n, _ := f.ReadAt(pid[:], 0)
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: the cache %s is in use by process %s: stop that one or choose another folder",
				ErrLocked, dir, strings.TrimSpace(string(pid[:n])))
		}
		return nil, fmt.Errorf("lock %s: %w: the cache needs a file system with flock", name, err)
	}
	// The pid is only for people: without it the lock holds all the same.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)
	}
	return f, nil
}

// load reads what is in the folder.
func (s *Store) load() error {
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("read the cache folder: %w", err)
	}
	for _, d := range list {
		full := filepath.Join(s.dir, d.Name())
		if !d.IsDir() {
			continue
		}
		if strings.HasPrefix(d.Name(), tmpPrefix) {
			s.discard(full, "left by a process that was killed")
			continue
		}
		if _, err := blob.ParseID(strings.Replace(d.Name(), "-", ":", 1)); err != nil {
			s.log.Warn("cache: not a blob, left alone", "folder", full)
			continue
		}
		e, err := s.loadEntry(full)
		if err != nil {
			s.discard(full, err.Error())
			continue
		}
		s.entries[e.id] = e
		s.used.Add(e.present)
	}
	return nil
}

// discard removes a folder that is of no use.
func (s *Store) discard(dir, why string) {
	s.log.Warn("cache: removing an unusable folder", "folder", dir, "why", why)
	if err := os.RemoveAll(dir); err != nil {
		s.log.Error("cache: cannot remove a folder: remove it by hand", "folder", dir, "err", err)
	}
}

// loadEntry reads a blob's metadata and sums up its log.
func (s *Store) loadEntry(dir string) (*entry, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	if err != nil {
		return nil, err
	}
	m, id, err := parseMeta(raw)
	if err != nil {
		return nil, err
	}
	if folderOf(id) != filepath.Base(dir) {
		return nil, fmt.Errorf("%w: meta.json is of %s", blob.ErrInvalid, id)
	}
	if m.Import != nil {
		if err := m.Import.check(); err != nil {
			return nil, err
		}
	} else if _, err := os.Stat(filepath.Join(dir, "data")); err != nil {
		return nil, err
	}
	raw, err = os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	st := replay(raw, id, m.geometry(), session{})
	e := &entry{id: id, dir: dir, meta: m, present: st.bytes(m.geometry()), use: st.use, turn: st.use.at, ready: true}
	if m.Import != nil {
		e.present = 0 // not ours, costs nothing
	}
	return e, nil
}

// Close makes everything durable, closes blobs that are still open (later use of them is ErrClosed) and
// gives the folder free.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("%w: the cache %s", blob.ErrClosed, s.dir)
	}
	s.closed = true
	var all []*entry
	for _, e := range s.entries {
		all = append(all, e)
	}
	s.mu.Unlock()
	s.syncer.stop()
	var errs []error
	for _, e := range all {
		e.change.Lock()
		if e.blob != nil {
			errs = append(errs, s.shut(e))
		}
		e.change.Unlock()
	}
	errs = append(errs, s.lock.Close())
	return errors.Join(errs...)
}

// Usage is what a store holds.
type Usage struct {
	Bytes int64 `json:"bytes"` // of blocks present, what Quota bounds; leaves and logs add 0.2–0.5 %
	Quota int64 `json:"quota"` // 0: none
	Blobs int   `json:"blobs"`
	Free  int64 `json:"free"` // bytes that the disk still takes; -1 unknown
}

// Usage counts what is there.
func (s *Store) Usage() Usage {
	u := Usage{Bytes: s.used.Load(), Quota: s.quota, Free: s.free()}
	s.mu.Lock()
	u.Blobs = len(s.entries)
	s.mu.Unlock()
	return u
}

// free is statfs(2)'s space for us, in bytes, or -1.
func (s *Store) free() int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return -1
	}
	return int64(st.Bavail) * st.Bsize
}

// createErr names what could not be created, its class and what to do about it.
func createErr(what string, err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: create %s: %w: free disk space or choose another folder", blob.ErrNoSpace, what, err)
	case errors.Is(err, os.ErrPermission), errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: create %s: %w: choose a folder that this user may write", blob.ErrDenied, what, err)
	case errors.Is(err, unix.EFBIG), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: create %s: %w: the file system takes no file of this size, choose a folder on ext4 or xfs", blob.ErrNoSpace, what, err)
	default:
		return fmt.Errorf("create %s: %w", what, err)
	}
}

// now is the time that is stored with a use.
func now() time.Time { return time.Now().Round(0) }
