package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
)

// TestSilentPeersDoNotHoldReadersUp: transfers from peers that fell silent must not use up the room that other
// readers need, nor go on when the origin has brought what they were for.
func TestSilentPeersDoNotHoldReadersUp(t *testing.T) {
	data := content(32 << 20)
	store := open(t, data, blockio.Options{})
	claim(t, store, data)
	synctest.Test(t, func(t *testing.T) {
		peers, origin := source(data), source(data)
		peers.before = blocked
		e := New(Options{})
		defer e.Close()
		b := e.Open(Config{Store: store, Peers: peers, Origin: origin, Fill: FillNever})
		for i := range 2 * maxDemand {
			off := (i * 37 % 128) * (256 << 10)
			t0 := time.Now()
			if p, err := read(t, b, off, 4096); err != nil || !bytes.Equal(p, data[off:off+4096]) || time.Since(t0) > 2*time.Second {
				t.Fatalf("read %d: %v after %v", i, err, time.Since(t0))
			}
		}
		time.Sleep(maxPatience + time.Second)
		if s := b.Stats(); s.Flights != 0 {
			t.Errorf("%d transfers go on though all they were for is here", s.Flights)
		}
	})
}

// TestPeersThatFallSilentDuringReadahead: a reader is behind a bulk transfer and a transfer of its own from the
// same peers when these fall silent.
func TestPeersThatFallSilentDuringReadahead(t *testing.T) {
	data := content(4 << 20)
	store := open(t, data, blockio.Options{})
	claim(t, store, data)
	synctest.Test(t, func(t *testing.T) {
		peers, origin := source(data), source(data)
		peers.before = blocked
		e := New(Options{})
		defer e.Close()
		b := e.Open(Config{Store: store, Peers: peers, Origin: origin, Fill: FillEager})
		b.Wake()
		t0 := time.Now()
		if _, err := read(t, b, 0, 4096); err != nil || time.Since(t0) > 2*time.Second {
			t.Errorf("%v after %v, want the origin's bytes soon", err, time.Since(t0))
		}
	})
}

// slowly delivers a transfer buffer by buffer at bytesPerSecond.
type slowly struct {
	*script
	bytesPerSecond int64
}

func (s slowly) Fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	for at := r.First; at < r.End(); at += blob.MaxBuffer {
		part := blob.Run{First: at, Count: min(blob.MaxBuffer, r.End()-at)}
		_, n := s.geo.Bytes(part)
		select {
		case <-time.After(time.Duration(n) * time.Second / time.Duration(s.bytesPerSecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := s.script.Fetch(ctx, part, into); err != nil {
			return err
		}
	}
	return nil
}

// TestSlowPeersAreNotHedged: 1 Mbit/s brings a buffer in two seconds. Once that is known it is no reason to
// ask the origin for the same bytes.
func TestSlowPeersAreNotHedged(t *testing.T) {
	data := content(8 << 20)
	store := open(t, data, blockio.Options{})
	claim(t, store, data)
	synctest.Test(t, func(t *testing.T) {
		peers, origin := slowly{source(data), 125_000}, source(data)
		e := New(Options{})
		defer e.Close()
		b := e.Open(Config{Store: store, Peers: peers, Origin: origin, Fill: FillNever})
		for i := range 16 {
			off := (i * 5 % 16) * (512 << 10)
			if _, err := read(t, b, off, 256<<10); err != nil {
				t.Fatal(err)
			}
		}
		if s := b.Stats(); s.Hedges > 6 || s.FromPeers < 12*256<<10 {
			t.Errorf("%d hedges, %d bytes from slow peers, %d from the origin", s.Hedges, s.FromPeers, s.FromOrigin)
		}
	})
}

// TestChangedObjectFailsAtOnce: an origin that has said for good that it has other bytes now is not asked any
// more; whoever reads what is not here must not wait for it, not even with --hard.
func TestChangedObjectFailsAtOnce(t *testing.T) {
	data := content(1 << 20)
	store := open(t, data, blockio.Options{})
	synctest.Test(t, func(t *testing.T) {
		origin := source(data)
		var mu sync.Mutex
		changed := false
		origin.has = func(blob.Run) bool { mu.Lock(); defer mu.Unlock(); return !changed }
		origin.before = func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			changed = true
			return fmt.Errorf("%w: says the origin", blob.ErrChanged)
		}
		e := New(Options{Hard: true})
		defer e.Close()
		b := e.Open(Config{Store: store, Origin: origin, Fill: FillNever})
		for i := range 3 {
			t0 := time.Now()
			if _, err := read(t, b, i*(256<<10), 4096); !errors.Is(err, blob.ErrChanged) || time.Since(t0) > time.Second {
				t.Errorf("read %d: %v after %v, want the change at once", i, err, time.Since(t0))
			}
		}
	})
}

// TestErrorsDoNotGrow: the error of one read is not a part of that of the next.
func TestErrorsDoNotGrow(t *testing.T) {
	data := content(1 << 20)
	store := open(t, data, blockio.Options{})
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{})
		defer e.Close()
		b := e.Open(Config{Store: store, Fill: FillNever})
		var first string
		for i := range 4 {
			_, err := read(t, b, 0, 4096)
			if !errors.Is(err, blob.ErrUnavailable) {
				t.Fatal(err)
			}
			if i == 0 {
				first = err.Error()
			} else if err.Error() != first {
				t.Errorf("read %d: %v", i, err)
			}
			time.Sleep(forgetFailure + time.Second)
		}
	})
}

// TestGoodBlocksOfABadBuffer: what a peer sent right beside wrong bytes is kept, and whoever waits for just that
// has it.
func TestGoodBlocksOfABadBuffer(t *testing.T) {
	data := content(1 << 20)
	store := open(t, data, blockio.Options{})
	claim(t, store, data)
	synctest.Test(t, func(t *testing.T) {
		peers := source(data)
		peers.spoil = func(block uint32) bool { return block == 3 }
		peers.before = func(context.Context) error { time.Sleep(time.Second); return nil }
		e := New(Options{})
		defer e.Close()
		b := e.Open(Config{Store: store, Peers: peers, Fill: FillNever})
		all, one := make(waiter, 1), make(waiter, 1)
		b.Want(0, 4*blob.BlockSize, all)
		synctest.Wait()
		t0 := time.Now()
		b.Want(0, 4096, one)
		if err := <-one; err != nil || time.Since(t0) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(t0))
		}
		b.Cancel(all)
	})
}

// stubborn ends only when it is let.
type stubborn struct {
	*script
	let chan struct{}
}

func (s stubborn) Fetch(context.Context, blob.Run, blob.Sink) error {
	<-s.let
	return errors.New("ended")
}

func TestEveryCloseWaits(t *testing.T) {
	data := content(1 << 20)
	store := open(t, data, blockio.Options{})
	synctest.Test(t, func(t *testing.T) {
		origin := stubborn{source(data), make(chan struct{})}
		b := New(Options{}).Open(Config{Store: store, Origin: origin, Fill: FillEager})
		b.Wake()
		synctest.Wait()
		var closed sync.WaitGroup
		ended := make(chan struct{}, 2)
		for range 2 {
			closed.Go(func() { b.Close(); ended <- struct{}{} })
		}
		synctest.Wait()
		if len(ended) > 0 {
			t.Error("Close returned while a transfer was under way")
		}
		close(origin.let)
		closed.Wait()
	})
}

func TestFailuresDoNotFloodTheLog(t *testing.T) {
	data := content(4 << 20)
	store := open(t, data, blockio.Options{})
	synctest.Test(t, func(t *testing.T) {
		origin := source(data)
		origin.before = blocked
		var log bytes.Buffer
		e := New(Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		b := e.Open(Config{Store: store, Origin: origin, Fill: FillNever})
		var all sync.WaitGroup
		for i := range 200 {
			all.Go(func() {
				if _, err := read(t, b, i*blob.BlockSize, 4096); !errors.Is(err, blob.ErrUnavailable) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		e.Close()
		if n := bytes.Count(log.Bytes(), []byte("read failed")); n != 1 {
			t.Errorf("%d warnings for 200 reads that failed together, want 1", n)
		}
	})
}
