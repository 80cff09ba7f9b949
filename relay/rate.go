package relay

import (
	"time"

	"github.com/pantala/pantala/blob"
)

// rate is at what rate, in bytes per second, the blob can travel through a swarm: it cannot leave the source
// faster than that sends, nor go on arriving everywhere faster than all of them together can send.
type rate struct {
	n     int   // members
	known int   // of them: those whose uplink is known
	sum   int64 // of the known uplinks

	paces []pace // by stripe
	used  int64  // what slots were last computed with; 0: not known
}

// pace is how fast the head of a stripe gets on, in bytes per second.
type pace struct {
	since time.Time
	from  uint32
	rate  int64
}

// paceWindow is over what time a pace is measured at least: two pieces of 256 KiB at 40 Mbit/s.
const paceWindow = 200 * time.Millisecond

func (r *rate) add(up int64) {
	r.n++
	if up > 0 {
		r.known++
		r.sum += up
	}
}

func (r *rate) remove(up int64) {
	r.n--
	if up > 0 {
		r.known--
		r.sum -= up
	}
}

// note takes the watermark of a head.
func (r *rate) note(s int, upto uint32, pieceLength int64, now time.Time) {
	p := &r.paces[s]
	if p.since.IsZero() || upto < p.from {
		p.since, p.from = now, upto
		return
	}
	d := now.Sub(p.since)
	if d < paceWindow {
		return
	}
	// Of the pieces between two watermarks of a stripe it has brought one in k.
	got := int64(float64(upto-p.from) * float64(pieceLength) / d.Seconds() / float64(len(r.paces)))
	if p.rate == 0 {
		p.rate = got
	}
	p.rate += (got - p.rate) / 4
	p.since, p.from = now, upto
}

// observed is the rate at which the heads read the blob, all stripes together; 0: not known.
func (r *rate) observed() (sum int64) {
	for i := range r.paces {
		if r.paces[i].rate == 0 {
			return 0
		}
		sum += r.paces[i].rate
	}
	return sum
}

// of is the rate with which to plan, given that of the source; 0: not known.
func (r *rate) of(source int64) int64 {
	best := source
	if r.known*2 >= r.n && r.known > 0 {
		if mean := r.sum / int64(r.known); best == 0 || mean < best {
			best = mean
		}
	} else if seen := r.observed(); seen > 0 && (best == 0 || seen < best) {
		best = seen
	}
	return best
}

// maxSlots bounds the children of one member: each is a connection that is served at its own pace.
const maxSlots = 64

// believeFor is how long a complaint about somebody's rate counts, when nothing newer is known.
const believeFor = time.Minute

// leastUp is what somebody must be able to send, in bytes per second, to be a parent at all: one block.
const leastUp = 16 << 10

// slotsFor is how many children v can feed at the rate of a stripe. An uplink that is short of an eighth of what
// one more would take still gets that one: rates are not measured more exactly.
func (p *Planner) slotsFor(v *vertex) int {
	up := v.Up
	if v.est > 0 && p.now.Sub(v.estAt) < believeFor && (up == 0 || v.est < up) {
		up = v.est
	}
	switch {
	case up == 0:
		return p.k
	case up < leastUp:
		return 0
	case p.rate.used == 0:
		return p.k
	}
	per := max(1, p.rate.used/int64(p.k))
	return int(min(maxSlots, (up+per/4)/per))
}

// refit computes the slots of v. Its children stay, even when it turns out that it has too many: what is measured of
// an uplink is less than it can do when it had nothing more to send. Only when it can feed less than a third of
// them they are moved at once; otherwise they say so if it is slow.
func (p *Planner) refit(v *vertex) {
	v.slots = p.slotsFor(v)
	p.settleHome(v, v.home)
	p.shelveAll(v)
	if v.Up > 0 && v.kids > v.slots && 3*v.Up < int64(v.kids)*p.rate.used/int64(p.k) && p.spareSlots() {
		if v.slots == 0 {
			for s := range p.k {
				p.dropChildren(v, s)
			}
		}
		p.shedAll(v)
	}
}

// shedAll takes children from v until it has no more than slots.
func (p *Planner) shedAll(v *vertex) {
	for s := range p.k {
		if s != v.home {
			p.shed(v, s)
		}
	}
	if v.home >= 0 {
		p.shed(v, v.home)
	}
}

// shed moves children of v in one tree, leaves first: least is below those.
func (p *Planner) shed(v *vertex, s int) {
	b := &v.trees[s]
	for v.kids > v.slots && len(b.children) > 0 {
		c := b.children[len(b.children)-1]
		for _, o := range b.children {
			if len(o.trees[s].children) < len(c.trees[s].children) {
				c = o
			}
		}
		if p.heads[s].v == c {
			return // a source that feeds the head
		}
		p.detach(c, s)
		p.queue(c)
	}
}

// spareSlots reports whether anybody has a slot free.
func (p *Planner) spareSlots() bool {
	for s := range p.world.trees {
		if p.world.trees[s].acc[spare].n > 0 || p.world.trees[s].acc[foreign].n > 0 {
			return true
		}
	}
	return false
}

// sourceRate is what the source sends per second; 0: not known.
func (p *Planner) sourceRate() (sum int64) {
	if p.origin {
		return 0
	}
	for _, v := range p.sources {
		if v.Up == 0 {
			return 0
		}
		sum += v.Up
	}
	return sum
}

// refitAll computes the slots of all, when the rate is a seventh off what they were computed with.
func (p *Planner) refitAll() {
	r := p.rate.of(p.sourceRate())
	if r == p.rate.used {
		return
	}
	if d := r - p.rate.used; d*d*49 <= p.rate.used*p.rate.used && r != 0 {
		return
	}
	p.rate.used = r
	for _, v := range p.inOrder() {
		p.refit(v)
	}
}

// stripeEnd is the watermark of who has all pieces of stripe s.
func stripeEnd(g blob.Geometry, s, k int) uint32 {
	n := g.Pieces()
	for i := n; i > 0; i-- {
		if Stripe(g, i-1, k) == s {
			return i
		}
	}
	return 0
}
