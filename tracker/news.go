package tracker

import (
	"cmp"
	"slices"
	"time"
)

// tell notes news for n. Hard news (a lease given or taken, company, a dispute) are told at once; others
// (a root, a peer, somebody else's lease) may wait a moment to travel together.
func (s *swarm) tell(n *node, hard bool) {
	if hard {
		n.hard = s.gen
	} else {
		n.soft = s.gen
	}
	if !n.changed {
		n.changed = true
		s.changed = append(s.changed, n)
	}
}

// news reports whether n has not been told something yet.
func (s *swarm) news(n *node) (hard, soft bool) {
	return n.hard > n.toldGen, n.soft > n.toldGen || n.toldLog < int64(len(s.log))
}

// drain returns those with news since the last call.
func (s *swarm) drain() []*node {
	list := s.changed
	s.changed = nil
	for _, n := range list {
		n.changed = false
	}
	return list
}

// reply is what n has to know now.
func (s *swarm) reply(n *node) *planReply {
	r := &planReply{
		epoch: s.epoch, gen: s.gen, log: n.toldLog, interval: s.interval, ttl: s.leaseFor,
		nodes: int64(len(s.nodes) + s.strange()), solo: len(s.nodes) == 1 && s.strange() == 0,
		alone: s.abroad != nil && !s.abroad.joined,
		held:  s.heldFrom(n), pace: s.pace(), place: s.newPlace(n),
	}
	mine := make([]uint32, 0, len(n.leases))
	for i, l := range n.leases {
		if !l.waits {
			mine = append(mine, i)
		}
	}
	slices.Sort(mine)
	r.lease = runsOf(mine)
	r.roots, r.log = s.claimsSince(n.toldLog, n.member.id)
	r.disputed = s.disputedRuns(s.pieces)
	if s.newest > n.toldGen {
		r.peers = s.newcomers(n)
	}
	r.peers = append(r.peers, s.holders(n)...)
	n.toldGen, n.toldLog, n.toldTree = r.gen, r.log, n.number
	return r
}

// pace is what lies between two reports that nobody waits for, and between two replies with nothing urgent in
// them: 250 µs a node keep the tracker below 4 000 of each a second, which cost it 0.4 of a core.
func (s *swarm) pace() time.Duration {
	return min(250*time.Microsecond*time.Duration(len(s.nodes)), time.Second)
}

// newcomers samples the peers that n has not been told of: the nearest first, and of those the ones that have
// most.
func (s *swarm) newcomers(n *node) []planPeer {
	type ranked struct {
		planPeer
		near int
		rank uint32
	}
	var list []ranked
	for k := range s.members {
		m := s.members[(s.turn+k)%len(s.members)]
		if m != n.member && m.joined > n.toldGen && m.addr.Port() != 0 {
			if list = append(list, ranked{planPeer{m.addr, m.id}, nearness(n.zone, m.zone()), m.rank()}); len(list) == s.maxPeers {
				break
			}
		}
	}
	s.turn += max(1, len(list))
	for _, p := range s.strangers {
		if p.joined > n.toldGen && len(list) < s.maxPeers {
			list = append(list, ranked{p.planPeer, 0, p.rank()})
		}
	}
	if limit := s.maxPeers - len(list); n.toldGen == 0 && limit > 0 && s.outside != nil {
		for _, p := range s.outside(limit) {
			list = append(list, ranked{p.planPeer, 0, p.rank()})
		}
	}
	slices.SortStableFunc(list, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.near, a.near), cmp.Compare(b.rank, a.rank))
	})
	peers := make([]planPeer, len(list))
	for i, r := range list {
		peers[i] = r.planPeer
	}
	return peers
}

// seedRank is the rank of those that have everything.
const seedRank = 1<<32 - 1

// rank orders peers in replies: those that have most first.
func (m *member) rank() uint32 {
	if m.seed {
		return seedRank
	}
	return m.plan.had
}

func (p *stranger) rank() uint32 {
	if p.seed {
		return seedRank
	}
	return 0
}
