package fetch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
)

// Origin is a Source that may have to be read from start to end. *origin.Object implements it.
type Origin interface {
	blob.Source
	// Ranges reports whether Fetch works; when it does not, Stream is the only way.
	Ranges() bool
	// Stream calls w with consecutive bytes from offset 0 to the end of the blob. p is valid during the call.
	Stream(ctx context.Context, w func(p []byte) error) error
}

// Planner says which pieces this node should read from the origin so that no two nodes do. It is a hint: a
// blocked read waits for it only for a bounded time. Its methods do not block.
type Planner interface {
	// Shared reports whether others are in the swarm too, so that bulk reads from the origin need the lease.
	// False: no tracker, none reachable, or nobody else there; read from the origin what you like.
	Shared() bool
	// Want replaces the wish, as runs of pieces: reading names what is being read from the origin now, urgent
	// what somebody is blocked on, ahead what would be read next; each the most urgent first.
	Want(reading, urgent, ahead []blob.Run)
	// Mine reports whether this node holds the lease of a piece, Held whether another one does.
	Mine(piece uint32) bool
	Held(piece uint32) bool
}

// Fill says what happens to blocks that nobody has read yet.
type Fill uint8

const (
	// FillIdle completes the blob while no read has come for idleAfter.
	FillIdle Fill = iota
	// FillNever fetches only what is read, and ahead of readers.
	FillNever
	// FillEager completes the blob at once, below all reads.
	FillEager
)

// ParseFill reads "never", "idle" or "eager".
func ParseFill(s string) (Fill, error) {
	switch s {
	case "never":
		return FillNever, nil
	case "idle", "":
		return FillIdle, nil
	case "eager":
		return FillEager, nil
	}
	return FillIdle, fmt.Errorf("%w: fill %q: use never, idle or eager", blob.ErrInvalid, s)
}

// String is the word [ParseFill] reads.
func (f Fill) String() string { return [...]string{"idle", "never", "eager"}[min(f, FillEager)] }

// Config says what one blob is fetched from and into.
type Config struct {
	Store  *blockio.Blob
	Peers  blob.Source // nil: none
	Origin Origin      // nil: none
	Plan   Planner     // nil: none
	Fill   Fill
	Limits Limits
}

// Blob is one blob that is being made present. It implements [blob.ReaderAt] and what fs wants of a file.
type Blob struct {
	// Constant after Open.
	engine *Engine
	store  *blockio.Blob
	geo    blob.Geometry
	peers  blob.Source
	relay  Relay // peers, when they are one
	origin Origin
	plan   Planner
	fill   Fill
	limits Limits
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{}
	done   chan struct{}
	silent func() // ends Store.OnPiece

	ahead     streams
	transient *transient

	// Atomics.
	lastRead   atomic.Int64 // unix nanoseconds
	fromPeers  atomic.Int64
	fromOrigin atomic.Int64
	reads      atomic.Int64
	failures   atomic.Int64
	hedges     atomic.Int64
	corrupt    atomic.Int64
	unkept     atomic.Int64 // unix nanoseconds of the last block that the store could not keep

	// Guarded by mu.
	mu        sync.Mutex
	closed    bool
	parked    map[blob.Waiter]*parked
	flights   map[*flight]struct{}
	lastErr   error
	cause     error                // the last error of a source; nil once one delivers
	refused   error                // the last final error of the origin
	reached   uint32               // how far a stream of the whole blob has ever come, in blocks,
	streamed  time.Time            // and when it came that far
	failed    []failure            // what timed out a moment ago
	fillFrom  uint32               // every block before it was present
	warned    time.Time            // when a failed read was last logged as a warning
	alone     time.Time            // since when the plan has counted nobody else in; zero: it does
	unplanned time.Time            // until then blocked readers do without leases
	sides     [3]side              // indexed by sourceKind
	lanes     map[int]int          // bulk transfers by lane of a plan, from 1
	wanted    map[uint32]time.Time // when a peer last waited for a piece that this node was asked to pass on

	flying sync.WaitGroup
}

// parked is a read that waits for its blocks.
type parked struct {
	waiter   blob.Waiter
	run      blob.Run
	class    blob.Class
	since    time.Time
	deadline time.Time // zero: none
	held     time.Time // when another node was last seen to hold a lease on it; guarded by Blob.mu
	follows  bool      // belongs to a sequential or strided reader
}

// failure is a run that timed out; the kernel asks again for each page of a failed readahead, and those must
// not wait as long once more.
type failure struct {
	run   blob.Run
	until time.Time
	err   error
}

// Open starts making a blob present. Close ends it.
func (e *Engine) Open(c Config) *Blob {
	ctx, cancel := context.WithCancel(context.Background())
	b := &Blob{
		engine: e, store: c.Store, geo: c.Store.Geometry(), peers: c.Peers, origin: c.Origin, plan: c.Plan,
		fill: c.Fill, limits: c.Limits, ctx: ctx, cancel: cancel,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		parked:  map[blob.Waiter]*parked{},
		flights: map[*flight]struct{}{},
		lanes:   map[int]int{},
		wanted:  map[uint32]time.Time{},
	}
	b.transient = newTransient(e.memory.size/4, func(block uint32, claimed blob.Hash) bool { return b.root(block) == claimed })
	b.relay, _ = c.Peers.(Relay)
	b.lastRead.Store(time.Now().UnixNano())
	e.mu.Lock()
	e.blobs[b] = struct{}{}
	e.mu.Unlock()
	b.silent = c.Store.OnPiece(func(uint32) { b.Wake() })
	go b.run()
	return b
}

// Close stops all transfers of the blob and waits for them; parked reads fail with blob.ErrClosed. It does not
// close the store, the sources or the planner.
func (b *Blob) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		b.flying.Wait()
		<-b.done
		return nil
	}
	b.closed = true
	waiting := b.parked
	b.parked = map[blob.Waiter]*parked{}
	b.mu.Unlock()
	b.cancel()
	b.silent()
	for w := range waiting {
		w.Ready(fmt.Errorf("%w: the blob is being closed", blob.ErrClosed))
	}
	b.engine.mu.Lock()
	delete(b.engine.blobs, b)
	b.engine.mu.Unlock()
	b.flying.Wait()
	<-b.done
	return nil
}

// root is the root of the piece of a block, as far as it is known; else zero.
func (b *Blob) root(block uint32) blob.Hash {
	h, _ := b.store.Root(b.geo.PieceOf(block))
	return h
}

// Size is the length of the blob in bytes.
func (b *Blob) Size() int64 { return b.geo.Size }

// Complete reports whether every block is kept on this machine.
func (b *Blob) Complete() bool { return b.store.Complete() }

// Completed is closed when the blob is complete.
func (b *Blob) Completed() <-chan struct{} { return b.store.Completed() }

// File is the cache file, for passthrough, once complete.
func (b *Blob) File() *os.File { return b.store.File() }

// Wake says that a source or the plan changed. It never blocks.
func (b *Blob) Wake() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// has reports whether all blocks of r can be read now.
func (b *Blob) has(r blob.Run) bool {
	if b.store.Has(r) {
		return true
	}
	if b.unkept.Load() == 0 {
		return false
	}
	for i := range r.Count {
		if one := (blob.Run{First: r.First + i, Count: 1}); !b.store.Has(one) && !b.transient.has(one.First) {
			return false
		}
	}
	return true
}

// Touch tells readahead of a read that was answered from what is present. n is in bytes.
func (b *Blob) Touch(off int64, n int) {
	b.reads.Add(1)
	if b.store.Complete() {
		return
	}
	b.lastRead.Store(time.Now().UnixNano())
	if b.ahead.note(off, int64(n)) {
		b.Wake()
	}
}

// Want asks for the n bytes at off. When they are present it returns true and w is forgotten. Otherwise the
// read is parked and w.Ready is called exactly once, unless [Blob.Cancel] takes it back.
func (b *Blob) Want(off int64, n int, w blob.Waiter) bool {
	run := b.geo.Covering(off, int64(n))
	if b.has(run) {
		return true
	}
	class := blob.Read
	if n <= os.Getpagesize() {
		class = blob.Fault
	}
	b.lastRead.Store(time.Now().UnixNano())
	b.ahead.note(off, int64(n))
	return b.park(run, class, b.ahead.follows(off) > 0, w)
}

// park is Want for a run of blocks and a class; follows says that what lies behind will be wanted too.
func (b *Blob) park(run blob.Run, class blob.Class, follows bool, w blob.Waiter) bool {
	now := time.Now()
	p := &parked{waiter: w, run: run, class: class, since: now, follows: follows}
	if !b.engine.hard {
		p.deadline = now.Add(b.engine.timeout)
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		w.Ready(fmt.Errorf("%w: the blob is being closed", blob.ErrClosed))
		return false
	}
	if err := b.recentFailure(run, now); err != nil {
		b.mu.Unlock()
		b.failures.Add(1)
		w.Ready(err)
		return false
	}
	if b.has(run) { // it came while we were not looking
		b.mu.Unlock()
		return true
	}
	b.parked[w] = p
	b.mu.Unlock()
	b.Wake()
	return false
}

// Cancel takes a parked read back; true means that its Ready will not be called.
func (b *Blob) Cancel(w blob.Waiter) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.parked[w]
	delete(b.parked, w)
	return ok
}

// recentFailure returns the error of a run that overlaps run and timed out a moment ago. Needs mu.
func (b *Blob) recentFailure(run blob.Run, now time.Time) error {
	keep := b.failed[:0]
	var err error
	for _, f := range b.failed {
		if now.Before(f.until) {
			keep = append(keep, f)
			if !f.run.Intersect(run).Empty() {
				err = f.err
			}
		}
	}
	b.failed = keep
	return err
}

// WriteTo writes hdr and the n present bytes at off to fd with one system call, as /dev/fuse demands.
// blob.ErrAbsent means that they are not, or no longer, present.
func (b *Blob) WriteTo(fd int, hdr []byte, off int64, n int) (int, error) {
	m, err := b.store.WriteTo(fd, hdr, off, n)
	if err == nil || b.unkept.Load() == 0 || !errors.Is(err, blob.ErrAbsent) {
		return m, err
	}
	p := make([]byte, len(hdr)+n)
	copy(p, hdr)
	if err := b.copyPresent(p[len(hdr):], off); err != nil {
		return 0, err
	}
	return syscall.Write(fd, p)
}

// copyPresent fills p from kept and transient blocks.
func (b *Blob) copyPresent(p []byte, off int64) error {
	if b.unkept.Load() == 0 {
		return b.store.ReadAt(p, off)
	}
	for len(p) > 0 {
		block := uint32(off / blob.BlockSize)
		within := int(off % blob.BlockSize)
		n := min(len(p), b.geo.BlockLen(block)-within)
		if n <= 0 {
			return fmt.Errorf("%w: read beyond the end at %d", blob.ErrInvalid, off)
		}
		if b.store.Has(blob.Run{First: block, Count: 1}) {
			if err := b.store.ReadAt(p[:n], off); err != nil {
				return err
			}
		} else if b.transient.read(block, within, p[:n]) != n {
			return fmt.Errorf("%w: block %d", blob.ErrAbsent, block)
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// reader is the Waiter of ReadAt.
type reader struct {
	b      *Blob
	p      []byte
	off    int64
	copied bool // p has its bytes; read after done
	done   chan error
}

// Ready implements blob.Waiter. What is not kept is copied at once: when the reader runs it may be gone again.
func (r *reader) Ready(err error) {
	if err == nil && r.b.unkept.Load() != 0 {
		r.copied = r.b.copyPresent(r.p, r.off) == nil // else the reader tries again
	}
	r.done <- err
}

// ReadAt implements [blob.ReaderAt]. When ctx carries a class ([blob.WithClass]) the read is made in that class, by
// somebody who knows what will be wanted next: no readahead follows it.
func (b *Blob) ReadAt(ctx context.Context, p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > b.geo.Size {
		return fmt.Errorf("%w: read of %d bytes at %d of a blob of %d", blob.ErrInvalid, len(p), off, b.geo.Size)
	}
	if len(p) == 0 {
		return nil
	}
	class, classed := blob.ClassIn(ctx)
	touch, want := b.Touch, b.Want
	if classed {
		touch = func(int64, int) { b.reads.Add(1) }
		want = func(off int64, n int, w blob.Waiter) bool {
			// A lease is worth asking for only where nobody is blocked.
			return b.park(b.geo.Covering(off, int64(n)), class, class > blob.Read, w)
		}
	}
	for {
		err := b.copyPresent(p, off)
		if err == nil {
			touch(off, len(p))
			return nil
		}
		if !errors.Is(err, blob.ErrAbsent) {
			return err
		}
		w := &reader{b: b, p: p, off: off, done: make(chan error, 1)}
		if want(off, len(p), w) {
			if err := ctx.Err(); err != nil {
				return err
			}
			continue
		}
		select {
		case err = <-w.done:
		case <-ctx.Done():
			if b.Cancel(w) {
				return ctx.Err()
			}
			err = <-w.done
		}
		if err != nil {
			return err
		}
		if w.copied {
			touch(off, len(p))
			return nil
		}
	}
}

// Stats is what status shows of a blob; sizes are in bytes.
type Stats struct {
	Size, Present         int64
	FromPeers, FromOrigin int64
	Waiting               int   // parked reads
	Flights               int   // transfers under way
	Reads                 int64 // reads answered without being parked, and all by ReadAt
	Errors                int64 // reads that failed
	Hedges                int64 // transfers started because another was late
	Corrupt               int64 // runs that arrived with wrong bytes and were dropped
	LastError             string
}

// FromOrigin is how many bytes have come from the origin, those of incomplete pieces too. Lock-free.
func (b *Blob) FromOrigin() int64 { return b.fromOrigin.Load() }

// Stats returns a snapshot.
func (b *Blob) Stats() Stats {
	b.mu.Lock()
	s := Stats{Waiting: len(b.parked), Flights: len(b.flights)}
	if b.lastErr != nil {
		s.LastError = b.lastErr.Error()
	}
	b.mu.Unlock()
	s.Size, s.Present = b.geo.Size, b.store.Present()
	s.FromPeers, s.FromOrigin = b.fromPeers.Load(), b.fromOrigin.Load()
	s.Reads, s.Errors, s.Hedges, s.Corrupt = b.reads.Load(), b.failures.Load(), b.hedges.Load(), b.corrupt.Load()
	return s
}
