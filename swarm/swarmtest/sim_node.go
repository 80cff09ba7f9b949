package swarmtest

import (
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
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

	fresh      bool // has completed pieces, or anything else, that the tracker does not know
	introduced bool
	reported   int64
	blame      []relay.Complaint
	got        int64 // when a block came last, or the node began to wait
	planGen    int64 // of the newest assignment
	alone      bool  // nobody it knows had what it lacked: it goes to the source as well
	planOf     int   // life of the tracker that made it
}

// lane is one stripe at one node.
type lane struct {
	next  uint32    // first block that has not been asked for, in the order of the stripe
	again []request // parts that were asked for and will not come
	mark  uint32    // all its pieces below are complete
	count uint32    // pieces that are complete
}

// request is a part: some blocks of one piece.
type request struct {
	first uint32
	count uint16
	lane  uint8
	bad   bool
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
	for k := range n.lanes {
		n.lanes[k].mark = n.s.geo.Pieces()
	}
	n.done = 1
}

// clock is the time as n sees it.
func (n *node) clock() time.Time { return n.s.time().Add(n.skew) }

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
	if n := c.child; n.alive {
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
		n.lanes[k].putBack(r)
		n.picker.Dropped(n.clock(), c.parent.id, s.geo.PieceOf(r.first), s.bytes(r))
	}
}

func (s *Sim) bytes(q request) int {
	_, n := s.geo.Bytes(blob.Run{First: q.first, Count: uint32(q.count)})
	return int(n)
}

// assigned is when an assignment has arrived.
func (s *Sim) assigned(n *node, a relay.Assignment) {
	if !n.alive || n.done > 0 || a.Gen <= n.planGen && n.planOf == s.tracker.life {
		return
	}
	n.planGen, n.planOf = a.Gen, s.tracker.life
	n.picker.Assign(n.clock(), a)
	s.res.Assignments++
	for k := range a.Parents {
		for _, parent := range a.Parents[k] {
			if to := s.byID[parent.ID]; to != nil {
				s.connect(n, to)
			}
		}
	}
	if s.Origin && a.Head != 0 {
		s.connect(n, s.source)
	}
	s.follow(n)
	s.fill(n)
}

// tick is a node's look at the clock.
func (s *Sim) tick(n *node) {
	if !n.alive {
		return
	}
	if !n.introduced {
		n.introduced, n.fresh = true, true
		n.got = s.now
		s.report(n)
		if s.tracker.dead {
			s.meet(n)
		}
	}
	if n.done > 0 {
		if n.fresh && s.now-n.reported >= reportEvery {
			s.report(n)
		}
		if n.fresh {
			s.push(second, event{kind: evTick, who: n.index})
		}
		return
	}
	if gap := time.Duration(s.now - n.got); gap > s.res.Gap {
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
	if n.fresh && s.now-n.reported >= reportEvery {
		s.report(n)
	}
	s.push(tickEvery, event{kind: evTick, who: n.index})
}

// meet has a node that no tracker helps find others, by peer exchange and local discovery.
func (s *Sim) meet(n *node) {
	for range 8 {
		if o := s.nodes[s.rng.IntN(len(s.nodes))]; o != n && o.alive && o.introduced {
			s.connect(n, o)
		}
	}
}

// hear passes on at once what the picker complains of.
func (s *Sim) hear(n *node) {
	if c := n.picker.Complaints(); len(c) > 0 {
		n.blame = append(n.blame, c...)
		s.res.Complaints += len(c)
		s.report(n)
	}
}

// fill asks for as much as there is room for.
func (s *Sim) fill(n *node) {
	if n.done > 0 || !n.alive {
		return
	}
	// The stripes are read side by side, in the order of the blob.
	var full [relay.MaxStripes]bool
	for {
		k := -1
		for i := range n.lanes {
			if !full[i] && (k < 0 || n.lanes[i].front() < n.lanes[k].front()) {
				k = i
			}
		}
		if k < 0 {
			return
		}
		full[k] = !s.askNext(n, k)
	}
}

// putBack has a part be asked for again, in the order of the stripe.
func (l *lane) putBack(q request) {
	q.bad = false
	i := len(l.again)
	for i > 0 && l.again[i-1].first > q.first {
		i--
	}
	l.again = slices.Insert(l.again, i, q)
}

// front is the first block that is to be asked for.
func (l *lane) front() uint32 {
	if len(l.again) > 0 {
		return l.again[0].first
	}
	return l.next
}

// askNext asks for the next part of a stripe. It reports false when there is none, or no room.
func (s *Sim) askNext(n *node, k int) bool {
	l := &n.lanes[k]
	var at uint32
	var most int
	again := len(l.again) > 0
	if again {
		at, most = l.again[0].first, int(l.again[0].count)
	} else {
		at = l.next
		if at >= s.geo.Blocks() {
			return false
		}
		most = int(s.geo.PieceBlocks(s.geo.PieceOf(at)).End() - at)
	}
	if again && n.hasAll(l.again[0]) {
		l.again = l.again[1:]
		return true
	}
	piece := s.geo.PieceOf(at)
	c := s.choose(n, piece, request{first: at, count: 1})
	if c == nil {
		return false
	}
	count := min(most, n.picker.Part(c.parent.id))
	q := request{first: at, count: uint16(count), lane: uint8(k)}
	if n.picker.Room(c.parent.id) < s.bytes(q) {
		return false
	}
	if again {
		if l.again[0].first, l.again[0].count = at+uint32(count), uint16(most-count); most == count {
			l.again = l.again[1:]
		}
	} else {
		l.next = s.nextBlock(at+uint32(count), k)
	}
	n.picker.Asked(n.clock(), c.parent.id, piece, s.bytes(q))
	c.queue[k].push(q)
	if !c.parent.busy {
		s.push(s.latency(n, c.parent), event{kind: evKick, who: c.parent.index})
	}
	return true
}

// choose is whom to ask.
func (s *Sim) choose(n *node, piece uint32, q request) *conn {
	var id relay.NodeID
	if s.Origin && n.picker.Heads(piece) {
		id = s.source.id
		n.picker.Connected(n.clock(), id)
	} else if from, ok := n.picker.From(n.clock(), piece); ok {
		id = from
	} else if n.picker.Planned(piece) {
		return nil
	} else {
		return s.alone(n, q)
	}
	if c := n.connTo(id); c != nil && c.open {
		return c
	}
	return nil
}

// follow takes back what was asked of somebody whom the picker would not ask now.
func (s *Sim) follow(n *node) {
	for _, c := range n.conns {
		for k := range s.k {
			q := &c.queue[k]
			for i := q.head; i < len(q.items); {
				r := q.items[i]
				piece := s.geo.PieceOf(r.first)
				id, ok := n.picker.From(n.clock(), piece)
				if !ok || id == c.parent.id {
					i++
					continue
				}
				q.items = slices.Delete(q.items, i, i+1)
				n.lanes[k].putBack(r)
				n.picker.Dropped(n.clock(), c.parent.id, piece, s.bytes(r))
			}
		}
	}
}

// alone is whom a node without a plan asks: somebody who has the part, the source when nothing has come for a while.
func (s *Sim) alone(n *node, q request) *conn {
	for i := range n.conns {
		c := n.conns[(i+int(q.first))%len(n.conns)]
		if c.open && c.parent != s.source && c.parent.hasAll(q) && n.picker.Room(c.parent.id) > 0 {
			return c
		}
	}
	if s.now-n.got < second/2 && !n.alone {
		return nil
	}
	n.alone = true
	if c := s.connect(n, s.source); c.open && n.picker.Room(s.source.id) > 0 {
		return c
	}
	return nil
}

// kick has an uplink send the next part that is there to be sent.
func (s *Sim) kick(n *node) {
	if n.busy || !n.alive {
		return
	}
	if s.Hiccups > 0 && s.rng.Float64() < s.Hiccups {
		n.asleep = s.now + s.rng.Int64N(second/2)
		s.push(n.asleep-s.now, event{kind: evKick, who: n.index})
	}
	if s.now < n.asleep {
		return
	}
	soonest := int64(0)
	var best *conn
	var lane int
	for _, c := range n.kids {
		if c.dead || s.apart(n, c.child) {
			continue
		}
		for k := range s.k {
			if !c.queue[k].ready(n) {
				continue
			}
			if c.free > s.now {
				if soonest == 0 || c.free < soonest {
					soonest = c.free
				}
				continue
			}
			if c.served < n.served {
				c.served = n.served // it had nothing to send: that is no credit
			}
			if best == nil || c.served < best.served || c == best && c.queue[k].front().first < best.queue[lane].front().first {
				best, lane = c, k
			}
		}
	}
	if best == nil {
		if soonest > 0 {
			s.push(soonest-s.now, event{kind: evKick, who: n.index})
		}
		return
	}
	q := best.queue[lane].pop()
	bytes := float64(s.bytes(q))
	n.busy, n.served = true, best.served
	best.served += bytes / best.weight
	if best.rate > 0 {
		best.free = s.now + int64(bytes/best.rate*float64(second))
	}
	if n == s.source {
		s.res.origin += int64(bytes)
	}
	s.push(int64(bytes/n.up*float64(second)), event{kind: evSent, conn: best, req: q})
}

// sent is when the last byte of a part has left.
func (s *Sim) sent(c *conn, q request) {
	n := c.parent
	n.busy = false
	if n.alive {
		q.bad = n.liar
		at := s.now + s.latency(n, c.child)
		if s.Loss > 0 && n.zone != c.child.zone && s.rng.Float64() < s.Loss*float64(s.bytes(q))/mss {
			at += 2 * s.latency(n, c.child) // sent again
		}
		at = max(at, c.lastArrival, c.child.inFree+int64(float64(s.bytes(q))/c.child.down*float64(second)))
		c.lastArrival, c.child.inFree = at, at
		s.agenda.push(event{at: at, kind: evArrive, conn: c, req: q})
	} else {
		c.child.lanes[q.lane].putBack(q)
	}
	s.kick(n)
}

// arrive is when a part is there.
func (s *Sim) arrive(c *conn, q request) {
	n := c.child
	if !n.alive || n.done > 0 {
		return
	}
	if c.dead || s.apart(n, c.parent) {
		if !c.dead {
			s.res.Wasted += int64(s.bytes(q))
		}
		n.lanes[q.lane].putBack(q)
		s.fill(n)
		return
	}
	if s.Holes > 0 && s.rng.Float64() < s.Holes {
		// It is lost inside the node, and noticed much later.
		s.push(2*second, event{kind: evHole, who: n.index, req: q})
		return
	}
	piece := s.geo.PieceOf(q.first)
	n.picker.Came(n.clock(), c.parent.id, piece, s.bytes(q))
	if q.bad {
		// It does not verify: the sender is blamed, and banned.
		s.res.Refused += int64(s.bytes(q))
		n.lanes[q.lane].putBack(q)
		n.picker.Gone(n.clock(), c.parent.id, relay.Liar)
		s.drop(c)
		s.hear(n)
		s.fill(n)
		return
	}
	n.got = s.now
	for i := range uint32(q.count) {
		b := q.first + i
		if n.has(b) {
			s.res.Wasted += blob.BlockSize
			continue
		}
		n.have[b/64] |= 1 << (b % 64)
		n.lack[piece]--
		n.left--
	}
	if n.lack[piece] == 0 {
		n.lanes[q.lane].count++
		s.advance(n, int(q.lane))
	}
	if n.left == 0 {
		s.finished(n)
	}
	s.fill(n)
	if !n.busy && len(n.kids) > 0 {
		s.kick(n)
	}
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
	n.fresh = true
	s.report(n)
	if n.fresh { // there is no tracker: it is told later
		s.push(second, event{kind: evTick, who: n.index})
	}
	for len(n.conns) > 0 {
		s.drop(n.conns[0])
	}
}

// Kill ends a node without a word: its connections break.
func (s *Sim) Kill(i int) {
	n := s.node(int32(i))
	if !n.alive {
		return
	}
	n.alive = false
	if n.done == 0 {
		s.waiting--
	}
	for _, c := range append([]*conn(nil), n.kids...) {
		s.push(s.latency(n, c.child), event{kind: evClosed, conn: c})
	}
	for len(n.conns) > 0 {
		s.drop(n.conns[0])
	}
	s.tracker.silent = append(s.tracker.silent, quiet{n, s.now + goneAfter})
}

// KillSome ends a share of the nodes that are alive, by chance, and has as many new ones come.
func (s *Sim) KillSome(share float64) {
	for _, n := range slices.Clone(s.nodes) {
		if n.alive && n.introduced && s.rng.Float64() < share {
			s.Kill(int(n.index))
			s.Join(0)
		}
	}
}

// Cut parts the nodes in two: nothing passes between those that one says and the others, the source and the tracker
// among these. nil heals it.
func (s *Sim) Cut(one func(i int) bool) {
	if one == nil {
		s.cut = nil
		for _, n := range append([]*node{s.source}, s.nodes...) {
			s.push(0, event{kind: evKick, who: n.index})
		}
		return
	}
	s.cut = func(a, b *node) bool { return one(int(a.index)) != one(int(b.index)) }
}

// Jump sets the clocks of a share of the nodes to anything within two hours.
func (s *Sim) Jump(share float64) {
	for _, n := range s.nodes {
		if s.rng.Float64() < share {
			n.skew = time.Duration(s.rng.Int64N(4*3600*second) - 2*3600*second)
		}
	}
}

// KillTracker ends the tracker. What it knew is lost.
func (s *Sim) KillTracker() { s.tracker.dead = true }

// StartTracker starts it again. Nodes find that out within two seconds.
func (s *Sim) StartTracker() {
	t := &s.tracker
	t.init(s)
	t.dead, t.silent = false, nil
	t.life++
	s.report(s.source)
	for _, n := range s.nodes {
		n.fresh, n.reported = true, s.now-reportEvery+s.rng.Int64N(2*second)
		if n.done > 0 {
			s.push(s.rng.Int64N(2*second), event{kind: evTick, who: n.index})
		}
	}
}

// Unplanned is the number of nodes that lack something and have no assignment of the tracker that is alive.
func (s *Sim) Unplanned() (n int) {
	for _, o := range s.nodes {
		if o.alive && o.introduced && o.done == 0 && s.now-o.joins > second && (o.planGen == 0 || o.planOf != s.tracker.life) {
			n++
		}
	}
	return n
}

// Alive is the number of the nodes that are.
func (s *Sim) Alive() (n int) {
	for _, o := range s.nodes {
		if o.alive && o.introduced {
			n++
		}
	}
	return n
}
