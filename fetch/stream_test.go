package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
)

// paced is an origin without ranges that sends 64 KiB per pause, and after stop bytes nothing.
type paced struct {
	*script
	stop  int
	pause time.Duration
	fails bool // and after stop bytes it fails
}

func (p paced) Stream(ctx context.Context, w func([]byte) error) error {
	for off := 0; off < len(p.data); off += 64 << 10 {
		wait := p.pause
		if off >= p.stop && p.fails {
			return fmt.Errorf("%w: broken", blob.ErrUnavailable)
		}
		if off >= p.stop {
			wait = time.Hour
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := w(p.data[off:min(off+64<<10, len(p.data))]); err != nil {
			return err
		}
	}
	return nil
}

// TestStreamIsWaitedFor: a read of bytes that have not come by yet waits for as long as others do come by.
func TestStreamIsWaitedFor(t *testing.T) {
	data := content(4 << 20)
	for _, c := range []struct {
		name  string
		stop  int
		fails bool
	}{{"moving", len(data), false}, {"standing", 1 << 20, false}, {"broken", 1 << 20, true}, {"dead", 0, true}} {
		t.Run(c.name, func(t *testing.T) {
			store := open(t, data, blockio.Options{})
			synctest.Test(t, func(t *testing.T) {
				origin := paced{source(data), c.stop, time.Second, c.fails}
				origin.noRanges = true
				e := New(Options{})
				defer e.Close()
				b := e.Open(Config{Store: store, Origin: origin, Fill: FillNever})
				t0 := time.Now()
				p, err := read(t, b, len(data)-4096, 4096)
				took := time.Since(t0)
				if c.stop == len(data) {
					if err != nil || !bytes.Equal(p, data[len(data)-4096:]) {
						t.Errorf("%v after %v", err, took)
					}
				} else if !errors.Is(err, blob.ErrUnavailable) || took > time.Duration(c.stop>>16)*time.Second+31*time.Second {
					t.Errorf("%v after %v, want a timeout %v after the last byte", err, took, blob.DefaultTimeout)
				}
			})
		})
	}
}

// TestStreamBesidePeers: who reads far behind what the stream has reached gets the bytes from peers.
func TestStreamBesidePeers(t *testing.T) {
	data := content(40 << 20)
	store := open(t, data, blockio.Options{})
	claim(t, store, data)
	synctest.Test(t, func(t *testing.T) {
		peers, origin := source(data), paced{source(data), len(data), 50 * time.Millisecond, false}
		peers.has = func(r blob.Run) bool { return r.First >= 64 } // not the beginning
		origin.noRanges = true
		e := New(Options{})
		defer e.Close()
		b := e.Open(Config{Store: store, Peers: peers, Origin: origin, Fill: FillNever})
		first := make(waiter, 1)
		b.Want(0, 4096, first) // starts the stream
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		t0 := time.Now()
		if _, err := read(t, b, len(data)-4096, 4096); err != nil || time.Since(t0) > 2*time.Second {
			t.Errorf("%v after %v, want the peers' bytes soon", err, time.Since(t0))
		}
	})
}
