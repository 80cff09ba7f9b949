package relay

// attach makes v, which has no parent in the tree of stripe s, a child of parent.
func (p *Planner) attach(v *vertex, s int, parent *vertex) {
	b, pb := &v.trees[s], &parent.trees[s]
	b.parent, b.at = parent, len(pb.children)
	pb.children = append(pb.children, v)
	b.placed, b.moved, b.since = true, p.now, p.now
	p.kid(parent, 1)
	p.deepen(v, s, pb.depth+1)
	p.touch(v)
}

// detach takes v from its parent. What hangs below it stays there.
func (p *Planner) detach(v *vertex, s int) {
	b := &v.trees[s]
	parent := b.parent
	if parent == nil {
		return
	}
	pb := &parent.trees[s]
	// The others keep their order: who stands first among its siblings is the first to go to the grandparent.
	copy(pb.children[b.at:], pb.children[b.at+1:])
	pb.children[len(pb.children)-1] = nil
	pb.children = pb.children[:len(pb.children)-1]
	for i, c := range pb.children[b.at:] {
		c.trees[s].at = b.at + i
	}
	b.parent, b.placed = nil, false
	p.kid(parent, -1)
	p.shelve(v, s)
	p.touch(v)
}

// kid counts the children of v.
func (p *Planner) kid(v *vertex, by int) {
	v.kids += by
	p.settleHome(v, v.home)
	p.shelveAll(v)
}

// deepen sets the depth of v and of all below it.
func (p *Planner) deepen(v *vertex, s, depth int) {
	b := &v.trees[s]
	same := b.depth == depth
	b.depth = depth
	p.shelve(v, s)
	if same {
		return
	}
	for _, c := range b.children {
		p.deepen(c, s, depth+1)
	}
}

// reaches reports whether what v has of stripe s comes from a source, and not through not.
func (p *Planner) reaches(v *vertex, s int, not *vertex) bool {
	for ; v != not; v = v.trees[s].parent {
		if v.Source || p.heads[s].v == v {
			return true
		}
		if v.trees[s].parent == nil {
			return false
		}
	}
	return false
}

// uproot takes v out of the tree of stripe s. Its children look for other parents, and when it was the head, one
// of them takes its place.
func (p *Planner) uproot(v *vertex, s int) {
	p.detach(v, s)
	b := &v.trees[s]
	orphans := append([]*vertex(nil), b.children...)
	for i := len(orphans) - 1; i >= 0; i-- {
		p.detach(orphans[i], s)
	}
	b.placed = false
	p.shelve(v, s)
	if p.heads[s].v == v {
		p.heads[s].v = nil
		if heir := p.heir(orphans, s); heir != nil {
			p.crown(heir, s)
		}
	}
	for _, c := range orphans {
		p.queue(c)
	}
}

// heir is who of some vertices becomes head: the one that can pass on, and is ahead.
func (p *Planner) heir(of []*vertex, s int) (best *vertex) {
	for _, v := range of {
		if v.Source || !v.Bulk || p.nodes[v.ID] != v {
			continue
		}
		if best == nil || p.fitter(v, best, s) {
			best = v
		}
	}
	return best
}

// fitter reports whether a makes a better head than b.
func (p *Planner) fitter(a, b *vertex, s int) bool {
	if x, y := p.trusted(a), p.trusted(b); x != y {
		return x
	}
	if p.origin && a.Prefer != b.Prefer {
		return a.Prefer
	}
	if x, y := a.slots > 0, b.slots > 0; x != y {
		return x
	}
	if x, y := p.crowns(a) > 0, p.crowns(b) > 0; x != y {
		return y
	}
	if x, y := a.trees[s].upto, b.trees[s].upto; x != y {
		return x > y
	}
	if x, y := a.home == s, b.home == s; x != y {
		return x
	}
	return a.slots > b.slots
}

// trusted reports whether others may depend on v.
func (p *Planner) trusted(v *vertex) bool { return !v.banned && !v.doubted }

// crowns is of how many stripes v is the head.
func (p *Planner) crowns(v *vertex) (n int) {
	for _, h := range p.heads {
		if h.v == v {
			n++
		}
	}
	return n
}

// crown makes v, which has no parent in the tree of s, the head of s.
func (p *Planner) crown(v *vertex, s int) {
	h := p.heads[s]
	h.v, h.since = v, p.now
	v.trees[s].moved = p.now
	if v.slots > 0 && v.home != s && p.crowns(v) == 1 {
		p.settleHome(v, s)
		p.shelveAll(v)
	}
	p.feed(v, s)
}

// feed gives the head of s its source.
func (p *Planner) feed(v *vertex, s int) {
	b := &v.trees[s]
	if from := p.feeder(); from != nil && b.parent == nil {
		p.attach(v, s, from)
	} else if b.parent == nil {
		b.placed = true
		p.deepen(v, s, 0)
	}
	p.shelveAll(v)
	p.touch(v)
}

// feeder is the peer that heads read from; nil: the origin.
func (p *Planner) feeder() (best *vertex) {
	for _, v := range p.sources {
		if p.trusted(v) && (best == nil || v.kids-v.slots < best.kids-best.slots) {
			best = v
		}
	}
	return best
}
