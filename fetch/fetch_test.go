package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// content is n reproducible bytes.
func content(n int) []byte {
	p := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(n)})
	rng.Read(p)
	return p
}

// open returns an empty store for data.
func open(t *testing.T, data []byte, o blockio.Options) *blockio.Blob {
	t.Helper()
	s, err := blockio.Open(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	geo := blob.GeometryFor(int64(len(data)))
	b, err := s.Open(blob.DigestID(sha256.Sum256(data)), geo, blockio.Meta{Source: "test", Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// claim gives the store the roots and leaves that a tracker and peers would have given it.
func claim(t *testing.T, s *blockio.Blob, data []byte) {
	t.Helper()
	geo := s.Geometry()
	for p := range geo.Pieces() {
		var leaves []blob.Hash
		run := geo.PieceBlocks(p)
		for i := run.First; i < run.End(); i++ {
			off, n := geo.Bytes(blob.Run{First: i, Count: 1})
			leaves = append(leaves, blob.Leaf(data[off:off+n]))
		}
		if err := s.SetRoot(p, geo.PieceRoot(leaves), blob.Claimed); err != nil {
			t.Fatal(err)
		}
		if err := s.SetLeaves(p, leaves); err != nil {
			t.Fatal(err)
		}
	}
}

// script is a source that does what a test says.
type script struct {
	geo      blob.Geometry
	data     []byte
	has      func(blob.Run) bool         // nil: everything
	before   func(context.Context) error // called before a transfer
	spoil    func(block uint32) bool     // wrong bytes for this block
	noRanges bool

	mu    sync.Mutex
	asked map[uint32]int // block -> how often it was delivered
	now   map[uint32]int // block -> transfers under way
	twice bool           // a block was asked while it was under way
	runs  []blob.Run
}

func source(data []byte) *script {
	return &script{geo: blob.GeometryFor(int64(len(data))), data: data, asked: map[uint32]int{}, now: map[uint32]int{}}
}

func (s *script) Has(r blob.Run) bool { return s.has == nil || s.has(r) }
func (s *script) Ranges() bool        { return !s.noRanges }

func (s *script) Stream(ctx context.Context, w func([]byte) error) error {
	for off := 0; off < len(s.data); off += 10_000 {
		if err := w(s.data[off:min(off+10_000, len(s.data))]); err != nil {
			return err
		}
	}
	return nil
}

func (s *script) Fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	s.mu.Lock()
	s.runs = append(s.runs, r)
	for i := r.First; i < r.End(); i++ {
		s.now[i]++
		s.twice = s.twice || s.now[i] > 1
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		for i := r.First; i < r.End(); i++ {
			s.now[i]--
		}
		s.mu.Unlock()
	}()
	if s.before != nil {
		if err := s.before(ctx); err != nil {
			return err
		}
	}
	for at := r.First; at < r.End(); at += blob.MaxBuffer {
		part := blob.Run{First: at, Count: min(blob.MaxBuffer, r.End()-at)}
		buf, err := into.Buffer(ctx, part)
		if err != nil {
			return err
		}
		off, n := s.geo.Bytes(part)
		copy(buf, s.data[off:off+n])
		s.mu.Lock()
		for i := range part.Count {
			s.asked[part.First+i]++
			if s.spoil != nil && s.spoil(part.First+i) {
				buf[i*blob.BlockSize] ^= 1
			}
		}
		s.mu.Unlock()
		if err := into.Done(part); err != nil {
			return err
		}
	}
	return nil
}

// blocked is a before that waits for ever.
func blocked(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func start(t *testing.T, o Options, c Config) *Blob {
	t.Helper()
	e := New(o)
	t.Cleanup(e.Close)
	return e.Open(c)
}

func read(t *testing.T, b *Blob, off, n int) ([]byte, error) {
	t.Helper()
	p := make([]byte, n)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	return p, b.ReadAt(ctx, p, int64(off))
}

func TestEveryBlockOnceHoweverManyReaders(t *testing.T) {
	data := content(9<<20 + 12345)
	origin := source(data)
	b := start(t, Options{}, Config{Store: open(t, data, blockio.Options{}), Origin: origin, Fill: FillNever})
	var wg sync.WaitGroup
	for r := range 16 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(r), 1))
			for range 60 {
				off := rng.IntN(len(data))
				n := min(1+rng.IntN(300_000), len(data)-off)
				if r%2 == 0 { // half of them read the same places
					off, n = (off/100_000)*100_000, min(50_000, len(data)-(off/100_000)*100_000)
				}
				p, err := read(t, b, off, n)
				if err != nil || !bytes.Equal(p, data[off:off+n]) {
					t.Errorf("read of %d at %d: wrong bytes or %v", n, off, err)
				}
			}
		})
	}
	wg.Wait()
	origin.mu.Lock()
	defer origin.mu.Unlock()
	if origin.twice {
		t.Error("a block was asked while it was under way")
	}
	for i, n := range origin.asked {
		if n != 1 {
			t.Errorf("block %d was delivered %d times", i, n)
		}
	}
	if s := b.Stats(); s.FromOrigin != s.Present || s.Waiting != 0 || s.FromPeers != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestSequentialReaderGetsReadahead(t *testing.T) {
	data := content(24 << 20)
	origin := source(data)
	b := start(t, Options{}, Config{Store: open(t, data, blockio.Options{}), Origin: origin, Fill: FillNever})
	for off := 0; off < len(data); off += 128 << 10 {
		if p, err := read(t, b, off, 128<<10); err != nil || !bytes.Equal(p, data[off:off+128<<10]) {
			t.Fatal(off, err)
		}
	}
	origin.mu.Lock()
	defer origin.mu.Unlock()
	if n := len(origin.runs); n > 24 {
		t.Errorf("%d transfers for 192 reads of 24 MiB in a row: no readahead", n)
	}
}

func TestRandomReaderGetsItsBlockOnly(t *testing.T) {
	data := content(64 << 20)
	origin := source(data)
	b := start(t, Options{}, Config{Store: open(t, data, blockio.Options{}), Origin: origin, Fill: FillNever})
	for i := range 50 {
		off := (i*37%64)<<20 + 300<<10
		if _, err := read(t, b, off, 4096); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.Stats().Present; got > 64*blob.BlockSize {
		t.Errorf("50 random reads of 4 KiB brought %d bytes", got)
	}
}

func TestTimeout(t *testing.T) {
	data := content(1 << 20)
	store := open(t, data, blockio.Options{})
	synctest.Test(t, func(t *testing.T) {
		origin := source(data)
		origin.before = blocked
		e := New(Options{})
		defer e.Close()
		b := e.Open(Config{Store: store, Origin: origin, Fill: FillNever})
		t0 := time.Now()
		_, err := read(t, b, 0, 4096)
		if took := time.Since(t0); !errors.Is(err, blob.ErrUnavailable) || took < 30*time.Second || took > 30*time.Second+tick {
			t.Fatalf("%v after %v", err, took)
		}
		t0 = time.Now()
		if _, err := read(t, b, 4096, 4096); !errors.Is(err, blob.ErrUnavailable) || time.Since(t0) > 0 {
			t.Errorf("the same block just after: %v after %v, want the same error at once", err, time.Since(t0))
		}
		time.Sleep(forgetFailure + time.Second)
		t0 = time.Now()
		if _, err := read(t, b, 0, 4096); !errors.Is(err, blob.ErrUnavailable) || time.Since(t0) < 30*time.Second {
			t.Errorf("later: %v after %v, want a new wait", err, time.Since(t0))
		}
	})
}

func TestSourceThatFailsIsAskedAgain(t *testing.T) {
	data := content(1 << 20)
	store := open(t, data, blockio.Options{})
	synctest.Test(t, func(t *testing.T) {
		origin := source(data)
		tries := 0
		origin.before = func(context.Context) error {
			if tries++; tries < 6 {
				return fmt.Errorf("%w: not yet", blob.ErrUnavailable)
			}
			return nil
		}
		e := New(Options{})
		defer e.Close()
		b := e.Open(Config{Store: store, Origin: origin, Fill: FillNever})
		if p, err := read(t, b, 0, 4096); err != nil || !bytes.Equal(p, data[:4096]) {
			t.Fatal(err)
		}
	})
}

func TestFinalErrorFailsAtOnce(t *testing.T) {
	data := content(1 << 20)
	for _, class := range []error{blob.ErrChanged, blob.ErrDenied, blob.ErrNotFound} {
		store := open(t, data, blockio.Options{})
		synctest.Test(t, func(t *testing.T) {
			origin := source(data)
			origin.before = func(context.Context) error { return fmt.Errorf("%w: says the origin", class) }
			e := New(Options{})
			defer e.Close()
			b := e.Open(Config{Store: store, Origin: origin, Fill: FillNever})
			t0 := time.Now()
			if _, err := read(t, b, 0, 4096); !errors.Is(err, class) || time.Since(t0) > time.Second {
				t.Errorf("%v after %v, want %v at once", err, time.Since(t0), class)
			}
		})
	}
}

func TestLatePeerIsHedgedByTheOrigin(t *testing.T) {
	data := content(1 << 20)
	store := open(t, data, blockio.Options{})
	claim(t, store, data)
	synctest.Test(t, func(t *testing.T) {
		peers, origin := source(data), source(data)
		peers.before = blocked
		e := New(Options{})
		defer e.Close()
		b := e.Open(Config{Store: store, Peers: peers, Origin: origin, Fill: FillNever})
		t0 := time.Now()
		p, err := read(t, b, 70_000, 4096)
		if err != nil || !bytes.Equal(p, data[70_000:74_096]) || time.Since(t0) > patience+2*tick {
			t.Fatalf("%v after %v", err, time.Since(t0))
		}
		if s := b.Stats(); s.Hedges != 1 || s.FromOrigin == 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestLiarNeverSurfaces(t *testing.T) {
	data := content(3 << 20)
	store := open(t, data, blockio.Options{})
	claim(t, store, data)
	peers, origin := source(data), source(data)
	peers.spoil = func(block uint32) bool { return block%3 == 0 }
	b := start(t, Options{}, Config{Store: store, Peers: peers, Origin: origin, Fill: FillNever})
	for off := 0; off < len(data); off += 64 << 10 {
		if p, err := read(t, b, off, 64<<10); err != nil || !bytes.Equal(p, data[off:off+64<<10]) {
			t.Fatalf("at %d: %v", off, err)
		}
	}
	if s := b.Stats(); s.Corrupt == 0 {
		t.Errorf("the liar was never caught: %+v", s)
	}
}

// script of a tracker.
type plan struct {
	mu         sync.Mutex
	mine, held map[uint32]bool
	urgent     []blob.Run
}

func (p *plan) Shared() bool { return true }
func (p *plan) Mine(i uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mine[i]
}
func (p *plan) Held(i uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held[i]
}
func (p *plan) Want(_, urgent, _ []blob.Run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(urgent) > 0 {
		p.urgent = append([]blob.Run(nil), urgent...)
	}
}

func TestHeldPieceIsWaitedFor(t *testing.T) {
	data := content(1 << 20)
	store := open(t, data, blockio.Options{})
	claim(t, store, data)
	synctest.Test(t, func(t *testing.T) {
		var peersHave bool
		var mu sync.Mutex
		peers, origin := source(data), source(data)
		peers.has = func(blob.Run) bool { mu.Lock(); defer mu.Unlock(); return peersHave }
		p := &plan{held: map[uint32]bool{0: true, 1: true}}
		e := New(Options{})
		defer e.Close()
		b := e.Open(Config{Store: store, Peers: peers, Origin: origin, Plan: p, Fill: FillNever})
		go func() {
			time.Sleep(time.Second)
			mu.Lock()
			peersHave = true
			mu.Unlock()
			b.Wake()
		}()
		if _, err := read(t, b, 0, 8192); err != nil {
			t.Fatal(err)
		}
		if s := b.Stats(); s.FromOrigin != 0 || s.FromPeers == 0 {
			t.Errorf("a piece that another node was fetching came from the origin: %+v", s)
		}
		if len(p.urgent) != 0 {
			t.Errorf("a random reader wishes for leases: %v", p.urgent)
		}
		mu.Lock()
		peersHave = false
		mu.Unlock()
		t0 := time.Now()
		if _, err := read(t, b, 400<<10, 4096); err != nil || time.Since(t0) > tick {
			t.Errorf("one block of a piece that another node is fetching: %v after %v, want it from the origin at once", err, time.Since(t0))
		}
		t0 = time.Now()
		if _, err := read(t, b, 256<<10, 8192); err != nil || time.Since(t0) < heldFor || time.Since(t0) > heldFor+2*tick {
			t.Errorf("holder that never delivers: %v after %v, want the origin after %v", err, time.Since(t0), heldFor)
		}
	})
}

func TestSequentialReaderWishesForLeases(t *testing.T) {
	data := content(8 << 20)
	store := open(t, data, blockio.Options{})
	synctest.Test(t, func(t *testing.T) {
		p := &plan{}
		e := New(Options{})
		defer e.Close()
		b := e.Open(Config{Store: store, Origin: source(data), Plan: p, Fill: FillNever})
		t0 := time.Now()
		for off := 0; off < len(data); off += 128 << 10 {
			if _, err := read(t, b, off, 128<<10); err != nil || time.Since(t0) > askLease+2*tick {
				t.Fatalf("tracker that gives no lease: %v after %v, want the origin after %v, once", err, time.Since(t0), askLease)
			}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.urgent) == 0 {
			t.Error("no urgent wish for the pieces of a sequential reader")
		}
	})
}

func TestLeaseIsUsedForBulk(t *testing.T) {
	data := content(4 << 20)
	store := open(t, data, blockio.Options{})
	origin := source(data)
	p := &plan{mine: map[uint32]bool{3: true, 4: true, 9: true}}
	b := start(t, Options{}, Config{Store: store, Origin: origin, Plan: p, Fill: FillEager})
	deadline := time.Now().Add(20 * time.Second)
	for !store.PieceComplete(3) || !store.PieceComplete(4) || !store.PieceComplete(9) {
		if time.Now().After(deadline) {
			t.Fatal("leased pieces were not fetched")
		}
		time.Sleep(time.Millisecond)
	}
	if got := b.Stats().FromOrigin; got != 3*256<<10 {
		t.Errorf("%d bytes from the origin, want the three leased pieces", got)
	}
}

func TestStreamOnlyOrigin(t *testing.T) {
	data := content(3<<20 + 7)
	origin := source(data)
	origin.noRanges = true
	b := start(t, Options{}, Config{Store: open(t, data, blockio.Options{}), Origin: origin, Fill: FillNever})
	if p, err := read(t, b, 2<<20, 100_000); err != nil || !bytes.Equal(p, data[2<<20:2<<20+100_000]) {
		t.Fatal(err)
	}
	<-b.Completed()
}

func TestFill(t *testing.T) {
	data := content(5 << 20)
	for _, fill := range []Fill{FillNever, FillIdle, FillEager} {
		t.Run(fill.String(), func(t *testing.T) {
			store := open(t, data, blockio.Options{})
			synctest.Test(t, func(t *testing.T) {
				e := New(Options{})
				defer e.Close()
				b := e.Open(Config{Store: store, Origin: source(data), Fill: fill})
				if _, err := read(t, b, 0, 4096); err != nil {
					t.Fatal(err)
				}
				time.Sleep(idleAfter / 2)
				synctest.Wait()
				if got := b.Complete(); got != (fill == FillEager) {
					t.Errorf("complete after %v: %v", idleAfter/2, got)
				}
				time.Sleep(2 * idleAfter)
				synctest.Wait()
				if got := b.Complete(); got != (fill != FillNever) {
					t.Errorf("complete in the end: %v", got)
				}
			})
		})
	}
}

func TestFullCacheStillReads(t *testing.T) {
	data := content(8 << 20)
	store := open(t, data, blockio.Options{Quota: 1 << 20})
	b := start(t, Options{}, Config{Store: store, Origin: source(data), Fill: FillNever})
	for off := 0; off < len(data); off += 128 << 10 {
		if p, err := read(t, b, off, 128<<10); err != nil || !bytes.Equal(p, data[off:off+128<<10]) {
			t.Fatalf("at %d: %v", off, err)
		}
	}
	if got := store.Present(); got > 2<<20 {
		t.Errorf("%d bytes kept with a quota of 1 MiB", got)
	}
}

// TestFullCacheManyLargeReads: reads that together need more than the memory for what is not kept do not drive
// out each other's blocks for ever, nor does one that alone needs more.
func TestFullCacheManyLargeReads(t *testing.T) {
	data := content(16 << 20)
	store := open(t, data, blockio.Options{Quota: 1 << 20})
	origin := source(data)
	origin.before = func(context.Context) error { time.Sleep(time.Millisecond); return nil } // so that they meet
	b := start(t, Options{Memory: MinMemory, Timeout: 10 * time.Second}, Config{Store: store, Origin: origin, Fill: FillNever})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for k := range 4 {
				off, n := (i*2<<20+k*5<<19)%(14<<20)+100, 1<<20+i<<14
				if p, err := read(t, b, off, n); err != nil || !bytes.Equal(p, data[off:off+n]) {
					t.Errorf("%d bytes at %d: %v", n, off, err)
				}
			}
		})
	}
	all.Wait()
}

type waiter chan error

func (w waiter) Ready(err error) { w <- err }

func TestCancelAndClose(t *testing.T) {
	data := content(1 << 20)
	origin := source(data)
	origin.before = blocked
	b := start(t, Options{}, Config{Store: open(t, data, blockio.Options{}), Origin: origin, Fill: FillNever})
	one, two := make(waiter, 1), make(waiter, 1)
	if b.Want(0, 4096, one) || b.Want(0, 4096, two) {
		t.Fatal("absent bytes said to be present")
	}
	if !b.Cancel(one) || b.Cancel(one) {
		t.Error("cancel works once")
	}
	b.Close()
	if err := <-two; !errors.Is(err, blob.ErrClosed) {
		t.Error(err)
	}
	if len(one) != 0 {
		t.Error("a cancelled waiter was called")
	}
	if _, err := read(t, b, 0, 4096); !errors.Is(err, blob.ErrClosed) {
		t.Error(err)
	}
}

func TestMemoryKeepsRoomForBlockedReaders(t *testing.T) {
	m := newMemory(MinMemory)
	ctx, cancel := context.WithCancel(t.Context())
	var bulk [][]byte
	for range MinMemory / bufferSize * 3 / 4 {
		p, err := m.get(ctx, bufferSize, blob.Background)
		if err != nil {
			t.Fatal(err)
		}
		bulk = append(bulk, p)
	}
	p, err := m.get(ctx, bufferSize, blob.Fault)
	if err != nil {
		t.Fatal("a blocked reader found no memory beside bulk transfers:", err)
	}
	m.put(p, blob.Fault)
	cancel()
	if _, err := m.get(ctx, bufferSize, blob.Background); err == nil {
		t.Error("bulk transfers got more than their share")
	}
	for _, p := range bulk {
		m.put(p, blob.Background)
	}
}
