package blockio

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// Info describes one blob of a store.
type Info struct {
	ID        blob.ID
	Geometry  blob.Geometry
	Meta      Meta
	Present   int64 // bytes
	Complete  bool
	Pinned    bool
	Open      bool
	Imported  string    // path of a file that is shared in place; "" for a blob of the cache
	Allocated int64     // bytes on disk: data, leaves, log
	Used      time.Time // last opened
}

// Lookup describes one blob.
func (s *Store) Lookup(id blob.ID) (Info, bool) {
	s.mu.Lock()
	e, ok := s.entries[id]
	s.mu.Unlock()
	if !ok {
		return Info{}, false
	}
	return s.info(e)
}

// List describes all blobs, the last used first.
func (s *Store) List() []Info { return s.list(func(*entry) bool { return true }) }

// Find lists the versions of a source (a canonical URL) that are cached, the last used first.
func (s *Store) Find(source string) []Info {
	return s.list(func(e *entry) bool { return e.meta.Source == source })
}

func (s *Store) list(match func(*entry) bool) []Info {
	s.mu.Lock()
	var found []*entry
	for _, e := range s.entries {
		if match(e) {
			found = append(found, e)
		}
	}
	s.mu.Unlock()
	infos := make([]Info, 0, len(found))
	for _, e := range found {
		if i, ok := s.info(e); ok {
			infos = append(infos, i)
		}
	}
	slices.SortFunc(infos, func(a, b Info) int {
		return cmp.Or(b.Used.Compare(a.Used), cmp.Compare(a.ID.String(), b.ID.String()))
	})
	return infos
}

// info describes an entry; false when it is just being created, was removed, or is an import whose file has
// changed.
func (s *Store) info(e *entry) (Info, bool) {
	s.mu.Lock()
	ok := e.ready && !e.gone
	i := Info{
		ID: e.id, Geometry: e.meta.geometry(), Meta: e.meta.Meta, Present: e.present,
		Pinned: e.meta.Pinned, Open: e.refs > 0, Used: e.use.at,
	}
	imported, b := e.meta.Import, e.blob
	s.mu.Unlock()
	if !ok {
		return Info{}, false
	}
	if b != nil {
		i.Present = b.Present()
	}
	if imported != nil {
		if imported.check() != nil {
			return Info{}, false
		}
		i.Imported, i.Present = imported.Path, i.Geometry.Size
	}
	i.Complete = i.Present == i.Geometry.Size
	for _, name := range []string{"data", "leaves", "log"} {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(e.dir, name), &st) == nil {
			i.Allocated += st.Blocks * 512
		}
	}
	return i, true
}

// find returns the entry of id with its change lock held.
func (s *Store) find(id blob.ID) (*entry, error) {
	for {
		s.mu.Lock()
		e, ok := s.entries[id]
		closed := s.closed
		s.mu.Unlock()
		if closed {
			return nil, fmt.Errorf("%w: the cache %s", blob.ErrClosed, s.dir)
		}
		if !ok {
			return nil, fmt.Errorf("%w: %s is not in the cache", blob.ErrNotFound, id)
		}
		e.change.Lock()
		s.mu.Lock()
		gone := e.gone
		s.mu.Unlock()
		if !gone {
			return e, nil
		}
		e.change.Unlock()
	}
}

// Pin protects a blob from eviction, or no longer.
func (s *Store) Pin(id blob.ID, on bool) error {
	e, err := s.find(id)
	if err != nil {
		return err
	}
	defer e.change.Unlock()
	s.mu.Lock()
	m := e.meta
	s.mu.Unlock()
	if m.Pinned == on {
		return nil
	}
	m.Pinned = on
	return s.rewriteMeta(e, m)
}

// rewriteMeta replaces the metadata of an entry whose change lock is held.
func (s *Store) rewriteMeta(e *entry, m metaFile) error {
	raw, err := encodeMeta(&m)
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(e.dir, "meta.json"), raw); err != nil {
		return createErr("the metadata of "+e.id.String(), err)
	}
	s.mu.Lock()
	e.meta = m
	s.mu.Unlock()
	return nil
}

// Remove deletes a blob that is not open, pinned or not.
func (s *Store) Remove(id blob.ID) error {
	e, err := s.find(id)
	if err != nil {
		return err
	}
	defer e.change.Unlock()
	if e.blob != nil {
		return fmt.Errorf("%w: %s is in use: unmount it first", blob.ErrInvalid, id)
	}
	_, err = s.drop(e)
	return err
}

// drop deletes the folder of a closed entry whose change lock is held and returns the bytes it gave back.
// The folder gets its temporary name first, so a crash leaves either all of the blob or an orphan.
func (s *Store) drop(e *entry) (int64, error) {
	// Numbered: the same blob may be created, and removed again, before the files of this one are gone.
	tmp := filepath.Join(s.dir, fmt.Sprint(tmpPrefix, "rm-", s.removals.Add(1), "-", filepath.Base(e.dir)))
	if err := os.RemoveAll(tmp); err != nil { // left by an earlier process, when it could not be swept
		return 0, fmt.Errorf("remove %s from the cache: %w", e.id, err)
	}
	if err := os.Rename(e.dir, tmp); err != nil && !os.IsNotExist(err) {
		return 0, fmt.Errorf("remove %s from the cache: %w", e.id, err)
	}
	s.mu.Lock()
	e.gone = true
	delete(s.entries, e.id)
	freed := e.present
	e.present = 0
	s.mu.Unlock()
	err := os.RemoveAll(tmp)
	s.used.Add(-freed)
	if err != nil {
		return freed, fmt.Errorf("remove %s from the cache: %w", e.id, err)
	}
	return freed, nil
}
