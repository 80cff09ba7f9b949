package swarmtest

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/pantala/pantala/tracker"
)

// service is the machine with the tracker on it. It stands where the source does.
type service struct {
	s       *Sim
	desk    *tracker.Desk
	dead    bool // its process is
	away    bool // nothing passes to it or from it
	life    int  // how often it came back
	pending map[int64]*exchange
	tickets int64
	spent   time.Duration // of the processor
	skew    time.Duration

	left    int64 // when it was lost; 0: it is there
	back    int64 // when it came back; 0: it was not away, or all nodes have a plan again
	reports int64 // requests that it answered
}

// exchange is one request of a node and its answer.
type exchange struct {
	ticket int64
	n      *node
	m      tracker.PuppetMessage
	life   int   // of the tracker
	sent   int64 // when
	hung   bool  // the node is gone
}

func (t *service) start(s *Sim) {
	t.s, t.dead, t.away = s, false, false
	t.pending = map[int64]*exchange{}
	t.desk = tracker.NewDesk(tracker.ServerOptions{}, 1+s.rng.Int64N(1<<40), t.time())
}

// time is virtual time on the tracker's clock, which nobody can set back: programs compare times on the clock that
// only runs on. skew is what it was off from the beginning.
func (t *service) time() time.Time { return t.s.time().Add(t.skew) }

// every is how often its clock is run.
func (t *service) every() int64 { return int64(t.desk.Every()) }

// out reports whether nothing passes between n and the tracker.
func (t *service) out(n *node) bool { return t.away || t.s.apart(n, t.s.source) }

// speak has n say what it has to say.
func (s *Sim) speak(n *node) {
	if !n.alive || n.puppet == nil || s.now < n.frozen {
		return
	}
	out, again := n.puppet.Step(n.steady())
	for _, m := range out {
		t := &s.tracker
		t.tickets++
		x := &exchange{ticket: t.tickets, n: n, m: m, life: t.life, sent: s.now}
		switch {
		case t.out(n) && m.First:
			s.push(int64(tracker.ConnectLimit), event{kind: evFailed, who: n.index, any: x})
		case t.out(n):
			s.push(int64(m.Limit), event{kind: evFailed, who: n.index, any: x})
		case t.dead:
			s.push(2*int64(s.Far), event{kind: evFailed, who: n.index, any: x}) // connection refused
		default:
			way := int64(s.Far)
			if m.First {
				way *= 3
			}
			s.push(way, event{kind: evAsked, who: n.index, any: x})
		}
	}
	if at := s.now + max(0, again.Sub(n.steady()).Nanoseconds()); at < n.speakAt || n.speakAt <= s.now {
		n.speakAt = at
		s.push(at-s.now, event{kind: evSpeak, who: n.index})
	}
}

// take is when a request has arrived.
func (t *service) take(x *exchange) {
	switch {
	case t.out(x.n):
		t.s.push(x.sent+int64(x.m.Limit)-t.s.now, event{kind: evFailed, who: x.n.index, any: x})
		return
	case t.dead || x.life != t.life:
		t.s.push(int64(t.s.Far), event{kind: evFailed, who: x.n.index, any: x})
		return
	case x.hung:
		return
	}
	t.pending[x.ticket] = x
	begin := time.Now()
	if err := t.desk.Take(t.time(), x.ticket, x.n.addr().Addr(), x.m.Body); err != nil {
		panic("the tracker refuses what a node says: " + err.Error())
	}
	t.spent += time.Since(begin)
	t.reports++
	t.deliver()
}

// deliver sends answers off.
func (t *service) deliver() {
	begin := time.Now()
	answers := t.desk.Answers()
	t.spent += time.Since(begin)
	for _, a := range answers {
		x := t.pending[a.Ticket]
		if a.Body == nil {
			if x != nil {
				t.s.push(a.At.Sub(t.time()).Nanoseconds(), event{kind: evRing, who: -1, any: x})
			}
			continue
		}
		delete(t.pending, a.Ticket)
		if t.out(x.n) {
			t.s.push(x.sent+int64(x.m.Limit)-t.s.now, event{kind: evFailed, who: x.n.index, any: x})
		} else {
			t.s.push(int64(t.s.Far), event{kind: evAnswered, who: x.n.index, any: &heard{x, a.Body}})
		}
	}
}

// heard is an answer on its way.
type heard struct {
	*exchange
	body []byte
}

// ring is when a poll may be due.
func (t *service) ring(x *exchange) {
	if t.dead || t.pending[x.ticket] != x {
		return
	}
	begin := time.Now()
	t.desk.Ring(t.time(), x.ticket)
	t.spent += time.Since(begin)
	t.deliver()
}

// hangup is when the tracker hears that the process of a node is gone.
func (t *service) hangup(n *node) {
	for _, ticket := range sortedKeys(t.pending) {
		if x := t.pending[ticket]; x.n == n {
			x.hung = true
			delete(t.pending, ticket)
			if !t.dead {
				t.desk.Hangup(t.time(), ticket)
			}
		}
	}
}

func (t *service) tick() {
	if t.dead {
		return
	}
	begin := time.Now()
	t.desk.Tick(t.time())
	t.spent += time.Since(begin)
	t.deliver()
}

// answered is when an answer has reached its node; body nil: none will.
func (s *Sim) answered(x *exchange, body []byte) {
	if !x.n.alive {
		return
	}
	x.n.puppet.Hear(x.n.steady(), x.m, body)
	s.notice(x.n)
	s.fill(x.n)
	s.speak(x.n)
}

// notice takes down how long n, which lacks something, has taken to see that the tracker is gone.
func (s *Sim) notice(n *node) {
	if t := &s.tracker; t.left > 0 && n.done == 0 && n.joins < t.left && n.noticed < t.left && n.puppet.State() == tracker.Dead {
		n.noticed = s.now
		s.res.Noticed = max(s.res.Noticed, time.Duration(s.now-t.left))
	}
}

// sources of addresses: node i is 10.x.y.z, the source 10.255.255.255.
const simPort = 7000

func (n *node) addr() netip.AddrPort {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(n.index)&0xffffff|10<<24)
	return netip.AddrPortFrom(netip.AddrFrom4(b), simPort)
}

// at is the node with an address.
func (s *Sim) at(a netip.AddrPort) *node {
	b := a.Addr().Unmap().As4()
	if i := binary.BigEndian.Uint32(b[:]) & 0xffffff; i != 0xffffff {
		return s.nodes[i]
	}
	return s.source
}

func zoneName(i int) string {
	return string([]byte{'a' + byte(i/16%26), '/', 'a' + byte(i%16)})
}

// KillTracker ends the tracker. What it knew is lost.
func (s *Sim) KillTracker() {
	t := &s.tracker
	t.dead, t.left, t.back = true, s.now, 0
	for _, ticket := range sortedKeys(t.pending) {
		x := t.pending[ticket]
		s.push(int64(s.Far), event{kind: evFailed, who: x.n.index, any: x})
	}
	clear(t.pending)
}

// StartTracker starts it again, knowing nothing.
func (s *Sim) StartTracker() {
	s.tracker.start(s)
	s.returned()
}

// CutTracker cuts the tracker off from everybody; HealTracker ends that.
func (s *Sim) CutTracker() {
	s.tracker.away, s.tracker.left, s.tracker.back = true, s.now, 0
}

// HealTracker lets messages pass again. What was lost is lost, and so are the connections.
func (s *Sim) HealTracker() {
	s.tracker.away = false
	s.returned()
}

func (s *Sim) returned() {
	t := &s.tracker
	t.life++
	t.left, t.back = 0, s.now
}

// reform takes down when all nodes are under a plan again.
func (s *Sim) reform() {
	if t := &s.tracker; t.back > 0 && s.Unplanned() == 0 {
		s.res.Reformed = append(s.res.Reformed, time.Duration(s.now-t.back))
		t.back = 0
	}
}

// Unplanned is the number of nodes that lack something and have no assignment of the tracker since it came back last.
func (s *Sim) Unplanned() (n int) {
	for _, o := range s.nodes {
		if o.alive && o.puppet != nil && o.done == 0 && s.now-o.joins > second && o.planOf != s.tracker.life {
			n++
		}
	}
	return n
}
