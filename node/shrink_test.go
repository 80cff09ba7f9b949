package node

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"
)

// TestShrink: what was taken while images were worked on goes back to the system soon after.
func TestShrink(t *testing.T) {
	debug.FreeOSMemory() // else what other tests have left is taken again first
	ctx, cancel := context.WithCancel(t.Context())
	n := &Node{ctx: ctx}
	s := newShrinker()
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { n.shrink(s) })
	before := held()
	s.busy(true)
	s.busy(true)
	taken := make([][]byte, 8)
	for i := range taken {
		taken[i] = make([]byte, shrinkWorth)
	}
	now := held()
	runtime.KeepAlive(taken) // garbage from here on
	s.busy(false)            // and another one still works
	time.Sleep(shrinkAfter + shrinkAfter/2)
	if now := held(); now < before+4*shrinkWorth {
		t.Errorf("%d bytes are held: the other one has not ended", now)
	}
	s.busy(false)
	if now < before+4*shrinkWorth {
		t.Fatalf("%d bytes are held, %d before: the test shows nothing", now, before)
	}
	for end := time.Now().Add(30 * time.Second); held() > before+shrinkWorth; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d bytes are held, %d before", held(), before)
		}
	}
}
