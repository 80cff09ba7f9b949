package relay

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
)

// Picker says, for one torrent of one node, whom to ask for a piece in bulk. It holds what the tracker has assigned
// and how the parents do; when one fails it goes to the next at once, and tells the tracker why. It is not safe for
// concurrent use. From, Planned, Room, Part, Asked, Came and Dropped do not allocate.
//
// A parent is asked for pieces before it has them: it answers as they arrive there. So that it has nothing to send
// is no fault of a parent; that it has what others have not got from it is.
type Picker struct {
	g       blob.Geometry
	a       Assignment
	lanes   []lane
	links   map[NodeID]*link
	steady  steady
	now     time.Time // of the newest event
	fronts  [MaxStripes]front
	reports []Complaint
	alone   bool // see Alone
}

// lane is one stripe.
type lane struct {
	parents  []upstream
	use      int               // which of them is asked now
	assigned time.Time         // when they were assigned
	lost     time.Time         // since when none of them is connected; zero: one is
	end      uint32            // watermark of who has the whole stripe
	last     uint32            // from this piece on it is taken from all that have it
	holders  [maxHolders]*link // who is asked for that
	n        int               // of holders
}

// upstream is one parent in one stripe.
type upstream struct {
	*link
	rate       int64     // granted, bytes per second
	failed     bool      // was given up in this assignment
	complained time.Time // of it; zero: not yet
	lag        time.Time // since when it has had what it owes; zero: it has not
	lagFrom    int64     // link.got at that time
	lagMark    uint32    // its watermark at that time
}

// link is one peer that is connected, or assigned.
type link struct {
	id        NodeID
	connected bool
	out       int           // bytes asked for and not come
	since     time.Time     // out has not been zero since
	came      time.Time     // when something came last
	next      uint32        // the piece that came last, or was asked for first: it owes that one or a later one
	got       int64         // bytes in all
	gap       time.Duration // usual time between two arrivals while something is out
	rate      int64         // bytes per second lately; 0: not known
	windowAt  time.Time
	windowGot int64
	marks     [MaxStripes]uint32
	grew      [MaxStripes]bool // it was seen to lack something of the stripe
	lazy      bool             // has everything and delivers much less than others that have
}

// NewPicker is a picker without an assignment.
func NewPicker(g blob.Geometry) *Picker {
	return &Picker{g: g, links: map[NodeID]*link{}}
}

func (p *Picker) clock(now time.Time) {
	p.steady.tell(now)
	p.now = p.steady.now
}

// Alone has the end of a stripe, too, be asked of the parent only: whoever runs the picker asks others for what that one
// owes, when they have something to spare, and so knows better whom.
func (p *Picker) Alone() { p.alone = true }

// Assign takes over what the tracker says. The zero Assignment ends the plan.
func (p *Picker) Assign(now time.Time, a Assignment) {
	p.clock(now)
	k := min(a.Stripes, MaxStripes, len(a.Parents))
	lanes := make([]lane, max(0, k))
	for s := range lanes {
		l := &lanes[s]
		l.assigned, l.end = p.now, stripeEnd(p.g, s, k)
		turn := Unit(p.g) * uint32(k)
		l.last = l.end - min(l.end, turn*max(4, uint32(lastBytes/(int64(Unit(p.g))*p.g.PieceLength))))
		for _, parent := range a.Parents[s][:min(len(a.Parents[s]), maxUpstreams)] {
			l.parents = append(l.parents, upstream{link: p.link(parent.ID), rate: parent.Rate})
		}
		// The same parent as before: what is known of its pace stays known.
		if s < len(p.lanes) && len(l.parents) > 0 && len(p.lanes[s].parents) > 0 && a.Gen == p.a.Gen {
			if old := &p.lanes[s].parents[0]; old.link == l.parents[0].link {
				rate := l.parents[0].rate
				l.parents[0] = *old
				l.parents[0].rate = rate
				l.parents[0].failed = false
			}
		}
	}
	p.a, p.lanes = a, lanes
	for id, l := range p.links {
		if !l.connected && !p.assigned(l) {
			delete(p.links, id)
		}
	}
	p.watch()
}

// maxUpstreams bounds how many parents of a stripe are kept.
const maxUpstreams = 8

// Assignment is what holds.
func (p *Picker) Assignment() Assignment { return p.a }

func (p *Picker) link(id NodeID) *link {
	l := p.links[id]
	if l == nil {
		l = &link{id: id}
		p.links[id] = l
	}
	return l
}

func (p *Picker) assigned(l *link) bool {
	for s := range p.lanes {
		for i := range p.lanes[s].parents {
			if p.lanes[s].parents[i].link == l {
				return true
			}
		}
	}
	return false
}

// Connected notes that a peer is connected and serves us.
func (p *Picker) Connected(now time.Time, id NodeID) {
	p.clock(now)
	l := p.link(id)
	if !l.connected {
		*l = link{id: id, connected: true, came: p.now}
	}
	p.watch()
}

// Gone notes that a peer is not connected any more, or could not be reached (Lost), or that what it sent was
// wrong (Liar).
func (p *Picker) Gone(now time.Time, id NodeID, why Reason) {
	p.clock(now)
	l := p.links[id]
	if l == nil {
		return
	}
	for s := range p.lanes {
		for i := range p.lanes[s].parents {
			if p.lanes[s].parents[i].link == l {
				p.fail(s, i, why, l.rate)
			}
		}
	}
	l.connected, l.out = false, 0
	if !p.assigned(l) {
		delete(p.links, id)
	}
	p.watch()
}

// fail gives up a parent, and complains of it: of the one that the tracker has chosen always, of others only
// that they lie.
func (p *Picker) fail(s, i int, why Reason, rate int64) {
	l := &p.lanes[s]
	u := &l.parents[i]
	u.failed = true
	p.complain(s, i, why, rate)
	if i == l.use {
		p.turn(l)
	}
}

func (p *Picker) complain(s, i int, why Reason, rate int64) {
	u := &p.lanes[s].parents[i]
	if i > 0 && why != Liar || !u.complained.IsZero() && (why != Slow || p.now.Sub(u.complained) < repeatAfter) {
		return
	}
	u.complained = p.now
	p.reports = append(p.reports, Complaint{Parent: u.id, Stripe: s, Reason: why, Rate: rate})
}

// turn chooses among the parents that have not failed: the first one that is connected, else the first.
func (p *Picker) turn(l *lane) {
	l.use = -1
	for i := range l.parents {
		u := &l.parents[i]
		switch {
		case u.failed:
		case u.connected:
			l.use = i
			u.lag = time.Time{}
			return
		case l.use < 0:
			l.use = i
		}
	}
	if l.use < 0 {
		l.use = len(l.parents)
	}
}

// Has notes what a peer says it has of a stripe.
func (p *Picker) Has(now time.Time, id NodeID, w Watermark) {
	p.clock(now)
	if l := p.links[id]; l != nil && w.Stripe >= 0 && w.Stripe < MaxStripes {
		l.marks[w.Stripe] = max(l.marks[w.Stripe], w.Piece)
		if w.Stripe < len(p.lanes) && w.Piece < p.lanes[w.Stripe].end {
			l.grew[w.Stripe] = true
			p.fronts[w.Stripe].reach(w.Piece, p.now)
		}
	}
}

// Asked notes that bytes of a piece were asked of a peer.
func (p *Picker) Asked(now time.Time, id NodeID, piece uint32, bytes int) {
	p.clock(now)
	l := p.links[id]
	if l == nil {
		return
	}
	if l.out <= 0 {
		l.out, l.since, l.next = 0, p.now, piece
		l.windowAt, l.windowGot = p.now, l.got
	}
	l.out += bytes
}

// Came notes that bytes of a piece came from a peer.
func (p *Picker) Came(now time.Time, id NodeID, piece uint32, bytes int) {
	p.clock(now)
	l := p.links[id]
	if l == nil {
		return
	}
	if l.out > 0 {
		last := l.came
		if l.since.After(last) {
			last = l.since
		}
		gap := p.now.Sub(last)
		l.gap += (gap - l.gap) / 8
	}
	l.out = max(0, l.out-bytes)
	l.got += int64(bytes)
	l.came, l.next = p.now, piece
	if d := p.now.Sub(l.windowAt); d >= rateWindow && !l.windowAt.IsZero() {
		rate := int64(float64(l.got-l.windowGot) / d.Seconds())
		if l.rate == 0 {
			l.rate = rate
		}
		l.rate += (rate - l.rate) / 2
		l.windowAt, l.windowGot = p.now, l.got
	}
}

// Dropped notes that bytes that were asked for will not come: they were cancelled, refused, or came from elsewhere.
func (p *Picker) Dropped(now time.Time, id NodeID, piece uint32, bytes int) {
	p.clock(now)
	if l := p.links[id]; l != nil {
		l.out = max(0, l.out-bytes)
	}
}

// rateWindow is over what time a rate is measured: some arrivals at 1 Mbit/s, little against the time in which a
// rate changes.
const rateWindow = 100 * time.Millisecond

// From is whom to ask for a piece in bulk. false: nobody is connected that has to pass it on to us; see Planned.
func (p *Picker) From(now time.Time, piece uint32) (id NodeID, ok bool) {
	p.clock(now)
	l := p.lane(piece)
	if l == nil || l.use >= len(l.parents) {
		return id, false
	}
	u := &l.parents[l.use]
	if u.connected {
		if piece >= l.last && l.n > 0 {
			turn := piece / (Unit(p.g) * uint32(len(p.lanes)))
			if h := l.holders[int(turn)%l.n]; h.connected {
				return h.id, true
			}
		}
		return u.id, true
	}
	if p.now.Sub(l.assigned) < dialTime {
		return id, false
	}
	for i := range l.parents {
		if u := &l.parents[i]; u.connected && !u.failed {
			return u.id, true
		}
	}
	return id, false
}

// lastBytes is how much of a stripe, at its end, is taken from all parents at once that have everything: who is late
// catches up, and nobody is loaded for long without the tracker knowing it. It is 1.6 s of half of 40 Mbit/s.
const lastBytes = 4 << 20

// maxHolders is from how many peers the end of a stripe is taken at once.
const maxHolders = 4

// gather looks who helps a parent that has all of stripe s and still owes us some: peers that have got everything
// while we were connected, and so have nothing to do but to serve. Who had it from the start may be the source, which
// is not to be asked. A single one helps nobody, as all would go to it. Who helps goes on doing so, so that a piece is
// not asked of one after the other.
func (p *Picker) gather(s int, l *lane) {
	u := &l.parents[l.use]
	if !u.connected || u.marks[s] < l.end {
		l.n = 0
		return
	}
	n := 0
	for _, h := range l.holders[:l.n] {
		if h.connected && (!h.lazy || h == u.link) {
			l.holders[n] = h
			n++
		}
	}
	if l.n = n; l.n == 0 {
		l.holders[0], l.n = u.link, 1
	}
	helpers := 0
	for _, h := range p.links {
		if h != u.link && p.helps(h) {
			helpers++
		}
	}
	if helpers < 2 {
		return
	}
	salt := p.salt()
	for l.n < maxHolders {
		var best *link
		for _, h := range p.links {
			if p.helps(h) && !slices.Contains(l.holders[:l.n], h) && (best == nil || h.id.before(best.id, salt)) {
				best = h
			}
		}
		if best == nil {
			return
		}
		l.holders[l.n] = best
		l.n++
	}
}

// salt orders helpers: by chance, so that not all nodes choose the same, but for one node the same every time. Few
// nodes have the same parents in all stripes.
func (p *Picker) salt() (salt uint64) {
	for s := range p.lanes {
		if ps := p.lanes[s].parents; len(ps) > 0 {
			salt = ps[0].id.mix(salt)
		}
	}
	return salt
}

// mix is a hash of an id.
func (id *NodeID) mix(salt uint64) uint64 {
	h := salt ^ 0xcbf29ce484222325
	for _, b := range id {
		h = (h ^ uint64(b)) * 0x100000001b3 // FNV-1a
	}
	return h ^ h>>29
}

// before reports whether id comes before o in the order that salt makes.
func (id NodeID) before(o NodeID, salt uint64) bool {
	return cmp.Or(cmp.Compare(id.mix(salt), o.mix(salt)), bytes.Compare(id[:], o[:])) < 0
}

func (p *Picker) helps(h *link) bool { return h.connected && !h.lazy && p.whole(h) }

// whole reports whether a peer has got everything while we were connected. Who has only this stripe already is near
// the top of its tree, and its uplink is what all others wait for.
func (p *Picker) whole(h *link) bool {
	for s := range p.lanes {
		if !h.grew[s] || h.marks[s] < p.lanes[s].end {
			return false
		}
	}
	return true
}

const (
	// dialTime is how long the parent that the tracker has chosen may take until it is connected, before another
	// one, which has its own children, is asked: a round trip of 150 ms and two wake-ups.
	dialTime = 300 * time.Millisecond
	// deadTime is after what time a parent that cannot be connected counts as lost, and after what time without
	// any parent a node goes on without a plan.
	deadTime = time.Second
)

func (p *Picker) lane(piece uint32) *lane {
	if len(p.lanes) == 0 {
		return nil
	}
	return &p.lanes[Stripe(p.g, piece, len(p.lanes))]
}

// Planned reports whether somebody is to pass the piece on to us: then nobody else is to be asked for it in bulk,
// even when From names nobody just now. It is false without a plan, for the head of a stripe that reads it from
// the origin, and when all parents have been lost for a second.
func (p *Picker) Planned(piece uint32) bool {
	l := p.lane(piece)
	if l == nil || len(l.parents) == 0 {
		return false
	}
	return l.lost.IsZero() || p.now.Sub(l.lost) < deadTime
}

// Heads reports whether this node reads a piece from the origin, so that others can have it.
func (p *Picker) Heads(piece uint32) bool {
	if len(p.lanes) == 0 {
		return false
	}
	s := Stripe(p.g, piece, len(p.lanes))
	return p.a.Head>>s&1 != 0 && len(p.lanes[s].parents) == 0
}

const (
	// minRoom holds two transfers of 16 blocks, so that one is asked for while the other one arrives; maxRoom is
	// 64 ms of a 1 GB/s link.
	minRoom = 512 << 10
	maxRoom = 8 << 20
	// roomTime is how far ahead is asked: twice a round trip of 100 ms. It is more than that round trip because a
	// parent that has nothing to send for a moment catches up afterwards.
	roomTime = 200 * time.Millisecond
	// partTime is how long a part may take to arrive. What has not arrived completely cannot be passed on, so a
	// tree of ten levels adds ten times this; and each part costs a wake-up or two at both ends, 10 to 20 µs.
	partTime = 20 * time.Millisecond
)

// Rate is how many bytes per second came from a peer lately; 0: not known.
func (p *Picker) Rate(id NodeID) int64 {
	if l := p.links[id]; l != nil {
		return l.rate
	}
	return 0
}

// Room is how many bytes may be asked of a peer now, beside what is outstanding there.
func (p *Picker) Room(id NodeID) int {
	l := p.links[id]
	if l == nil || !l.connected {
		return 0
	}
	ahead := min(maxRoom, minRoom+int64(float64(l.rate)*roomTime.Seconds()))
	if p.leads(l, ahead) {
		return 0
	}
	return max(0, int(ahead)-l.out)
}

// leads reports whether l is a source that brings us the stripe of which we are the head faster than others get the
// other stripes. Then it waits for a moment, so that the source's uplink goes to the heads of those: below a head
// each stripe has its share of every uplink, and cannot make use of more when the others are done. A stripe that
// stands still does so for another reason.
func (p *Picker) leads(l *link, ahead int64) bool {
	if p.a.Head == 0 {
		return false
	}
	turn := Unit(p.g) * uint32(len(p.lanes))
	margin := max(2*turn, uint32(ahead*int64(len(p.lanes))/p.g.PieceLength))
	for s := range p.lanes {
		a := &p.lanes[s]
		if p.a.Head>>s&1 == 0 || a.use >= len(a.parents) || a.parents[a.use].link != l {
			continue
		}
		for o := range p.lanes {
			f := &p.fronts[o]
			if p.a.Head>>o&1 == 0 && l.next > f.piece+margin && p.now.Sub(f.moved) < max(300*time.Millisecond, 3*f.usual) {
				return true
			}
		}
	}
	return false
}

// front is how far, of the peers that have not got everything, the foremost is in a stripe.
type front struct {
	piece uint32
	moved time.Time
	usual time.Duration // between two moves
}

func (f *front) reach(piece uint32, now time.Time) {
	if piece <= f.piece {
		return
	}
	if !f.moved.IsZero() {
		f.usual += (now.Sub(f.moved) - f.usual) / 4
	}
	f.piece, f.moved = piece, now
}

// Part is for how many blocks to ask at once, so that they arrive within about 20 ms.
func (p *Picker) Part(id NodeID) int {
	l := p.links[id]
	if l == nil || l.rate == 0 {
		return 2 // 20 ms at 13 Mbit/s
	}
	return max(1, min(blob.MaxBuffer, int(float64(l.rate)*partTime.Seconds()/blob.BlockSize+0.5)))
}

const (
	// silentAfter is the least time without a block after which a parent is given up that has what it owes: above
	// two TCP retransmissions of a lost segment (200 and 400 ms, tcp(7)), and what a busy machine stands still.
	silentAfter = 700 * time.Millisecond
	// starvedAfter is the same for a parent that does not have it itself, though others do: its own parent is what
	// is wrong, and it is about to find another one. All below it must not leave at the same time.
	starvedAfter = 3 * time.Second
	// slowAfter is over what time a rate is compared.
	slowAfter = 600 * time.Millisecond
	// repeatAfter is when a parent that is still slow is complained of again: the tracker may have had a reason not to
	// believe it the first time.
	repeatAfter = 1500 * time.Millisecond
	// leaveAfter is when a slow parent is left for another one that has more, if the tracker has not said anything
	// by then.
	leaveAfter = 3 * time.Second
)

// Tick looks for parents that do not deliver.
func (p *Picker) Tick(now time.Time) {
	p.clock(now)
	for s := range p.lanes {
		l := &p.lanes[s]
		if l.use >= len(l.parents) {
			continue
		}
		u := &l.parents[l.use]
		if !u.connected {
			if p.now.Sub(l.assigned) >= deadTime && l.use == 0 && !u.failed {
				p.fail(s, 0, Lost, 0)
			}
			continue
		}
		if first := &l.parents[0]; l.use > 0 && first.connected && !first.failed && first.marks[s] >= u.marks[s] {
			l.use = 0 // it had been starved, and has caught up
			continue
		}
		p.judge(s, l, u)
		if !p.alone {
			p.gather(s, l)
			p.compare(l)
		}
	}
	p.watch()
}

// compare leaves out those that are much slower at the end of a stripe than the best.
func (p *Picker) compare(l *lane) {
	var best int64
	for _, h := range l.holders[:l.n] {
		best = max(best, h.rate)
	}
	for _, h := range l.holders[:l.n] {
		if l.n > 1 && h.out > 0 && p.now.Sub(h.since) > 3*rateWindow && (4*h.rate < best || p.now.Sub(h.came) > 3*rateWindow) {
			h.lazy = true
		}
	}
}

// judge looks at a parent from which something is outstanding.
func (p *Picker) judge(s int, l *lane, u *upstream) {
	if u.out <= 0 || u.next >= l.end {
		u.lag = time.Time{}
		return
	}
	quiet := u.came
	if u.since.After(quiet) {
		quiet = u.since
	}
	silent := p.now.Sub(quiet)
	// What it owes is the piece that came last, or the next one of the stripe.
	has := u.marks[s] >= min(l.end, u.next+uint32(len(p.lanes))*Unit(p.g)+1)
	better := p.better(l, s, u)
	limit := max(silentAfter, 6*u.gap)
	if !has {
		u.lag = time.Time{}
		if better && silent >= max(starvedAfter, 8*u.gap) {
			p.borrow(l, s, u)
		}
		return
	}
	if silent >= limit && (better || silent >= 2*limit) {
		p.complain(s, l.use, Slow, 0)
		if better {
			p.fail(s, l.use, Slow, 0)
		}
		return
	}
	if u.lag.IsZero() {
		u.lag, u.lagFrom, u.lagMark = p.now, u.got, u.marks[s]
		return
	}
	d := p.now.Sub(u.lag)
	if d < slowAfter {
		return
	}
	rate := int64(float64(u.got-u.lagFrom) / d.Seconds())
	grew := int64(float64(int64(u.marks[s]-u.lagMark)*p.g.PieceLength/int64(len(p.lanes))) / d.Seconds())
	want := grew
	if u.rate > LastResort && (u.rate < want || u.marks[s] >= l.end) {
		want = u.rate
	}
	switch {
	case 3*rate >= want:
		u.lag = time.Time{} // it keeps up
	case better && d >= leaveAfter:
		p.fail(s, l.use, Slow, rate)
	default:
		p.complain(s, l.use, Slow, rate)
	}
}

// borrow has a stripe come from another parent that has more, until the one that is starved has caught up. It is
// not complained of.
func (p *Picker) borrow(l *lane, s int, u *upstream) {
	for i := range l.parents {
		if o := &l.parents[i]; o.link != u.link && o.connected && !o.failed && o.rate != LastResort && o.marks[s] > u.next {
			o.lag = time.Time{}
			l.use = i
			return
		}
	}
}

// better reports whether another parent of the stripe is connected and has more than u owes.
func (p *Picker) better(l *lane, s int, u *upstream) bool {
	for i := range l.parents {
		o := &l.parents[i]
		if o.link != u.link && o.connected && !o.failed && o.rate != LastResort && o.marks[s] > u.next {
			return true
		}
	}
	return false
}

// watch notes which stripes have no parent that is connected.
func (p *Picker) watch() {
	for s := range p.lanes {
		l := &p.lanes[s]
		live := false
		for i := range l.parents {
			live = live || l.parents[i].connected && !l.parents[i].failed
		}
		switch {
		case live:
			l.lost = time.Time{}
		case l.lost.IsZero():
			l.lost = p.now
		}
	}
}

// Complaints are what is to be told to the tracker. The list is drained.
func (p *Picker) Complaints() []Complaint {
	r := p.reports
	p.reports = nil
	return r
}
