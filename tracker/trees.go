package tracker

import (
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
)

// The relay trees: who passes what on to whom, while two nodes or more want all of a blob. The planner of package
// relay decides; here it is told what the scheduler knows, what it decides is told to the nodes, and leases follow
// it:
//
//   - A node takes part when it says that it wants everything (bulk) and has not got everything. Whoever has
//     everything, foreign seeds too, is a source.
//   - As long as nobody has everything the origin is the source, if some node can reach one. Then pieces that a
//     bulk node would read ahead are leased to the head of their stripe alone: every byte leaves the origin once
//     and enters its tree at the top. What somebody is blocked on is leased to anybody, as ever, and so is what a
//     node that does not take part reads ahead.
//   - A piece of its stripe that another node has already, a head takes from there: it is told where that is. When
//     it has not got on for a second it is leased the piece all the same.
//   - A head that stands still is replaced by the planner, within 1.5 s and a tick, and its leases go with it.
//   - How far a node has each stripe follows from the pieces it reports; nothing else is sent for it.

// planner is [relay.Planner], as far as a swarm uses it.
type planner interface {
	Put(now time.Time, m relay.Member)
	Remove(now time.Time, id relay.NodeID)
	OriginIsSource(yes bool)
	Progress(now time.Time, id relay.NodeID, w []relay.Watermark)
	Complain(now time.Time, child relay.NodeID, c relay.Complaint)
	Tick(now time.Time)
	Changed() []relay.NodeID
	Assignment(id relay.NodeID) relay.Assignment
	Head(stripe int) (relay.NodeID, bool)
}

const (
	stripes = relay.DefaultStripes

	// headStall is how long a head may stand still; with pieces of more than a mebibyte, which a slow origin
	// needs longer for, in proportion.
	headStall = 1500 * time.Millisecond

	// edgeFor is how long a node is taken to pass bytes on after a child has completed a piece of the stripe that
	// it takes from it.
	edgeFor = 6 * time.Second

	// gapAfter is how long a head tries to get what others have from them; shorter than headStall.
	gapAfter = time.Second

	// maxHolders is how many of those who have a piece a head is told of.
	maxHolders = 3

	// headWindow is how long a lease of a head should take from grant to piece; with more leased at once, those
	// who are blocked on one wait longer than they do for any other holder (2.5 s).
	headWindow = time.Second
)

// newPlanner is the planner of one swarm.
func newPlanner(g blob.Geometry) planner {
	stall := headStall * time.Duration(max(1, g.PieceLength>>20))
	return relay.NewPlanner(g, relay.PlannerOptions{Stripes: stripes, Stall: stall})
}

var _ planner = (*relay.Planner)(nil)

// about is what a node says about itself for the trees.
type about struct {
	bulk   bool   // wants everything and passes it on
	origin bool   // can read from an origin
	prefer bool   // was set up to read from the origin for others
	up     int64  // bytes per second it can send; 0: not known
	zone   string // where it stands, most significant part first
}

// trees is the part of a swarm's state that belongs to this file.
type trees struct {
	planner     planner // nil: fewer than two nodes want everything
	byOrigin    bool    // the source is the origin
	heads       [stripes]*node
	bulk        int       // nodes that take part: bulk and not complete
	origins     int       // nodes that can read from an origin
	assignments int64     // ever told
	turned      []*member // those who have got everything, or lost it, in this step
	makePlanner func(blob.Geometry) planner
}

// branch is what a node has to do with the trees.
type branch struct {
	about
	got      [stripes]uint32    // how many pieces of the stripe it has; not counted when it has everything
	marks    [stripes]uint32    // all pieces of the stripe below are complete
	filled   [stripes]time.Time // when its mark last grew
	known    [stripes]uint32    // what the planner was told, see reached
	shown    [stripes]uint32    // of a head: one more than the mark at which it was told who has the piece there
	moved    [stripes]time.Time // when it last completed a piece of the stripe
	assigned relay.Assignment
	number   int64 // of the assignment; 0: never had one
	toldTree int64 // number of the newest assignment that it says it has
}

// takesPart reports whether n belongs into the trees, below the sources.
func (n *node) takesPart() bool { return n.bulk && !n.member.seed }

// describe notes what a node says about itself.
func (s *swarm) describe(now time.Time, n *node, a about) {
	if n.about == a {
		return
	}
	s.countTrees(n, -1)
	n.about = a
	s.countTrees(n, 1)
	s.put(now, n.member)
}

// countTrees adds n to, or takes it from, the counts of trees.
func (s *swarm) countTrees(n *node, by int) {
	if n.takesPart() {
		s.trees.bulk += by
	}
	if n.origin {
		s.origins += by
	}
}

// put tells the planner about a member.
func (s *swarm) put(now time.Time, m *member) {
	if s.planner == nil || m.plan == nil && !m.seed {
		return
	}
	r := relay.Member{ID: relay.NodeID(m.id), Source: m.seed}
	if n := m.plan; n != nil {
		r.Zone, r.Bulk, r.Prefer, r.Up = n.zone, n.bulk, n.prefer, n.up
		if m.addr.Port() == 0 {
			r.Up = 1 // nobody can connect to it: a leaf everywhere
		}
	}
	s.planner.Put(now, r)
}

// progress works out how far n has each stripe, and tells the planner when that has changed. What counts is how
// many pieces it has: one that is missing behind others that come, a hole, is no standstill.
func (s *swarm) progress(now time.Time, n *node) {
	if s.planner == nil {
		return
	}
	moved := false
	for k := range stripes {
		if mark := s.mark(n, k); mark != n.marks[k] {
			n.marks[k], n.filled[k] = mark, now
		}
		if reached := s.reached(n, k); reached != n.known[k] {
			n.known[k], n.moved[k], moved = reached, now, true
		}
	}
	if moved {
		s.tellProgress(now, n)
	}
}

func (s *swarm) tellProgress(now time.Time, n *node) {
	var w [stripes]relay.Watermark
	for k := range stripes {
		w[k] = relay.Watermark{Stripe: k, Piece: n.known[k]}
	}
	s.planner.Progress(now, relay.NodeID(n.member.id), w[:])
}

// reached is the watermark n would have with as many pieces of stripe k as it has, and no hole.
func (s *swarm) reached(n *node, k int) uint32 {
	if n.member.seed {
		return s.pieces
	}
	u := relay.Unit(s.geometry)
	turns, rest := n.got[k]/u, n.got[k]%u
	return min((turns*stripes+uint32(k))*u+rest, s.pieces)
}

// mark is the first piece of stripe k, from the last mark on, that n lacks.
func (s *swarm) mark(n *node, k int) uint32 {
	if n.member.seed {
		return s.pieces
	}
	for i := n.marks[k]; i < s.pieces; {
		if relay.Stripe(s.geometry, i, stripes) != k {
			i = s.unitEnd(i)
			continue
		}
		if !n.have.has(i) {
			return i
		}
		i++
	}
	return s.pieces
}

// unitEnd is the first piece behind i that may belong to another stripe.
func (s *swarm) unitEnd(i uint32) uint32 {
	u := relay.Unit(s.geometry)
	return min((i/u+1)*u, s.pieces)
}

// uproot takes a member that is being removed out of the trees.
func (s *swarm) uproot(now time.Time, m *member) {
	if s.planner != nil {
		s.planner.Remove(now, relay.NodeID(m.id))
	}
	for k, h := range s.heads {
		if h != nil && h.member == m {
			s.heads[k] = nil
		}
	}
}

// grow ends a step: it begins or ends the plan, and tells who has got another place in it.
func (s *swarm) grow(now time.Time) {
	turned := s.turned
	s.turned = s.turned[:0]
	switch {
	case s.planner == nil && s.trees.bulk >= 2 && s.makePlanner != nil:
		s.planner = s.makePlanner(s.geometry)
		for _, m := range s.members {
			s.put(now, m)
		}
		for _, m := range s.sources {
			s.put(now, m)
		}
		for _, n := range s.nodes {
			for k := range stripes {
				n.marks[k], n.known[k] = s.mark(n, k), s.reached(n, k)
			}
			s.tellProgress(now, n)
		}
	case s.planner != nil && s.trees.bulk < 2:
		s.fell()
		return
	case s.planner == nil:
		return
	default:
		for _, m := range turned {
			if s.byID[m.id] == m {
				s.put(now, m)
			}
		}
	}
	byOrigin := !s.wholeThere() && len(s.sources) == 0 && s.origins > 0
	if byOrigin != s.byOrigin {
		s.byOrigin = byOrigin
		s.planner.OriginIsSource(byOrigin)
		s.freed = true
	}
	for _, id := range s.planner.Changed() {
		if m := s.byID[peerID(id)]; m != nil && m.plan != nil {
			s.place(m.plan, s.planner.Assignment(id))
		}
	}
	for k := range stripes {
		var head *node
		if id, ok := s.planner.Head(k); ok {
			if m := s.byID[peerID(id)]; m != nil {
				head = m.plan
			}
		}
		if old := s.heads[k]; old != head {
			if s.heads[k] = head; head != nil {
				head.filled[k], head.shown[k] = now, 0
			}
			s.succeed(now, old, head, k)
		}
	}
}

// fell ends the plan.
func (s *swarm) fell() {
	s.planner, s.byOrigin, s.heads, s.freed = nil, false, [stripes]*node{}, true
	for _, n := range s.nodes {
		s.place(n, relay.Assignment{})
	}
}

// place notes that n has another place in the trees. A node that has everything needs none.
func (s *swarm) place(n *node, a relay.Assignment) {
	if n.number == 0 && a.Stripes == 0 {
		return
	}
	n.assigned = a
	s.assignments++
	n.number = s.assignments
	if !n.member.seed {
		s.tell(n, true)
	}
}

// succeed gives the leases of stripe k that a former head holds to the new one, if the former one stands still. One
// that gets on has begun what it was leased, or will before it hears of it, and keeps it.
func (s *swarm) succeed(now time.Time, old, head *node, k int) {
	s.freed = true
	if old == nil || now.Sub(old.progress) < headStall {
		return
	}
	for _, i := range old.leased() {
		l := old.leases[i]
		switch {
		case relay.Stripe(s.geometry, i, stripes) != k || now.Sub(l.granted) < headStall:
		case head != nil && head.wants(i):
			s.grant(now, head, i, false)
		default:
			s.end(l)
			s.tell(old, true)
		}
	}
}

// complain brings complaints of n to the planner: those about nodes that it was told to take the stripe from.
func (s *swarm) complain(now time.Time, n *node, list []relay.Complaint) {
	if s.planner == nil {
		return
	}
	for _, c := range list {
		if c.Stripe < len(n.assigned.Parents) && slices.ContainsFunc(n.assigned.Parents[c.Stripe], func(p relay.Parent) bool { return p.ID == c.Parent }) {
			s.planner.Complain(now, relay.NodeID(n.member.id), c)
			if c.Reason != relay.Slow && n.assigned.Parents[c.Stripe][0].ID == c.Parent {
				n.moved[c.Stripe] = time.Time{} // nothing comes over that edge any more
			}
		}
	}
}

// feeds reports whether some live node takes a stripe from n and still gets on: n may have lost its tracker and
// not its children.
func (s *swarm) feeds(now time.Time, n *node) bool {
	if s.planner == nil {
		return false
	}
	for _, child := range s.nodes {
		for k, parents := range child.assigned.Parents {
			if k < stripes && len(parents) > 0 && peerID(parents[0].ID) == n.member.id && now.Sub(child.moved[k]) < edgeFor {
				return true
			}
		}
	}
	return false
}

// planned reports whether what n reads ahead is leased stripe by stripe.
func (s *swarm) planned(n *node) bool { return s.planner != nil && s.byOrigin && n.bulk && !n.starved }

// assignStripes gives n what is free of its wish in the stripes of which it is the head. all is how much it holds.
func (s *swarm) assignStripes(now time.Time, n *node, all int) {
	headed := 0
	for _, h := range s.heads {
		if h == n {
			headed++
		}
	}
	budget := headed*int(s.headShare()/s.geometry.PieceLength) - all
	if headed == 0 || budget <= 0 {
		return
	}
	for _, r := range n.ahead {
		for i := r.First; i < r.End() && budget > 0; {
			if s.heads[relay.Stripe(s.geometry, i, stripes)] != n {
				i = s.unitEnd(i)
				continue
			}
			end := min(r.End(), s.unitEnd(i))
			stuck := now.Sub(n.filled[relay.Stripe(s.geometry, i, stripes)]) >= gapAfter
			if i = s.nextFree(n, i, end, stuck); i == end {
				continue
			}
			if l := s.leases[i]; l == nil || l.holder != n {
				s.grant(now, n, i, false)
				budget--
			}
			i++
		}
	}
}

// holders are some of those who have what a head needs next, when it has not been told of them yet.
func (s *swarm) holders(n *node) (list []planPeer) {
	if !s.planned(n) {
		return nil
	}
	for k, h := range s.heads {
		piece := n.marks[k]
		if h != n || piece >= s.pieces || n.shown[k] == piece+1 || s.available.at(piece) == 0 {
			continue
		}
		n.shown[k] = piece + 1
		for _, o := range s.nodes {
			if o.has(piece) && o.member.addr.Port() != 0 {
				if list = append(list, planPeer{o.member.addr, o.member.id}); len(list) >= maxHolders {
					break
				}
			}
		}
	}
	return list
}

// rush has the heads that have not got on for gapAfter lease what others have.
func (s *swarm) rush(now time.Time) {
	for k, h := range s.heads {
		if h != nil && s.planned(h) && h.marks[k] < s.pieces && now.Sub(h.filled[k]) >= gapAfter {
			s.assign(now, h)
		}
	}
}

// headShare is how many bytes the head of a stripe may have leased, unless origin and link are so slow that those
// would take longer than headWindow.
func (s *swarm) headShare() int64 {
	g := s.geometry
	share := min(g.Size/(2*stripes), maxShare)
	if s.usual > headWindow {
		share = int64(float64(share) * headWindow.Seconds() / s.usual.Seconds())
	}
	return max(share, 2*g.PieceLength)
}
