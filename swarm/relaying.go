package swarm

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
)

// SetAssignment replaces what the tracker wants this node to take from whom. It never blocks for long.
func (t *Torrent) SetAssignment(a relay.Assignment) { t.post(assigned{a}) }

// Uplink is how many bytes per second this torrent could send while more was asked of it than it could send; 0:
// that has not happened for long enough to be measured.
func (t *Torrent) Uplink() int64 { return t.uplink.Load() }

// Planned reports whether a peer is to pass a piece on to us, so that nobody else need be asked for it in bulk, and
// in which lane: lanes do not wait for each other. It takes no lock.
func (t *Torrent) Planned(piece uint32) (lane int, ok bool) {
	s := t.scheme.Load()
	if s == nil {
		return 0, false
	}
	lane = relay.Stripe(s.geo, piece, s.stripes)
	return lane, s.planned>>lane&1 != 0
}

// scheme is what others than the loop see of an assignment. It is immutable.
type scheme struct {
	geo     blob.Geometry
	stripes int
	planned uint32 // bit of a stripe: see Torrent.Planned
	part    uint32 // blocks to ask for at once
}

// relaying is the plan as the loop follows it.
type relaying struct {
	picker  *relay.Picker // nil: there never was a plan
	geo     blob.Geometry
	a       relay.Assignment
	parents map[relay.NodeID]bool
	leaving map[relay.NodeID]time.Time // connections that ended young, and when they count as lost
	until   time.Time                  // bulk waits for the first assignment until then
	logged  time.Time
	offered bool                        // peers told of blocks since the last tick
	front   [relay.MaxStripes]uint32    // the first piece that is not complete
	moved   [relay.MaxStripes]time.Time // when it last changed
	came    [relay.MaxStripes]time.Time // when something came last
}

// assigned is a new assignment of the tracker.
type assigned struct{ a relay.Assignment }

func (e assigned) apply(l *loop) {
	r, at := &l.relay, now()
	r.until = time.Time{}
	l.dirty = true
	if r.picker == nil {
		if e.a.Stripes == 0 {
			return
		}
		r.geo = l.t.cfg.Store.Geometry()
		r.picker = relay.NewPicker(r.geo)
		r.picker.Alone()
		r.leaving = make(map[relay.NodeID]time.Time)
	}
	r.a = e.a
	r.parents = make(map[relay.NodeID]bool)
	for _, ps := range e.a.Parents {
		for _, p := range ps {
			r.parents[p.ID] = true
		}
	}
	r.picker.Assign(at, e.a)
	for i := range r.came {
		r.came[i], r.moved[i], r.front[i] = at, at, 0
	}
	for p := range l.peers {
		p.marks = nil
		l.serves(p)
	}
	l.publishScheme()
}

// publishScheme makes the assignment known to others than the loop.
func (l *loop) publishScheme() {
	r := &l.relay
	l.t.relaying.Store(r.a.Stripes > 0)
	if r.a.Stripes == 0 {
		l.t.scheme.Store(nil)
		return
	}
	s := &scheme{geo: r.geo, stripes: r.a.Stripes, part: blob.MaxBuffer}
	for stripe := range min(r.a.Stripes, relay.MaxStripes) {
		first := uint32(stripe) * relay.Unit(r.geo)
		if first >= r.geo.Pieces() || !r.picker.Planned(first) {
			continue
		}
		s.planned |= 1 << stripe
		id, _ := r.picker.From(now(), first)
		s.part = min(s.part, uint32(r.picker.Part(id)))
	}
	if old := l.t.scheme.Load(); old == nil || *old != *s {
		l.t.scheme.Store(s)
		l.t.notify()
	}
}

// serves notes that a peer serves us, or no longer, and how far it is.
func (l *loop) serves(p *peer) {
	r := &l.relay
	if r.picker == nil || p.closing || !p.known && !r.parents[p.id] {
		return
	}
	if p.known || !p.choking { // peers of ours serve a plan in any case
		r.picker.Connected(now(), p.id)
		l.progress(p)
	}
}

// progress tells the picker how far a peer has each stripe.
func (l *loop) progress(p *peer) {
	r := &l.relay
	if r.picker == nil || r.a.Stripes == 0 || p.closing {
		return
	}
	k, unit, n := uint32(min(r.a.Stripes, relay.MaxStripes)), relay.Unit(r.geo), l.t.geo.Pieces()
	if len(p.marks) != int(k) {
		p.marks = make([]uint32, k)
		for s := range k {
			p.marks[s] = s * unit
		}
	}
	for s := range k {
		at := p.marks[s]
		// What we have ourselves a peer need not tell us of.
		for at < n && (p.have.has(at) || l.ours.has(at)) {
			if at++; at%unit == 0 {
				at += (k - 1) * unit
			}
		}
		if at != p.marks[s] {
			p.marks[s] = at
			r.picker.Has(now(), p.id, relay.Watermark{Stripe: int(s), Piece: min(at, n)})
		}
	}
}

// settleTime is how long two nodes that dial each other at the same time may take until one of their connections
// is closed for the other: the end of one that is younger is no loss yet.
const settleTime = 150 * time.Millisecond

// unrelated notes that a peer is gone.
func (l *loop) unrelated(p *peer) {
	r, at := &l.relay, now()
	switch {
	case r.picker == nil || p.replaced:
	case at.Sub(p.joined) < settleTime:
		r.leaving[p.id] = at.Add(settleTime)
		l.rearm = true
	default:
		r.picker.Gone(at, p.id, relay.Lost)
		l.complain()
	}
}

// settle notes peers that did not come back.
func (l *loop) settle(at time.Time) {
	for id, by := range l.relay.leaving {
		if l.ids[id] != nil {
			delete(l.relay.leaving, id)
		} else if at.After(by) {
			delete(l.relay.leaving, id)
			l.relay.picker.Gone(at, id, relay.Lost)
		}
	}
}

// lied notes that a peer sent what did not verify.
func (l *loop) lied(p *peer) {
	if l.relay.picker != nil {
		l.relay.picker.Gone(now(), p.id, relay.Liar)
		l.complain()
	}
}

type parentVerdict uint8

const (
	noParent      parentVerdict = iota // nobody is to pass it on: ask whom you like
	askParent                          // there is one
	waitForParent                      // there is one, or will be, but not now
)

// planPatience is how long a stripe may stand still before its pieces are asked of anybody: the tracker and the
// picker have had many chances by then.
const planPatience = 10 * time.Second

// parent is whom the plan says to ask for a part.
func (l *loop) parent(pt *part) (*peer, parentVerdict) {
	r, at := &l.relay, l.round.at
	if pt.f.class <= blob.Read || pt.f.only != nil {
		return nil, noParent
	}
	if !r.until.IsZero() {
		if at.Before(r.until) {
			return nil, waitForParent
		}
		r.until = time.Time{}
	}
	if r.picker == nil || !r.picker.Planned(pt.piece) {
		return nil, noParent
	}
	stripe := relay.Stripe(r.geo, pt.piece, r.a.Stripes)
	if at.Sub(r.came[stripe]) > planPatience {
		return nil, noParent
	}
	if l.round.full>>stripe&1 != 0 && len(pt.refused) == 0 {
		return nil, waitForParent
	}
	if !l.t.avail.trusted.has(pt.piece) || l.awaitsLayer(pt.piece, at) {
		return nil, waitForParent
	}
	id, ok := r.picker.From(at, pt.piece)
	if !ok {
		return nil, waitForParent
	}
	p := l.ids[id]
	if p == nil || p.closing {
		return nil, waitForParent
	}
	_, n := l.t.geo.extent(pt.run)
	room, inflight := r.picker.Room(id), int(p.inflight.Load())
	switch {
	case pt.wasRefused(p):
		return nil, noParent
	case !p.ours() && !p.offers(pt.piece):
		return nil, waitForParent
	case room < int(n) && inflight > 0, inflight+int(pt.run.Count) > p.queue, l.farAhead(pt.piece, room/blockSize+inflight, at):
		l.round.full |= 1 << stripe // parts wait in the order of their pieces: what follows has to wait, too
		return nil, waitForParent
	}
	return p, askParent
}

// frontPatience is how long the first incomplete piece of a stripe may hold up those behind it.
const frontPatience = 500 * time.Millisecond

// farAhead reports whether a piece is further behind the first incomplete one of its stripe than the blocks that
// may be outstanding at the parent reach. Calls of Fetch begin in any order, and what the parent itself asks for
// last would otherwise take up all that may be asked of it.
func (l *loop) farAhead(piece uint32, blocks int, at time.Time) bool {
	r, n := &l.relay, l.t.geo.Pieces()
	k, unit := uint32(r.a.Stripes), relay.Unit(r.geo)
	s := relay.Stripe(r.geo, piece, int(k))
	front := max(r.front[s], uint32(s)*unit)
	for front < n && l.ours.has(front) {
		if front++; front%unit == 0 {
			front += (k - 1) * unit
		}
	}
	if front != r.front[s] {
		r.front[s], r.moved[s] = front, at
	}
	if piece <= front || at.Sub(r.moved[s]) > frontPatience {
		return false
	}
	// In pieces of the stripe.
	ahead := (piece/unit-front/unit)/k*unit + piece%unit - front%unit
	return ahead > uint32(max(1, blocks/int(l.t.geo.bpp)))+1
}

// asked notes that n blocks of a part were asked of its parent.
func (l *loop) asked(pt *part, p *peer, n int) {
	l.relay.picker.Asked(now(), p.id, pt.piece, n*blockSize)
}

// notComing notes that what is missing of a part will not come from a peer.
func (l *loop) notComing(pt *part, p *peer) {
	for _, a := range pt.asks {
		if a.p == p && a.planned {
			l.relay.picker.Dropped(now(), p.id, pt.piece, len(pt.absentBlocks(nil))*blockSize)
		}
	}
}

// parentSent notes that bytes of a piece came from a parent. It is posted per data message while there is a plan.
type parentSent struct {
	p     *peer
	piece uint32
	n     int
}

func (e parentSent) apply(l *loop) {
	r := &l.relay
	if r.picker == nil {
		return
	}
	at := now()
	if k := r.a.Stripes; k > 0 {
		r.came[relay.Stripe(r.geo, e.piece, k)] = at
	}
	r.picker.Came(at, e.p.id, e.piece, (e.n+blockSize-1)/blockSize*blockSize)
	l.dirty = true
}

// follow looks whether a part that was asked as the plan says is still to come from there. A part that waits at
// its parent is not late: nobody else need be asked as long as the parent stays.
func (l *loop) follow(pt *part, a ask, at time.Time) {
	r := &l.relay
	// The parent's copy of a block may have been dropped because a helper's was under way, which then broke off.
	if l.inTheWay(pt, a, at) || at.Sub(a.at) >= hedgeAfter && pt.silent(at) >= hedgeAfter && pt.orphaned(at) {
		l.withdraw(pt)
		return
	}
	if r.picker.Planned(pt.piece) {
		id, ok := r.picker.From(at, pt.piece)
		if !ok || id == a.p.id || l.ids[id] == nil || pt.wasRefused(l.ids[id]) {
			if at.Sub(r.came[relay.Stripe(r.geo, pt.piece, max(1, r.a.Stripes))]) < planPatience {
				return
			}
		}
	} else if at.Sub(a.at) < hedgeAfter {
		return
	}
	if pt.silent(at) < hedgeAfter {
		return // it is just coming
	}
	l.withdraw(pt)
}

// inTheWay reports whether a part that its parent does not have yet keeps us from asking for what it has: nothing comes,
// and earlier pieces wait for room at it. That happens when the roots of later pieces are known first, as those of a
// plain URL may be; the parent itself may come to them last.
func (l *loop) inTheWay(pt *part, a ask, at time.Time) bool {
	r := &l.relay
	if r.a.Stripes == 0 || a.p.have.has(pt.piece) || at.Sub(a.at) < frontPatience {
		return false
	}
	s := relay.Stripe(r.geo, pt.piece, r.a.Stripes)
	if at.Sub(r.came[s]) < frontPatience {
		return false
	}
	for _, q := range l.pending[blob.Background] {
		if q.state == queued && q.piece < pt.piece && a.p.have.has(q.piece) && l.t.avail.trusted.has(q.piece) && relay.Stripe(r.geo, q.piece, r.a.Stripes) == s {
			return true
		}
	}
	return false
}

// withdraw takes a part back from whoever was asked, and has it asked anew.
func (l *loop) withdraw(pt *part) {
	for _, a := range pt.asks {
		l.notComing(pt, a.p)
		delete(a.p.parts, pt)
		a.p.forget(pt)
	}
	pt.asks = nil
	l.requeue(pt)
}

// relayTick does what depends on time.
func (l *loop) relayTick(at time.Time) {
	r := &l.relay
	if r.offered {
		r.offered = false
		l.t.avail.raised = true
	}
	if r.picker == nil {
		return
	}
	l.settle(at)
	r.picker.Tick(at)
	l.publishScheme()
	l.complain()
	if at.Sub(r.logged) >= time.Second && r.a.Stripes > 0 {
		r.logged = at
		l.logRelay(at)
	}
}

// logRelay tells people who look for what holds a plan up.
func (l *loop) logRelay(at time.Time) {
	r := &l.relay
	if !l.t.log.Enabled(l.t.ctx, slog.LevelDebug) {
		return
	}
	waitingParts, full := 0, 0
	for _, pt := range l.pending[blob.Background] {
		if pt.state == queued {
			waitingParts++
		}
	}
	for pt := range l.active {
		if !pt.waits() {
			full++
		}
	}
	for s := range r.a.Stripes {
		id, ok := r.picker.From(at, uint32(s)*relay.Unit(r.geo))
		var inflight, waiting int32
		var down int64
		if p := l.ids[id]; p != nil {
			inflight, waiting, down = p.inflight.Load(), p.waiting.Load(), p.down.Load()
		}
		l.t.log.Debug("relay", "stripe", s, "from", fmt.Sprintf("%x", id[16:]), "ok", ok, "planned", r.picker.Planned(uint32(s)*relay.Unit(r.geo)),
			"inflight", inflight, "waiting", waiting, "room", r.picker.Room(id), "part", r.picker.Part(id), "down", down, "silent", at.Sub(r.came[s]).Round(time.Millisecond),
			"queued", waitingParts, "active", len(l.active), "full", full, "jobs", len(l.jobs), "layers", len(l.layers), "parked", l.t.Parked(), "uplink", l.t.Uplink())
	}
}

// complain passes on what is to be told to the tracker.
func (l *loop) complain() {
	if cs := l.relay.picker.Complaints(); len(cs) > 0 && l.t.cfg.OnComplaints != nil {
		l.t.cfg.OnComplaints(cs)
	}
}
