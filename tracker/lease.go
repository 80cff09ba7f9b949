package tracker

import (
	"maps"
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
)

// The origin leases: cluster-wide single-flight. A lease says that one node, and nobody else, reads a piece
// from the origin now.
//
//   - A piece that a live node has, or whose roots are disputed, is not leased, but see starvation below.
//   - A free piece goes to the node whose request wants it first: urgent runs before runs ahead, each in the
//     order of the wish. Others that want it see it as held and get the next free pieces of their own wish.
//   - What a node is reading is a fact, not a request: a free piece of it is leased to the node at once, so
//     that nobody else reads it too. What another node holds a fresh lease for stays with that node.
//   - What a node has leased and not yet reported is bounded by share, so that nodes that start together
//     split the blob. What it reads counts, but is leased beyond the share too: a node that was alone reads as
//     much as it likes, and gets nothing more until others have caught up. Urgent pieces are counted apart, so
//     that a blocked reader does not wait for the window ahead of it; a node never gets more than twice its
//     share of what it is not reading.
//   - A lease inside the wish, reading included, lives as long as its holder completes any of its leases, or says
//     that more bytes have come from the origin. One
//     outside was given up, or is read by a transfer that the holder does not count on, and lives as long as
//     reading a piece usually takes. After that it is stale: it stays with the holder, which may still be
//     reading, until another node wants the piece, and counts no more.
//   - The end of solo: the node that was alone may read what nobody has leased to it. When the second one comes,
//     the first is told and asked for its wish; until it answers, or askFor has passed, the others are leased
//     only what they are reading themselves. Then it keeps what it wants.
//   - Starvation: a node that wishes, has nothing leased and has completed nothing for a while wants pieces
//     that others have and cannot, or will not, give it. It gets leases on those.

const (
	// maxShare bounds the bytes leased to one node: 16 MiB is 130 ms of a 1 Gbit/s origin, long against
	// the millisecond in which the next lease comes, short against what is lost when the node dies.
	maxShare = 16 << 20
	// maxPatience bounds how far late completions stretch leaseFor: 16 × 2 s is about blob.DefaultTimeout.
	maxPatience = 16
	// maxReadBytes bounds what is leased to a node because it reads it: 4 transfers ahead and a dozen for
	// blocked readers, of the 4 MiB at most that fetch asks an origin for at once. A stranger who reads
	// everything makes no more leases than that.
	maxReadBytes = 64 << 20
	// askFor is how long others wait for the wish of the node that was alone: a round trip and a pass of its
	// fetch take 1 to 10 ms on one network, and a blocked reader goes to the origin without a lease after 100.
	askFor = 30 * time.Millisecond
	// maxFormer bounds the list of nodes that a piece was taken from.
	maxFormer = 8
)

type lease struct {
	piece   uint32
	holder  *node
	granted time.Time
	wanted  time.Time // when the wish last contained it, as far as expire has seen
	urgent  bool      // was granted because somebody is blocked
	stale   bool
	waits   bool     // to be confirmed by the shared store: the holder has not been told
	former  []peerID // whom it was taken from; they may still report a root
}

// share is how many bytes one node may have leased: clamp(size/(2·nodes), two pieces, maxShare).
func (s *swarm) share() int64 {
	g := s.geometry
	return max(min(g.Size/int64(2*max(1, len(s.nodes))), maxShare), 2*g.PieceLength)
}

// wish replaces what n wants. A lease that it had given up and takes up again is a new one.
func (s *swarm) wish(now time.Time, n *node, w wish) {
	var dropped []*lease
	for i, l := range n.leases {
		if l.stale && !n.wants(i) {
			dropped = append(dropped, l)
		}
	}
	if n.idle() {
		n.fed = now
	}
	n.wish = w
	for _, l := range dropped {
		if n.wants(l.piece) {
			l.stale, l.granted = false, now
			s.refresh(l.piece)
		}
	}
}

// assign gives n what is free of its wish.
func (s *swarm) assign(now time.Time, n *node) {
	if n.idle() || s.wholeThere() && !n.starved {
		return
	}
	s.assignRuns(now, n, n.reading, int(max(maxReadBytes/s.geometry.PieceLength, 2))-len(n.leases), false)
	if s.asked != nil && s.asked != n {
		return
	}
	budget := int(s.share() / s.geometry.PieceLength)
	urgent, all := 0, 0
	for _, l := range n.leases {
		if !l.stale {
			all++
			if l.urgent {
				urgent++
			}
		}
	}
	all += s.assignRuns(now, n, n.urgent, budget-urgent, true)
	if s.planned(n) {
		s.assignStripes(now, n, all)
	} else {
		s.assignRuns(now, n, n.ahead, budget-all, false)
	}
}

// assignRuns gives n up to budget free pieces of runs and returns how many.
func (s *swarm) assignRuns(now time.Time, n *node, runs []blob.Run, budget int, urgent bool) (count int) {
	for _, r := range runs {
		for i := s.nextFree(n, r.First, r.End(), n.starved); i < r.End() && count < budget; i = s.nextFree(n, i+1, r.End(), n.starved) {
			if l := s.leases[i]; l == nil || l.holder != n {
				s.grant(now, n, i, urgent)
				count++
			}
		}
	}
	return count
}

// nextFree is the first piece of [from,end) that n may lease, or end; had: also one that somebody has.
func (s *swarm) nextFree(n *node, from, end uint32, had bool) uint32 {
	if !had {
		return s.taken.nextClear(from, end)
	}
	for ; from < end; from++ {
		if l := s.leases[from]; (l == nil || l.stale) && !s.disputed[from] && !n.has(from) {
			break
		}
	}
	return from
}

// grant leases the free piece i to n, taking it from a holder whose lease is stale.
func (s *swarm) grant(now time.Time, n *node, i uint32, urgent bool) {
	l := &lease{piece: i, holder: n, granted: now, wanted: now, urgent: urgent}
	if old := s.leases[i]; old != nil {
		l.former = append(old.former, old.holder.member.id)
		l.former = l.former[max(0, len(l.former)-maxFormer):]
		delete(old.holder.leases, i)
		s.tell(old.holder, true)
	}
	s.leases[i], n.leases[i] = l, l
	s.publish(l)
	s.granted++
	s.touched = append(s.touched, i)
	s.refresh(i)
	s.tell(n, true)
	n.fed = now
}

// end takes a lease back: its piece is there, or its holder is not.
func (s *swarm) end(l *lease) {
	delete(s.leases, l.piece)
	delete(l.holder.leases, l.piece)
	s.withdraw(l)
	s.touched = append(s.touched, l.piece)
	s.promote(l.piece)
	s.refresh(l.piece)
	if !s.taken.has(l.piece) {
		s.freed = true
	}
}

// expire marks the leases whose holders make no progress, and the nodes that starve.
func (s *swarm) expire(now time.Time) {
	for _, n := range s.nodes {
		for _, i := range n.leased() {
			l := n.leases[i]
			if n.wants(i) {
				l.wanted = now
			}
			idle := now.Sub(s.alive(l))
			switch stale := idle >= s.limit(l, now); {
			case stale && (s.isThere(i) && !n.starved || idle >= maxPatience*s.leaseFor):
				s.end(l)
				s.tell(n, true)
			case stale && !l.stale:
				l.stale, s.freed = true, true
				s.refresh(i)
			case !stale && l.stale:
				l.stale = false
				s.refresh(i)
			}
		}
		if !n.starved && len(n.urgent)+len(n.ahead) > 0 && now.Sub(n.fed) > s.hungry(n) && !n.busy() {
			n.starved, s.freed = true, true
		}
	}
}

// leased are the pieces that n holds leases of, in order: what follows from them is to be the same every time.
func (n *node) leased() []uint32 {
	if len(n.leases) == 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(n.leases))
}

// hungry is how long n may go without a piece before it starves. In a tree its parents are seen to first.
func (s *swarm) hungry(n *node) time.Duration {
	if s.planner != nil && n.bulk {
		return 5 * s.leaseFor
	}
	return 3 * s.leaseFor / 2
}

// busy reports whether n holds a lease that is not stale.
func (n *node) busy() bool {
	for _, l := range n.leases {
		if !l.stale {
			return true
		}
	}
	return false
}

// isThere reports whether some node has piece i.
func (s *swarm) isThere(i uint32) bool {
	has, _ := s.abroadHas(i)
	return s.wholeThere() || s.available.at(i) > 0 || has
}

// alive is the last sign that l is of use.
func (s *swarm) alive(l *lease) time.Time {
	at := l.granted
	if l.holder.wants(l.piece) {
		if l.holder.progress.After(at) {
			at = l.holder.progress
		}
	} else if l.wanted.After(at) {
		at = l.wanted
	}
	return at
}

// limit is how long l lasts after its last sign of life.
func (s *swarm) limit(l *lease, now time.Time) time.Duration {
	switch {
	case l.holder.polls == 0:
		return s.leaseFor // its connection is gone: no reason to be patient
	case l.wanted.Before(now) && s.usual > 0:
		return min(max(4*s.usual, s.leaseFor/4), s.patience)
	}
	return s.patience
}

// ask tells n, which was alone, that it no longer is, and makes others wait for its wish before they are leased
// what n may be reading.
func (s *swarm) ask(now time.Time, n *node) {
	s.asked, s.askedAt, s.askedUntil = n, s.gen, now.Add(askFor)
	s.tell(n, true)
}

// answered ends the wait for the wish of the node that was alone. What it reads it may read on, and what it wants
// it keeps; everything else is for the others.
func (s *swarm) answered() {
	first := s.asked
	s.asked, s.freed = nil, true
	for _, i := range first.leased() {
		l := first.leases[i]
		if !first.wants(i) {
			s.end(l)
			s.tell(first, true)
		}
	}
}

// waits is how long somebody who wants leases waits for the answer of another node; 0: not at all.
func (s *swarm) waits(now time.Time, n *node) time.Duration {
	if s.asked == nil || s.asked == n {
		return 0
	}
	return max(s.askedUntil.Sub(now), 1)
}

// overdue ends the wait for an answer that has not come in time.
func (s *swarm) overdue(now time.Time) {
	if s.asked != nil && !now.Before(s.askedUntil) {
		s.answered()
	}
}

// settle ends a step: pieces that became free go to whoever wants them, and those that want a piece whose
// lease came or went are told.
func (s *swarm) settle(now time.Time) {
	s.grow(now)
	if s.freed {
		s.freed = false
		for _, n := range s.nodes {
			s.assign(now, n)
		}
	}
	if len(s.touched) == 0 {
		return
	}
	slices.Sort(s.touched)
	runs := runsOf(s.touched)
	s.touched = s.touched[:0]
	for _, n := range s.nodes {
		// Who takes everything from its parents has no use for the news of what is leased ahead.
		if s.planned(n) && (meets(n.urgent, runs) || meets(n.reading, runs)) || !s.planned(n) && n.meets(runs) {
			s.tell(n, false)
		}
	}
}

// heldFrom lists what n wants and another node has leased; with a place in the trees, also what others have: it is
// under way to n, and worth waiting for.
func (s *swarm) heldFrom(n *node) []blob.Run {
	from, planned := s.leased, s.planned(n)
	if planned {
		from = s.taken
	}
	if len(s.leases) == len(n.leases) && !planned && s.strange() == 0 || n.idle() || n.member.seed {
		return nil
	}
	first, end := s.pieces, uint32(0)
	for _, runs := range n.lists() {
		for _, r := range runs {
			first, end = min(first, r.First), max(end, r.End())
		}
	}
	// The words of leased that the wish touches, 64 pieces at a time.
	skip := first / 64
	held := append(s.scratch[:0], make(bitmap, (end+63)/64-skip)...)
	s.scratch = held
	for _, runs := range n.lists() {
		for _, r := range runs {
			for w := r.First / 64; w <= (r.End()-1)/64; w++ {
				mask := ^uint64(0)
				if w == r.First/64 {
					mask <<= r.First % 64
				}
				if w == (r.End()-1)/64 {
					mask &= ^uint64(0) >> (63 - (r.End()-1)%64)
				}
				held[w-skip] |= from[w] & mask
			}
		}
	}
	for w := range held {
		held[w] &^= n.have[int(skip)+w]
	}
	inside := func(i uint32) bool { return i/64 >= skip && int(i/64-skip) < len(held) }
	for i := range n.leases {
		if inside(i) {
			held.put(i-skip*64, false)
		}
	}
	for i := range s.disputed {
		if planned && inside(i) {
			held.put(i-skip*64, false)
		}
	}
	runs, _ := held.runs(0, end-skip*64, maxHeld)
	for k := range runs {
		runs[k].First += skip * 64
	}
	return runs
}

// counters counts, per piece, the nodes that have it and do not have everything. It is cut into pages that
// come into being when they are written.
type counters [][]uint16

const countersPage = 4096

func newCounters(n uint32) counters { return make(counters, (uint64(n)+countersPage-1)/countersPage) }

func (c counters) at(i uint32) uint16 {
	if p := c[i/countersPage]; p != nil {
		return p[i%countersPage]
	}
	return 0
}

func (c counters) add(i uint32, by int) {
	p := &c[i/countersPage]
	if *p == nil {
		*p = make([]uint16, countersPage)
	}
	(*p)[i%countersPage] += uint16(by)
}
