package blockio

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/mmap"
)

// Blob is an open blob of a [Store]: which of its blocks are here, and their bytes. All methods are safe for
// concurrent use. It is shared by everybody who opened the same id; the last Close closes the files.
type Blob struct {
	// Constant once open.
	store    *Store
	entry    *entry
	id       blob.ID
	geo      blob.Geometry
	seed     uint32    // of log checksums
	imported *importOf // not nil: data is a file of somebody else, complete and read-only
	watch    watch     // of that file

	data   *os.File
	leaves *os.File // 32 bytes per block
	log    *os.File // append mode
	region *mmap.Region

	// Bitmaps, read without locks. A block's bits are changed only by who holds the claim on it; present is
	// set last and cleared first.
	present bitmap // blocks whose bytes are in data
	leaf    bitmap // blocks whose leaf is known
	firm    bitmap // leaves better than Claimed: of bytes we read directly, or under a better root
	pieces  bitmap // pieces all of whose blocks are present; set after the root is known, if it can be
	claims  claims

	left       []atomic.Int32 // per piece: blocks not present
	incomplete atomic.Int64   // pieces not complete
	bytes      atomic.Int64   // present
	completed  chan struct{}
	complete   sync.Once

	rootsMu  sync.RWMutex // guards roots and disputed; no I/O under it
	roots    map[uint32]root
	disputed map[uint32]bool

	observersMu sync.Mutex
	observers   atomic.Pointer[[]*func(uint32)]
	watchers    atomic.Pointer[[]*func(blob.Run)] // see OnBlocks; changed under observersMu

	// life is held shared by whatever changes the blob, and exclusively by Close.
	life   sync.RWMutex
	closed bool

	// appends is held shared by every append to the log, exclusively only to repair it after a failed one.
	appends sync.RWMutex

	dirty   atomic.Bool // something was written since the last sync
	syncMu  sync.Mutex  // one sync at a time; guards synced and durable
	synced  int64       // the log is on stable storage up to here
	durable bool        // so are metadata and the names of all files
}

// ID is the blob's name.
func (b *Blob) ID() blob.ID { return b.id }

// Geometry says how the blob is cut.
func (b *Blob) Geometry() blob.Geometry { return b.geo }

// Size is the blob's length in bytes.
func (b *Blob) Size() int64 { return b.geo.Size }

// inBlob reports whether a run of blocks lies inside the blob.
func (b *Blob) inBlob(r blob.Run) bool {
	return uint64(r.First)+uint64(r.Count) <= uint64(b.geo.Blocks())
}

// Has reports whether every block of r is present. It takes no lock and allocates nothing. An empty run is
// always present, one that leaves the blob never.
func (b *Blob) Has(r blob.Run) bool { return b.inBlob(r) && b.present.has(r) }

// NextAbsent is the first maximal run of absent blocks in [from,limit), false when there is none.
func (b *Blob) NextAbsent(from, limit uint32) (blob.Run, bool) {
	return b.present.next(from, min(limit, b.geo.Blocks()), false)
}

// PieceComplete reports whether every block of piece p is present and its root, if it can be, computed.
func (b *Blob) PieceComplete(p uint32) bool { return p < b.geo.Pieces() && b.pieces.get(p) }

// Pieces is a snapshot of the complete pieces: bit j of word i is piece i*64+j.
func (b *Blob) Pieces() []uint64 { return b.pieces.snapshot() }

// Present is how many bytes of the blob are here.
func (b *Blob) Present() int64 { return b.bytes.Load() }

// Complete reports whether every piece is complete. It can become false again only when a claimed root is
// disputed, see [Blob.DropClaim].
func (b *Blob) Complete() bool { return b.incomplete.Load() == 0 }

// Completed is closed when the blob is complete for the first time.
func (b *Blob) Completed() <-chan struct{} { return b.completed }

// OnPiece has f called whenever a piece becomes complete, from the goroutine whose Put completed it and with
// no lock held. f must not block for long: the Put waits for it. After cancel no new call is started.
func (b *Blob) OnPiece(f func(piece uint32)) (cancel func()) {
	return subscribe(&b.observersMu, &b.observers, f)
}

// OnBlocks has f called whenever blocks of a run become present, before what OnPiece calls, in the same way. Not
// all blocks of the run need to be: see [Blob.Has].
func (b *Blob) OnBlocks(f func(blob.Run)) (cancel func()) {
	return subscribe(&b.observersMu, &b.watchers, f)
}

// subscribe adds f to a list that is read without a lock.
func subscribe[T any](mu *sync.Mutex, list *atomic.Pointer[[]*func(T)], f func(T)) (cancel func()) {
	own := &f
	change := func(edit func([]*func(T)) []*func(T)) {
		mu.Lock()
		defer mu.Unlock()
		var l []*func(T)
		if old := list.Load(); old != nil {
			l = slices.Clone(*old)
		}
		l = edit(l)
		list.Store(&l)
	}
	change(func(l []*func(T)) []*func(T) { return append(l, own) })
	return func() {
		change(func(l []*func(T)) []*func(T) {
			return slices.DeleteFunc(l, func(o *func(T)) bool { return o == own })
		})
	}
}

// arrived tells the watchers of blocks. No lock may be held.
func (b *Blob) arrived(r blob.Run) {
	if list := b.watchers.Load(); list != nil {
		for _, f := range *list {
			(*f)(r)
		}
	}
}

// notify tells the observers. No lock may be held.
func (b *Blob) notify(pieces []uint32) {
	if len(pieces) == 0 {
		return
	}
	if list := b.observers.Load(); list != nil {
		for _, p := range pieces {
			for _, f := range *list {
				(*f)(p)
			}
		}
	}
}

// File is the data file, to be handed to the kernel for passthrough. Its bytes mean something only where
// blocks are present, so in general only when [Blob.Complete]. It belongs to the blob: do not close it, do
// not write to it.
func (b *Blob) File() *os.File { return b.data }

// Pin protects the blob from eviction, or no longer.
func (b *Blob) Pin(on bool) error { return b.store.Pin(b.id, on) }

// Close gives back one Open. The last one makes everything durable and closes the files; it waits for Puts
// and reads in flight.
func (b *Blob) Close() error {
	e, s := b.entry, b.store
	e.change.Lock()
	defer e.change.Unlock()
	s.mu.Lock()
	if e.blob != b {
		s.mu.Unlock()
		return b.closedErr()
	}
	e.refs--
	last := e.refs == 0
	s.mu.Unlock()
	if !last {
		return nil
	}
	return s.shut(e)
}

// shut closes the files of an open entry whose change lock is held.
func (s *Store) shut(e *entry) error {
	b := e.blob
	b.life.Lock()
	b.closed = true
	b.life.Unlock()
	err := b.sync()
	s.syncer.forget(b)
	b.closeFiles()
	s.mu.Lock()
	e.blob, e.refs = nil, 0
	if b.imported == nil {
		e.present = b.bytes.Load()
	}
	s.mu.Unlock()
	return err
}

// closeFiles closes what is open; it may be called on a blob that was opened by half.
func (b *Blob) closeFiles() {
	if b.region != nil {
		_ = b.region.Close() // unmapping our own mapping cannot fail; a second close is not reached
	}
	for _, f := range []*os.File{b.data, b.leaves, b.log} {
		if f != nil {
			_ = f.Close() // what mattered was reported by the sync before
		}
	}
}

// enter is taken before anything that changes the blob, and left by b.life.RUnlock.
func (b *Blob) enter() error {
	b.life.RLock()
	if b.closed {
		b.life.RUnlock()
		return b.closedErr()
	}
	return nil
}

func (b *Blob) closedErr() error { return fmt.Errorf("%w: %s", blob.ErrClosed, b.id) }

func (b *Blob) path(name string) string { return filepath.Join(b.entry.dir, name) }

// append adds encoded records to the log.
func (b *Blob) append(recs []byte) error {
	b.appends.RLock()
	_, err := b.log.Write(recs)
	b.appends.RUnlock()
	if err == nil {
		b.touch()
		return nil
	}
	// A part of a record may be in the file. Cut it off when it is the end; replay steps over it otherwise.
	b.appends.Lock()
	defer b.appends.Unlock()
	if st, e := b.log.Stat(); e == nil && st.Size()%recordSize != 0 {
		_ = b.log.Truncate(st.Size() - st.Size()%recordSize)
	}
	return err
}

// touch asks for a sync soon.
func (b *Blob) touch() {
	if !b.dirty.Load() && b.dirty.CompareAndSwap(false, true) {
		b.store.syncer.want(b)
	}
}
