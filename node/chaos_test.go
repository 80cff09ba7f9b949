package node

import (
	"context"
	"flag"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var (
	chaosSeed = flag.Uint64("chaos.seed", 0, "seed of TestChaos; 0: from the clock. The choices repeat, the scheduler's do not")
	chaosTime = flag.Duration("chaos.time", 3*time.Second, "how long TestChaos goes on; new worlds are made with the next seeds")
)

const (
	// stormFor is how long faults come and go at a time, and calmFor how long everything is well afterwards.
	stormFor = 2500 * time.Millisecond
	calmFor  = 1500 * time.Millisecond

	// settle is how long after a storm reads may still fail: a source rests for 2 s after errors in a row, a
	// run that timed out fails at once for 2 s, and the origin is asked again after at most 2.4 s.
	settle = 5 * time.Second

	// chaosTimeout is the timeout of reads: above the 10 s after which a transfer that stands still is given
	// up. hung is when a read counts as forgotten.
	chaosTimeout = 13 * time.Second
	hung         = chaosTimeout + 12*time.Second

	// gather is how long the nodes may take to find each other through a tracker that is back: it is asked
	// again after at most 5 s, its answer leads to a dial, and one that failed is repeated.
	gather = 12 * time.Second
)

// TestChaos lets nodes read objects from each other and from an origin while the origin fails in all its
// ways, the tracker comes and goes, nodes stop and start again on their stores, and liars are in the swarm. It
// does not matter which read is served by whom: the bytes are right, or the read says why there are none; it
// does so in time; and once all is well again it succeeds. Stores that were closed, and copies of stores in
// use, hold nothing wrong.
func TestChaos(t *testing.T) {
	seed := *chaosSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1e9
	}
	for until := time.Now().Add(*chaosTime); ; seed++ {
		chaos(t, seed, until)
		if t.Failed() || !time.Now().Before(until) {
			return
		}
	}
}

// chaos runs one world. One world lives for at most four storms.
func chaos(t *testing.T, seed uint64, until time.Time) {
	t.Logf("to repeat: go test ./node -run TestChaos -args -chaos.seed=%d -chaos.time=%v", seed, *chaosTime)
	defer func() {
		if t.Failed() {
			t.Logf("this was seed %d", seed)
		}
	}()
	before, running := openFiles(t), goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancel(t.Context())
	w := newWorld(t, rand.New(rand.NewPCG(seed, 0)))
	var readers sync.WaitGroup
	for _, n := range w.nodes {
		for i := range readersPerNode {
			r := &chaosReader{w: w, of: n, rng: rand.New(rand.NewPCG(seed, uint64(n.i*100+i+1)))}
			readers.Go(func() { r.run(ctx) })
		}
	}
	for storm := 0; storm < 4 && !t.Failed() && (storm == 0 || time.Now().Before(until)); storm++ {
		w.storm(stormFor)
		w.calm()
		time.Sleep(calmFor)
		w.inspect()
	}
	stormy := time.Now()
	if long := *chaosTime > gather; !t.Failed() && long && w.seeded && w.rng.IntN(2) == 0 {
		w.withoutOrigin(ctx)
	} else if !t.Failed() {
		w.allReadable(ctx)
	}
	read := time.Now()
	cancel()
	readers.Wait()
	w.close()
	t.Logf("%s; read in %v, closed in %v", w.tally(), read.Sub(stormy).Round(time.Millisecond), time.Since(read).Round(time.Millisecond))
	if err := goleak.Find(running); err != nil {
		t.Error(err)
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d file descriptors were open before, %d are after", before, after)
	}
}

// openFiles counts the file descriptors of this process.
func openFiles(t *testing.T) int {
	l, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}
