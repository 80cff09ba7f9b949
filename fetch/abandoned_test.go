package fetch

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
)

// away is a tracker that has planned, and may be gone.
type away struct {
	plan
	gone atomic.Bool
}

func (a *away) Shared() bool { return !a.gone.Load() }

// TestAbandonedComesFromOrigin: what a plan promises of pieces whose roots only the tracker could tell is taken back
// when the tracker stays away: nobody could verify it. What has a root goes on coming from peers.
func TestAbandonedComesFromOrigin(t *testing.T) {
	for _, rooted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			data := content(4 << 20)
			store := open(t, data, blockio.Options{})
			if rooted {
				claim(t, store, data)
			}
			peers := &planned{script: source(data), lanes: 2}
			peers.has = func(blob.Run) bool { return false }
			peers.before = func(ctx context.Context) error { // they wait for the root
				if !rooted {
					<-ctx.Done()
					return context.Cause(ctx)
				}
				return nil
			}
			origin, tracker := source(data), &away{}
			b := start(t, Options{}, Config{Store: store, Peers: peers, Origin: origin, Plan: tracker, Fill: FillEager})
			if !rooted {
				time.Sleep(10 * time.Second)
				if s := b.Stats(); s.FromOrigin != 0 {
					t.Fatalf("%d bytes came from the origin while the tracker was there", s.FromOrigin)
				}
			}
			tracker.gone.Store(true)
			began := time.Now()
			select {
			case <-b.Completed():
			case <-time.After(time.Minute):
				t.Fatalf("not complete: %+v", b.Stats())
			}
			if took := time.Since(began); took > 2*rootless {
				t.Errorf("complete %v after the tracker was gone", took)
			}
			if s := b.Stats(); (s.FromOrigin > 0) == rooted {
				t.Errorf("rooted %v: %d bytes came from the origin", rooted, s.FromOrigin)
			}
		})
	}
}
