package bench

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pantala/pantala/e2e/e2etest"
)

// BenchmarkTrackerMemory is what a million peers add to the resident memory of a tracker, each announced once over
// UDP: all in one swarm, a hundred in each of 10 000, and one in each of a million.
func BenchmarkTrackerMemory(b *testing.B) {
	for _, shape := range []struct {
		name   string
		swarms uint64
	}{{"one swarm", 1}, {"10000 swarms", 10_000}, {"1000000 swarms", 1_000_000}} {
		for _, t := range trackers {
			if t.name == "opentracker" {
				continue // Debian's has to be told all info hashes before
			}
			b.Run(shape.name+"/"+t.name, func(b *testing.B) {
				for b.Loop() {
					w := e2etest.New(b)
					under := t.start(b, w)
					_, before, _ := e2etest.RSS(under.pid)
					announceMillion(b, under, shape.swarms)
					_, after, _ := e2etest.RSS(under.pid)
					b.ReportMetric(float64(after-before)/(1<<20), "MiB")
				}
				hideTime(b)
			})
		}
	}
}

// announceMillion announces a million peers, divided among swarms.
func announceMillion(b *testing.B, t *trackerUnder, swarms uint64) {
	b.Helper()
	var next atomic.Uint64
	var all sync.WaitGroup
	errs := make(chan error, announcers)
	for range announcers {
		all.Go(func() {
			announce, done, err := dialUDP(t.addr)
			if err != nil {
				errs <- err
				return
			}
			defer done()
			for i := next.Add(1); i <= 1_000_000; i = next.Add(1) {
				var swarm [20]byte
				binary.BigEndian.PutUint64(swarm[:], i%swarms+1)
				if err := announce(swarm, i); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-errs:
		b.Fatalf("%s: %v", t.name, err)
	default:
	}
}
