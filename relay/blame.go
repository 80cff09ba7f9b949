package relay

import (
	"slices"
	"time"
)

// What complaints do. The one who complains is given another parent at once, whatever is true; that others lose a
// parent too takes more:
//
//   - lost: two of its children say so, or it has itself stood still;
//   - slow: what is said to have come from it is much less than a stripe's rate;
//   - liar: two of its children say so, or the only one.
//
// Everybody has few words: who complains of many others is most likely itself the reason.
const (
	// maxWords is how many complaints of one node count at once, and wordEvery when it may say one more. A node
	// has a parent per stripe; in a swarm that loses one of a hundred members each second, one of its ten
	// ancestors per stripe goes every five seconds, but its own parent only every fifty.
	maxWords  = 6
	wordEvery = 3 * time.Second
	// doubtFor is how long somebody who seems dead or stuck is nobody's parent. If it is, the tracker will have
	// removed it by then.
	doubtFor = 10 * time.Second
	// waryFor is how long somebody that one child has lost gets no new ones: the other children notice as well,
	// if it is gone.
	waryFor = 3 * time.Second
	// together is within what time two complaints belong to one cause.
	together = 5 * time.Second
)

// blame is what is said of one member, and by it.
type blame struct {
	words   int // how many complaints it has made, less those that time has forgiven
	wordsAt time.Time
	by      [Liar + 1][]word // who complained, by reason
}

type word struct {
	who NodeID
	at  time.Time
}

// Complain takes what a child says of a parent.
func (p *Planner) Complain(now time.Time, child NodeID, c Complaint) {
	p.clock(now)
	v, u := p.nodes[child], p.nodes[c.Parent]
	if v == nil || u == nil || v == u || c.Stripe < 0 || c.Stripe >= p.k || c.Reason < Lost || c.Reason > Liar {
		return
	}
	p.heardOf(v)
	s := c.Stripe
	mine := v.trees[s].parent == u
	if !mine && c.Reason != Liar {
		return // it speaks of a former parent, or of one that it takes from for the time being
	}
	counts := v.mayTalk(p.now)
	if c.Reason == Slow {
		if counts {
			p.slowParent(v, u, s, c.Rate)
		}
		p.flush()
		return
	}
	others := u.heard(c.Reason, child, p.now)
	children := u.children()
	p.shun(v, u.ID)
	for s := range p.k {
		if v.trees[s].parent == u {
			p.leaveParent(v, s)
		}
	}
	if counts && c.Reason == Liar && (others >= 2 || children <= 1 && mine) {
		p.ban(u)
	}
	if counts && c.Reason == Lost {
		if others >= min(2, children) || p.still(u) {
			p.giveUp(u)
		} else {
			p.distrust(u, waryFor)
		}
	}
	p.flush()
}

// leaveParent takes v from a parent that is no good for it. A head looks for another source.
func (p *Planner) leaveParent(v *vertex, s int) {
	p.detach(v, s)
	p.queue(v)
}

// mayTalk reports whether a complaint of v counts, and counts it.
func (v *vertex) mayTalk(now time.Time) bool {
	if n := int(now.Sub(v.wordsAt) / wordEvery); n > 0 {
		v.words = max(0, v.words-n)
		v.wordsAt = now
	}
	v.words = min(v.words+1, maxWords+1)
	return v.words <= maxWords
}

// heard notes a complaint and returns how many have made the same one lately. A lie is not forgotten.
func (v *vertex) heard(r Reason, who NodeID, now time.Time) int {
	v.by[r] = slices.DeleteFunc(v.by[r], func(w word) bool { return w.who == who || r != Liar && now.Sub(w.at) > together })
	if len(v.by[r]) < 4 {
		v.by[r] = append(v.by[r], word{who, now})
	}
	return len(v.by[r])
}

// children is how many different members take something from v.
func (v *vertex) children() int {
	var ids []NodeID
	for s := range v.trees {
		for _, c := range v.trees[s].children {
			if !slices.Contains(ids, c.ID) {
				ids = append(ids, c.ID)
			}
		}
	}
	return len(ids)
}

// still reports whether nothing has been heard of the progress of v for so long that it may be gone.
func (p *Planner) still(v *vertex) bool {
	if v.Source {
		return false
	}
	for s := range v.trees {
		if b := &v.trees[s]; v.trees[s].upto >= p.ends[s] || p.now.Sub(b.moved) < p.stall {
			return false
		}
	}
	return true
}

// graceFor is how long an edge is left alone: what was asked for over the one before comes first.
const graceFor = 600 * time.Millisecond

// mayMove reports whether one more parent may be taken for slow: one in sixteen members per second, and two at once
// in any swarm. In a network that is slow as a whole everybody complains, and no tree is better than another.
func (p *Planner) mayMove() bool {
	most := max(2, float64(len(p.nodes))/16)
	p.moves = min(most, p.moves+max(0.5, most/2)*p.now.Sub(p.movesAt).Seconds())
	p.movesAt = p.now
	if p.moves < 1 {
		return false
	}
	p.moves--
	return true
}

// slowParent takes it that v gets rate bytes per second from u, in one stripe.
func (p *Planner) slowParent(v, u *vertex, s int, rate int64) {
	switch {
	case !u.Source && u.trees[s].upto < v.trees[s].upto+Unit(p.g)*uint32(p.k):
		return // it has no more itself: who keeps it waiting will be complained of by u
	case p.now.Sub(v.trees[s].since) < graceFor:
		return
	}
	full := p.rate.used
	if full == 0 {
		full = p.rate.observed()
	}
	if others, children := u.heard(Slow, v.ID, p.now), u.children(); others < min(2, children) {
		return // the others get what they need, or will say so
	}
	if est := rate * int64(u.kids); rate > 0 && full > 0 && est <= full/2 {
		u.est, u.estAt = est, p.now
		p.refit(u)
	} else if rate > 0 && full > 0 {
		return // it sends as much as can be had from anybody
	} else {
		p.distrust(u, waryFor)
	}
	if !p.mayMove() {
		return
	}
	switch {
	case u.slots == 0 && u.kids > 0:
		for s := range p.k {
			p.dropChildren(u, s)
		}
	case u.kids > u.slots:
		p.shedAll(u)
	case p.heads[s].v != v && p.spareSlots():
		// It can carry them all, if it is to be believed: the way from it to v is what is slow.
		p.shun(v, u.ID)
		p.leaveParent(v, s)
	}
}

// dropChildren takes all children from u in one tree. When it was the head, one of them becomes it.
func (p *Planner) dropChildren(u *vertex, s int) {
	if u.Source && p.feeder() == u {
		return
	}
	b := &u.trees[s]
	orphans := slices.Clone(b.children)
	for _, c := range slices.Backward(orphans) {
		p.detach(c, s)
	}
	if h := p.heads[s]; h.v == u && len(orphans) > 0 {
		if heir := p.heir(orphans, s); heir != nil {
			h.v = nil
			p.detach(u, s)
			b.placed = false
			p.shelve(u, s)
			p.queue(u)
			p.touch(u)
			p.crown(heir, s)
		}
	}
	for _, c := range orphans {
		p.queue(c)
	}
}

// ban makes u nobody's parent for good.
func (p *Planner) ban(u *vertex) {
	u.banned = true
	p.unfollow(u)
}

// distrust gives u no new children for a while.
func (p *Planner) distrust(u *vertex, d time.Duration) {
	if !u.doubted {
		p.doubted = append(p.doubted, u)
		u.doubted = true
	}
	if until := p.now.Add(d); until.After(u.until) {
		u.until = until
	}
	p.shelveAll(u)
}

// doubtIt takes the children from u, too.
func (p *Planner) doubtIt(u *vertex) {
	p.distrust(u, doubtFor)
	p.unfollow(u)
}

// giveUp takes u out of the trees: it is most likely dead. When it is heard of it gets a place again, as a leaf.
func (p *Planner) giveUp(u *vertex) {
	p.distrust(u, doubtFor)
	if u.Source {
		p.unfollow(u)
		return
	}
	u.absent = true
	for s := range p.k {
		p.uproot(u, s)
	}
}

// heardOf gives a member that was given up a place again.
func (p *Planner) heardOf(v *vertex) {
	if v.absent {
		v.absent = false
		p.queue(v)
	}
}

func (p *Planner) unfollow(u *vertex) {
	p.shelveAll(u)
	for s := range p.k {
		p.dropChildren(u, s)
	}
}

// Tick does what the clock demands: it replaces heads that stand still, and forgets doubts.
func (p *Planner) Tick(now time.Time) {
	p.clock(now)
	p.doubted = slices.DeleteFunc(p.doubted, func(v *vertex) bool {
		if v.until.After(p.now) {
			return false
		}
		v.doubted = false
		if p.nodes[v.ID] == v {
			p.shelveAll(v)
		}
		return true
	})
	for s, h := range p.heads {
		if h.v != nil && p.stalled(s) {
			h.patient = min(2*h.patient, 40*p.stall)
			p.doubtIt(h.v)
		}
	}
	if p.now.Sub(p.fittedAt) >= time.Second {
		p.fittedAt = p.now
		p.refitAll()
	}
	p.abandon()
	p.ease()
	p.hasten()
	p.flush()
}

// stalled reports whether the head of s stands still while others wait for it.
func (p *Planner) stalled(s int) bool {
	h := p.heads[s]
	b := &h.v.trees[s]
	if b.upto >= p.ends[s] || len(b.children) == 0 {
		return false
	}
	last := b.moved
	if h.since.After(last) {
		last = h.since
	}
	limit := h.patient
	if !p.started {
		limit *= 4 // nothing has left the source yet: it is that which is slow
	}
	limit = max(limit, p.stillFor(s))
	return p.now.Sub(last) >= limit
}

// stillFor is how long somebody who gets on may complete no piece of a stripe: large ones come less often than
// every 1.5 s; three times what one turn takes.
func (p *Planner) stillFor(s int) time.Duration {
	d := p.stall
	if r := p.rate.paces[s].rate; r > 0 {
		d = max(d, time.Duration(3*float64(int64(Unit(p.g))*p.g.PieceLength)/float64(r)*float64(time.Second)))
	}
	return d
}
