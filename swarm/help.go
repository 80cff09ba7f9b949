package swarm

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
	"github.com/pantala/pantala/relay"
)

// Help. In a full plan a parent's uplink carries its two children and the acknowledgements of what comes in, 2 % more
// than the source's, and it began a moment later: so what it owes its children grows, and nothing makes up for it. What
// is missing is little, and elsewhere there is as much to spare: one uplink in all while the plan runs, and everybody's
// that has nothing to pass on any more at its end. So a child asks for the last of what its parent owes it, and has, of
// another peer that has it too. That one sends it only out of what its uplink has left over, or refuses at once; the
// parent stays asked until the bytes have come.

const (
	// owedFor is how much its parent may owe a child, in time, before others are asked: several times what one part
	// takes from elsewhere, so that it is there before the parent gets to it.
	owedFor = 100 * time.Millisecond
	// owedLeast is the same in blocks, where the rate is not known.
	owedLeast = 8
	// helpRoom is how many blocks may be outstanding at a helper: what 40 Mbit/s bring in a tick.
	helpRoom = 8
	// helpRetry is when one that has nothing to spare is asked again.
	helpRetry = 50 * time.Millisecond
	// helpWithin is when what was asked of a helper, and has not come, is left to the parent.
	helpWithin = 500 * time.Millisecond
)

// seekHelp asks helpers for what parents owe us.
func (l *loop) seekHelp(at time.Time) {
	r := &l.relay
	if r.picker == nil {
		return
	}
	for s := range r.a.Stripes {
		id, ok := r.picker.From(at, uint32(s)*relay.Unit(r.geo))
		if p := l.ids[id]; ok && p != nil && !p.closing && !p.seed && p.known {
			l.relieve(p, s, at)
		}
	}
}

// relieve asks others for what a parent owes us of a stripe beyond owedFor.
func (l *loop) relieve(parent *peer, s int, at time.Time) {
	r := &l.relay
	var owed []*part
	for pt := range parent.parts {
		if relay.Stripe(r.geo, pt.piece, r.a.Stripes) == s && parent.have.has(pt.piece) && pt.waits() {
			owed = append(owed, pt)
		}
	}
	if len(owed) == 0 {
		return
	}
	slices.SortFunc(owed, func(a, b *part) int { return cmp.Compare(a.run.First, b.run.First) })
	soon := max(owedLeast, int(float64(r.picker.Rate(parent.id))*owedFor.Seconds()/blockSize))
	for len(owed) > 0 && soon > 0 {
		soon -= int(owed[0].run.Count)
		owed = owed[1:]
	}
	for _, pt := range slices.Backward(owed) {
		if len(pt.asks) != 1 || !pt.asks[0].planned || pt.last.Load() != 0 || pt.f.whole != nil || !l.t.board.has(pt.piece) {
			continue
		}
		if h := l.helper(pt, at); h != nil {
			l.askHelp(pt, h, at)
		}
	}
}

// helper is who may have an uplink to spare for a part: somebody who has its piece and has not refused lately.
func (l *loop) helper(pt *part, at time.Time) (best *peer) {
	for p := range l.peers {
		if !p.known || p.closing || p.seed || at.Before(p.helps) || !p.have.has(pt.piece) || pt.asks[0].p == p || pt.wasRefused(p) {
			continue
		}
		if n := p.inflight.Load() - p.waiting.Load(); (n == 0 || int(n)+int(pt.run.Count) <= helpRoom) && (best == nil || n < best.inflight.Load()-best.waiting.Load()) {
			best = p
		}
	}
	return best
}

// askHelp asks a helper for a part, besides the parent.
func (l *loop) askHelp(pt *part, p *peer, at time.Time) {
	pt.asks = append(pt.asks, ask{p: p, at: at, spare: true})
	p.parts[pt] = struct{}{}
	p.askRuns(pt, pt.absentBlocks(make([]uint32, 0, blob.MaxBuffer)), nil, false, true)
}

// endHelp leaves a part to whoever else was asked for it.
func (l *loop) endHelp(pt *part, p *peer, at time.Time, wait time.Duration) {
	p.helps = at.Add(wait)
	p.forget(pt)
	l.unask(pt, p)
}

// helped reports whether a part was asked of a peer as of a helper.
func (pt *part) helped(p *peer) bool {
	return slices.ContainsFunc(pt.asks, func(a ask) bool { return a.p == p && a.spare })
}

// leftover is what the uplink of a torrent could send beside what it sends.
type leftover struct {
	mu    sync.Mutex // guards what follows
	at    time.Time
	up    int64   // bytes in all until then
	lent  int64   // of these, those to helped peers
	sends float64 // bytes per second lately, without these
	bytes float64 // that may be lent now

	comesAt time.Time
	down    int64   // bytes that had come then
	comes   float64 // bytes per second when they came fastest
}

const (
	// spareTime is for how long an uplink that is not used is kept for others.
	spareTime = 25 * time.Millisecond
	// comesWindow is over what time the rate at which bytes come is measured, sendsWindow the same for those that go.
	comesWindow = 500 * time.Millisecond
	sendsWindow = 100 * time.Millisecond
)

// measure counts what the uplink has had left over since the last time. What it can send is known when it was busy;
// before that it is taken to send as fast as bytes come, from others like itself. mu is held.
func (o *leftover) measure(t *Torrent, at time.Time) {
	up, down, lent := t.up.Load(), t.down.Load(), t.lent.Load()
	if o.at.IsZero() {
		o.at, o.up, o.lent, o.comesAt, o.down = at, up, lent, at, down
		return
	}
	if d := at.Sub(o.comesAt); d >= comesWindow {
		o.comes = max(o.comes, float64(down-o.down)/d.Seconds())
		o.comesAt, o.down = at, down
	}
	d := at.Sub(o.at).Seconds()
	if d < 0.005 {
		return
	}
	own := max(0, float64(up-o.up-(lent-o.lent)))
	o.sends += (own/d - o.sends) * min(1, d/sendsWindow.Seconds())
	o.at, o.up, o.lent = at, up, lent
	can := float64(t.uplink.Load())
	if can == 0 {
		can = o.comes
	}
	free := can - o.sends
	if free < can/8 { // no more than what is measured wrongly
		o.bytes = min(o.bytes, 0)
		return
	}
	o.bytes = min(o.bytes+free*d, max(can*spareTime.Seconds(), 2*blockSize))
}

// lend reports whether n bytes may be sent to somebody who asks for help, and takes them.
func (t *Torrent) lend(n int64) bool {
	o := &t.leftover
	o.mu.Lock()
	defer o.mu.Unlock()
	o.measure(t, now())
	if o.bytes <= 0 {
		return false
	}
	o.bytes -= float64(n)
	return true
}

// measureLeftover is for the times in which nobody asks.
func (l *loop) measureLeftover(at time.Time) {
	o := &l.t.leftover
	o.mu.Lock()
	defer o.mu.Unlock()
	o.measure(l.t, at)
}

// refuseHelp answers a run for which nothing is left over.
func (p *peer) refuseHelp(tag uint32) { p.rejectRun(tag, peerwire.ReasonBusy, helpRetry) }
