package swarmtest

import (
	"net/netip"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
	"github.com/pantala/pantala/tracker"
)

// node is one machine.
type node struct {
	s        *Sim
	index    int32 // -1: the source
	id       relay.NodeID
	zone     int
	up, down float64 // bytes per second
	alive    bool
	joins    int64 // when it came
	done     int64 // when it had everything; 0: not yet
	liar     bool
	skew     time.Duration

	have  []uint64 // blocks
	lack  []uint8  // by piece: blocks that are missing
	left  uint32   // blocks that are missing
	lanes []lane

	picker *relay.Picker
	conns  []*conn // to those it takes from
	kids   []*conn // from those that take from it
	busy   bool
	served float64 // of the connection that was served last
	inFree int64   // when the downlink is free
	asleep int64   // until then it sends nothing

	puppet   *tracker.Puppet // nil: it has not come yet, or is a foreign client
	local    local
	speakAt  int64          // when it is to speak to the tracker next
	known    []*node        // whom the tracker has told it of, the newest last
	planOf   int            // life of the tracker that made its plan; -1: it has none
	noticed  int64          // when it last saw that the tracker is gone
	fresh    bool           // what it wants is not what it has said
	reading  map[uint32]int // pieces that are being read from the origin: parts under way
	got      int64          // when a block came last, or the node began to wait
	alone    bool           // nobody it knows had what it lacked: it goes to the source as well
	frozen   int64          // suspended until then
	stood    time.Duration  // how long it was suspended in all
	foreign  bool           // a client that follows no plan
	asked    []uint64       // of a foreign client: blocks that have been asked for
	reader   reader
	choosing bool // the choker runs
	urgents  int  // that are asked of it and not sent
}

// lane is one stripe at one node.
type lane struct {
	next  uint32    // first block that has not been asked for, in the order of the stripe
	again []request // parts that were asked for and will not come
	mark  uint32    // all its pieces below are complete
}

// request is a part: some blocks of one piece.
type request struct {
	first  uint32
	count  uint16
	lane   uint8
	bad    bool
	urgent bool // somebody is blocked on it
}

// conn is a connection of a node to one that it takes from.
type conn struct {
	child, parent *node
	open          bool
	dead          bool
	queue         [relay.MaxStripes]ring
	weight        float64 // its share of the uplink, relative to others
	served        float64 // bytes that it has been sent, by weight
	rate          float64 // that TCP can carry; 0: unbounded
	free          int64   // when TCP may send again
	lastArrival   int64
	urgent        ring // what somebody is blocked on
	slot          bool // the parent serves it
	slotSince     int64
	asked         int64 // when something was asked for last
}

// ring is a queue of requests.
type ring struct {
	items []request
	head  int
}

func (r *ring) len() int        { return len(r.items) - r.head }
func (r *ring) front() *request { return &r.items[r.head] }
func (r *ring) push(q request)  { r.items = append(r.items, q) }
func (r *ring) pop() request {
	q := r.items[r.head]
	r.head++
	if r.head == len(r.items) {
		r.items, r.head = r.items[:0], 0
	} else if r.head > 64 && r.head*2 > len(r.items) {
		r.items = append(r.items[:0], r.items[r.head:]...)
		r.head = 0
	}
	return q
}

// ready brings the first request to the front that n can answer, and reports whether there is one.
func (r *ring) ready(n *node) bool {
	for i := r.head; i < len(r.items); i++ {
		if q := r.items[i]; n.hasAll(q) {
			copy(r.items[r.head+1:i+1], r.items[r.head:i])
			r.items[r.head] = q
			return true
		} else if q.first > n.lanes[q.lane].next {
			break // it has not even been asked for
		}
	}
	return false
}

func (n *node) has(b uint32) bool { return n.have[b/64]>>(b%64)&1 != 0 }

func (n *node) hasAll(q request) bool {
	for i := range uint32(q.count) {
		if !n.has(q.first + i) {
			return false
		}
	}
	return true
}

// complete gives n everything.
func (n *node) complete() {
	for i := range n.have {
		n.have[i] = ^uint64(0)
	}
	clear(n.lack)
	n.left = 0
	for i := range n.s.geo.Pieces() {
		n.local.pieces[i/64] |= 1 << (i % 64)
	}
	for k := range n.lanes {
		n.lanes[k].mark = n.s.geo.Pieces()
	}
	n.done = 1
}

// clock is the time that the machine of n shows.
func (n *node) clock() time.Time { return n.s.time().Add(n.skew) }

// steady is the time that n measures with: nobody can set it, and it stands still while n is suspended.
func (n *node) steady() time.Time { return n.s.time().Add(-n.stood) }

// firstOf is the first block of stripe k.
func (s *Sim) firstOf(k int) uint32 {
	return s.nextBlock(0, k)
}

// nextBlock is the first block of stripe k from b on; Blocks() when there is none.
func (s *Sim) nextBlock(b uint32, k int) uint32 {
	for b < s.geo.Blocks() {
		piece := s.geo.PieceOf(b)
		if relay.Stripe(s.geo, piece, s.k) == k {
			return b
		}
		b = (piece + 1) * s.geo.BlocksPerPiece()
	}
	return s.geo.Blocks()
}

// connTo is the connection of n to a parent, nil when there is none.
func (n *node) connTo(id relay.NodeID) *conn {
	for _, c := range n.conns {
		if c.parent.id == id && !c.dead {
			return c
		}
	}
	return nil
}

// connect has n dial a parent, unless it is connected.
func (s *Sim) connect(n *node, to *node) *conn {
	if c := n.connTo(to.id); c != nil {
		return c
	}
	c := &conn{child: n, parent: to, rate: s.tcpRate(to, n), weight: 1 + s.Unfair*(2*s.rng.Float64()-1)}
	n.conns = append(n.conns, c)
	s.push(3*s.latency(n, to), event{kind: evOpen, conn: c})
	return c
}

// opened ends a handshake.
func (s *Sim) opened(c *conn) {
	n := c.child
	switch {
	case c.dead || !n.alive:
	case s.apart(n, c.parent):
		s.push(second, event{kind: evClosed, conn: c}) // no answer
	case !c.parent.alive:
		s.closed(c) // connection refused
	default:
		c.open = true
		c.parent.kids = append(c.parent.kids, c)
		s.seat(c)
		if n.foreign {
			s.forage(n)
			return
		}
		n.picker.Connected(n.clock(), c.parent.id)
		s.follow(n)
		s.fill(n)
	}
}

// closed tells the child that a connection has ended, or could not be made.
func (s *Sim) closed(c *conn) {
	if c.dead {
		return
	}
	s.drop(c)
	if n := c.child; n.alive && !n.foreign {
		n.picker.Gone(n.clock(), c.parent.id, relay.Lost)
		s.hear(n)
		s.fill(n)
	}
}

// drop ends a connection. What was asked for over it is to be asked for elsewhere.
func (s *Sim) drop(c *conn) {
	c.dead, c.open = true, false
	for k := range c.child.lanes {
		s.takeBack(c, k)
	}
	if n := c.urgent.len(); n > 0 {
		c.parent.urgents -= n
		c.urgent = ring{}
		s.retry(c.child)
	}
	remove(&c.child.conns, c)
	remove(&c.parent.kids, c)
}

func remove(list *[]*conn, c *conn) {
	for i, o := range *list {
		if o == c {
			*list = append((*list)[:i], (*list)[i+1:]...)
			return
		}
	}
}

// takeBack cancels what is not under way of a stripe.
func (s *Sim) takeBack(c *conn, k int) {
	n := c.child
	for q := &c.queue[k]; q.len() > 0; {
		r := q.pop()
		s.putBack(n, c, r)
		n.picker.Dropped(n.clock(), c.parent.id, s.geo.PieceOf(r.first), s.bytes(r))
	}
}

func (s *Sim) bytes(q request) int {
	_, n := s.geo.Bytes(blob.Run{First: q.first, Count: uint32(q.count)})
	return int(n)
}

// assigned is when the tracker has given n another place.
func (s *Sim) assigned(n *node, a relay.Assignment) {
	n.planOf = -1
	if a.Stripes > 0 {
		n.planOf = s.tracker.life
	}
	if n.done > 0 {
		return
	}
	if s.Trace != nil {
		s.Trace("%v: %d is given %s", time.Duration(s.now), n.index, s.show(a))
	}
	n.picker.Assign(n.clock(), a)
	s.res.Assignments++
	for k := range a.Parents {
		for _, parent := range a.Parents[k] {
			if to := s.byID[parent.ID]; to != nil {
				s.connect(n, to)
			}
		}
	}
	s.follow(n)
}

// come is when a node begins.
func (s *Sim) come(n *node) {
	n.got, n.fresh, n.planOf = s.now, true, -1
	n.puppet = tracker.NewPuppet(tracker.SessionOptions{
		Trackers: []string{"http://tracker"}, Key: [20]byte{1}, PeerID: n.id, Port: simPort, Geometry: s.geo,
		Store: &n.local, Zone: n.place(), Bulk: true, Origin: s.Origin,
		OnPeers: func(list []netip.AddrPort) {
			for _, a := range list {
				n.known = append(n.known, s.at(a))
			}
			n.known = n.known[max(0, len(n.known)-maxKnown):]
		},
		OnAssignment: func(a relay.Assignment) { s.assigned(n, a) },
	}, s.rng.Int64N)
	if s.KnownUp {
		n.puppet.SetUplink(int64(n.up))
	}
	if s.tracker.dead || s.tracker.away {
		s.meet(n)
	}
	s.speak(n)
}

// place is the zone of n as the tracker is told.
func (n *node) place() string {
	if n.s.Zones > 1 {
		return zoneName(n.zone)
	}
	return ""
}

// tick is a node's look at the clock.
func (s *Sim) tick(n *node) {
	switch {
	case !n.alive:
		return
	case n.foreign:
		s.forage(n)
		return
	case n.puppet == nil:
		s.come(n)
		s.wishReads(n)
	}
	if n.done > 0 {
		return
	}
	if gap := time.Duration(s.now - n.got); gap > s.res.Gap && n.stood == 0 {
		s.res.Gap = gap
	}
	for _, c := range n.conns {
		if !c.open || s.apart(n, c.parent) {
			continue
		}
		for k := range c.parent.lanes {
			n.picker.Has(n.clock(), c.parent.id, relay.Watermark{Stripe: k, Piece: c.parent.lanes[k].mark})
		}
	}
	n.picker.Tick(n.clock())
	s.hear(n)
	s.follow(n)
	s.fill(n)
	s.want(n)
	s.notice(n)
	s.push(tickEvery, event{kind: evTick, who: n.index})
}

// wishBytes is how far ahead of its first hole a node asks for leases.
const wishBytes = 64 << 20

// want tells the tracker what n would read from the origin.
func (s *Sim) want(n *node) {
	if !n.fresh {
		return
	}
	n.fresh = false
	var reading, ahead []blob.Run
	for _, i := range sortedKeys(n.reading) {
		reading = append(reading, blob.Run{First: i, Count: 1})
	}
	end := s.geo.Pieces()
	for i := uint32(0); i < end; i++ {
		switch k := len(ahead) - 1; {
		case n.local.PieceComplete(i):
			continue
		case k >= 0 && ahead[k].End() == i:
			ahead[k].Count++
		case k < 0:
			end = min(end, i+uint32(wishBytes/s.geo.PieceLength))
			fallthrough
		default:
			ahead = append(ahead, blob.Run{First: i, Count: 1})
		}
	}
	n.puppet.Want(reading, nil, ahead[:min(len(ahead), 256)])
	s.speak(n)
}

// maxKnown is how many addresses a node keeps.
const maxKnown = 50

// meet has a node that no tracker helps find others, by peer exchange and local discovery.
func (s *Sim) meet(n *node) {
	for range 8 {
		if o := s.nodes[s.rng.IntN(len(s.nodes))]; o != n && o.alive && !o.foreign && (o.puppet != nil || n.foreign) {
			s.connect(n, o)
		}
	}
}

// hear passes on at once what the picker complains of.
func (s *Sim) hear(n *node) {
	c := n.picker.Complaints()
	if len(c) == 0 {
		return
	}
	if s.Trace != nil {
		for _, c := range c {
			s.Trace("%v: %d complains: stripe %d, reason %d, parent %d, rate %d", time.Duration(s.now), n.index, c.Stripe, c.Reason, s.byID[c.Parent].index, c.Rate)
		}
	}
	s.res.Complaints += len(c)
	n.puppet.Complain(c)
	s.speak(n)
}

// hole is when a node notices that it has lost a part.
func (s *Sim) hole(n *node, q request) {
	if n.alive && n.done == 0 && !n.hasAll(q) {
		n.lanes[q.lane].putBack(q)
		s.fill(n)
	}
}

// advance moves the watermark of a stripe on.
func (s *Sim) advance(n *node, k int) {
	l := &n.lanes[k]
	for l.mark < s.geo.Pieces() && (relay.Stripe(s.geo, l.mark, s.k) != k || n.lack[l.mark] == 0) {
		l.mark++
	}
	n.fresh = true
}

func (s *Sim) finished(n *node) {
	n.done = s.now
	s.waiting--
	if n.puppet != nil {
		n.puppet.Want(nil, nil, nil)
		s.speak(n)
	}
	for len(n.conns) > 0 {
		s.drop(n.conns[0])
	}
}
