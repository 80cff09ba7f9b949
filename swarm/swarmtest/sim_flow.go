package swarmtest

import (
	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
)

// kick has an uplink send the next part that is there to be sent.
func (s *Sim) kick(n *node) {
	if n.busy || !n.alive || s.now < n.frozen {
		return
	}
	if s.Hiccups > 0 && s.rng.Float64() < s.Hiccups {
		n.asleep = s.now + s.rng.Int64N(second/2)
		s.push(n.asleep-s.now, event{kind: evKick, who: n.index})
	}
	if s.now < n.asleep {
		return
	}
	if n.urgents > 0 && s.serveUrgent(n) {
		return
	}
	soonest := int64(0)
	var best *conn
	var lane int
	for _, c := range n.kids {
		if c.dead || !c.slot || s.apart(n, c.child) || s.now < c.child.frozen {
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
	n.served = best.served
	s.send(best, best.queue[lane].pop())
}

// send has the uplink of a parent be busy with a part.
func (s *Sim) send(c *conn, q request) {
	n, bytes := c.parent, float64(s.bytes(q))
	n.busy = true
	c.served += bytes / c.weight
	if c.rate > 0 {
		c.free = s.now + int64(bytes/c.rate*float64(second))
	}
	if n == s.source {
		s.res.origin += int64(bytes)
	}
	s.push(int64(bytes/n.up*float64(second)), event{kind: evSent, conn: c, req: q})
}

// serveUrgent sends what somebody is blocked on, before all bulk: no slot is needed for it.
func (s *Sim) serveUrgent(n *node) bool {
	for _, c := range n.kids {
		if c.urgent.len() > 0 && !c.dead && !s.apart(n, c.child) && n.hasAll(*c.urgent.front()) {
			n.urgents--
			s.send(c, c.urgent.pop())
			return true
		}
	}
	return false
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
		s.putBack(c.child, c, q)
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
		s.putBack(n, c, q)
		s.fill(n)
		return
	}
	if s.Holes > 0 && s.rng.Float64() < s.Holes {
		// It is lost inside the node, and noticed much later.
		s.push(2*second, event{kind: evHole, who: n.index, req: q})
		return
	}
	piece := s.geo.PieceOf(q.first)
	if n.foreign {
		s.gather(n, q)
		return
	}
	if !q.urgent {
		n.picker.Came(n.clock(), c.parent.id, piece, s.bytes(q))
	}
	if q.bad {
		// It does not verify: the sender is blamed, and banned.
		s.res.Refused += int64(s.bytes(q))
		s.putBack(n, c, q)
		n.picker.Gone(n.clock(), c.parent.id, relay.Liar)
		s.drop(c)
		s.hear(n)
		s.fill(n)
		return
	}
	n.got = s.now
	if c.parent == s.source && s.Origin {
		if !q.urgent {
			s.hasRead(n, q)
		}
		n.local.direct[piece/64] |= 1 << (piece % 64)
	}
	before := n.lack[piece]
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
	if n.lack[piece] == 0 && before > 0 {
		s.advance(n, int(q.lane))
		n.local.add(piece)
		s.speak(n)
	}
	s.hasCome(n)
	if n.left == 0 {
		s.finished(n)
	}
	s.fill(n)
	if !n.busy && len(n.kids) > 0 {
		s.kick(n)
	}
}
