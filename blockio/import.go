package blockio

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// Import shares the complete local file at path in place: nothing is copied, only its leaves are stored. The
// leaves are what the caller computed when it read the file; nil has them computed here. The roots made of
// them are Built. Size, modification time and inode are remembered: once they differ, the blob is no longer
// in the store, and reads of one that is open fail with blob.ErrCorrupt at most a second later.
func (s *Store) Import(path string, id blob.ID, g blob.Geometry, m Meta, leaves []blob.Hash) (*Blob, error) {
	if err := checkNames(id, g); err != nil {
		return nil, err
	}
	full, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", path, err)
	}
	if leaves != nil && len(leaves) != int(g.Blocks()) {
		return nil, fmt.Errorf("%w: %d leaves for %s, which has %d blocks", blob.ErrInvalid, len(leaves), path, g.Blocks())
	}
	before, err := statImport(full)
	if err != nil {
		return nil, err
	}
	if before.Size != g.Size {
		return nil, fmt.Errorf("%w: %s has %d bytes, the blob %d", blob.ErrInvalid, path, before.Size, g.Size)
	}
	if leaves == nil {
		if leaves, err = hashFile(full, g); err != nil {
			return nil, err
		}
		if err := before.check(); err != nil {
			return nil, err
		}
	}
	e, err := s.entryFor(id)
	if err != nil {
		return nil, err
	}
	defer e.change.Unlock()
	if e.ready && e.blob == nil {
		// What was cached or imported before is replaced by the file.
		if _, err := s.drop(e); err != nil {
			return nil, err
		}
		s.revive(e)
	}
	if e.blob != nil {
		if e.blob.Complete() {
			return s.again(e), nil
		}
		return nil, fmt.Errorf("%w: %s is in use while it is being downloaded: unmount it first", blob.ErrInvalid, id)
	}
	return s.create(e, g, m, &before, leaves)
}

// statImport is what identifies the content of a file as long as nobody hides a change.
func statImport(path string) (importOf, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		class := blob.ErrUnavailable
		switch err {
		case unix.ENOENT, unix.ENOTDIR:
			class = blob.ErrNotFound
		case unix.EACCES:
			class = blob.ErrDenied
		}
		return importOf{}, fmt.Errorf("%w: %s: %w", class, path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return importOf{}, fmt.Errorf("%w: %s is not a regular file", blob.ErrInvalid, path)
	}
	return importOf{Path: path, Size: st.Size, MTime: st.Mtim.Nano(), Ino: st.Ino, Dev: uint64(st.Dev)}, nil
}

// check compares the file with what was imported. The device number is not compared: it may change when the
// machine boots.
func (i *importOf) check() error {
	now, err := statImport(i.Path)
	if err != nil {
		return err
	}
	now.Dev = i.Dev
	if now != *i {
		return fmt.Errorf("%w: %s has been changed since it was shared: share it again", blob.ErrChanged, i.Path)
	}
	return nil
}

// watch limits how often an open import is checked.
type watch struct{ last atomic.Int64 }

// check looks at the file when it did not for a second.
func (w *watch) check(i *importOf) error {
	now := time.Now().UnixNano()
	if now-w.last.Load() < int64(time.Second) {
		return nil
	}
	if err := i.check(); err != nil {
		return err
	}
	w.last.Store(now)
	return nil
}

// hashFile computes all leaves of a file.
func hashFile(path string, g blob.Geometry) ([]blob.Hash, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	defer f.Close()
	leaves := make([]blob.Hash, g.Blocks())
	errs := make([]error, g.Blocks()/blob.MaxBuffer+1)
	forRuns(g, g.Blob(), func(r blob.Run, data []byte) {
		off, _ := g.Bytes(r)
		if _, err := f.ReadAt(data, off); err != nil {
			errs[r.First/blob.MaxBuffer] = err
			return
		}
		blob.Leaves(leaves[r.First:r.End()], data)
	})
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("import %s: %w", path, err)
		}
	}
	return leaves, nil
}
