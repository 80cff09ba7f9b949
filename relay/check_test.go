package relay

import (
	"fmt"
	"slices"
)

// check verifies the invariants of a planner after a flush.
func (p *Planner) check() error {
	p.flush()
	for id, v := range p.nodes {
		if v.ID != id {
			return fmt.Errorf("%x is listed as %x", v.ID[:2], id[:2])
		}
		kids := 0
		for s := range v.trees {
			b := &v.trees[s]
			kids += len(b.children)
			for i, c := range b.children {
				if c.trees[s].parent != v || c.trees[s].at != i {
					return fmt.Errorf("stripe %d: %x is child %d of %x, but does not say so", s, c.ID[:2], i, v.ID[:2])
				}
				if p.nodes[c.ID] != c {
					return fmt.Errorf("stripe %d: %x has the child %x, which is gone", s, v.ID[:2], c.ID[:2])
				}
			}
			if v.Source {
				if b.parent != nil || p.heads[s].v == v {
					return fmt.Errorf("stripe %d: the source %x takes from somebody", s, v.ID[:2])
				}
			}
			switch {
			case v.Source:
			case !p.sourced() || v.absent:
			case b.parent == nil && p.heads[s].v != v:
				for _, u := range p.nodes {
					if u != v && p.trusted(u) && !p.shuns(v, u.ID) && p.reaches(u, s, v) && (!p.restricted(u) || p.heads[s].v == nil) {
						return fmt.Errorf("stripe %d: %x is not placed, though %x is there", s, v.ID[:2], u.ID[:2])
					}
				}
				continue
			case false:
				return fmt.Errorf("stripe %d: %x has no parent and is no head", s, v.ID[:2])
			case b.parent != nil && p.nodes[b.parent.ID] != b.parent:
				return fmt.Errorf("stripe %d: the parent of %x is gone", s, v.ID[:2])
			case b.parent != nil && b.depth != b.parent.trees[s].depth+1:
				return fmt.Errorf("stripe %d: %x is at %d, its parent at %d", s, v.ID[:2], b.depth, b.parent.trees[s].depth)
			}
			if p.sourced() && !v.Source && !v.absent {
				top := v
				for top.trees[s].parent != nil {
					top = top.trees[s].parent
				}
				if !top.Source && p.heads[s].v != top && len(p.todo) > 0 {
					continue // hangs below one that nobody can be found for
				}
				steps, u := 0, v
				for ; u != nil && !u.Source && p.heads[s].v != u; u = u.trees[s].parent {
					if steps++; steps > len(p.nodes) {
						return fmt.Errorf("stripe %d: %x is in a cycle", s, v.ID[:2])
					}
				}
				if u == nil {
					return fmt.Errorf("stripe %d: %x hangs in the air", s, v.ID[:2])
				}
			}
			if b.on != p.classOf(v, s) {
				return fmt.Errorf("stripe %d: %x is on shelf %d, belongs on %d", s, v.ID[:2], b.on, p.classOf(v, s))
			}
			for _, z := range v.zones {
				t := &z.trees[s]
				if b.on != nobody && t.acc[b.on].rows[b.row][b.accAt[z.level]] != v {
					return fmt.Errorf("stripe %d: %x is not where it was put in zone %q", s, v.ID[:2], z.name)
				}
				if b.leaf && t.leaf.rows[b.row][b.leafAt[z.level]] != v {
					return fmt.Errorf("stripe %d: the leaf %x is not where it was put in zone %q", s, v.ID[:2], z.name)
				}
			}
		}
		if kids != v.kids {
			return fmt.Errorf("%x has %d children, counts %d", v.ID[:2], kids, v.kids)
		}
		if v.Source != slices.Contains(p.sources, v) {
			return fmt.Errorf("%x: source %v, listed otherwise", v.ID[:2], v.Source)
		}
	}
	for _, z := range append(slices.Collect(mapValues(p.zones)), p.world) {
		for s := range z.trees {
			free, n := 0, 0
			for _, v := range p.nodes {
				if !slices.Contains(v.zones, z) {
					continue
				}
				n++
				if v.home == s && !v.Source {
					free += v.slots - v.kids
				}
			}
			if free != z.trees[s].free {
				return fmt.Errorf("zone %q, stripe %d: %d slots free, counts %d", z.name, s, free, z.trees[s].free)
			}
			if n != z.n {
				return fmt.Errorf("zone %q has %d members, counts %d", z.name, n, z.n)
			}
		}
	}
	for s, h := range p.heads {
		if h.v != nil && p.nodes[h.v.ID] != h.v {
			return fmt.Errorf("stripe %d: the head %x is gone", s, h.v.ID[:2])
		}
	}
	return nil
}

func mapValues[K comparable, V any](m map[K]V) func(func(V) bool) {
	return func(yield func(V) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// shape says how deep the tree of a stripe is, and how many more children somebody has than slots.
func (p *Planner) shape(s int) (deepest, over, headless int) {
	p.flush()
	for _, v := range p.nodes {
		deepest = max(deepest, v.trees[s].depth)
		over = max(over, v.kids-v.slots)
	}
	return deepest, over, headless
}
