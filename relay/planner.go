package relay

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pantala/pantala/blob"
)

// Planner decides, for one swarm, who passes which stripe on to whom. Its trees are made of the members that were
// Put; what is told of them changes as few edges as can be. It is not safe for concurrent use.
//
// INVARIANT: every tree is free of cycles; a vertex that is placed in a tree and is neither a source nor the head
// has one parent there; children and parents name each other.
type Planner struct {
	g      blob.Geometry
	k      int
	stall  time.Duration
	pieces uint32
	steady steady
	now    time.Time // of the newest event

	nodes   map[NodeID]*vertex
	world   *zone            // all nodes
	zones   map[string]*zone // by prefix
	origin  bool             // heads may read from the origin
	sources []*vertex        // in the order in which they came; the first one feeds the heads
	born    int              // of sources: those that have never been without the blob
	heads   []*head          // by stripe
	rate    rate

	todo     []*vertex // those that may lack a place
	doubted  []*vertex // those whose suspicion ends some time
	gen      int64
	changed  []*vertex
	fittedAt time.Time // when slots were last computed for everybody
	ends     []uint32  // by stripe: the watermark of who has all of it
	started  bool      // some head has completed a piece
	moves    float64   // how many parents may be taken for slow now: see mayMove
	movesAt  time.Time
	idle     bool // sources have more to give than anybody lacks
	turn     int  // of leaves to be moved down
}

// vertex is one member and its places.
type vertex struct {
	Member
	trees  []branch
	zones  []*zone // all that it stands in, the largest first
	home   int     // the stripe that it passes on by preference; -1: none yet
	slots  int     // how many children it can feed at the rate of a stripe
	kids   int     // how many it has, in all stripes
	free   int     // what it contributes to zoneTree.free of its home
	joined time.Time

	born    bool // was a source when it came
	banned  bool // lies: never a parent again
	doubted bool // is nobody's parent until then: it is suspected of being dead or stuck
	until   time.Time
	absent  bool  // was given up: has no place until it is heard of
	est     int64 // bytes per second that it was seen to send, by complaint; 0: no complaint
	estAt   time.Time
	blame   // what others said of it, and how much it may say itself
	shunned []shunned

	queued, dirty        bool // is in Planner.todo, in Planner.changed
	gen                  int64
	told                 []NodeID // by stripe: the parent in the assignment that was last listed
	toldParent, toldHead uint8    // bit s: it had one, it was the head
}

// branch is the place of a vertex in the tree of one stripe.
type branch struct {
	parent   *vertex
	at       int // index in parent's children
	children []*vertex
	depth    int       // of the parent plus one; 0 for sources and for a head that reads from the origin
	placed   bool      // it is in the tree, or in a part of it that hangs in the air until its top is placed
	upto     uint32    // watermark
	moved    time.Time // when it completed a piece last, or was placed
	since    time.Time // when it was given its parent
	shelved            // where it stands in the index of its zones
}

// head is who reads one stripe from the source.
type head struct {
	v       *vertex // nil: none is needed, or nobody is there
	since   time.Time
	patient time.Duration // how long it may stand still; doubled by every replacement that did not help
}

// NewPlanner is a planner without members.
func NewPlanner(g blob.Geometry, o PlannerOptions) *Planner {
	k := o.Stripes
	if k <= 0 {
		k = DefaultStripes
	}
	k = min(k, MaxStripes)
	if o.Stall <= 0 {
		// Others are to go on within 2 s: 1.5 s, a tick of 250 ms, and the round trip of the news.
		o.Stall = 1500 * time.Millisecond
	}
	p := &Planner{g: g, k: k, stall: o.Stall, pieces: g.Pieces(), nodes: map[NodeID]*vertex{}, zones: map[string]*zone{}}
	p.world = newZone("", 0, k)
	for s := range k {
		p.heads = append(p.heads, &head{patient: p.stall})
		p.ends = append(p.ends, stripeEnd(g, s, k))
	}
	p.rate.paces = make([]pace, k)
	return p
}

func (p *Planner) clock(now time.Time) {
	p.steady.tell(now)
	p.now = p.steady.now
}

// Put adds a member, or describes it anew.
func (p *Planner) Put(now time.Time, m Member) {
	p.clock(now)
	m.Up = max(0, m.Up)
	v := p.nodes[m.ID]
	var moved *vertex
	if v != nil && v.Zone != m.Zone {
		// It is somewhere else: it starts over there.
		p.Remove(now, m.ID)
		v, moved = nil, v
	}
	if v == nil {
		if !m.Source && !m.Bulk {
			return // it takes no part
		}
		v = &vertex{Member: m, trees: make([]branch, p.k), home: -1, joined: p.now, told: make([]NodeID, p.k)}
		v.Source = false
		v.born = m.Source
		if moved != nil {
			v.told, v.toldParent, v.toldHead = moved.told, moved.toldParent, moved.toldHead
			p.touch(v)
		}
		v.enter(p)
		p.nodes[m.ID] = v
		p.rate.add(m.Up)
	} else if m.Up != v.Up {
		p.rate.remove(v.Up)
		p.rate.add(m.Up)
		v.Up = m.Up
	}
	v.Bulk, v.Prefer = m.Bulk, m.Prefer
	p.heardOf(v)
	switch {
	case m.Source && !v.Source:
		p.finish(v)
	case !m.Source && v.Source:
		p.unfinish(v)
	}
	if !v.Source && !v.Bulk {
		p.Remove(now, m.ID)
		return
	}
	if p.rate.used == 0 {
		p.refitAll()
	}
	p.refit(v)
	p.queue(v)
}

// Remove takes a member out. Its children are given to others in the same step.
func (p *Planner) Remove(now time.Time, id NodeID) {
	p.clock(now)
	v := p.nodes[id]
	if v == nil {
		return
	}
	delete(p.nodes, id)
	p.rate.remove(v.Up)
	if v.Source {
		p.unlist(v)
	}
	for s := range p.k {
		p.uproot(v, s)
	}
	v.leave(p)
	p.flush()
}

// OriginIsSource says whether heads can read from the origin.
func (p *Planner) OriginIsSource(yes bool) {
	if p.origin != yes {
		p.origin = yes
		for _, v := range p.inOrder() {
			p.queue(v)
		}
	}
}

// Progress notes how far a member is in some stripes. Where pieces are missing behind others that have come it is to
// be told as if it had as many without such holes: they are no standstill.
func (p *Planner) Progress(now time.Time, id NodeID, w []Watermark) {
	p.clock(now)
	v := p.nodes[id]
	if v == nil || v.Source {
		return
	}
	p.heardOf(v)
	for _, m := range w {
		if m.Stripe < 0 || m.Stripe >= p.k {
			continue
		}
		b, upto := &v.trees[m.Stripe], min(m.Piece, p.pieces)
		if upto > b.upto {
			p.moved(v, m.Stripe, upto)
		}
		b.upto = upto // less than before when it has lost what it had
	}
}

// moved notes that v gets on in a stripe.
func (p *Planner) moved(v *vertex, s int, upto uint32) {
	b := &v.trees[s]
	b.moved = p.now
	if h := p.heads[s]; h.v == v {
		h.patient, p.started = p.stall, true
		p.rate.note(s, upto, p.g.PieceLength, p.now)
	}
}

// Head is who reads a stripe from the source. false: nobody has to, because whoever needs it can take it from
// members that have everything.
func (p *Planner) Head(stripe int) (NodeID, bool) {
	p.flush()
	if stripe < 0 || stripe >= p.k || p.heads[stripe].v == nil {
		return NodeID{}, false
	}
	return p.heads[stripe].v.ID, true
}

// Changed names the members whose assignment is another one than when they were named last. The list is drained.
func (p *Planner) Changed() []NodeID {
	p.flush()
	var ids []NodeID
	for _, v := range p.changed {
		v.dirty = false
		if p.nodes[v.ID] != v || !p.differs(v) {
			continue
		}
		p.gen++
		v.gen = p.gen
		ids = append(ids, v.ID)
	}
	clear(p.changed)
	p.changed = p.changed[:0]
	return ids
}

// differs compares what a member was told with what holds, and takes note of the latter.
func (p *Planner) differs(v *vertex) (yes bool) {
	var parents, heads uint8
	for s := range v.trees {
		var id NodeID
		if parent := v.trees[s].parent; parent != nil {
			id = parent.ID
			parents |= 1 << s
		}
		if v.told[s] != id {
			v.told[s], yes = id, true
		}
		if p.heads[s].v == v {
			heads |= 1 << s
		}
	}
	if heads != v.toldHead || parents != v.toldParent {
		v.toldHead, v.toldParent, yes = heads, parents, true
	}
	return yes
}

// queue has v looked at by the next flush.
func (p *Planner) queue(v *vertex) {
	if !v.queued {
		v.queued = true
		p.todo = append(p.todo, v)
	}
}

// byID orders vertices. What follows from a list of them is to be the same every time: a simulated run can be repeated.
func byID(a, b *vertex) int { return bytes.Compare(a.ID[:], b.ID[:]) }

// inOrder are all vertices, by id.
func (p *Planner) inOrder() []*vertex { return slices.SortedFunc(maps.Values(p.nodes), byID) }

// touch has v compared by the next Changed.
func (p *Planner) touch(v *vertex) {
	if !v.dirty {
		v.dirty = true
		p.changed = append(p.changed, v)
	}
}

// finish makes v a source: it takes nothing any more, and what it has passed on it goes on passing on.
func (p *Planner) finish(v *vertex) {
	v.Source = true
	p.sources = append(p.sources, v)
	if v.born {
		p.born++
	}
	for s := range p.k {
		if p.heads[s].v == v {
			p.heads[s].v = nil
		}
		p.detach(v, s)
		b := &v.trees[s]
		b.placed, b.upto, b.moved = true, p.pieces, p.now
		p.deepen(v, s, 0)
		p.touch(v)
	}
	p.refit(v)
	if v.born || len(p.sources) == 1 {
		for _, o := range p.sources { // who is the only one may have changed
			p.shelveAll(o)
		}
		for _, h := range p.heads { // reading from a peer costs the origin nothing
			if h.v != nil {
				p.queue(h.v)
			}
		}
	}
}

// unfinish makes a source an ordinary member again, which has nothing.
func (p *Planner) unfinish(v *vertex) {
	p.unlist(v)
	v.Source, v.born = false, false
	for s := range p.k {
		b := &v.trees[s]
		for len(b.children) > 0 {
			c := b.children[len(b.children)-1]
			p.detach(c, s)
			p.queue(c)
		}
		b.placed, b.upto = false, 0
		p.shelve(v, s)
	}
	p.refit(v)
}

// unlist takes v out of the sources.
func (p *Planner) unlist(v *vertex) {
	i := slices.Index(p.sources, v)
	p.sources = slices.Delete(p.sources, i, i+1)
	if v.born {
		p.born--
	}
	v.Source = false
	for _, o := range p.sources {
		p.shelveAll(o)
	}
}

// restricted reports whether v is the one source to which every byte sent is a loss: it feeds the heads only.
func (p *Planner) restricted(v *vertex) bool { return v.Source && v.born && p.born == 1 }

// sourced reports whether anybody has, or can get, all of the blob.
func (p *Planner) sourced() bool { return p.origin || len(p.sources) > 0 }

// prefixes cuts a zone into itself and all that contain it, the largest first.
func prefixes(name string) (all []string) {
	name = strings.Trim(name, "/")
	for i := range len(name) {
		if name[i] == '/' && len(all) < maxLevels-2 {
			all = append(all, name[:i])
		}
	}
	if name != "" {
		all = append(all, name)
	}
	return all
}
