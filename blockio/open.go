package blockio

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/mmap"
)

// Open opens the blob id, or creates it with nothing present. Everybody who has it open shares one *Blob and
// closes it once. m is stored when the blob is created; later it only fills in what is still empty. A blob
// that is there with another geometry is blob.ErrInvalid. When the machine went down since the blob was
// written, blocks that may not have reached the disk are hashed before they are believed.
func (s *Store) Open(id blob.ID, g blob.Geometry, m Meta) (*Blob, error) {
	if err := checkNames(id, g); err != nil {
		return nil, err
	}
	e, err := s.entryFor(id)
	if err != nil {
		return nil, err
	}
	defer e.change.Unlock()
	if e.ready && e.blob == nil && e.meta.Import != nil {
		if err := e.meta.Import.check(); err != nil {
			s.log.Warn("cache: a shared file is gone", "err", err)
			if _, err := s.drop(e); err != nil {
				return nil, err
			}
			s.revive(e)
		}
	}
	if !e.ready {
		return s.create(e, g, m, nil, nil)
	}
	if e.meta.geometry() != g {
		return nil, fmt.Errorf("%w: %s is in the cache with %d bytes in pieces of %d, not %d in pieces of %d: remove it from the cache",
			blob.ErrInvalid, id, e.meta.Size, e.meta.PieceLength, g.Size, g.PieceLength)
	}
	if e.blob != nil {
		return s.again(e), nil
	}
	b, err := s.openFiles(e)
	if err != nil {
		return nil, err
	}
	if merged := e.meta.Meta.fill(m); merged != e.meta.Meta {
		mf := e.meta
		mf.Meta = merged
		if err := s.rewriteMeta(e, mf); err != nil {
			s.log.Warn("cache: metadata not updated", "err", err)
		}
	}
	s.mu.Lock()
	u := e.use
	s.mu.Unlock()
	u.freq = min(u.freq+1, maxFreq)
	s.opened(e, b, u)
	return b, nil
}

// fill is m with what is empty taken from o.
func (m Meta) fill(o Meta) Meta {
	set := func(to *string, from string) {
		if *to == "" {
			*to = from
		}
	}
	set(&m.Source, o.Source)
	set(&m.Name, o.Name)
	set(&m.Validator, o.Validator)
	set(&m.Digest, o.Digest)
	if m.ModTime.IsZero() {
		m.ModTime = o.ModTime
	}
	return m
}

// checkNames refuses what could not be stored and found again.
func checkNames(id blob.ID, g blob.Geometry) error {
	if err := g.Check(); err != nil {
		return err
	}
	if back, err := blob.ParseID(id.String()); err != nil || back != id {
		return fmt.Errorf("%w: %q is not a blob id", blob.ErrInvalid, id.String())
	}
	return nil
}

// entryFor returns the entry of id, a new one if need be, with its change lock held. A new one (not ready)
// is made real by create, or vanishes when that fails.
func (s *Store) entryFor(id blob.ID) (*entry, error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, fmt.Errorf("%w: the cache %s", blob.ErrClosed, s.dir)
		}
		e, ok := s.entries[id]
		if !ok {
			e = &entry{id: id, dir: filepath.Join(s.dir, folderOf(id))}
			s.entries[id] = e
		}
		s.mu.Unlock()
		e.change.Lock()
		s.mu.Lock()
		gone := e.gone || s.closed
		s.mu.Unlock()
		if !gone {
			return e, nil
		}
		e.change.Unlock()
	}
}

// revive puts a dropped entry, whose change lock is held, back to be created anew.
func (s *Store) revive(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.gone, e.ready = false, false
	e.meta, e.use = metaFile{}, use{}
	s.entries[e.id] = e
}

// again counts one more user of an open entry whose change lock is held.
func (s *Store) again(e *entry) *Blob {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.refs++
	return e.blob
}

// opened publishes a freshly opened blob, whose entry's change lock is held, as used now.
func (s *Store) opened(e *entry, b *Blob, u use) {
	u.at = now()
	if err := b.append(appendRecord(nil, b.seed, u.record())); err != nil {
		s.log.Warn("cache: the time of use is not kept", "blob", e.id, "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.imported == nil {
		// Recovery may have dropped some of what the log alone had promised.
		s.used.Add(b.bytes.Load() - e.present)
	}
	e.use, e.turn, e.blob, e.refs, e.present, e.ready = u, u.at, b, 1, 0, true
}

// create makes the files of an entry whose change lock is held, under a temporary name first. They are not
// synced: if a power loss takes them, the folder is found unusable and removed. The first sync of the blob
// makes them durable before it vouches for any block.
func (s *Store) create(e *entry, g blob.Geometry, m Meta, from *importOf, leaves []blob.Hash) (b *Blob, err error) {
	defer func() {
		if err != nil {
			s.mu.Lock()
			e.gone = true
			delete(s.entries, e.id)
			s.mu.Unlock()
		}
	}()
	m.Created = now().UTC()
	mf := metaFile{Version: metaVersion, ID: e.id.String(), Size: g.Size, PieceLength: g.PieceLength, Import: from, Meta: m}
	raw, err := encodeMeta(&mf)
	if err != nil {
		return nil, err
	}
	tmp := filepath.Join(s.dir, tmpPrefix+"new-"+filepath.Base(e.dir))
	if err := s.writeFolder(tmp, raw, g, from, leaves); err != nil {
		os.RemoveAll(tmp)
		return nil, createErr("the cache of "+e.id.String(), err)
	}
	if err := os.Rename(tmp, e.dir); err != nil {
		os.RemoveAll(tmp)
		return nil, createErr("the cache of "+e.id.String(), err)
	}
	s.mu.Lock()
	e.meta = mf
	s.mu.Unlock()
	if b, err = s.openFiles(e); err != nil {
		os.RemoveAll(e.dir)
		return nil, err
	}
	if leaves != nil {
		if err := b.believe(leaves); err != nil {
			b.closeFiles()
			os.RemoveAll(e.dir)
			return nil, err
		}
	}
	s.mu.Lock()
	u := use{main: s.ghosts.ids[e.id]}
	s.mu.Unlock()
	s.opened(e, b, u)
	return b, nil
}

// writeFolder makes the files of a new blob: sparse ones of their full size, so that a disk or file system
// that cannot take the size says so now.
func (s *Store) writeFolder(dir string, meta []byte, g blob.Geometry, from *importOf, leaves []blob.Hash) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	sizes := map[string]int64{"leaves": int64(g.Blocks()) * 32, "log": 0}
	if from == nil {
		sizes["data"] = g.Size
	}
	for name, size := range sizes {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if err = f.Truncate(size); err == nil && name == "leaves" && leaves != nil {
			raw := make([]byte, 0, size)
			for i := range leaves {
				raw = append(raw, leaves[i][:]...)
			}
			_, err = f.WriteAt(raw, 0)
		}
		if e := f.Close(); err == nil {
			err = e
		}
		if err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "meta.json"), meta, 0o600)
}

// openFiles opens the files of an entry whose change lock is held, recovers what can be believed, and maps
// the data.
func (s *Store) openFiles(e *entry) (_ *Blob, err error) {
	m := e.meta
	g := m.geometry()
	b := &Blob{
		store: s, entry: e, id: e.id, geo: g, seed: logSeed(e.id, g), imported: m.Import, completed: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			b.closeFiles()
		}
	}()
	if m.Import != nil {
		b.data, err = os.Open(m.Import.Path)
	} else {
		b.data, err = os.OpenFile(b.path("data"), os.O_RDWR, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open the cache of %s: %w", e.id, err)
	}
	if b.leaves, err = os.OpenFile(b.path("leaves"), os.O_RDWR, 0); err != nil {
		return nil, fmt.Errorf("open the cache of %s: %w", e.id, err)
	}
	st, err := b.recover()
	if err != nil {
		return nil, fmt.Errorf("open the cache of %s: %w", e.id, err)
	}
	if b.region, err = mmap.Map(b.data, g.Size); err != nil {
		return nil, err
	}
	b.adopt(st)
	b.settle()
	return b, nil
}

// adopt takes over a recovered state.
func (b *Blob) adopt(st *state) {
	g := b.geo
	b.present, b.leaf, b.firm = st.present, st.leaf, st.firm
	b.roots, b.disputed = st.roots, st.disputed
	b.claims.init(g.Blocks())
	b.pieces = newBitmap(g.Pieces())
	b.left = make([]atomic.Int32, g.Pieces())
	b.bytes.Store(st.bytes(g))
	b.incomplete.Store(int64(g.Pieces()))
	b.synced, b.durable = st.synced, st.synced > 0
}

// settle finds the complete pieces, computes roots that were not logged any more, and checks what was read
// directly against roots that others vouch for.
func (b *Blob) settle() {
	var wrong []uint32
	for p := range b.geo.Pieces() {
		run := b.geo.PieceBlocks(p)
		n := run.Count - b.present.count(run)
		b.left[p].Store(int32(n))
		if n > 0 {
			continue
		}
		if _, t := b.Root(p); t != blob.Direct && t != blob.Built && !b.computeRoot(p) {
			wrong = append(wrong, p)
			continue
		}
		b.pieces.set(blob.Run{First: p, Count: 1})
		b.incomplete.Add(-1)
	}
	if b.incomplete.Load() == 0 {
		b.complete.Do(func() { close(b.completed) })
	}
	if err := b.dropWrong(wrong); err != nil {
		b.store.log.Warn("cache: dropped", "err", err)
	}
}

// believe makes a freshly created import complete: the file is there, its leaves are given.
func (b *Blob) believe(leaves []blob.Hash) error {
	all := b.geo.Blob()
	if all.Empty() {
		return nil
	}
	recs := appendRecord(nil, b.seed, record{kind: kindPresent, arg: flagFirm, a: 0, b: all.Count})
	for p := range b.geo.Pieces() {
		run := b.geo.PieceBlocks(p)
		r := root{b.geo.PieceRoot(leaves[run.First:run.End()]), blob.Built}
		b.roots[p] = r
		recs = appendRecord(recs, b.seed, record{kind: kindRoot, arg: uint8(r.trust), a: p, hash: r.hash})
	}
	if err := b.append(recs); err != nil {
		return b.keepErr(all, err)
	}
	b.present.set(all)
	b.leaf.set(all)
	b.firm.set(all)
	b.bytes.Store(b.geo.Size)
	b.settle()
	return nil
}
