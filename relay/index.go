package relay

// The index answers "who, in this zone, can take one more child in this tree, nearest to the top" without looking
// at everybody. A vertex stands on one shelf per tree and per zone that it belongs to, and on a second one while
// it is a leaf that may be moved down.

// maxLevels is how many levels of zones count, the world among them: region, zone, rack, host.
const maxLevels = 5

// class says how well a vertex can take one more child, the best first.
type class int8

const (
	nobody  class = iota // is not to be a parent
	spare                // has a slot in the tree of its own stripe
	foreign              // has a slot, but its own stripe is another one
	full0                // its slots are used, none twice
	full1                // one more child than slots
	full2                // two or more
	alien                // its slots are used in another tree
	slow                 // can feed nobody at the rate of a stripe
	costly               // the only source: every byte it sends counts
	classes
)

// zone is the members whose zone begins with name.
type zone struct {
	name  string
	level int
	n     int
	trees []zoneTree
}

// zoneTree is the part of one stripe's tree that stands in one zone.
type zoneTree struct {
	acc  [classes]shelf
	leaf shelf
	free int // slots without a child, of the vertices whose home is this tree
}

func newZone(name string, level, k int) *zone {
	return &zone{name: name, level: level, trees: make([]zoneTree, k)}
}

// shelf is a set of vertices by depth.
type shelf struct {
	rows [][]*vertex
	n    int
}

// maxRow is the depth from which on all stand in one row: trees are deeper only when members come one by one.
const maxRow = 127

func (s *shelf) add(v *vertex, row int) (at int32) {
	for len(s.rows) <= row {
		s.rows = append(s.rows, nil)
	}
	s.rows[row] = append(s.rows[row], v)
	s.n++
	return int32(len(s.rows[row]) - 1)
}

// remove takes out what stands at a place, and returns who stands there now, nil when nobody does.
func (s *shelf) remove(row int, at int32) (moved *vertex) {
	r := s.rows[row]
	last := len(r) - 1
	if int(at) != last {
		moved = r[last]
		r[at] = moved
	}
	r[last] = nil
	s.rows[row] = r[:last]
	s.n--
	return moved
}

// shelved is where a branch stands.
type shelved struct {
	on     class // nobody: on none
	leaf   bool
	row    int
	accAt  [maxLevels]int32
	leafAt [maxLevels]int32
}

// enter puts v into its zones.
func (v *vertex) enter(p *Planner) {
	v.zones = append(v.zones, p.world)
	for i, name := range prefixes(v.Zone) {
		z := p.zones[name]
		if z == nil {
			z = newZone(name, i+1, p.k)
			p.zones[name] = z
		}
		v.zones = append(v.zones, z)
	}
	for _, z := range v.zones {
		z.n++
	}
}

// leave takes v out of all shelves and zones.
func (v *vertex) leave(p *Planner) {
	for s := range v.trees {
		v.trees[s].placed = false
		p.shelve(v, s)
	}
	p.settleHome(v, -1)
	for _, z := range v.zones {
		if z.n--; z.n == 0 && z != p.world {
			delete(p.zones, z.name)
		}
	}
}

// classOf is how well v can take one more child in a tree.
func (p *Planner) classOf(v *vertex, s int) class {
	switch {
	case !v.trees[s].placed || v.banned || v.doubted:
		return nobody
	case p.restricted(v):
		return costly
	case v.slots == 0:
		return slow
	case v.kids < v.slots && (v.home == s || v.Source):
		return spare
	case v.kids < v.slots:
		return foreign
	case v.home != s && !v.Source:
		return alien
	default:
		return min(full0+class(v.kids-v.slots), full2)
	}
}

// shelve puts v where it belongs in the index of one tree.
func (p *Planner) shelve(v *vertex, s int) {
	b := &v.trees[s]
	on := p.classOf(v, s)
	row := min(b.depth, maxRow)
	leaf := b.placed && b.parent != nil && len(b.children) == 0 && (v.home != s || v.slots == 0) && p.heads[s].v != v
	if on == b.on && leaf == b.leaf && row == b.row {
		return
	}
	for _, z := range v.zones {
		t, l := &z.trees[s], z.level
		if b.on != nobody {
			if moved := t.acc[b.on].remove(b.row, b.accAt[l]); moved != nil {
				moved.trees[s].accAt[l] = b.accAt[l]
			}
		}
		if b.leaf {
			if moved := t.leaf.remove(b.row, b.leafAt[l]); moved != nil {
				moved.trees[s].leafAt[l] = b.leafAt[l]
			}
		}
		if on != nobody {
			b.accAt[l] = t.acc[on].add(v, row)
		}
		if leaf {
			b.leafAt[l] = t.leaf.add(v, row)
		}
	}
	b.on, b.leaf, b.row = on, leaf, row
}

// shelveAll does it for all trees.
func (p *Planner) shelveAll(v *vertex) {
	for s := range v.trees {
		p.shelve(v, s)
	}
}

// settleHome makes a stripe the home of v, and keeps count of the free slots there.
func (p *Planner) settleHome(v *vertex, home int) {
	free := 0
	if home >= 0 && !v.Source {
		free = v.slots - v.kids
	}
	for _, z := range v.zones {
		if v.home >= 0 {
			z.trees[v.home].free -= v.free
		}
		if home >= 0 {
			z.trees[home].free += free
		}
	}
	v.home, v.free = home, free
}
