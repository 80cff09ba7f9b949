package relay

import (
	"fmt"
	"testing"
	"time"
)

// at is a time of a scenario.
func at(d time.Duration) time.Time { return start.Add(d) }

func mustHold(t *testing.T, p *Planner) {
	t.Helper()
	if err := p.check(); err != nil {
		t.Fatal(err)
	}
}

// advance has all members but some complete pieces of both stripes, up to a watermark.
func advance(p *Planner, now time.Time, upto uint32, but ...int) {
	skip := map[NodeID]bool{}
	for _, i := range but {
		skip[id(i)] = true
	}
	for n := range p.nodes {
		if !skip[n] {
			p.Progress(now, n, []Watermark{{0, upto}, {1, upto}})
		}
	}
}

// TestHeadStalls: a head that stands still while the others get on is replaced within two seconds, by one of its
// children, and its other children go to that one or elsewhere.
func TestHeadStalls(t *testing.T) {
	p := crowd(t, 16, nil)
	head, _ := p.Head(0)
	other, _ := p.Head(1)
	children := p.nodes[head].trees[0].children
	if head == other || len(children) == 0 {
		t.Fatalf("heads %x and %x, children %d", head[:2], other[:2], len(children))
	}
	for i := range 20 {
		now := at(time.Duration(i) * 250 * time.Millisecond)
		for n := range p.nodes {
			if n != head {
				p.Progress(now, n, []Watermark{{0, 2}, {1, uint32(2 * i)}})
			} else if i == 0 {
				p.Progress(now, n, []Watermark{{0, 2}, {1, 2}})
			}
		}
		p.Tick(now)
		mustHold(t, p)
		if next, _ := p.Head(0); next != head {
			if i > 8 {
				t.Errorf("replaced after %d ms", i*250)
			}
			if p.nodes[head].kids > 0 {
				t.Errorf("the one that stood still has %d children", p.nodes[head].kids)
			}
			return
		}
	}
	t.Error("the head was not replaced")
}

// TestSourceIsSlow: when nothing at all comes from the source, heads are not changed every moment.
func TestSourceIsSlow(t *testing.T) {
	p := crowd(t, 16, nil)
	p.Changed()
	told := 0
	for i := range 60 {
		p.Tick(at(time.Duration(i) * 250 * time.Millisecond))
		told += len(p.Changed())
	}
	if told > 32 {
		t.Errorf("%d assignments in 15 s in which nobody got anything", told)
	}
	mustHold(t, p)
}

// TestLost: who has lost its parent gets another one at once; a parent that two have lost is given up, and comes back
// as a leaf when it is heard of.
func TestLost(t *testing.T) {
	p := crowd(t, 16, nil)
	advance(p, at(time.Second), 20)
	var u *vertex
	for _, v := range p.nodes {
		if !v.Source && p.crowns(v) == 0 && v.kids == 2 && v.children() == 2 {
			u = v
		}
	}
	s := u.home
	a, b := u.trees[s].children[0], u.trees[s].children[1]
	p.Complain(at(time.Second), a.ID, Complaint{Parent: u.ID, Stripe: s, Reason: Lost})
	mustHold(t, p)
	if a.trees[s].parent == u || b.trees[s].parent != u {
		t.Fatal("one complaint is to move one child")
	}
	p.Complain(at(time.Second), b.ID, Complaint{Parent: u.ID, Stripe: s, Reason: Lost})
	if u.kids != 0 || !u.absent {
		t.Errorf("lost by both children it has %d", u.kids)
	}
	if got := p.Assignment(u.ID); got.Stripes != 0 {
		t.Errorf("given up, it is given %v", got)
	}
	p.Progress(at(2*time.Second), u.ID, []Watermark{{0, 22}})
	mustHold(t, p)
	if got := p.Assignment(u.ID); got.Stripes == 0 {
		t.Error("heard of again, it is given nothing")
	}
	if u.kids != 0 {
		t.Errorf("and has %d children at once", u.kids)
	}
}

// TestLiar: who lies to two is nobody's parent any more; one child alone cannot bring down a parent of several, nor many.
func TestLiar(t *testing.T) {
	p := crowd(t, 40, nil)
	var u *vertex
	for _, v := range p.nodes {
		if !v.Source && p.crowns(v) == 0 && v.children() == 2 {
			u = v
		}
	}
	a, b := u.trees[u.home].children[0], u.trees[u.home].children[1]
	p.Complain(at(0), a.ID, Complaint{Parent: u.ID, Stripe: u.home, Reason: Liar})
	if u.banned {
		t.Fatal("banned by one of two")
	}
	p.Complain(at(0), b.ID, Complaint{Parent: u.ID, Stripe: u.home, Reason: Liar})
	if !u.banned || u.kids > 0 {
		t.Fatalf("banned %v, with %d children", u.banned, u.kids)
	}
	mustHold(t, p)

	// Somebody accuses everybody, every second.
	accuser, banned := id(39), 0
	for i := range 30 {
		for n := range p.nodes {
			p.Complain(at(time.Duration(i)*time.Second), accuser, Complaint{Parent: n, Stripe: i % 2, Reason: Liar})
		}
		mustHold(t, p)
	}
	for _, v := range p.nodes {
		if v.banned && v != u {
			banned++
		}
	}
	if banned > 5 {
		t.Errorf("one member had %d others banned", banned)
	}
}

// TestSlowMember: when two children say that little comes from a member, it becomes a leaf, and they get another parent.
func TestSlowMember(t *testing.T) {
	p := crowd(t, 32, nil)
	const full = 5_000_000
	p.rate.used = full
	var u *vertex
	for _, v := range p.nodes {
		if !v.Source && p.crowns(v) == 0 && v.children() == 2 {
			u = v
		}
	}
	s := u.home
	a, b := u.trees[s].children[0], u.trees[s].children[1]
	now := at(time.Second)
	for n := range p.nodes {
		if n != a.ID && n != b.ID {
			p.Progress(now, n, []Watermark{{0, 20}, {1, 20}})
		}
	}
	slow := Complaint{Parent: u.ID, Stripe: s, Reason: Slow, Rate: full / 20}
	p.Complain(now, a.ID, slow)
	if u.kids != 2 {
		t.Fatal("one complaint moved somebody")
	}
	p.Complain(now, b.ID, slow)
	mustHold(t, p)
	if u.kids != 0 || u.slots != 0 {
		t.Errorf("%d children, %d slots", u.kids, u.slots)
	}
	if p.Assignment(u.ID).Stripes == 0 {
		t.Error("it takes part no longer")
	}
}

// TestStarvedIsNotSlow: complaints about a parent that has nothing more itself move nobody.
func TestStarvedIsNotSlow(t *testing.T) {
	p := crowd(t, 64, nil)
	p.rate.used = 5_000_000
	advance(p, at(time.Second), 20)
	p.Changed()
	for _, v := range p.nodes {
		for s := range v.trees {
			if u := v.trees[s].parent; u != nil && !u.Source {
				p.Complain(at(2*time.Second), v.ID, Complaint{Parent: u.ID, Stripe: s, Reason: Slow})
			}
		}
	}
	if told := p.Changed(); len(told) > 0 {
		t.Errorf("%d were moved", len(told))
	}
}

// TestZones: a zone is a subtree, or a few: few edges lead out of it.
func TestZones(t *testing.T) {
	const n, zones = 256, 8
	p := crowd(t, n, func(i int, m *Member) { m.Zone = fmt.Sprintf("eu/z%d/host-%d", i*7%zones, i) })
	for s := range p.k {
		cross := 0
		for _, v := range p.nodes {
			if u := v.trees[s].parent; u != nil && !u.Source && prefixes(u.Zone)[1] != prefixes(v.Zone)[1] {
				cross++
			}
		}
		// One edge into each zone but the head's is the least; a few more while the trees grew.
		if cross > 4*zones {
			t.Errorf("stripe %d: %d edges between %d zones", s, cross, zones)
		}
		if deepest, over, _ := p.shape(s); over > 0 || deepest > 24 {
			t.Errorf("stripe %d: %d deep, %d too many children", s, deepest, over)
		}
	}
}

// TestTwoSources: both are used, and when one goes nobody is left without.
func TestTwoSources(t *testing.T) {
	p := crowd(t, 16, nil)
	p.Put(at(time.Second), Member{ID: id(seeder + 1), Source: true})
	for i := 100; i < 104; i++ {
		p.Put(at(time.Second), Member{ID: id(i), Bulk: true})
	}
	mustHold(t, p)
	if kids := p.nodes[id(seeder+1)].kids; kids == 0 {
		t.Error("the second source has no children")
	}
	p.Remove(at(2*time.Second), id(seeder))
	mustHold(t, p)
	for s := range p.k {
		head, ok := p.Head(s)
		if !ok || len(p.Assignment(head).Parents[s]) == 0 {
			t.Errorf("stripe %d: the head takes from nobody", s)
		}
	}
}

// TestShortage: with half of the uplinks at a tenth, the fast ones feed all, and nobody gets much too many children.
func TestShortage(t *testing.T) {
	p := crowd(t, 64, func(i int, m *Member) {
		m.Up = 5_000_000
		if i%2 == 1 {
			m.Up = 500_000
		}
	})
	for i := range 8 {
		p.Tick(at(time.Duration(i) * 250 * time.Millisecond))
	}
	mustHold(t, p)
	for _, v := range p.nodes {
		if v.Up == 500_000 && v.kids > 1 {
			t.Errorf("a slow one has %d children", v.kids)
		}
		if v.kids > v.slots+2 {
			t.Errorf("%d children for %d slots", v.kids, v.slots)
		}
	}
}

// TestFinishing: who has everything keeps its children and takes nothing; nobody else is told anything for it.
func TestFinishing(t *testing.T) {
	p := crowd(t, 16, nil)
	p.Changed()
	head, _ := p.Head(0)
	kids := p.nodes[head].kids
	p.Put(at(time.Second), Member{ID: head, Source: true, Bulk: true})
	told := p.Changed()
	if len(told) != 1 || told[0] != head || p.nodes[head].kids != kids || p.Assignment(head).Stripes != 0 {
		t.Errorf("told %d, %d children of %d", len(told), p.nodes[head].kids, kids)
	}
	mustHold(t, p)
}

// TestPreferredHead: who was set up to read from the origin does so, whenever it comes.
func TestPreferredHead(t *testing.T) {
	p := NewPlanner(geo, PlannerOptions{})
	p.OriginIsSource(true)
	for i := range 8 {
		p.Put(start, Member{ID: id(i), Bulk: true, Prefer: i == 5})
		mustHold(t, p)
	}
	for s := range p.k {
		if head, _ := p.Head(s); head != id(5) {
			t.Errorf("head of stripe %d is %x", s, head[:2])
		}
	}
}

// BenchmarkCrowd is one node of a crowd that comes at once: Put, and the assignments that it leads to.
func BenchmarkCrowd(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				p := NewPlanner(geo, PlannerOptions{})
				p.Put(start, Member{ID: id(seeder), Source: true})
				for i := range n {
					p.Put(start.Add(time.Duration(i)*time.Second/time.Duration(n)), Member{ID: id(i), Bulk: true})
					for _, id := range p.Changed() {
						p.Assignment(id)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/node")
		})
	}
}
