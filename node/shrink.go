package node

import (
	"maps"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/mmap"
)

// Between two images a node needs a few MiB. What it took meanwhile for buffers, and what is garbage, would stay with
// it: the collector runs when the heap has doubled, and then the runtime keeps what it had at most for the next time.

const (
	// shrinkAfter is how long no layer must have been decoded before memory is given back: a program that
	// starts reads on within milliseconds.
	shrinkAfter = 500 * time.Millisecond
	// shrinkWorth is how many bytes must have been taken since for that to be worth a collection, some milliseconds
	// of a processor. A single read takes less.
	shrinkWorth = 8 << 20
)

// shrinker gives memory back to the system when images have been worked on and no more are.
type shrinker struct {
	under *atomic.Int64 // how many parts work
	ended chan struct{} // one has ended; has room for one
}

func newShrinker() shrinker { return shrinker{new(atomic.Int64), make(chan struct{}, 1)} }

// busy says that a part begins to work, or has ended. It does not block.
func (s shrinker) busy(begins bool) {
	if begins {
		s.under.Add(1)
		return
	}
	s.under.Add(-1)
	select {
	case s.ended <- struct{}{}:
	default:
	}
}

// shrink runs until the node is closed.
func (n *Node) shrink(s shrinker) {
	kept := held()
	quiet := time.NewTimer(time.Hour)
	quiet.Stop()
	for {
		select {
		case <-s.ended:
			quiet.Reset(shrinkAfter)
		case <-quiet.C:
			if s.under.Load() > 0 || held() < kept+shrinkWorth {
				continue // whoever works tells when he has ended
			}
			n.mu.Lock()
			engines := slices.Collect(maps.Values(n.engines))
			n.mu.Unlock()
			for _, e := range engines {
				e.Trim()
			}
			mmap.Forget()
			debug.FreeOSMemory()
			kept = held()
		case <-n.ctx.Done():
			return
		}
	}
}

// held is how many bytes the runtime has of the system.
func held() uint64 {
	all := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(all)
	return all[0].Value.Uint64() - all[1].Value.Uint64()
}
