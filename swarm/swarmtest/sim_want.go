package swarmtest

import (
	"slices"

	"github.com/pantala/pantala/relay"
	"github.com/pantala/pantala/tracker"
)

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

// putBack has a part that was asked for over c be asked for again.
func (s *Sim) putBack(n *node, c *conn, q request) {
	if c.parent == s.source && s.Origin && !q.urgent {
		s.hasRead(n, q)
	}
	switch {
	case q.urgent:
		s.retry(n)
	case n.foreign:
		n.forget(q)
	default:
		n.lanes[q.lane].putBack(q)
	}
}

// hasRead notes that a part that was to be read from the origin is no longer under way.
func (s *Sim) hasRead(n *node, q request) {
	piece := s.geo.PieceOf(q.first)
	if n.reading[piece]--; n.reading[piece] <= 0 {
		delete(n.reading, piece)
		n.fresh = true
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
		for l.next < s.geo.Blocks() && n.has(l.next) { // a reader had it fetched
			l.next = s.nextBlock(l.next+1, k)
		}
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
	if c.parent == s.source && s.Origin {
		if n.reading[piece]++; n.reading[piece] == 1 {
			n.fresh = true
		}
	}
	c.asked = s.now
	c.queue[k].push(q)
	if !c.parent.busy {
		s.push(s.latency(n, c.parent), event{kind: evKick, who: c.parent.index})
	}
	return true
}

// choose is whom to ask.
func (s *Sim) choose(n *node, piece uint32, q request) *conn {
	if from, ok := n.picker.From(n.clock(), piece); ok {
		if c := n.connTo(from); c != nil && c.open {
			return c
		}
		return nil
	}
	if n.picker.Planned(piece) {
		return nil
	}
	return s.unplanned(n, piece, q)
}

// follow takes back what was asked of somebody whom the picker would not ask now, and what a plan that has ended left
// with somebody who has not got it.
func (s *Sim) follow(n *node) {
	for _, c := range n.conns {
		for k := range s.k {
			q := &c.queue[k]
			for i := q.head; i < len(q.items); {
				r := q.items[i]
				piece := s.geo.PieceOf(r.first)
				id, ok := n.picker.From(n.clock(), piece)
				if ok && id == c.parent.id || !ok && (n.picker.Planned(piece) || c.parent.hasAll(r)) {
					i++
					continue
				}
				q.items = slices.Delete(q.items, i, i+1)
				s.putBack(n, c, r)
				n.picker.Dropped(n.clock(), c.parent.id, piece, s.bytes(r))
			}
		}
	}
}

// unplanned is whom a node asks for what nobody is to pass on to it: somebody who has the part, else the source. The
// origin it reads from as package fetch does: when it holds the lease, or no tracker can be counted on. A source that
// is a peer it asks when nothing has come for a while.
func (s *Sim) unplanned(n *node, piece uint32, q request) *conn {
	for i := range n.conns {
		c := n.conns[(i+int(q.first))%len(n.conns)]
		if c.open && c.parent != s.source && c.parent.hasAll(q) && n.picker.Room(c.parent.id) > 0 {
			return c
		}
	}
	switch {
	case s.Origin && n.puppet.State() == tracker.Shared && !n.puppet.Mine(piece):
		return nil
	case !s.Origin && s.now-n.got < second/2 && !n.alone:
		return nil
	}
	if n.alone = true; n.planOf < 0 && len(n.conns) < 4 {
		for _, o := range n.known[max(0, len(n.known)-4):] { // those it has heard of
			s.connect(n, o)
		}
	}
	if c := s.connect(n, s.source); c.open && n.picker.Room(s.source.id) > 0 {
		return c
	}
	return nil
}
