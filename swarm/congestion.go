package swarm

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/pace"
)

// Background uploads give way, on the links that they share, to blocks that somebody is blocked on. A queue in our
// outbox costs urgent blocks nothing, as they overtake there; a queue in a router costs them all of its length. So
// while somebody asks for urgent blocks, bulk is sent no faster than keeps that queue short, measured as LEDBAT does
// (RFC 6817): by how much longer round trips take than the shortest one. When nobody is blocked, bulk has the link.

const (
	// yieldFor is how long after an urgent block bulk keeps giving way: somebody who reads goes on reading.
	yieldFor = 2 * time.Second
	// yieldEvery is the pause between two looks at the round trips.
	yieldEvery = 50 * time.Millisecond
	// The queue to keep: as much as the path is long, so that an urgent block takes about twice as long as on an idle
	// link, within these bounds. RFC 6817 allows up to 100 ms; libtorrent keeps 75. Less than leastDelay is what a
	// token bucket of 32 KiB at 40 Mbit/s (6.5 ms), bursts, and two schedulers make of an honest link: keeping less
	// has cost a chain of eight half of its rate. More than mostDelay is felt by people, and routers drop.
	leastDelay = 12 * time.Millisecond
	mostDelay  = 25 * time.Millisecond
	// yieldPart is how many blocks of bulk one data message carries while it gives way: what has been begun cannot
	// be overtaken, and two blocks are 6.5 ms at 40 Mbit/s.
	yieldPart = 2
	// leastYield is the least rate of bulk, in bytes per second: it must not stand still, or it would be taken for
	// dead.
	leastYield = 128 << 10
	// leastSample is how many bytes a connection must have sent between two looks for its round trip to be counted:
	// the kernel's figure is smoothed over eight acknowledged segments, and that of one that sends little is old.
	leastSample = 8 * 1448 * 2
	// yieldHold is how many looks pass between two steps down, until the first shows in the round trips.
	yieldHold = 4
	// How much slower bulk gets in one step while the queue is too long, at most, and how much faster in one look
	// while it is shorter: what a step has taken is regained in two.
	yieldDown = 0.15
	yieldUp   = 0.10
	// yieldSmooth is the weight of a look in the rate that is sent: what is passed on comes in bursts.
	yieldSmooth = 0.2
	// yieldCalm is how many looks without a queue lift the limit.
	yieldCalm = 20
)

// yielder is the controller of one node.
type yielder struct {
	bulk   pace.Path    // what bulk asks along; unlimited while nobody is blocked
	urgent atomic.Int64 // when an urgent block was sent last, unix ns
	kick   chan struct{}
	group  pace.Group
	bucket *pace.Bucket

	mu    sync.Mutex      // guards peers
	peers map[*peer]int64 // those with a writer, and what had been sent to them at the last look
}

func newYielder() *yielder {
	y := &yielder{kick: make(chan struct{}, 1), peers: make(map[*peer]int64)}
	y.bucket = y.group.Bucket(0)
	y.bulk = pace.Path{y.bucket}
	return y
}

// sentUrgent notes that an urgent block is sent.
func (y *yielder) sentUrgent() {
	at := now().UnixNano()
	if last := y.urgent.Swap(at); at-last > int64(yieldFor) {
		select {
		case y.kick <- struct{}{}:
		default:
		}
	}
}

// active reports whether bulk gives way.
func (y *yielder) active() bool { return now().UnixNano()-y.urgent.Load() < int64(yieldFor) }

func (y *yielder) join(p *peer) {
	y.mu.Lock()
	y.peers[p] = p.up.Load()
	y.mu.Unlock()
}

func (y *yielder) leave(p *peer) {
	y.mu.Lock()
	delete(y.peers, p)
	y.mu.Unlock()
}

// run is the goroutine of the controller: it sleeps while nobody asks for urgent blocks.
func (y *yielder) run(stop <-chan struct{}) {
	for {
		select {
		case <-y.kick:
		case <-stop:
			return
		}
		c := yieldControl{}
		tick := time.NewTicker(yieldEvery)
		y.look(yieldEvery)
		for last := now(); y.active(); {
			select {
			case <-tick.C:
			case <-stop:
				tick.Stop()
				return
			}
			at := now()
			y.bucket.SetRate(int64(c.next(y.look(at.Sub(last)))))
			last = at
		}
		tick.Stop()
		y.bucket.SetRate(0)
	}
}

// sample is what one look at the connections has found.
type sample struct {
	rate  float64       // bytes per second sent to all together
	queue time.Duration // by how much the slowest connection's round trip is longer than its shortest
	base  time.Duration // that shortest one
}

// look measures the connections that have sent something in the time since the last look.
func (y *yielder) look(took time.Duration) (s sample) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for p, before := range y.peers {
		up := p.up.Load()
		if up == before {
			continue
		}
		y.peers[p] = up
		s.rate += float64(up-before) / took.Seconds()
		if up-before < leastSample {
			continue
		}
		rtt, least, ok := p.flow.roundTrips()
		if ok && rtt-least >= s.queue {
			s.queue, s.base = rtt-least, least
		}
	}
	return s
}

// roundTrips are the smoothed round trip of the connection and the shortest one of late (tcp(7), TCP_INFO).
func (f *outflow) roundTrips() (rtt, least time.Duration, ok bool) {
	_ = f.raw.Control(func(fd uintptr) { // fails when the connection is gone
		if i, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && i.Min_rtt != 0 && i.Min_rtt != ^uint32(0) {
			rtt, least, ok = time.Duration(i.Rtt)*time.Microsecond, time.Duration(i.Min_rtt)*time.Microsecond, true
		}
	})
	return rtt, max(least, 0), ok
}

// yieldControl decides how fast bulk may be. It is pure.
type yieldControl struct {
	rate float64 // 0: as fast as it goes
	sent float64 // bytes per second that were sent lately
	hold int     // looks until the next step down
	calm int     // looks since the queue was too long
}

// next is the rate after a look, in bytes per second; 0: as fast as it goes.
func (c *yieldControl) next(s sample) float64 {
	if s.rate == 0 {
		return c.rate
	}
	if c.sent == 0 {
		c.sent = s.rate
	}
	c.sent += yieldSmooth * (s.rate - c.sent)
	target := min(max(s.base, leastDelay), mostDelay)
	over := float64(s.queue-target) / float64(target)
	c.hold = max(0, c.hold-1)
	c.calm++
	switch {
	case over > 0 && c.hold == 0:
		if c.rate == 0 || c.rate > 2*c.sent {
			c.rate = c.sent // what was allowed besides says nothing
		}
		c.rate, c.hold, c.calm = max(c.rate*(1-yieldDown*min(1, over)), leastYield), yieldHold, 0
	case over > 0:
		c.calm = 0
	case c.calm > yieldCalm:
		c.rate = 0
	case c.rate != 0:
		c.rate = c.rate*(1-yieldUp*over) + leastYield/64
	}
	return c.rate
}

// hurryDepth is the least that background keeps asked of a peer while somebody is blocked, in blocks.
const hurryDepth = 8

// bulkDepth is how many blocks may be asked of a peer at a time in a class, when depth keeps it busy with some to
// spare: while somebody is blocked on a block, background keeps no more on the way than the path holds, so that no
// queue of it stands on our own link.
func (t *Torrent) bulkDepth(depth int, c blob.Class) int {
	if c == blob.Background && now().UnixNano()-t.demanded.Load() < int64(yieldFor) {
		return max(min(depth, hurryDepth), depth/2)
	}
	return depth
}
