package tracker

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
)

// rules are what the operator decides.
type rules struct {
	interval time.Duration // between BEP 3 announces
	leaseFor time.Duration // how long a lease lasts without progress
	maxPeers int           // in one reply
}

// Bounds on the memory of one swarm.
const (
	maxNodes = 1 << 14 // nodes that plan; each has a bitmap (2 KiB for 16 Ki pieces) and up to 320 runs
)

// errFull says that a bound of the tracker's memory was reached.
var errFull = fmt.Errorf("%w: the tracker is full: add another tracker", blob.ErrUnavailable)

// errGeometry says that members disagree about how the blob is cut.
var errGeometry = fmt.Errorf("%w: another size or piece length than the rest of this swarm", blob.ErrInvalid)

// errStranger says that a node must introduce itself with a full report first.
var errStranger = errors.New("not known here: full report needed")

// member is one node of a swarm, as others see it. Peers that do not plan are in plain.go.
type member struct {
	id     peerID
	addr   netip.AddrPort
	seen   time.Time
	joined int64 // gen at which others can see it
	slot   int   // in swarm.members
	seed   bool  // has the whole blob
	plan   *node
}

// node is what the scheduler keeps about a member that plans.
type node struct {
	member *member
	polls  int // long polls that are held open now
	branch
	seq  int64 // of the newest report
	have bitmap
	had  uint32 // number of pieces in have; have is nil when it is all of them
	wish
	leases     map[uint32]*lease
	read       int64     // bytes from the origin, as it said last
	progress   time.Time // when it last completed a piece it had leased, or read some of it
	fed        time.Time // when it last completed any piece, was given a lease, or began to wish
	starved    bool      // wants what others have and has not got it: see lease.go
	hard, soft int64     // gen of the newest news that cannot wait, and that can
	toldGen    int64     // gen, and end of the claim log, of the newest reply it has had
	toldLog    int64
	changed    bool // is in swarm.changed
}

// wants reports whether n wants piece i and has not reported it.
func (n *node) wants(i uint32) bool {
	return n.names(i) && !n.has(i)
}

func (n *node) has(i uint32) bool { return n.member.seed || n.have.has(i) }

// swarm is all the tracker knows about one blob, as a state machine: it starts nothing, waits for nothing
// and is told the time. It is not safe for concurrent use.
//
// INVARIANT: bit i of taken is set when some node has piece i, or it is disputed, or it is leased and the
// lease is not stale. A piece is free when its bit is clear and no seed is here.
type swarm struct {
	rules
	epoch     int64
	gen       int64
	byID      map[peerID]*member
	members   []*member                  // in no order: what is sampled for replies
	turn      int                        // where the next sample starts
	nodes     []*node                    // in the order they came
	seeds     int                        // of nodes: those that have everything
	newest    int64                      // greatest joined of all members and strangers
	emptied   time.Time                  // when the last member left
	strangers []stranger                 // plain peers that came lately, oldest first
	sources   map[peerID]*member         // plain peers that have everything; none of them is in members
	outside   func(limit int) []stranger // plain peers, for nodes that come; nil: there are none

	geometry  blob.Geometry // of the nodes; zero while there has been none
	pieces    uint32
	taken     bitmap
	available counters
	leases    map[uint32]*lease
	leased    bitmap        // the leases that are not stale
	scratch   bitmap        // of heldFrom
	patience  time.Duration // leaseFor, doubled when a lease was taken away too early
	usual     time.Duration // from a lease to the piece, moving average; 0: not known
	granted   int64         // leases ever given

	asked      *node     // was alone until others came, and has not said yet what it reads; nil: nobody
	askedAt    int64     // gen at which it was told
	askedUntil time.Time // when its answer no longer matters
	claims
	trees
	abroad *abroad // nil: no other tracker shares its state with this one

	freed   bool     // this step made pieces free: somebody else may want them
	touched []uint32 // pieces whose lease came or went in this step
	changed []*node  // those with news; drained by the caller
}

func newSwarm(r rules, epoch int64, now time.Time) *swarm {
	return &swarm{
		rules: r, epoch: epoch, byID: map[peerID]*member{}, leases: map[uint32]*lease{},
		claims: newClaims(), patience: r.leaseFor, emptied: now,
	}
}

// report applies one request of a node at the time now. errStranger: the node must send a full report.
func (s *swarm) report(now time.Time, r *planRequest, addr netip.AddrPort) (*node, error) {
	m := s.byID[r.peer]
	if r.stop {
		if m != nil {
			s.gen++
			s.remove(now, m)
			s.settle(now)
		}
		return nil, errStranger
	}
	known := m != nil && r.epoch == s.epoch
	if !known && !r.full {
		return nil, errStranger
	}
	if len(s.nodes) == 0 && s.geometry != r.geometry {
		s.reset(r.geometry)
	}
	if s.geometry != r.geometry {
		return nil, fmt.Errorf("%w: %d bytes in pieces of %d, here it is %d in pieces of %d", errGeometry, r.geometry.Size, r.geometry.PieceLength, s.geometry.Size, s.geometry.PieceLength)
	}
	s.gen++
	s.overdue(now)
	logged := len(s.log)
	if m == nil || m.addr != addr {
		var err error
		if m, err = s.join(now, r.peer, addr); err != nil {
			return nil, err
		}
	}
	n := m.plan
	m.seen = now
	if r.full || len(r.have) > 0 || r.want && n.about != r.about {
		s.note(m.id)
	}
	n.toldGen, n.toldLog = min(r.gen, s.gen-1), min(r.log, int64(len(s.log)))
	n.toldTree = r.tree
	if r.epoch != s.epoch {
		n.toldGen, n.toldLog, n.toldTree = 0, 0, 0
	}
	if r.full && r.seq > n.seq {
		s.forget(n)
	}
	for _, c := range r.roots {
		s.claim(n, c.piece, c.root)
	}
	for _, run := range r.have {
		for i := run.First; i < run.End(); i++ {
			s.complete(now, n, i)
		}
	}
	s.progress(now, n)
	if (r.want || r.full) && r.seq > n.seq {
		s.describe(now, n, r.about)
		s.complain(now, n, r.blame)
		if r.read > n.read {
			n.progress = now
		}
		n.read = r.read
	}
	if r.want && r.seq > n.seq {
		s.wish(now, n, r.wish)
		if s.asked == n && r.gen >= s.askedAt {
			s.answered()
		}
	}
	if r.full || r.want { // a poll travels on another connection and may overtake a report
		n.seq = max(n.seq, r.seq)
	}
	s.grow(now)
	s.assign(now, n)
	s.settle(now)
	s.announceClaims(logged)
	return n, nil
}

// reset makes the scheduler's part new for a blob that is cut this way.
func (s *swarm) reset(g blob.Geometry) {
	s.geometry, s.pieces = g, g.Pieces()
	s.taken, s.leased = newBitmap(s.pieces), newBitmap(s.pieces)
	s.available = newCounters(s.pieces)
	s.leases, s.claims, s.patience, s.usual = map[uint32]*lease{}, newClaims(), s.leaseFor, 0
	s.recount()
}

// join adds a node, or gives one that was here a new address.
func (s *swarm) join(now time.Time, id peerID, addr netip.AddrPort) (*member, error) {
	s.evict(now, addr, id)
	m := s.byID[id]
	if m == nil && len(s.nodes) >= maxNodes {
		return nil, fmt.Errorf("swarm of %d nodes: %w", len(s.nodes), errFull)
	}
	known := m != nil
	if !known {
		m = &member{id: id, slot: len(s.members)}
		s.byID[id] = m
		s.members = append(s.members, m)
	}
	m.addr, m.seen = addr, now
	m.joined, s.newest = s.gen, s.gen
	s.note(id)
	if !known {
		m.plan = &node{member: m, leases: map[uint32]*lease{}, have: newBitmap(s.pieces), progress: now, fed: now}
		s.own(m, s.pieces == 0)
		s.nodes = append(s.nodes, m.plan)
		s.sourceGone(now, &id)
		if s.abroad != nil {
			s.unhear(now, id)
		}
		s.meet(now)
		if len(s.nodes) == 2 {
			s.ask(now, s.nodes[0])
		}
	}
	for _, n := range s.nodes {
		if n.member != m {
			s.tell(n, false)
		}
	}
	return m, nil
}

// evict removes a node of the same address whose process is gone: it was started anew under another peer id.
// One with a poll open lives, behind the same address translation.
func (s *swarm) evict(now time.Time, addr netip.AddrPort, id peerID) {
	if addr.Port() == 0 {
		return
	}
	for _, n := range s.nodes {
		if n.member.addr == addr && n.member.id != id && n.polls == 0 {
			s.remove(now, n.member)
			return
		}
	}
}

// remove forgets a member and all it holds.
func (s *swarm) remove(now time.Time, m *member) {
	n := m.plan
	for _, i := range n.leased() {
		s.end(n.leases[i])
	}
	s.forget(n)
	s.describe(now, n, about{})
	at := slices.Index(s.nodes, n)
	s.nodes = slices.Delete(s.nodes, at, at+1)
	s.freed = true
	if s.asked != nil && (s.asked == n || len(s.nodes) == 1) {
		s.answered()
	}
	if len(s.nodes) == 1 {
		s.tell(s.nodes[0], true)
	}
	s.own(m, false)
	s.uproot(now, m)
	last := s.members[len(s.members)-1]
	s.members[m.slot], last.slot = last, m.slot
	s.members = s.members[:len(s.members)-1]
	delete(s.byID, m.id)
	s.note(m.id)
	if len(s.members) == 0 {
		s.strangers, s.sources, s.emptied = nil, nil, now
	}
}

// complete notes that n has piece i.
func (s *swarm) complete(now time.Time, n *node, i uint32) {
	if n.has(i) {
		return
	}
	n.have.put(i, true)
	n.had++
	n.got[relay.Stripe(s.geometry, i, stripes)]++
	s.available.add(i, 1)
	n.fed = now
	l := s.leases[i]
	if l == nil || l.holder != n {
		n.starved = false // it has got something without a lease
	}
	if l != nil && l.holder == n {
		n.progress = now
		if s.usual == 0 {
			s.usual = now.Sub(l.granted)
		}
		s.usual += (now.Sub(l.granted) - s.usual) / 8
		s.end(l)
	} else if l != nil && slices.Contains(l.former, n.member.id) {
		// It was slow, not dead: the lease was taken away too early, and the piece is read twice.
		s.patience = min(2*s.patience, maxPatience*s.leaseFor)
	}
	s.refresh(i)
	if n.had == s.pieces {
		for i := range s.pieces {
			s.available.add(i, -1)
			s.refresh(i)
		}
		n.have = nil
		s.own(n.member, true)
	}
}

// forget takes back all that n has reported to have.
func (s *swarm) forget(n *node) {
	if s.pieces == 0 || n.had == 0 {
		return
	}
	if n.member.seed {
		s.own(n.member, false)
		n.have = newBitmap(s.pieces)
	} else {
		for i := n.have.nextSet(0, s.pieces); i < s.pieces; i = n.have.nextSet(i+1, s.pieces) {
			s.available.add(i, -1)
			s.refresh(i)
		}
		clear(n.have)
	}
	n.had, n.got, n.marks = 0, [stripes]uint32{}, [stripes]uint32{}
	s.freed = true
}

// own notes whether m has everything.
func (s *swarm) own(m *member, all bool) {
	if m.seed == all {
		return
	}
	by := 1
	if !all {
		by = -1
	}
	if m.plan != nil {
		s.countTrees(m.plan, -1)
	}
	m.seed = all
	s.seeds += by
	if m.plan != nil {
		s.countTrees(m.plan, 1)
	}
	s.turned = append(s.turned, m)
}

// refresh restores the invariant of taken for piece i.
func (s *swarm) refresh(i uint32) {
	l := s.leases[i]
	has, leased := s.abroadHas(i)
	s.taken.put(i, s.available.at(i) > 0 || has || leased || s.disputed[i] || l != nil && !l.stale)
	s.leased.put(i, leased || l != nil && !l.stale)
}

// tick does what the clock demands: ends leases without progress, removes the dead.
func (s *swarm) tick(now time.Time) {
	s.gen++
	s.overdue(now)
	logged := len(s.log)
	for _, n := range slices.Clone(s.nodes) {
		if n.polls == 0 && now.Sub(n.member.seen) > 3*s.leaseFor && !s.feeds(now, n) {
			s.remove(now, n.member)
		}
	}
	s.sourcesGone(now)
	s.travel(now)
	s.expire(now)
	if s.planner != nil {
		s.planner.Tick(now)
		s.rush(now)
	}
	s.settle(now)
	s.announceClaims(logged)
}

// poll counts the long polls of n; it lives as long as one is open.
func (s *swarm) poll(now time.Time, n *node, by int) {
	n.polls += by
	n.member.seen = now
}
