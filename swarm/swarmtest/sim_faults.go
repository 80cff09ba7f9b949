package swarmtest

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Kill ends the process of a node without a word: its connections break.
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
	s.push(int64(s.Far), event{kind: evHangup, who: n.index})
}

// KillSome ends a share of the nodes that are alive, by chance, and has as many new ones come.
func (s *Sim) KillSome(share float64) {
	for _, n := range slices.Clone(s.nodes) {
		if n.alive && n.puppet != nil && !n.foreign && s.rng.Float64() < share {
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

// Jump sets the clocks of a share of the nodes to anything within two hours. What a program measures with is the clock
// that nobody can set; relay is told this one all the same.
func (s *Sim) Jump(share float64) {
	for _, n := range s.nodes {
		if s.rng.Float64() < share {
			n.skew = time.Duration(s.rng.Int64N(4*3600*second) - 2*3600*second)
		}
	}
}

// Suspend stops a node as a laptop is that is closed: for a time it neither sends, nor takes, nor looks at its clock,
// which stands still. Its connections stay.
func (s *Sim) Suspend(i int, d time.Duration) {
	n := s.node(int32(i))
	if !n.alive || s.now < n.frozen {
		return
	}
	n.frozen = s.now + int64(d)
	n.stood += d
	s.push(int64(d), event{kind: evKick, who: n.index})
	for _, c := range n.conns {
		s.push(int64(d), event{kind: evKick, who: c.parent.index})
	}
}

// waits puts an event off that happens inside a node that is suspended.
func (s *Sim) waits(e *event) bool {
	var n *node
	switch e.kind {
	case evArrive, evOpen, evClosed:
		n = e.conn.child
	case evTick, evSpeak, evAnswered, evFailed, evHole, evRead:
		n = s.node(e.who)
	default:
		return false
	}
	if s.now >= n.frozen {
		return false
	}
	s.push(n.frozen-s.now, *e)
	return true
}

// Alive is the number of the nodes that are.
func (s *Sim) Alive() (n int) {
	for _, o := range s.nodes {
		if o.alive && o.puppet != nil {
			n++
		}
	}
	return n
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
