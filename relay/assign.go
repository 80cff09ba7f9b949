package relay

// maxParents is how many parents of a stripe a member is told: the one it is counted in at, and three for when
// that fails.
const maxParents = 4

// Assignment is what a member is told. It is zero for who is no member, has everything, or has no place: while
// there has never been a source. When the last source goes, the trees stay, so that what is there still spreads.
func (p *Planner) Assignment(id NodeID) Assignment {
	p.flush()
	v := p.nodes[id]
	if v == nil || v.Source {
		return Assignment{}
	}
	placed := false
	a := Assignment{Gen: v.gen, Stripes: p.k, Parents: make([][]Parent, p.k)}
	for s := range p.k {
		if p.heads[s].v == v {
			a.Head |= 1 << s
		}
		a.Parents[s] = p.parents(v, s)
		placed = placed || p.heads[s].v == v || len(a.Parents[s]) > 0
	}
	if !placed {
		return Assignment{}
	}
	return a
}

// parents lists whom v takes a stripe from, and then whom it may go to while the tracker has not said anything
// else: the grandparent, the sibling before it, the sibling of its parent. So the first of the children of one that
// is lost goes up, and the others go to each other. The source stands in the list of the head's children only, at
// the end.
func (p *Planner) parents(v *vertex, s int) (ps []Parent) {
	b := &v.trees[s]
	parent := b.parent
	if parent == nil {
		return nil
	}
	add := func(u *vertex) {
		if u == nil || u == v || len(ps) >= maxParents || len(ps) > 0 && (!p.trusted(u) || u.slots == 0 || p.shuns(v, u.ID)) {
			return
		}
		for _, x := range ps {
			if x.ID == u.ID {
				return
			}
		}
		rate := p.rate.used / int64(p.k)
		if len(ps) > 0 && p.restricted(u) {
			rate = LastResort
		}
		ps = append(ps, Parent{ID: u.ID, Rate: rate})
	}
	add(parent)
	grand := parent.trees[s].parent
	last := p.heads[s].v == parent
	if !last {
		add(grand)
	}
	if b.at > 0 && !parent.Source {
		add(parent.trees[s].children[b.at-1])
	}
	if grand != nil && !last {
		for _, uncle := range grand.trees[s].children {
			if uncle != parent {
				add(uncle)
				break
			}
		}
	}
	// Sources with nothing to do: from several of them at once the rest comes faster. Not everybody is given the same.
	for i := range p.sources {
		if !p.idle && len(ps) > 1 {
			break
		}
		u := p.sources[(i+int(v.gen))%len(p.sources)]
		if len(ps) >= maxParents {
			break
		}
		if !p.restricted(u) && u.kids < u.slots {
			add(u)
		}
	}
	if last && grand != nil {
		add(grand)
	}
	return ps
}
