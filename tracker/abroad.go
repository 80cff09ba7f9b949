package tracker

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/pantala/pantala/blob"
)

// What other trackers know of a swarm, when several share their state (commons.go brings it here, and takes away
// what they have to know of ours). To the scheduler it is this:
//
//   - A node that reports to another tracker is a peer that ours are told of. What it has is not leased here, and
//     while there is one, nobody here is alone.
//   - While another tracker has nodes of the swarm, a lease is told to its holder only when the shared store has
//     confirmed it; one that another tracker was faster to take is held there.
//   - A root that was claimed there counts as if it had been claimed here, and contradicts as one from here does.
//
// When the shared store is away, leases are confirmed at once, and what was heard is forgotten after a while: the
// swarm goes on from memory.

const (
	// confirmFor is how long a lease waits to be confirmed: a shared store that answers takes a millisecond.
	confirmFor = 100 * time.Millisecond

	// abroadFor is how long the word of another tracker counts that is heard of no more.
	abroadFor = 10 * time.Second
)

// abroad is the part of a swarm's state that belongs to this file.
type abroad struct {
	nodes  map[peerID]*foreigner
	there  counters // of pieces: foreigners that have it, and not everything
	seeds  int      // foreigners that have everything
	leased map[uint32]time.Time
	heard  time.Time // when the shared store last answered
	joined bool      // it answers

	dirty    map[peerID]bool // nodes of ours that others have to be told about
	asked    []*lease        // to be written, and confirmed when they wait for it
	ended    []lease         // to be taken back
	exported int             // how much of the log of claims others know
	disputes []uint32        // that others have to be told about
	reread   bool            // what others have claimed has to be read again
}

// foreigner is a node that reports to another tracker.
type foreigner struct {
	id       peerID
	tracker  trackerID
	addr     netip.AddrPort
	geometry blob.Geometry
	seed     bool
	zone     string
	have     bitmap // nil: everything
}

// trackerID names one tracker among those that share their state, for as long as it runs.
type trackerID [8]byte

func newAbroad() *abroad {
	return &abroad{nodes: map[peerID]*foreigner{}, leased: map[uint32]time.Time{}, dirty: map[peerID]bool{}}
}

// strange is how many nodes of the swarm report elsewhere.
func (s *swarm) strange() int {
	if s.abroad == nil {
		return 0
	}
	return len(s.abroad.nodes)
}

// wholeThere reports whether some node has everything.
func (s *swarm) wholeThere() bool { return s.seeds > 0 || s.abroad != nil && s.abroad.seeds > 0 }

// abroadHas reports whether a node that reports elsewhere has piece i, or reads it.
func (s *swarm) abroadHas(i uint32) (has, leased bool) {
	a := s.abroad
	if a == nil || a.there == nil {
		return false, false
	}
	_, leased = a.leased[i]
	return a.there.at(i) > 0, leased
}

// sharing reports whether leases have to be confirmed.
func (s *swarm) sharing() bool { return s.abroad != nil && s.abroad.joined && len(s.abroad.nodes) > 0 }

// note has others told about a node.
func (s *swarm) note(id peerID) {
	if s.abroad != nil && s.abroad.joined {
		s.abroad.dirty[id] = true
	}
}

// recount makes the counts of abroad new for a blob that is cut this way.
func (s *swarm) recount() {
	a := s.abroad
	if a == nil {
		return
	}
	a.there, a.seeds, a.exported, a.reread = newCounters(s.pieces), 0, 0, true
	clear(a.leased)
	for _, f := range a.nodes {
		s.weigh(f, 1)
	}
}

// weigh adds f to the counts of abroad, or takes it away. One that cuts the blob otherwise counts nowhere.
func (s *swarm) weigh(f *foreigner, by int) {
	a := s.abroad
	switch {
	case a.there == nil || f.geometry != s.geometry:
	case f.seed:
		a.seeds += by
	default:
		for i := f.have.nextSet(0, s.pieces); i < s.pieces; i = f.have.nextSet(i+1, s.pieces) {
			a.there.add(i, by)
			s.refresh(i)
		}
	}
}

// hear takes in what another tracker knows of one node now.
func (s *swarm) hear(now time.Time, f *foreigner) {
	a := s.abroad
	if s.byID[f.id] != nil {
		s.unhear(now, f.id) // it has come to us
		return
	}
	old := a.nodes[f.id]
	if old == nil && len(a.nodes) >= maxNodes {
		return
	}
	if old != nil {
		s.weigh(old, -1)
	}
	a.nodes[f.id] = f
	s.weigh(f, 1)
	if old == nil && len(a.nodes) == 1 {
		for _, n := range s.nodes {
			s.tell(n, true) // none is alone any more
		}
	}
	s.introduce(now, f, old == nil || old.addr != f.addr)
}

// introduce tells the nodes here of f.
func (s *swarm) introduce(now time.Time, f *foreigner, fresh bool) {
	if len(s.nodes) > 0 && f.addr.Port() != 0 {
		s.meetOne(now, planPeer{f.addr, f.id}, f.seed, fresh)
	}
}

// unhear forgets a node that reported elsewhere.
func (s *swarm) unhear(now time.Time, id peerID) {
	a := s.abroad
	f := a.nodes[id]
	if f == nil {
		return
	}
	s.weigh(f, -1)
	delete(a.nodes, id)
	s.sourceGone(now, &id)
	s.freed = true
	if len(a.nodes) == 0 {
		for _, n := range s.nodes {
			s.tell(n, true)
		}
		s.confirmAll(now)
	}
}

// unhearAll forgets the nodes of one tracker; nil: of all.
func (s *swarm) unhearAll(now time.Time, of *trackerID) {
	for id, f := range s.abroad.nodes {
		if of == nil || f.tracker == *of {
			s.unhear(now, id)
		}
	}
}

// reach notes that the shared store answers, or does so no longer.
func (s *swarm) reach(now time.Time, yes bool) {
	a := s.abroad
	if a.heard = now; a.joined == yes {
		return
	}
	a.joined = yes
	a.exported, a.asked, a.ended, a.disputes = 0, nil, nil, nil
	clear(a.dirty)
	if !yes {
		s.confirmAll(now)
		return
	}
	for _, n := range s.nodes { // it may have lost everything
		a.dirty[n.member.id] = true
	}
	for _, l := range s.leases {
		a.asked = append(a.asked, l)
	}
	for i := range s.disputed {
		a.disputes = append(a.disputes, i)
	}
}

// publish has the lease written, and makes it wait when others could be faster.
func (s *swarm) publish(l *lease) {
	if s.abroad == nil || !s.abroad.joined {
		return
	}
	l.waits = s.sharing()
	s.abroad.asked = append(s.abroad.asked, l)
}

// withdraw has a lease taken back.
func (s *swarm) withdraw(l *lease) {
	if s.abroad != nil && s.abroad.joined {
		s.abroad.ended = append(s.abroad.ended, *l)
	}
}

// confirm ends the wait of a lease.
func (s *swarm) confirm(now time.Time, l *lease) {
	if l.waits && s.leases[l.piece] == l {
		l.waits, l.granted = false, now
		s.tell(l.holder, true)
	}
}

// confirmAll ends the wait of all leases.
func (s *swarm) confirmAll(now time.Time) {
	for _, l := range s.leases {
		s.confirm(now, l)
	}
}

// deny takes a lease back that another tracker was faster to give.
func (s *swarm) deny(now time.Time, l *lease) {
	if s.leases[l.piece] != l {
		return
	}
	ended := len(s.abroad.ended)
	s.abroad.leased[l.piece] = now.Add(2 * s.leaseFor)
	s.end(l)
	s.abroad.ended = s.abroad.ended[:ended] // it is not ours to take back
	s.tell(l.holder, true)
}

// hearClaim takes in a root that was claimed elsewhere.
func (s *swarm) hearClaim(i uint32, root blob.Hash) {
	if i >= s.pieces || s.disputed[i] || s.poisoned {
		return
	}
	if known, ok := s.roots[i]; ok {
		if known.root != root {
			s.dispute(i)
		}
		return
	}
	s.accept(i, root, peerID{})
}

// hearDispute takes in a dispute that was found elsewhere.
func (s *swarm) hearDispute(i uint32) {
	if i < s.pieces && !s.disputed[i] {
		s.dispute(i)
	}
}

// travel is what the clock demands of abroad.
func (s *swarm) travel(now time.Time) {
	a := s.abroad
	if a == nil {
		return
	}
	for i, until := range a.leased {
		if now.After(until) {
			delete(a.leased, i)
			s.refresh(i)
			s.freed = true
		}
	}
	for _, l := range s.leases {
		if l.waits && now.Sub(l.granted) > confirmFor {
			s.confirm(now, l)
		}
	}
	if len(a.nodes) > 0 && now.Sub(a.heard) > abroadFor {
		s.unhearAll(now, nil)
	}
}

// record is what others have to know of n.
func (n *node) record(g blob.Geometry, by trackerID) *foreigner {
	return &foreigner{id: n.member.id, tracker: by, addr: n.member.addr, geometry: g, seed: n.member.seed, zone: n.zone, have: n.have}
}

const recordVersion = 1

// append writes a record: version u8 | size u64 | piece length u32 | ip [16] | port u16 | flags u8, 1 = has
// everything | length of the zone u8 | zone | bitfield, as in BEP 3, unless it has everything.
func (f *foreigner) append(b []byte) []byte {
	b = append(b, recordVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(f.geometry.Size))
	b = binary.BigEndian.AppendUint32(b, uint32(f.geometry.PieceLength))
	ip := f.addr.Addr().As16()
	b = append(b, ip[:]...)
	b = binary.BigEndian.AppendUint16(b, f.addr.Port())
	b = append(b, uint8(flag(f.seed)), uint8(len(f.zone)))
	b = append(b, f.zone...)
	if f.seed {
		return b
	}
	n := f.geometry.Pieces()
	bits := make([]byte, (n+7)/8)
	for i := f.have.nextSet(0, n); i < n; i = f.have.nextSet(i+1, n) {
		bits[i/8] |= 0x80 >> (i % 8)
	}
	return append(b, bits...)
}

// parseForeigner reads a record.
func parseForeigner(b []byte) (*foreigner, error) {
	bad := func(what string) (*foreigner, error) {
		return nil, fmt.Errorf("%w: shared state: record of a node: %s", blob.ErrInvalid, what)
	}
	const fixed = 1 + 8 + 4 + 16 + 2 + 2
	if len(b) < fixed || b[0] != recordVersion {
		return bad("cut off, or of another version: run the same release on all trackers")
	}
	f := new(foreigner)
	if size := binary.BigEndian.Uint64(b[1:]); size <= uint64(blob.MaxSize) {
		f.geometry.Size = int64(size)
	} else {
		return bad("size")
	}
	f.geometry.PieceLength = int64(binary.BigEndian.Uint32(b[9:]))
	if err := f.geometry.Check(); err != nil {
		return bad(err.Error())
	}
	if (f.geometry.Size+f.geometry.PieceLength-1)/f.geometry.PieceLength > maxPieces {
		return bad("too many pieces")
	}
	f.addr = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[13:29])).Unmap(), binary.BigEndian.Uint16(b[29:]))
	f.seed = b[31]&1 != 0
	zone := int(b[32])
	if b = b[fixed:]; zone > len(b) {
		return bad("zone")
	}
	var err error
	if f.zone, err = ParseZone(string(b[:zone])); err != nil {
		return bad("zone")
	}
	b = b[zone:]
	n := f.geometry.Pieces()
	switch {
	case f.seed && len(b) == 0:
		return f, nil
	case f.seed || len(b) != int(n+7)/8:
		return bad("bitfield")
	}
	f.have = newBitmap(n)
	for i := range n {
		if b[i/8]&(0x80>>(i%8)) != 0 {
			f.have.put(i, true)
		}
	}
	return f, nil
}
