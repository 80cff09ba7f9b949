package swarm

import (
	"cmp"
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
)

// schedule asks peers for the parts that wait, most urgent class first, oldest first within a class.
func (l *loop) schedule() {
	l.round = round{at: now()}
	for class := range l.pending {
		if l.unsorted && class > int(blob.Read) && l.t.relaying.Load() {
			// All nodes of a plan ask in the same order, or a child waits for what its parent asks for last.
			slices.SortStableFunc(l.pending[class], func(a, b *part) int { return cmp.Compare(a.run.First, b.run.First) })
		}
		keep := l.pending[class][:0]
		for _, pt := range l.pending[class] {
			if pt.state != queued {
				continue
			}
			if !l.place(pt) {
				keep = append(keep, pt)
			}
		}
		clear(l.pending[class][len(keep):])
		l.pending[class] = keep
	}
	l.unsorted = false
}

// round is what one pass of schedule has found.
type round struct {
	at   time.Time
	full uint32 // bit of a stripe: nothing more can be asked for in it for now
}

// place asks the best peer for a part. It reports false when the part has to wait for room at that peer; a
// part that nobody can deliver fails its call.
func (l *loop) place(pt *part) (done bool) {
	if pt.over() {
		l.finish(pt)
		return true
	}
	if l.mustGather(pt) {
		l.gather(pt)
		return true
	}
	if l.round.at.Before(pt.after) {
		return false
	}
	switch p, verdict := l.parent(pt); verdict {
	case askParent:
		l.ask(pt, p, true)
		return true
	case waitForParent:
		return false
	}
	p, _, room := l.best(pt)
	if p != nil && !room || p == nil && l.choked(pt) {
		return false
	}
	if p == nil && l.scatter(pt) {
		return true
	}
	if p == nil {
		l.finish(pt)
		pt.f.fail(unavailable(pt.run, "no connected peer can deliver"))
		return true
	}
	l.ask(pt, p, false)
	return true
}

// best is the peer that is expected to deliver a part first, and when, of those that offer its piece and were
// not asked for it yet. Without room it has enough to do for now: waiting for it is still better than asking
// somebody slower.
func (l *loop) best(pt *part) (best *peer, first time.Duration, room bool) {
	if !l.t.avail.trusted.has(pt.piece) {
		return nil, 0, false
	}
	n := int(pt.run.Count)
	urgent := pt.f.class <= blob.Read
next:
	for p := range l.peers {
		if p.closing || !p.offersPart(pt) || pt.wasRefused(p) || pt.f.only != nil && pt.f.only != p || !urgent && p.chokesBulk(pt.piece) {
			continue
		}
		for _, a := range pt.asks {
			if a.p == p {
				continue next
			}
		}
		d := p.expect(n, pt.f.class)
		if !urgent && p.seed && l.t.relaying.Load() {
			d += time.Hour // what others can give is not the source's to send again
		}
		if urgent && p.seed && p.ours() {
			d = 2*d + seedPenalty
		}
		if best == nil || d < first {
			best, first = p, d
		}
	}
	return best, first, best != nil && best.room(n, pt.f.class)
}

// room reports whether n more blocks may be asked of the peer. For urgent ones, which somebody waits for, its
// depth may be exceeded up to what it takes at all.
func (p *peer) room(n int, c blob.Class) bool {
	inflight := int(p.inflight.Load() - p.waiting.Load())
	if c <= blob.Read && p.ours() {
		return int(p.urgent.Load())+n <= maxRuns/2
	}
	if inflight == 0 || c <= blob.Read && inflight+n <= p.queue {
		return true
	}
	return inflight+n <= p.t.bulkDepth(p.depth(), c)
}

// ask requests what is missing of a part from a peer, and the leaf hashes of the piece when nobody has been
// asked for those.
//
// planned: it may take its time for blocks that it does not have yet.
func (l *loop) ask(pt *part, p *peer, planned bool) {
	if pt.state == queued && !pt.counted {
		pt.counted = true
		pt.f.placed()
	}
	l.askBlocks(pt, p, pt.absentBlocks(make([]uint32, 0, blob.MaxBuffer)), planned)
}

// askBlocks is ask for some blocks of a part.
func (l *loop) askBlocks(pt *part, p *peer, blocks []uint32, planned bool) {
	pt.state = asked
	pt.asks = append(pt.asks, ask{p: p, at: now(), planned: planned})
	p.parts[pt] = struct{}{}
	l.active[pt] = struct{}{}
	if planned {
		l.asked(pt, p, len(blocks))
	}
	var try *leafTry
	if pt.f.whole == nil {
		try = l.leavesFor(pt, p, planned)
	}
	if pt.state != asked {
		return // its hashes cannot be had
	}
	if try != nil {
		p.expectTry(try)
	}
	switch {
	case len(blocks) > 0:
		p.ask(pt, blocks, try, planned)
	case try != nil:
		p.out.send(func(b []byte) []byte { return p.appendTry(b, try) })
	}
}

// scatter asks several peers of ours for the blocks of a part that none has all of: each for what it is expected
// to deliver first. False: some block nobody has.
func (l *loop) scatter(pt *part) bool {
	if !l.t.avail.trusted.has(pt.piece) || pt.f.whole != nil {
		return false
	}
	blocks := pt.absentBlocks(make([]uint32, 0, blob.MaxBuffer))
	from := make(map[*peer][]uint32)
	for _, b := range blocks {
		var best *peer
		for p := range l.peers {
			holds := p.offers(pt.piece) || p.ours() && p.holds.has(pt.piece, l.t.geo.bpp, blob.Run{First: b, Count: 1})
			if p.closing || !holds || pt.wasRefused(p) || pt.f.class > blob.Read && p.chokesBulk(pt.piece) {
				continue
			}
			if n := len(from[p]) + 1; best == nil || p.expect(n, pt.f.class) < best.expect(len(from[best])+1, pt.f.class) {
				best = p
			}
		}
		if best == nil {
			return false
		}
		from[best] = append(from[best], b)
	}
	if len(blocks) == 0 {
		return false
	}
	if !pt.counted {
		pt.counted = true
		pt.f.placed()
	}
	for p, some := range from {
		if l.askBlocks(pt, p, some, false); pt.state != asked {
			return true // its hashes cannot be had
		}
	}
	return true
}

// unask notes that a peer will not deliver a part; when nobody else was asked it waits for another peer.
func (l *loop) unask(pt *part, p *peer) {
	delete(p.parts, pt)
	for i, a := range pt.asks {
		if a.p == p {
			pt.asks = append(pt.asks[:i], pt.asks[i+1:]...)
			break
		}
	}
	if len(pt.asks) == 0 && pt.state == asked {
		l.requeue(pt)
	}
}

// requeue puts a part in front of its class: it has waited already. A part that is complete, and waits only
// to be verified, needs nobody.
func (l *loop) requeue(pt *part) {
	if pt.state == gone || !pt.waits() {
		return
	}
	pt.state = queued
	delete(l.active, pt)
	c := pt.f.class
	l.pending[c] = append([]*part{pt}, l.pending[c]...)
	l.unsorted = true
	l.dirty = true
}

// finish takes a part out of everything and cancels what is still asked for it.
func (l *loop) finish(pt *part) {
	if pt.state == gone {
		return
	}
	pt.state = gone
	delete(l.active, pt)
	for _, a := range pt.asks {
		if a.planned && l.relay.picker != nil {
			if n := a.p.owed(pt); n > 0 {
				l.relay.picker.Dropped(now(), a.p.id, pt.piece, n*blockSize)
			}
		}
		delete(a.p.parts, pt)
		a.p.forget(pt)
	}
	pt.asks = nil
	l.dirty = true
}

// seedPenalty is how much longer somebody blocked on a block waits for a node that may have it from others, rather
// than ask the one from which all have it: two thirds of the time of a block at 40 Mbit/s.
const seedPenalty = 2 * time.Millisecond

const (
	// hedgeAfter is the least time without a block after which another peer is asked too. It is above a
	// TCP retransmission after a lost segment (RTO min 200 ms, tcp(7)), which is the commonest short stall.
	hedgeAfter = 200 * time.Millisecond
	// hedgeBlock is that for what somebody is blocked on and peers of ours serve before all else: the tail loss
	// probe of TCP (RFC 8985) recovers a lost last segment within two round trips, so after two ticks it is the
	// peer itself that is stuck.
	hedgeBlock = 2 * tickBusy
	// An urgent part is asked elsewhere after two seconds even from a peer that has always been slow.
	hedgeUrgent = 2 * time.Second
	hedgeBulk   = 10 * time.Second
	// maxAsks bounds the copies of one part.
	maxAsks = 3
)

// hedgeable is after how long a part may be asked of another peer too.
func (pt *part) hedgeable() time.Duration {
	if pt.f.class <= blob.Read && len(pt.asks) > 0 && pt.asks[0].p.ours() {
		return hedgeBlock
	}
	return hedgeAfter
}

// hedge asks another peer for parts of which nothing has come for longer than their peer usually takes.
func (l *loop) hedge(at time.Time) {
	for pt := range l.active {
		if !pt.waits() {
			continue
		}
		if len(pt.asks) == 0 {
			l.requeue(pt)
			continue
		}
		a := pt.asks[len(pt.asks)-1]
		asked := at.Sub(a.at)
		if a.spare && asked > helpWithin {
			l.endHelp(pt, a.p, at, helpWithin)
			continue
		}
		if a.spare && pt.asks[0].planned {
			a = pt.asks[0]
		}
		if a.planned {
			l.follow(pt, a, at)
			continue
		}
		if asked >= 2*tickBusy && pt.orphaned(at) {
			l.withdraw(pt)
			continue
		}
		if asked < pt.hedgeable() || len(pt.asks) >= maxAsks {
			continue
		}
		p, first, room := l.best(pt)
		if p == nil || !room {
			continue
		}
		// Stalled, or left far behind: somebody else would be done by now, twice over.
		if min(asked, pt.silent(at)) >= l.patience(pt, a.p) || asked >= pt.hedgeable()+2*first {
			l.ask(pt, p, false)
		}
	}
}

// orphaned reports whether a block of the part is missing that nobody is going to send: the copy of one peer
// was discarded because another one's was under way, and that one then broke off, or got stuck.
func (pt *part) orphaned(at time.Time) bool {
next:
	for _, b := range pt.absentBlocks(make([]uint32, 0, blob.MaxBuffer)) {
		for _, a := range pt.asks {
			if a.p.owes(b, pt) {
				continue next
			}
		}
		if !pt.arriving(b, at) {
			return true
		}
	}
	return false
}

// patience is how long a part may wait for a peer: twice the 95th percentile of its latencies.
func (l *loop) patience(pt *part, p *peer) time.Duration {
	p.mu.Lock()
	d := 2 * p.meter.p95()
	p.mu.Unlock()
	limit := hedgeBulk
	if pt.f.class <= blob.Read {
		limit = hedgeUrgent
	}
	return min(limit, max(pt.hedgeable(), d))
}
