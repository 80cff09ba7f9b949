package relay

import (
	"bytes"
	"cmp"
	"slices"
	"time"
)

// Where a member is placed:
//
//   - below a member with a slot free, as near to the top as there is one. The member's own zone comes first, then
//     the zone around that, and so on: a zone becomes a subtree with few edges that lead out of it;
//   - a member that passes this stripe on takes the place of a leaf that does not, if that is nearer to the top,
//     and the leaf moves down. Otherwise members that come one after the other would make a tree that is as deep
//     as a list. A leaf that is well ahead of the newcomer is left alone, so this happens at the start;
//   - without a free slot anywhere, below the member that has the fewest children too many, as far down as
//     possible: only its other children, which are leaves, get less;
//   - where nobody can be taken from, the member becomes the head.

// maxTries is how many candidates of a shelf are looked at: those on it are nearly all good, but when half of the
// tree hangs in the air, half of them are not.
const maxTries = 32

// flush places all that lack a place. Where everybody is below somebody who lacks one too, it takes a second turn.
func (p *Planner) flush() {
	for range 3 {
		left := len(p.todo)
		if p.flushOnce(); len(p.todo) == 0 || len(p.todo) == left {
			return
		}
	}
}

func (p *Planner) flushOnce() {
	if len(p.todo) == 0 {
		return
	}
	if !p.sourced() {
		p.todo = slices.DeleteFunc(p.todo, func(v *vertex) bool { return p.nodes[v.ID] != v })
		return
	}
	todo := p.todo
	p.todo = nil
	members := todo[:0]
	for _, v := range todo {
		v.queued = false
		if p.nodes[v.ID] == v && !v.Source && v.Bulk && !v.absent {
			members = append(members, v)
		}
	}
	for _, v := range members {
		if v.home < 0 {
			p.settleHome(v, p.chooseHome(v))
		}
	}
	for s := range p.k {
		var lack []*vertex
		for _, v := range members {
			if v.trees[s].parent == nil {
				lack = append(lack, v)
			}
		}
		p.placeAll(lack, s)
	}
}

// placeAll places vertices without a parent in one tree: those that pass it on first.
func (p *Planner) placeAll(lack []*vertex, s int) {
	h := p.heads[s]
	if h.v != nil && h.v.trees[s].parent == nil {
		p.feed(h.v, s)
	}
	if h.v == nil && len(lack) > 0 && !p.alternative() {
		p.crown(p.heir(lack, s), s)
	}
	for pass := range 2 {
		for _, v := range lack {
			inner := v.home == s && v.slots > 0 || len(v.trees[s].children) > 0
			if inner != (pass == 0) || v == h.v || v.trees[s].parent != nil {
				continue
			}
			p.place(v, s)
		}
	}
}

// alternative reports whether there is a source that need not be spared.
func (p *Planner) alternative() bool {
	return slices.ContainsFunc(p.sources, func(v *vertex) bool { return !p.restricted(v) && p.trusted(v) })
}

// chooseHome is the stripe that lacks slots most, where v stands.
func (p *Planner) chooseHome(v *vertex) int {
	for i := len(v.zones) - 1; i >= 0; i-- {
		best, same := 0, true
		for s := 1; s < p.k; s++ {
			if a, b := v.zones[i].trees[s].free, v.zones[i].trees[best].free; a != b {
				same = false
				if a < b {
					best = s
				}
			}
		}
		if !same {
			return best
		}
	}
	return int(p.gen+int64(len(p.nodes))) % p.k
}

// place gives v a parent in the tree of s, or makes it the head.
func (p *Planner) place(v *vertex, s int) {
	if p.takeOver(v, s) || p.settle(v, s) || p.makeRoom(v, s) {
		return
	}
	if u := p.crowded(v, s); u != nil {
		p.attach(v, s, u)
		return
	}
	u := p.leastBehind(v, s, slow)
	if u == nil && p.heads[s].v != nil {
		// Rather somebody that is doubted, or that it has complained of, than nobody, or the source once more.
		if u = p.anybody(v, s); u == nil {
			u = p.leastBehind(v, s, costly)
		}
	}
	if u != nil {
		p.attach(v, s, u)
		return
	}
	if p.heads[s].v == nil {
		p.crown(v, s)
		return
	}
	// Nobody trustworthy is left that is not below v itself: it is tried again when anything has happened.
	p.queue(v)
}

// crowded is a parent that has no slot free, but is level with v.
func (p *Planner) crowded(v *vertex, s int) *vertex {
	for c := full0; c < slow; c++ {
		for i := len(v.zones) - 1; i >= 0; i-- {
			if u := p.scan(&v.zones[i].trees[s].acc[c], v, s, true); u != nil {
				return u
			}
		}
	}
	return nil
}

// takeOver makes v the head, when the head is that of another stripe too, for which nobody else was there, and
// has nothing yet that would have to be read twice.
func (p *Planner) takeOver(v *vertex, s int) bool {
	old := p.heads[s].v
	if old != nil && p.origin && v.Prefer && !old.Prefer && p.trusted(v) && old.trees[s].upto <= v.trees[s].upto+p.slack() {
		p.detach(old, s)
		p.crown(v, s)
		p.place(old, s)
		return true
	}
	if old == nil || p.origin && old.Prefer || v.home != s || v.slots == 0 || !p.trusted(v) || p.crowns(v) > 0 || p.crowns(old) < 2 || old.home == s || old.trees[s].upto > v.trees[s].upto {
		return false
	}
	p.detach(old, s)
	p.crown(v, s)
	p.place(old, s)
	return true
}

// settle finds v a parent with a slot to spare.
func (p *Planner) settle(v *vertex, s int) bool {
	for i := len(v.zones) - 1; i >= 0; i-- {
		t := &v.zones[i].trees[s]
		u := p.scan(&t.acc[spare], v, s, false)
		if u == nil {
			u = p.scan(&t.acc[foreign], v, s, false)
		}
		if v.home == s && v.slots > 0 {
			if leaf := p.scanLeaf(&t.leaf, v, s, u); leaf != nil {
				p.displace(leaf, v, s)
				return true
			}
		}
		if u != nil {
			p.attach(v, s, u)
			return true
		}
	}
	return false
}

// makeRoom gives v the place of a leaf, and the leaf a free slot further down, when all free slots are held by
// members that are behind, or below v itself. The leaf then waits until they have caught up with it, once; without
// that, v and the other children of some member would get less than they need until the end.
func (p *Planner) makeRoom(v *vertex, s int) bool {
	t := &p.world.trees[s]
	if t.acc[spare].n+t.acc[foreign].n == 0 && len(v.trees[s].children) == 0 {
		return false
	}
	need := p.need(v, s)
	var leaf *vertex
	for _, row := range t.leaf.rows {
		for _, l := range row {
			parent := l.trees[s].parent
			if (leaf == nil || l.trees[s].upto < leaf.trees[s].upto) && p.trusted(parent) && parent.trees[s].upto >= need && parent.kids <= parent.slots && p.suits(parent, v, s) {
				leaf = l
			}
		}
	}
	if leaf == nil {
		return false
	}
	parent := leaf.trees[s].parent
	p.detach(leaf, s)
	p.attach(v, s, parent)
	u := p.leastBehind(leaf, s, foreign)
	if u == nil && len(v.trees[s].children) > 0 {
		u = p.crowded(leaf, s) // only leaves are to have less than they need
	}
	if u != nil {
		p.attach(leaf, s, u)
		return true
	}
	p.detach(v, s)
	p.attach(leaf, s, parent)
	return false
}

// displace puts v into the place of a leaf, and the leaf elsewhere.
func (p *Planner) displace(leaf, v *vertex, s int) {
	parent := leaf.trees[s].parent
	p.detach(leaf, s)
	p.attach(v, s, parent)
	p.place(leaf, s)
}

// scan looks through a shelf for a parent of v that is not behind it, from the top or from the bottom.
func (p *Planner) scan(sh *shelf, v *vertex, s int, deepest bool) *vertex {
	if sh.n == 0 {
		return nil
	}
	need, tries := p.need(v, s), maxTries
	for i := range sh.rows {
		if deepest {
			i = len(sh.rows) - 1 - i
		}
		for _, u := range slices.Backward(sh.rows[i]) {
			if tries--; tries < 0 {
				return nil
			}
			if u.trees[s].upto >= need && p.suits(u, v, s) {
				return u
			}
		}
	}
	return nil
}

// leastBehind is the parent for a member that nobody with a slot is level with: the one that is furthest, and has
// the best class among those, which is at least worst.
func (p *Planner) leastBehind(v *vertex, s int, worst class) (best *vertex) {
	need := p.need(v, s)
	for c := spare; c <= worst; c++ {
		for _, row := range p.world.trees[s].acc[c].rows {
			for _, u := range row {
				upto := min(need, u.trees[s].upto)
				if (best == nil || upto > min(need, best.trees[s].upto)) && p.suits(u, v, s) {
					best = u
				}
			}
		}
	}
	return best
}

// anybody is a parent for a member that cannot be choosy.
func (p *Planner) anybody(v *vertex, s int) (best *vertex) {
	for _, u := range p.nodes {
		if u == v || u.banned || u.absent || !u.trees[s].placed || p.restricted(u) || !p.reaches(u, s, v) {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(u.trees[s].upto, best.trees[s].upto), bytes.Compare(best.ID[:], u.ID[:])) > 0 {
			best = u
		}
	}
	return best
}

// need is how far a parent of v is to be.
func (p *Planner) need(v *vertex, s int) uint32 {
	upto := v.trees[s].upto
	return upto - min(upto, p.slack())
}

// suits reports whether u can be a parent of v.
func (p *Planner) suits(u, v *vertex, s int) bool {
	return u != v && !p.shuns(v, u.ID) && p.reaches(u, s, v)
}

// scanLeaf looks for a leaf whose place is nearer to the top than one below instead, and that v may take.
func (p *Planner) scanLeaf(sh *shelf, v *vertex, s int, instead *vertex) *vertex {
	if sh.n == 0 {
		return nil
	}
	limit, tries := maxRow, maxTries
	if instead != nil {
		limit = min(limit, instead.trees[s].depth)
	}
	reach := v.trees[s].upto + p.slack()
	for row := 0; row < len(sh.rows) && row <= limit; row++ {
		for i := range sh.rows[row] {
			if tries--; tries < 0 {
				return nil
			}
			p.turn++ // so that it is not always the same one
			leaf := sh.rows[row][(i+p.turn)%len(sh.rows[row])]
			parent := leaf.trees[s].parent
			if leaf != v && leaf.trees[s].upto <= reach && !p.shuns(v, parent.ID) && p.trusted(parent) && p.reaches(parent, s, v) {
				return leaf
			}
		}
	}
	return nil
}

// slack is by how many pieces one member may be behind another and still count as level with it: what comes in
// 300 ms, which is what a tree of ten levels delays, and at least two turns of the stripe.
func (p *Planner) slack() uint32 {
	turn := Unit(p.g) * uint32(p.k)
	return max(2*turn, uint32(min(int64(p.pieces), p.rate.observed()*3/10/max(1, p.g.PieceLength))))
}

// ease moves leaves from those that have more children than slots to where slots have become free.
func (p *Planner) ease() {
	for s := range p.k {
		t := &p.world.trees[s]
		for c := full1; c <= full2; c++ {
			for _, row := range t.acc[c].rows {
				for i := len(row) - 1; i >= 0 && i < len(row) && t.acc[spare].n+t.acc[foreign].n > 0; i-- {
					p.easeOne(row[i], s)
				}
			}
		}
	}
}

// easeOne moves one child of u: a leaf, even to where it has to wait once, or else one with all that is below it.
func (p *Planner) easeOne(u *vertex, s int) {
	for _, inner := range []bool{false, true} {
		for _, c := range slices.Backward(u.trees[s].children) {
			if (len(c.trees[s].children) > 0) != inner || p.heads[s].v == c {
				continue
			}
			if to := p.freeFor(c, s, !inner); to != nil {
				p.detach(c, s)
				p.attach(c, s, to)
				return
			}
		}
	}
}

// freeFor is somebody with a free slot who is level with c, or, if it may wait, is not so far behind that waiting
// once is worse than to get two thirds of what it needs until the end.
func (p *Planner) freeFor(c *vertex, s int, waits bool) *vertex {
	for i := len(c.zones) - 1; i >= 0; i-- {
		t := &c.zones[i].trees[s]
		to := p.scan(&t.acc[spare], c, s, false)
		if to == nil {
			to = p.scan(&t.acc[foreign], c, s, false)
		}
		if to != nil {
			return to
		}
	}
	if !waits {
		return nil
	}
	to := p.leastBehind(c, s, foreign)
	if to == nil || to.trees[s].upto+(p.ends[s]-min(p.ends[s], c.trees[s].upto))/2 < c.trees[s].upto {
		return nil
	}
	return to
}

// hasten gives members that still lack something to sources with nothing to do, those that lack most first. It
// happens when many have everything and some were held up: from a source that serves nobody else they get it faster
// than everybody got it.
func (p *Planner) hasten() {
	idle := 0
	for _, u := range p.sources {
		if p.trusted(u) && !p.restricted(u) {
			idle += max(0, u.slots-u.kids)
		}
	}
	lacking := len(p.nodes) - len(p.sources)
	p.idle = lacking > 0 && idle >= lacking*p.k
	if lacking == 0 || idle < lacking {
		return
	}
	type edge struct {
		v *vertex
		s int
	}
	var late []edge
	least := 4 * Unit(p.g) * uint32(p.k)
	for _, v := range p.nodes {
		if v.Source || !v.Bulk || v.absent {
			continue
		}
		for s := range p.k {
			if b := &v.trees[s]; b.parent != nil && !b.parent.Source && b.upto+least < p.ends[s] && p.now.Sub(b.since) > time.Second {
				late = append(late, edge{v, s})
			}
		}
	}
	slices.SortFunc(late, func(a, b edge) int {
		return cmp.Or(cmp.Compare(a.v.trees[a.s].upto, b.v.trees[b.s].upto), bytes.Compare(a.v.ID[:], b.v.ID[:]), cmp.Compare(a.s, b.s))
	})
	for _, e := range late[:min(len(late), idle)] {
		p.detach(e.v, e.s)
		if p.heads[e.s].v == e.v {
			p.heads[e.s].v = nil
		}
		p.queue(e.v)
	}
}

// abandon gives up members that complete nothing, in no stripe, though their parents have more: they are cut off, or
// dead, and it may take long until that is heard of in another way.
func (p *Planner) abandon() {
	if !p.started {
		return
	}
	turn := Unit(p.g) * uint32(p.k)
	var cut []*vertex
	for _, v := range p.nodes {
		if v.Source || v.absent || v.kids == 0 || p.crowns(v) > 0 {
			continue
		}
		stuck, behind := true, false
		for s := range v.trees {
			b := &v.trees[s]
			if b.upto >= p.ends[s] {
				continue
			}
			stuck = stuck && p.now.Sub(b.moved) >= p.stillFor(s)
			behind = behind || b.parent != nil && b.parent.trees[s].upto >= b.upto+2*turn
		}
		if stuck && behind {
			cut = append(cut, v)
		}
	}
	slices.SortFunc(cut, byID)
	for _, v := range cut {
		p.giveUp(v)
	}
}

// shunFor is how long a node is not given a parent again that it complained of: long enough for a blob of usual
// size, short enough for a network that was cut to be used again when it has healed.
const shunFor = 30 * time.Second

// maxShunned is how many parents a node remembers that it could not take from.
const maxShunned = 8

// shunned is a parent that a node complained of.
type shunned struct {
	id    NodeID
	until time.Time
}

func (p *Planner) shuns(v *vertex, id NodeID) bool {
	for _, s := range v.shunned {
		if s.id == id && s.until.After(p.now) {
			return true
		}
	}
	return false
}

func (p *Planner) shun(v *vertex, id NodeID) {
	n := shunned{id, p.now.Add(shunFor)}
	for i, s := range v.shunned {
		if s.id == id || !s.until.After(p.now) {
			v.shunned[i] = n
			return
		}
	}
	if len(v.shunned) < maxShunned {
		v.shunned = append(v.shunned, n)
		return
	}
	copy(v.shunned, v.shunned[1:])
	v.shunned[maxShunned-1] = n
}
