package tracker

import (
	"net/netip"
	"slices"
	"time"

	"github.com/pantala/pantala/relay"
)

// Peers that do not plan, as the scheduler sees them: addresses that its nodes are told, and, of those that have
// everything, sources for the trees. All else about them is in plain.go.

// stranger is a plain peer.
type stranger struct {
	planPeer
	seed   bool
	joined int64 // gen at which nodes can see it
}

// maxSources is how many plain seeds the trees know of: each is a source for stripes, and there are few.
const maxSources = 4 * stripes

// stranger notes a plain peer that has announced; fresh: nodes have not been told of it. As many as one reply
// holds are kept, the newest.
func (s *swarm) stranger(now time.Time, p planPeer, seed, fresh bool) {
	if len(s.nodes) == 0 {
		return
	}
	s.gen++
	s.meetOne(now, p, seed, fresh)
	s.settle(now)
}

// meetOne is stranger inside a step.
func (s *swarm) meetOne(now time.Time, p planPeer, seed, fresh bool) {
	if seed {
		s.source(now, p)
	} else {
		s.sourceGone(now, &p.id)
	}
	if fresh {
		s.newest = s.gen
		if len(s.strangers) >= s.maxPeers {
			s.strangers = append(s.strangers[:0], s.strangers[1:]...)
		}
		s.strangers = append(s.strangers, stranger{p, seed, s.gen})
		for _, n := range s.nodes {
			s.tell(n, false)
		}
	}
}

// meet takes in the plain seeds that were there before the first node came.
func (s *swarm) meet(now time.Time) {
	if s.abroad != nil && len(s.nodes) == 1 {
		for _, f := range s.abroad.nodes {
			s.introduce(now, f, true)
		}
	}
	if s.outside == nil {
		return
	}
	for _, p := range s.outside(maxSources) {
		if p.seed {
			s.source(now, p.planPeer)
		}
	}
}

// source notes a plain peer that has everything, and can be reached.
func (s *swarm) source(now time.Time, p planPeer) {
	m := s.sources[p.id]
	switch {
	case m != nil:
		m.seen, m.addr = now, p.addr
	case len(s.sources) < maxSources && p.addr.Port() != 0 && s.byID[p.id] == nil:
		m = &member{id: p.id, addr: p.addr, seen: now, seed: true}
		if s.sources == nil {
			s.sources = map[peerID]*member{}
		}
		s.sources[p.id] = m
		s.put(now, m)
	}
}

// sourceGone forgets a source.
func (s *swarm) sourceGone(now time.Time, id *peerID) {
	if s.sources[*id] == nil {
		return
	}
	delete(s.sources, *id)
	if s.planner != nil && s.byID[*id] == nil {
		s.planner.Remove(now, relay.NodeID(*id))
	}
}

// sourcesGone forgets the sources that have not announced for as long as plain peers are kept.
func (s *swarm) sourcesGone(now time.Time) {
	for id, m := range s.sources {
		if now.Sub(m.seen) > 2*s.interval {
			s.sourceGone(now, &id)
		}
	}
}

// parent is a member that passes on to others: a node, or a source.
func (s *swarm) parent(id peerID) *member {
	if m := s.byID[id]; m != nil {
		return m
	}
	return s.sources[id]
}

// seen notes that a node has announced as a plain peer does, and reports whether it is a node.
func (s *swarm) seen(now time.Time, id *peerID) bool {
	m := s.byID[*id]
	if m != nil {
		m.seen = now
	}
	return m != nil
}

// sample adds up to limit nodes other than id to f; a seed has no use for other seeds.
func (s *swarm) sample(f *found, id *peerID, limit int, which families, seed bool) {
	for k := range s.members {
		if f.peers() >= limit {
			break
		}
		m := s.members[(s.turn+k)%len(s.members)]
		six := !m.addr.Addr().Is4()
		if m.id == *id || seed && m.seed || six && which&only6 == 0 || !six && which&only4 == 0 {
			continue
		}
		f.add(&spot{id: m.id, ip: m.addr.Addr().As16(), port: m.addr.Port()}, six)
	}
	s.turn += max(1, f.peers())
}

// expel forgets nodes and plain peers that bad names.
func (s *swarm) expel(bad func(id *peerID, ip netip.Addr) bool) {
	now := time.Now()
	s.gen++
	for _, n := range slices.Clone(s.nodes) {
		if bad(&n.member.id, n.member.addr.Addr()) {
			s.remove(now, n.member)
		}
	}
	s.strangers = slices.DeleteFunc(s.strangers, func(o stranger) bool { return bad(&o.id, o.addr.Addr()) })
	for id, m := range s.sources {
		if bad(&id, m.addr.Addr()) {
			s.sourceGone(now, &id)
		}
	}
	if s.pieces > 0 {
		s.settle(now)
	}
}
