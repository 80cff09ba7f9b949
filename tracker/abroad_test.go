package tracker

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

// shared is a play whose swarm shares its state with another tracker.
func shared() *play {
	p := newPlay()
	p.s.abroad = newAbroad()
	p.s.recount()
	p.s.reach(p.now, true)
	return p
}

// hears has the swarm hear of a node that reports to another tracker.
func (p *play) hears(name string, seed bool, have ...uint32) {
	f := &foreigner{id: named(name), tracker: trackerID{9}, addr: address(name), geometry: small, seed: seed}
	if !seed {
		f.have = newBitmap(64)
		for _, i := range have {
			f.have.put(i, true)
		}
	}
	p.s.gen++
	p.s.hear(p.now, f)
	p.s.settle(p.now)
}

// sees compares what a node is told, as scripts do.
func (p *play) sees(t *testing.T, name, want string) {
	t.Helper()
	if err := check(p.s); err != nil {
		t.Fatal(err)
	}
	if got := describe(p.s.reply(p.node(name))); got != want {
		t.Errorf("%s sees %q, want %q", name, got, want)
	}
}

func (p *play) says(t *testing.T, line string) {
	t.Helper()
	if err := p.line(line); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
}

// TestForeignNodes: what a node at another tracker has is not leased here; while it is there nobody is alone.
func TestForeignNodes(t *testing.T) {
	p := shared()
	p.hears("F", false, 0, 1) // before the first node of ours
	p.says(t, "A joins")
	p.says(t, "A wants ahead 0-3")
	p.sees(t, "A", "peers F") // the lease waits for the store
	for _, l := range p.s.abroad.asked {
		p.s.confirm(p.now, l)
	}
	p.sees(t, "A", "lease 2-3")
	p.hears("F", false, 0, 1, 2)
	p.hears("G", true)
	p.says(t, "A wants ahead 0-9")
	p.sees(t, "A", "lease 2-3 peers G") // somebody has everything
	p.s.unhear(p.now, named("G"))
	p.s.unhear(p.now, named("F"))
	p.s.settle(p.now)
	p.sees(t, "A", "solo lease 0-9")
}

// TestLeasesAreConfirmed: one that another tracker was faster to give is held there, for as long as that lasts; and
// one that nobody confirms is given after a moment all the same.
func TestLeasesAreConfirmed(t *testing.T) {
	p := shared()
	p.says(t, "A joins")
	p.hears("F", false)
	p.says(t, "A wants ahead 0-1")
	asked := p.s.abroad.asked
	if len(asked) != 2 || asked[0].piece != 0 {
		t.Fatalf("asked for %v", asked)
	}
	p.s.gen++
	p.s.deny(p.now, asked[0])
	p.s.confirm(p.now, asked[1])
	p.s.settle(p.now)
	p.sees(t, "A", "lease 1 held 0 peers F")
	if len(p.s.abroad.ended) != 0 {
		t.Error("a lease that is not ours is taken back")
	}
	p.says(t, "A polls")
	p.says(t, "A did 1")
	p.says(t, "A wants ahead 0,5")
	p.sees(t, "A", "held 0")
	p.says(t, "+200ms") // the store hangs
	p.sees(t, "A", "lease 5 held 0")
	p.says(t, "A did 5")
	p.says(t, "+4s")
	p.sees(t, "A", "lease 0") // asked for again, and given without an answer
	// The store dies: nothing waits any more, and after a while those at other trackers are forgotten.
	p.says(t, "A wants ahead 0,9")
	p.s.gen++
	p.s.reach(p.now, false)
	p.s.settle(p.now)
	p.sees(t, "A", "lease 0,9")
	p.says(t, "+11s")
	if p.s.strange() != 0 {
		t.Error("a node is remembered that nobody has heard of for 11 s")
	}
}

// TestRootsFromElsewhere: a root that was claimed elsewhere is told here, and contradicts.
func TestRootsFromElsewhere(t *testing.T) {
	p := shared()
	p.says(t, "A joins")
	p.says(t, "B joins")
	p.s.gen++
	p.s.hearClaim(3, rootOf(3))
	p.s.hearClaim(1<<20, rootOf(4)) // no such piece
	p.s.announceClaims(0)
	p.sees(t, "A", "roots 3 peers B")
	if e := p.s.export(trackerID{1}); len(e.claims) != 0 || len(e.records) != 2 {
		t.Errorf("what was heard is told again: %+v", e)
	}
	p.says(t, "A did 4")
	if e := p.s.export(trackerID{1}); e.claims[4] != rootOf(4) || len(e.records) != 1 {
		t.Errorf("what is new is not told: %+v", e)
	}
	p.says(t, "B did 3 wrong")
	p.sees(t, "A", "disputed 3")
	if e := p.s.export(trackerID{1}); len(e.disputes) != 1 {
		t.Errorf("the dispute is not told: %+v", e)
	}
	p.says(t, "B leaves")
	if e := p.s.export(trackerID{1}); len(e.gone) != 1 || e.gone[0] != string(append([]byte{'B'}, make([]byte, 19)...)) {
		t.Errorf("who left is not told: %+v", e)
	}
}

// TestRandomAbroad: nodes here and elsewhere come, change and go in any order, and every count stays right.
func TestRandomAbroad(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := shared()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"A", "B", "C"}).Draw(t, "node")
			var err error
			switch rapid.IntRange(0, 8).Draw(t, "action") {
			case 0:
				p.now = p.now.Add(time.Duration(rapid.IntRange(1, 4000).Draw(t, "ms")) * time.Millisecond)
				p.s.tick(p.now)
			case 1:
				p.hears(name, rapid.Bool().Draw(t, "seed"), rapid.Uint32Range(0, 63).Draw(t, "has"))
			case 2:
				p.s.gen++
				p.s.unhear(p.now, named(name))
				p.s.settle(p.now)
			case 3:
				err = p.report(name, func(q *planRequest) { q.stop = true })
			case 4:
				p.s.gen++
				for _, l := range p.s.abroad.asked {
					if rapid.Bool().Draw(t, "granted") {
						p.s.confirm(p.now, l)
					} else {
						p.s.deny(p.now, l)
					}
				}
				p.s.abroad.asked, p.s.abroad.ended = nil, nil
				p.s.settle(p.now)
			case 5:
				p.s.gen++
				p.s.reach(p.now, rapid.Bool().Draw(t, "up"))
				p.s.settle(p.now)
			default:
				first := rapid.Uint32Range(0, 63).Draw(t, "first")
				err = p.report(name, func(q *planRequest) {
					q.full, q.want, q.ahead = p.node(name) == nil, true, []blob.Run{{First: first, Count: 64 - first}}
					q.have = []blob.Run{{First: first, Count: 1}}
				})
			}
			if err != nil {
				t.Fatal(err)
			}
			if p.s.pieces == 0 {
				continue
			}
			if err := check(p.s); err != nil {
				t.Fatal(err)
			}
			there, seeds := make([]int, 64), 0
			for id, f := range p.s.abroad.nodes {
				if p.s.byID[id] != nil {
					t.Fatalf("%q is here and elsewhere", id)
				}
				if f.seed {
					seeds++
				}
				for i := range uint32(64) {
					if f.have.has(i) {
						there[i]++
					}
				}
			}
			for i := range there {
				if int(p.s.abroad.there.at(uint32(i))) != there[i] {
					t.Fatalf("piece %d is at %d elsewhere, counted %d", i, there[i], p.s.abroad.there.at(uint32(i)))
				}
			}
			if seeds != p.s.abroad.seeds {
				t.Fatalf("%d have everything elsewhere, counted %d", seeds, p.s.abroad.seeds)
			}
		}
	})
}
