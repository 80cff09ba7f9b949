package tracker

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

// TestRandomSwarm lets nodes do what they like, in any order, and verifies after every step that the swarm is
// consistent, that no piece is leased twice (check), and that what was just leased is nowhere to be had.
func TestRandomSwarm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPlay()
		pieces := uint32(rapid.SampledFrom([]int{1, 3, 64, 65, 130}).Draw(t, "pieces"))
		p.s.reset(blob.Geometry{Size: int64(pieces)<<18 - 1000, PieceLength: 256 << 10})
		names := []string{"A", "B", "C", "D", "E"}
		open := map[string]int{}
		runs := func(label string) (list []blob.Run) {
			for range rapid.IntRange(0, 3).Draw(t, label) {
				first := rapid.Uint32Range(0, pieces-1).Draw(t, "first")
				list = append(list, blob.Run{First: first, Count: rapid.Uint32Range(1, pieces-first).Draw(t, "count")})
			}
			return list
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			name := rapid.SampledFrom(names).Draw(t, "node")
			n := p.node(name)
			before := map[uint32]bool{}
			for i := range p.s.leases {
				before[i] = true
			}
			starved := map[*node]bool{}
			for _, n := range p.s.nodes {
				starved[n] = n.starved
			}
			var err error
			what := rapid.IntRange(0, 8).Draw(t, "action")
			switch {
			case what == 0:
				p.now = p.now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond)
				p.s.tick(p.now)
			case n == nil || what == 1:
				have := runs("have")
				err = p.report(name, func(q *planRequest) {
					q.full, q.have, q.want, q.reading, q.ahead = true, have, true, runs("reading"), runs("ahead")
				})
			case what == 2:
				err = p.report(name, func(q *planRequest) { q.stop = true })
				open[name] = 0
			case what == 3 && open[name] == 0:
				p.s.poll(p.now, n, 1)
				open[name] = 1
			case what == 4 && open[name] == 1:
				p.s.poll(p.now, n, -1)
				open[name] = 0
			case what == 5: // completes what it has leased
				err = p.report(name, func(q *planRequest) {
					for i := range n.leases {
						q.have = append(q.have, blob.Run{First: i, Count: 1})
						q.roots = append(q.roots, pieceRoot{i, rootOf(i)})
					}
				})
			case what == 6: // completes anything, perhaps with a wrong root
				i := rapid.Uint32Range(0, pieces-1).Draw(t, "piece")
				err = p.report(name, func(q *planRequest) {
					q.have = []blob.Run{{First: i, Count: 1}}
					q.roots = []pieceRoot{{i, rootOf(i + rapid.Uint32Range(0, 1).Draw(t, "lie"))}}
				})
			default:
				err = p.report(name, func(q *planRequest) { q.want, q.wish = true, wish{runs("reading"), runs("urgent"), runs("ahead")} })
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := check(p.s); err != nil {
				t.Fatal(err)
			}
			for i, l := range p.s.leases {
				if !before[i] && p.s.isThere(i) && !l.holder.starved && !starved[l.holder] {
					t.Fatalf("piece %d was leased though it is there", i)
				}
			}
			if n := p.node(name); n != nil {
				// Whatever it reads is spoken for: had, disputed, or freshly leased to somebody, if only to
				// itself. Its own lease may be stale: it reads without progress.
				for i := range each(n.reading) {
					if what != 0 && !p.s.taken.has(i) && p.s.seeds == 0 && n.leases[i] == nil {
						t.Fatalf("piece %d is read by %s and leased to nobody", i, name)
					}
				}
				r := p.s.reply(n)
				for i := range each(r.held) {
					if n.leases[i] != nil {
						t.Fatalf("piece %d is both leased and held", i)
					}
				}
				for _, c := range r.roots {
					if p.s.disputed[c.piece] {
						t.Fatalf("root of disputed piece %d was told", c.piece)
					}
				}
			}
			p.s.drain()
		}
		// Whoever is left gets all it wants in the end: no lease is lost.
		for name := range open {
			if open[name] == 1 && p.node(name) != nil {
				p.s.poll(p.now, p.node(name), -1)
			}
		}
		p.now = p.now.Add(time.Minute)
		p.s.tick(p.now)
		finish(t, p, []string{"A", "B"}, pieces)
	})
}

// finish lets the nodes want everything, from the origin by lease and from each other, and fails when that
// takes more rounds than there are pieces.
func finish(t *rapid.T, p *play, names []string, pieces uint32) (origin []int) {
	origin = make([]int, pieces)
	everything := []blob.Run{{First: 0, Count: pieces}}
	for _, name := range names {
		if err := p.report(name, func(q *planRequest) { q.full, q.epoch, q.want, q.ahead = true, p.s.epoch, true, everything }); err != nil {
			t.Fatal(err)
		}
	}
	for round := uint32(0); ; round++ {
		left := 0
		for _, name := range rapid.Permutation(names).Draw(t, "order") {
			n := p.node(name)
			err := p.report(name, func(q *planRequest) {
				for i := range pieces {
					switch {
					case n.has(i):
						continue
					case p.s.disputed[i]: // read past the scheduler
						q.have = append(q.have, blob.Run{First: i, Count: 1})
					case n.leases[i] != nil && rapid.Bool().Draw(t, "done"):
						origin[i]++
						q.have = append(q.have, blob.Run{First: i, Count: 1})
						q.roots = append(q.roots, pieceRoot{i, rootOf(i)})
					case p.s.isThere(i) && rapid.Bool().Draw(t, "fetched"):
						q.have = append(q.have, blob.Run{First: i, Count: 1})
					}
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := check(p.s); err != nil {
				t.Fatal(err)
			}
			left += int(pieces - n.had)
		}
		p.now = p.now.Add(10 * time.Millisecond)
		p.s.tick(p.now)
		if left == 0 {
			return origin
		}
		if round > 100+20*pieces {
			t.Fatalf("%d pieces are still missing after %d rounds", left, round)
		}
	}
}

// TestEachPieceOnce is single-flight: nodes that start together and want everything read each piece from the
// origin exactly once, and share the work.
func TestEachPieceOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPlay()
		pieces := rapid.Uint32Range(1, 100).Draw(t, "pieces")
		p.s.reset(blob.Geometry{Size: int64(pieces) << 18, PieceLength: 256 << 10})
		var names []string
		for i := range rapid.IntRange(1, 9).Draw(t, "nodes") {
			names = append(names, fmt.Sprint(i))
		}
		for _, name := range names {
			if err := p.report(name, func(q *planRequest) { q.full = true }); err != nil {
				t.Fatal(err)
			}
			p.s.poll(p.now, p.node(name), 1)
		}
		for i, n := range finish(t, p, names, pieces) {
			if n != 1 {
				t.Fatalf("piece %d was read %d times from the origin", i, n)
			}
		}
		if p.s.granted != int64(pieces) {
			t.Fatalf("%d leases for %d pieces", p.s.granted, pieces)
		}
	})
}

// TestShareBounds pins the bound on what one node may have leased.
func TestShareBounds(t *testing.T) {
	for _, c := range []struct {
		size, piece int64
		nodes       int
		want        int64
	}{
		{64 << 20, 256 << 10, 2, 16 << 20},
		{64 << 20, 256 << 10, 8, 4 << 20},
		{64 << 20, 256 << 10, 1000, 512 << 10},
		{64 << 30, 4 << 20, 2, 16 << 20},
		{64 << 30, 4 << 20, 10000, 8 << 20},
		{1 << 40, 64 << 20, 3, 128 << 20},
		{1, 256 << 10, 1, 512 << 10},
	} {
		s := newSwarm(rules{leaseFor: time.Second}, 1, time.Unix(0, 0))
		s.geometry, s.nodes = blob.Geometry{Size: c.size, PieceLength: c.piece}, make([]*node, c.nodes)
		if got := s.share(); got != c.want {
			t.Errorf("share of %d nodes of %d bytes in pieces of %d = %d, want %d", c.nodes, c.size, c.piece, got, c.want)
		}
	}
}
