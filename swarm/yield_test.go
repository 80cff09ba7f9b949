package swarm

import (
	"testing"
	"time"
)

// link is a bottleneck with a queue, and a smoothed round trip as the kernel has it.
type link struct {
	capacity float64       // bytes per second
	base     time.Duration // round trip without a queue
	limit    time.Duration // what does not fit in the queue is dropped
	queue    float64       // bytes
	srtt     float64       // seconds
	burst    time.Duration // how much of the queue comes and goes within one look
}

// step sends for one look at a rate, or as fast as a TCP that fills the queue, and says what there is to see.
func (l *link) step(rate float64) sample {
	if rate == 0 {
		rate = 1.5 * l.capacity
	}
	took := yieldEvery.Seconds()
	l.queue += (rate - l.capacity) * took
	sent := min(rate, l.capacity)
	l.queue = max(0, min(l.queue, l.capacity*l.limit.Seconds()))
	// Eight segments make a new smoothed round trip; there are dozens in one look at any rate of interest.
	now := l.base.Seconds() + l.queue/l.capacity + l.burst.Seconds()
	l.srtt += 0.9 * (now - l.srtt)
	return sample{rate: sent, queue: time.Duration((l.srtt - l.base.Seconds()) * 1e9), base: l.base}
}

// TestYieldConverges: on links from 2 Mbit/s to 10 Gbit/s the queue becomes as short as it is to be, and bulk keeps
// most of the link.
func TestYieldConverges(t *testing.T) {
	for _, capacity := range []float64{250e3, 5e6, 125e6, 1.25e9} {
		for _, base := range []time.Duration{100 * time.Microsecond, 10 * time.Millisecond, 150 * time.Millisecond} {
			l := &link{capacity: capacity, base: base, limit: 100 * time.Millisecond, srtt: base.Seconds()}
			for range 20 {
				l.step(0)
			}
			c := yieldControl{}
			s := l.step(0)
			var sent, queued float64
			const settle, looks = 100, 400
			for i := range settle + looks {
				s = l.step(c.next(s))
				if i >= settle {
					sent += s.rate
					queued += l.queue / l.capacity
				}
			}
			target := min(max(base, leastDelay), mostDelay)
			if got := time.Duration(queued / looks * 1e9); got > 2*target {
				t.Errorf("%.0f bytes/s, %v: a queue of %v, want %v", capacity, base, got, target)
			}
			if used := sent / looks / capacity; used < 0.7 {
				t.Errorf("%.0f bytes/s, %v: bulk uses %.0f %% of the link", capacity, base, 100*used)
			}
		}
	}
}

// TestYieldLeavesAloneWhatHasNoQueue: on an idle path bulk is never limited, whatever it sends.
func TestYieldLeavesAloneWhatHasNoQueue(t *testing.T) {
	c := yieldControl{}
	for range 100 {
		if r := c.next(sample{rate: 1e9, queue: leastDelay / 2, base: time.Millisecond}); r != 0 {
			t.Fatalf("limited to %.0f", r)
		}
	}
}

// TestYieldNeverStops: however long the queue, bulk goes on, and when the queue has gone it has the link again soon.
func TestYieldNeverStops(t *testing.T) {
	c := yieldControl{}
	for range 1000 {
		c.next(sample{rate: 1e6, queue: time.Second, base: time.Millisecond})
	}
	if c.rate < leastYield {
		t.Errorf("%.0f bytes/s", c.rate)
	}
	looks := 0
	for ; c.rate != 0 && c.rate < 5e6 && looks < 1000; looks++ {
		c.next(sample{rate: max(1, c.rate), queue: 0, base: time.Millisecond})
	}
	if took := time.Duration(looks) * yieldEvery; took > 5*time.Second {
		t.Errorf("%v until 40 Mbit/s again", took)
	}
	// Without a queue there is no limit in the end.
	for range 10 * yieldCalm {
		c.next(sample{rate: 1e6, queue: 0, base: time.Millisecond})
	}
	if c.rate != 0 {
		t.Errorf("%.0f bytes/s allowed on an idle link", c.rate)
	}
}
