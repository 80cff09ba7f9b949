package relay

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

var (
	start = time.Unix(1_000_000, 0)
	geo   = blob.GeometryFor(64 << 20)
)

// id is the peer id of node i.
func id(i int) (n NodeID) {
	binary.BigEndian.PutUint16(n[:], uint16(i))
	return n
}

const seeder = 60000

// swarm is a planner with a seeder, and n nodes that came in the same instant.
func crowd(t testing.TB, n int, change func(i int, m *Member)) *Planner {
	t.Helper()
	p := NewPlanner(geo, PlannerOptions{})
	p.Put(start, Member{ID: id(seeder), Source: true})
	for i := range n {
		m := Member{ID: id(i), Bulk: true}
		if change != nil {
			change(i, &m)
		}
		p.Put(start, m)
	}
	if err := p.check(); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestColdCrowd: trees are shallow, nobody has more children than slots, the source one per stripe.
func TestColdCrowd(t *testing.T) {
	for _, oneByOne := range []bool{false, true} {
		for _, n := range []int{1, 2, 3, 4, 7, 8, 16, 32, 100, 1000} {
			t.Run(fmt.Sprintf("%d,%v", n, oneByOne), func(t *testing.T) {
				p := NewPlanner(geo, PlannerOptions{})
				p.Put(start, Member{ID: id(seeder), Source: true})
				told := 0
				for i := range n {
					p.Put(start, Member{ID: id(i), Bulk: true})
					if oneByOne {
						told += len(p.Changed())
					}
				}
				told += len(p.Changed())
				if err := p.check(); err != nil {
					t.Fatal(err)
				}
				// Half of the members are inner vertices with two children each: that is bits.Len(n/2) levels
				// of them, below them the leaves, above them the source; and one more where it does not come out even.
				limit := bits.Len(uint(n)) + 2
				for s := range DefaultStripes {
					deepest, over, _ := p.shape(s)
					if deepest > limit || over > 0 {
						t.Errorf("stripe %d: %d deep, at most %d; %d too many children", s, deepest, limit, over)
					}
				}
				if kids := p.nodes[id(seeder)].kids; kids != DefaultStripes {
					t.Errorf("the source has %d children", kids)
				}
				if told > 4*n {
					t.Errorf("%d assignments for %d nodes", told, n)
				}
			})
		}
	}
}

// TestRandomEvents throws everything at a planner that can happen to one.
func TestRandomEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := NewPlanner(geo, PlannerOptions{Stripes: rapid.IntRange(0, 4).Draw(t, "stripes")})
		now := start
		node := rapid.IntRange(0, 24)
		told := map[NodeID]Assignment{}
		for range rapid.IntRange(1, 120).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(-20, 600).Draw(t, "ms")) * time.Millisecond)
			who := id(node.Draw(t, "node"))
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0, 1, 2, 3:
				p.Put(now, Member{
					ID: who, Source: rapid.IntRange(0, 9).Draw(t, "source") == 0, Bulk: rapid.IntRange(0, 9).Draw(t, "bulk") > 0,
					Zone:   rapid.SampledFrom([]string{"", "eu/a/1", "eu/a/2", "eu/b/1/h/x", "us"}).Draw(t, "zone"),
					Prefer: rapid.IntRange(0, 9).Draw(t, "prefer") == 0,
					Up:     rapid.SampledFrom([]int64{0, 0, 1, 500_000, 5_000_000, 50_000_000}).Draw(t, "up"),
				})
			case 4:
				p.Remove(now, who)
			case 5:
				p.OriginIsSource(rapid.Bool().Draw(t, "origin"))
			case 6, 7:
				p.Progress(now, who, []Watermark{{rapid.IntRange(-1, 4).Draw(t, "stripe"), rapid.Uint32Range(0, 300).Draw(t, "piece")}})
			case 8:
				p.Complain(now, who, Complaint{
					Parent: id(node.Draw(t, "parent")), Stripe: rapid.IntRange(-1, 4).Draw(t, "stripe"),
					Reason: Reason(rapid.IntRange(0, 4).Draw(t, "reason")), Rate: rapid.Int64Range(0, 10_000_000).Draw(t, "rate"),
				})
			case 9:
				p.Tick(now)
			}
			if err := p.check(); err != nil {
				t.Fatal(err)
			}
			for id := range told {
				if p.nodes[id] == nil {
					delete(told, id)
				}
			}
			for _, id := range p.Changed() {
				told[id] = p.Assignment(id)
			}
			for id := range p.nodes {
				if diff := cmp.Diff(first(told[id]), first(p.Assignment(id))); diff != "" {
					t.Fatalf("%x was not told (-told +holds):\n%s", id[:2], diff)
				}
			}
		}
	})
}

// first is what of an assignment makes it another one: who is the head, and the first parents.
func first(a Assignment) (of []string) {
	for s, ps := range a.Parents {
		switch {
		case len(ps) > 0:
			of = append(of, fmt.Sprintf("%x", ps[0].ID[:2]))
		case a.Head>>s&1 != 0:
			of = append(of, "origin")
		default:
			of = append(of, "")
		}
	}
	if a.Stripes > 0 {
		of = append(of, fmt.Sprintf("%b", a.Head))
	}
	return of
}
