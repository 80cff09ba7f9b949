package swarmtest

import (
	"time"

	"github.com/pantala/pantala/relay"
	"github.com/pantala/pantala/swarm/choker"
)

// Clients that follow no plan: each connects to some nodes that it has met, and asks whoever serves it for any piece
// that it lacks. What they get of an uplink is for the parent's choker to say.

// uploadSlots is how many peers a node serves at a time, as package swarm does by default.
const uploadSlots = 64

// seat gives a connection that has just been made a slot, if there is one.
func (s *Sim) seat(c *conn) {
	if s.Origin && c.parent == s.source {
		c.slot = true // a web server serves everybody
		return
	}
	served, foreign := 0, 0
	for _, o := range c.parent.kids {
		if o.slot {
			served++
			if o.child.foreign {
				foreign++
			}
		}
	}
	c.slotSince = s.now
	c.slot = choker.Room(served, foreign, uploadSlots)
	if !c.slot && !c.child.foreign {
		s.choke(c.parent)
	}
	if (c.child.foreign || !c.slot) && !c.parent.choosing {
		c.parent.choosing = true
		s.push(second, event{kind: evChoke, who: c.parent.index})
	}
}

// choke decides whom a node serves.
func (s *Sim) choke(n *node) {
	seats := make([]choker.Seat, len(n.kids))
	for i, c := range n.kids {
		seats[i] = choker.Seat{
			Served: c.slot, Interested: c.child.done == 0, Foreign: c.child.foreign,
			Since: epoch.Add(time.Duration(c.slotSince)), Asked: epoch.Add(time.Duration(c.asked)),
		}
	}
	kids := append([]*conn(nil), n.kids...)
	off, on := choker.Choose(seats, uploadSlots, s.time())
	for _, i := range off {
		c := kids[i]
		c.slot, c.slotSince = false, s.now
		for k := range c.queue {
			s.takeBack(c, k)
		}
	}
	for _, i := range on {
		c := kids[i]
		c.slot, c.slotSince = true, s.now
		if c.child.foreign {
			s.forage(c.child)
		}
	}
	s.kick(n)
}

// forage has a foreign client ask for more.
func (s *Sim) forage(n *node) {
	if !n.alive || n.left == 0 {
		return
	}
	if n.asked == nil {
		n.asked = make([]uint64, len(n.local.pieces))
		s.meet(n)
		s.connect(n, s.source)
		s.push(second, event{kind: evTick, who: n.index})
	}
	for _, c := range n.conns {
		if !c.open || !c.slot {
			continue
		}
		for tries := 0; c.queue[0].len() < 2 && tries < 8; tries++ {
			piece := uint32(s.rng.Int64N(int64(s.geo.Pieces())))
			if bit(n.asked, piece) || !c.parent.local.PieceComplete(piece) {
				continue
			}
			n.asked[piece/64] |= 1 << (piece % 64)
			run := s.geo.PieceBlocks(piece)
			c.asked = s.now
			c.queue[0].push(request{first: run.First, count: uint16(run.Count), lane: uint8(relay.Stripe(s.geo, piece, s.k))})
			s.push(s.latency(n, c.parent), event{kind: evKick, who: c.parent.index})
		}
	}
}

// forget has a foreign client ask for a part again some time.
func (n *node) forget(q request) {
	piece := n.s.geo.PieceOf(q.first)
	n.asked[piece/64] &^= 1 << (piece % 64)
}

// gather is when a part has reached a foreign client.
func (s *Sim) gather(n *node, q request) {
	if q.bad {
		n.forget(q)
	} else {
		for b := q.first; b < q.first+uint32(q.count); b++ {
			if !n.has(b) {
				n.have[b/64] |= 1 << (b % 64)
				n.left--
			}
		}
		n.local.add(s.geo.PieceOf(q.first))
	}
	if n.left == 0 {
		for len(n.conns) > 0 {
			s.drop(n.conns[0])
		}
	}
	s.forage(n)
}
