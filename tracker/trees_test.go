package tracker

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
)

// chain is a planner without any wits: the nodes that take part form one chain per stripe in the order they came,
// stripe 1 the other way round. A head about which a test says so is put last.
type chain struct {
	order    []relay.NodeID
	member   map[relay.NodeID]relay.Member
	progress map[relay.NodeID][]relay.Watermark
	blamed   []relay.Complaint
	origin   bool
	changed  []relay.NodeID
	gen      int64
}

func newChain(blob.Geometry) planner {
	return &chain{member: map[relay.NodeID]relay.Member{}, progress: map[relay.NodeID][]relay.Watermark{}}
}

func (c *chain) all() {
	c.gen++
	c.changed = slices.Clone(c.order)
}

func (c *chain) Put(_ time.Time, m relay.Member) {
	c.member[m.ID] = m
	at := slices.Index(c.order, m.ID)
	switch in := m.Bulk && !m.Source; {
	case in && at < 0:
		c.order = append(c.order, m.ID)
	case !in && at >= 0:
		c.order = slices.Delete(c.order, at, at+1)
		c.all()
		c.changed = append(c.changed, m.ID)
		return
	}
	c.all()
}

func (c *chain) Remove(_ time.Time, id relay.NodeID) {
	delete(c.member, id)
	if at := slices.Index(c.order, id); at >= 0 {
		c.order = slices.Delete(c.order, at, at+1)
		c.all()
	}
}

func (c *chain) OriginIsSource(yes bool) { c.origin = yes }

func (c *chain) Progress(_ time.Time, id relay.NodeID, w []relay.Watermark) {
	c.progress[id] = slices.Clone(w)
}

func (c *chain) Complain(_ time.Time, _ relay.NodeID, one relay.Complaint) {
	c.blamed = append(c.blamed, one)
}

func (c *chain) Tick(time.Time) {}

func (c *chain) Changed() (list []relay.NodeID) {
	list, c.changed = c.changed, nil
	return list
}

func (c *chain) line(stripe int) []relay.NodeID {
	if stripe == 0 {
		return c.order
	}
	back := slices.Clone(c.order)
	slices.Reverse(back)
	return back
}

func (c *chain) Assignment(id relay.NodeID) relay.Assignment {
	if !slices.Contains(c.order, id) {
		return relay.Assignment{Gen: c.gen}
	}
	a := relay.Assignment{Gen: c.gen, Stripes: stripes, Parents: make([][]relay.Parent, stripes)}
	for k := range stripes {
		line := c.line(k)
		if at := slices.Index(line, id); at > 0 {
			a.Parents[k] = []relay.Parent{{ID: line[at-1], Rate: 1000}}
		} else {
			a.Head |= 1 << k
		}
	}
	return a
}

func (c *chain) Head(stripe int) (relay.NodeID, bool) {
	line := c.line(stripe)
	if len(line) == 0 {
		return relay.NodeID{}, false
	}
	return line[0], true
}

// orchard is a play whose swarm plans with a chain.
func orchard() *play {
	p := newPlay()
	p.s.makePlanner = newChain
	return p
}

func (p *play) chain() *chain { return p.s.planner.(*chain) }

// joins has a node join, with everything that want and describe it.
func (p *play) joins(t *testing.T, name string, change func(*planRequest)) *node {
	t.Helper()
	err := p.report(name, func(q *planRequest) {
		q.full, q.want, q.bulk, q.origin = true, true, true, true
		q.ahead = []blob.Run{{First: 0, Count: p.s.pieces}}
		if p.s.pieces == 0 {
			q.ahead = whole
		}
		if change != nil {
			change(q)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	n := p.node(name)
	p.now = p.now.Add(askFor)
	p.s.tick(p.now)
	return n
}

func (p *play) must(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		err = check(p.s)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// leasedStripes lists, per stripe, how many pieces n holds.
func leasedStripes(s *swarm, n *node) (count [stripes]int) {
	for i := range n.leases {
		count[relay.Stripe(s.geometry, i, stripes)]++
	}
	return count
}

// TestHeadsReadForAll: pieces that are read ahead are leased to the head of their stripe and to nobody else, and N
// nodes that want everything read each piece from the origin once.
func TestHeadsReadForAll(t *testing.T) {
	p := orchard()
	var nodes []*node
	names := []string{"A", "B", "C", "D"}
	for _, name := range names {
		nodes = append(nodes, p.joins(t, name, nil))
	}
	p.must(t, nil)
	read := map[uint32]int{}
	for round := 0; p.s.seeds == 0; round++ {
		if round > 1000 {
			t.Fatal("it does not end")
		}
		for at, name := range names {
			n := nodes[at]
			if held := leasedStripes(p.s, n); at > 0 && held[0] > 0 && round > 1 || at < len(names)-1 && held[1] > 0 && round > 1 {
				t.Fatalf("round %d: %s holds %v", round, name, held)
			}
			p.must(t, p.report(name, func(q *planRequest) {
				q.want, q.bulk, q.origin, q.ahead = true, true, true, whole
				for i := range p.s.pieces {
					if n.leases[i] != nil {
						read[i]++
						q.have = append(q.have, blob.Run{First: i, Count: 1})
					} else if !n.has(i) && p.s.isThere(i) {
						q.have = append(q.have, blob.Run{First: i, Count: 1})
					}
				}
			}))
		}
		p.now = p.now.Add(10 * time.Millisecond)
		p.s.tick(p.now)
	}
	for i := range p.s.pieces {
		if read[i] != 1 {
			t.Errorf("piece %d was read %d times", i, read[i])
		}
	}
}

// TestAssignmentsAreTold: a place in the trees is hard news, comes with addresses, and is told again until the node
// says that it has it.
func TestAssignmentsAreTold(t *testing.T) {
	p := orchard()
	a := p.joins(t, "A", nil)
	if r := p.s.reply(a); r.place != nil || p.s.planner != nil {
		t.Fatalf("a plan for one node: %+v", r.place)
	}
	b := p.joins(t, "B", nil)
	for name, n := range map[string]*node{"A": a, "B": b} {
		if hard, _ := p.s.news(n); !hard {
			t.Errorf("%s has no hard news", name)
		}
		r := p.s.reply(n)
		if r.place == nil || r.place.Stripes != stripes || r.place.number == 0 {
			t.Fatalf("%s is told %+v", name, r.place)
		}
		if len(r.place.addrs) != 1 {
			t.Errorf("%s gets the addresses %v", name, r.place.addrs)
		}
		if r := p.s.reply(n); r.place != nil {
			t.Errorf("%s is told twice: %+v", name, r.place)
		}
		// The reply was lost: the next request does not know of it.
		p.must(t, p.report(name, func(q *planRequest) { q.tree = 0 }))
		if r := p.s.reply(n); r.place == nil || r.place.number != n.number {
			t.Errorf("%s is not told again: %+v", name, r.place)
		}
	}
	if got := p.s.reply(b); got.place != nil {
		t.Errorf("told again though nothing changed: %+v", got.place)
	}
	// The second one leaves: there is no plan any more.
	p.must(t, p.report("B", func(q *planRequest) { q.stop = true }))
	if r := p.s.reply(a); r.place == nil || r.place.Stripes != 0 {
		t.Errorf("the plan has not ended: %+v", r.place)
	}
}

// TestProgressFromPieces: how far a node has each stripe follows from what it reports.
func TestProgressFromPieces(t *testing.T) {
	p := orchard()
	p.joins(t, "A", func(q *planRequest) { q.have = []blob.Run{{First: 0, Count: 3}} })
	p.joins(t, "B", nil)
	unit := relay.Unit(p.s.geometry)
	id := relay.NodeID(named("A"))
	if got, want := p.chain().progress[id][0].Piece, unit*2; unit == 1 && got != 4 || unit >= 3 && got != 3 {
		t.Fatalf("stripe 0 of A is at %d, unit %d (%d)", got, unit, want)
	}
	p.must(t, p.report("A", func(q *planRequest) { q.have = []blob.Run{{First: 0, Count: 63}} }))
	for k, w := range p.chain().progress[id] {
		if w.Stripe != k || w.Piece < 63 {
			t.Errorf("stripe %d: %+v", k, w)
		}
	}
	// It has lost its cache and says so.
	p.must(t, p.report("A", func(q *planRequest) { q.full, q.bulk = true, true }))
	if w := p.chain().progress[id]; w[0].Piece != 0 {
		t.Errorf("after a loss: %+v", w)
	}
	// It is complete: a source.
	p.must(t, p.report("A", func(q *planRequest) { q.have = whole }))
	p.joins(t, "C", nil)
	if m := p.chain().member[id]; !m.Source || p.chain().origin {
		t.Errorf("complete: %+v, the origin is a source: %v", m, p.chain().origin)
	}
}

// TestComplaints: a complaint reaches the planner once, and only when it is about a parent.
func TestComplaints(t *testing.T) {
	p := orchard()
	p.joins(t, "A", nil)
	b := p.joins(t, "B", nil)
	about := relay.Complaint{Parent: relay.NodeID(named("A")), Stripe: 0, Reason: relay.Slow, Rate: 7}
	other := relay.Complaint{Parent: relay.NodeID(named("A")), Stripe: 1, Reason: relay.Lost}
	stranger := relay.Complaint{Parent: relay.NodeID{9}, Stripe: 0, Reason: relay.Lost}
	var again planRequest
	p.must(t, p.report("B", func(q *planRequest) {
		q.want, q.bulk, q.blame = true, true, []relay.Complaint{about, other, stranger}
		again = *q
	}))
	if got := p.chain().blamed; !slices.Equal(got, []relay.Complaint{about}) {
		t.Fatalf("the planner was told %+v", got)
	}
	if _, err := p.s.report(p.now, &again, b.member.addr); err != nil { // the same request, sent twice
		t.Fatal(err)
	}
	if got := p.chain().blamed; len(got) != 1 {
		t.Errorf("told twice: %+v", got)
	}
}

// TestHeadIsReplaced: with a head its leases go, at once when it stands still.
func TestHeadIsReplaced(t *testing.T) {
	p := orchard()
	a := p.joins(t, "A", nil)
	b := p.joins(t, "B", nil)
	p.joins(t, "C", nil)
	if got := leasedStripes(p.s, a); got[0] == 0 {
		t.Fatalf("the head holds %v", got)
	}
	p.must(t, p.report("A", func(q *planRequest) { // it reads the first piece, and stands still
		q.want, q.bulk, q.origin, q.ahead, q.reading = true, true, true, whole, []blob.Run{{First: 0, Count: 1}}
	}))
	p.now = p.now.Add(headStall)
	c := p.chain()
	c.order = append(c.order[1:], c.order[0])
	c.all()
	p.s.tick(p.now)
	p.must(t, nil)
	if got := leasedStripes(p.s, a); got[0] != 0 {
		t.Errorf("the old head still holds %v", got)
	}
	if got := leasedStripes(p.s, b); got[0] == 0 || b.leases[0] == nil {
		t.Errorf("the new head holds %v", got)
	}
}

// TestUrgentGoesToAnybody: who is blocked on a piece does not wait for the head to come there.
func TestUrgentGoesToAnybody(t *testing.T) {
	p := orchard()
	p.joins(t, "A", nil)
	c := p.joins(t, "B", nil)
	p.joins(t, "C", nil)
	p.must(t, p.report("B", func(q *planRequest) {
		q.want, q.bulk, q.origin, q.ahead, q.urgent = true, true, true, whole, []blob.Run{{First: 63, Count: 1}}
	}))
	if c.leases[63] == nil || leasedStripes(p.s, c)[0] != 0 {
		t.Errorf("it holds %v", leasedStripes(p.s, c))
	}
	// One that takes no part is leased what it reads ahead.
	d := p.joins(t, "D", func(q *planRequest) { q.bulk, q.ahead = false, []blob.Run{{First: 50, Count: 2}} })
	if len(d.leases) == 0 {
		t.Error("a reader that takes no part gets no leases")
	}
}

// TestFeederStays: a node that the tracker hears nothing of stays as long as its children get on, and not longer.
func TestFeederStays(t *testing.T) {
	p := orchard()
	p.joins(t, "A", nil)
	p.joins(t, "B", nil)
	p.s.poll(p.now, p.node("B"), 1)
	unit := relay.Unit(p.s.geometry)
	for i := range uint32(10) { // B gets on with stripe 0, which A passes on to it, for 20 s
		p.now = p.now.Add(2 * time.Second)
		p.must(t, p.report("B", func(q *planRequest) {
			q.want, q.bulk, q.origin, q.ahead = true, true, true, whole
			piece := i
			if unit == 1 {
				piece = 2 * i
			}
			q.have = []blob.Run{{First: piece, Count: 1}}
		}))
		p.s.tick(p.now)
		if p.node("A") == nil {
			t.Fatalf("A was collected after %d s, while B lives on it", 2*i)
		}
	}
	p.now = p.now.Add(edgeFor + time.Second)
	p.s.tick(p.now)
	if p.node("A") != nil {
		t.Error("A is still there though nobody gets anything from it")
	}
	// A child that says that the connection is lost keeps nobody alive.
	p = orchard()
	p.joins(t, "A", nil)
	p.joins(t, "B", nil)
	p.s.poll(p.now, p.node("B"), 1)
	p.now = p.now.Add(7 * time.Second)
	p.must(t, p.report("B", func(q *planRequest) {
		q.want, q.bulk, q.have = true, true, []blob.Run{{First: 0, Count: 1}}
		q.blame = []relay.Complaint{{Parent: relay.NodeID(named("A")), Stripe: 0, Reason: relay.Lost}}
	}))
	p.s.tick(p.now)
	if p.node("A") != nil {
		t.Error("A is kept by a child that has lost it")
	}
}

func TestNearness(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"eu", "", 0}, {"eu", "eu", 1}, {"eu/a", "eu/b", 1}, {"eu/a/r1/h1", "eu/a/r1/h2", 3}, {"us/a", "eu/a", 0}, {"eu/a", "eu/a/r1", 2},
	} {
		if got := nearness(c.a, c.b); got != c.want || nearness(c.b, c.a) != c.want {
			t.Errorf("nearness of %q and %q = %d, want %d", c.a, c.b, got, c.want)
		}
	}
	for _, bad := range []string{"/", "a//b", "a/", "eu a", "a/b/c/d/e/f/g/h/i", "ä"} {
		if _, err := ParseZone(bad); err == nil {
			t.Errorf("zone %q is accepted", bad)
		}
	}
}

// TestPlannerIsTold: zone, uplink and role reach the planner, also when they change; who cannot be reached passes
// nothing on.
func TestPlannerIsTold(t *testing.T) {
	p := orchard()
	p.joins(t, "A", func(q *planRequest) { q.zone, q.up, q.prefer = "eu/a", 1000, true })
	p.joins(t, "B", func(q *planRequest) { q.zone, q.up = "eu/b", 2000 })
	id := relay.NodeID(named("A"))
	if m := p.chain().member[id]; m.Zone != "eu/a" || m.Up != 1000 || !m.Prefer || !m.Bulk || m.Source {
		t.Errorf("the planner knows %+v", m)
	}
	p.must(t, p.report("A", func(q *planRequest) { q.want, q.bulk, q.zone, q.up = true, true, "us/c", 3000 }))
	if m := p.chain().member[id]; m.Zone != "us/c" || m.Up != 3000 || m.Prefer {
		t.Errorf("after a change it knows %+v", m)
	}
	hidden := planRequest{key: key{1}, peer: named("C"), geometry: p.s.geometry, full: true, want: true, seq: 1, about: about{bulk: true, up: 9000}}
	if _, err := p.s.report(p.now, &hidden, netip.AddrPortFrom(address("C").Addr(), 0)); err != nil {
		t.Fatal(err)
	}
	if m := p.chain().member[relay.NodeID(named("C"))]; m.Up != 1 {
		t.Errorf("who cannot be reached can send %d bytes a second", m.Up)
	}
	p.must(t, p.report("A", func(q *planRequest) { q.stop = true }))
	if _, there := p.chain().member[id]; there {
		t.Error("who has left is still planned for")
	}
}
