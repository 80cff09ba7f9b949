package swarm

import (
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
)

// TestInTheWay: what a parent does not have yet is taken back when nothing comes and it has earlier pieces for which there
// is no room left, and only then.
func TestInTheWay(t *testing.T) {
	const size = 16 << 20
	g := blob.GeometryFor(size)
	geo := spaceFor(g.PieceLength, size)
	n, unit := geo.Pieces(), relay.Unit(g)
	later := 2 * unit // of the same stripe as 0
	if later >= n || relay.Stripe(g, later, 2) != 0 || relay.Stripe(g, 0, 2) != 0 {
		t.Fatalf("%d pieces, %d in a turn", n, unit)
	}
	at := time.Unix(1000, 0)
	ago := func(d time.Duration) time.Time { return at.Add(-d) }
	for name, c := range map[string]struct {
		has, trusted, waits bool
		asked, came         time.Duration
		want                bool
	}{
		"in the way":            {true, true, true, time.Second, time.Second, true},
		"the parent lacks both": {false, true, true, time.Second, time.Second, false},
		"no root of it yet":     {true, false, true, time.Second, time.Second, false},
		"nobody wants it":       {true, true, false, time.Second, time.Second, false},
		"just asked":            {true, true, true, time.Millisecond, time.Second, false},
		"something comes":       {true, true, true, time.Second, time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			tor := &Torrent{geo: geo, avail: newAvailability(n)}
			l := &loop{t: tor, relay: relaying{geo: g, a: relay.Assignment{Stripes: 2}}}
			p := &peer{have: newSet(n)}
			if c.has {
				p.have.add(0)
			}
			if c.trusted {
				tor.avail.trust(0, true)
			}
			f := &flight{t: tor, class: blob.Background}
			if c.waits {
				l.pending[blob.Background] = []*part{newPart(f, blob.Run{First: 0, Count: 1}, nil)}
			}
			l.relay.came[0] = ago(c.came)
			pt := newPart(f, blob.Run{First: later * geo.bpp, Count: 1}, nil)
			if got := l.inTheWay(pt, ask{p: p, at: ago(c.asked), planned: true}, at); got != c.want {
				t.Errorf("in the way: %v", got)
			}
			p.have.add(later)
			if l.inTheWay(pt, ask{p: p, at: ago(c.asked), planned: true}, at) {
				t.Error("in the way although the parent has it")
			}
		})
	}
}

// TestOrphaned: a part whose parent owes it nothing any more, because its copy of a block was dropped, is asked anew.
func TestOrphaned(t *testing.T) {
	const size = 16 << 20
	g := blob.GeometryFor(size)
	geo := spaceFor(g.PieceLength, size)
	at := time.Now()
	for _, owed := range []bool{true, false} {
		tor := &Torrent{geo: geo, avail: newAvailability(geo.Pieces())}
		p := &peer{t: tor, id: [20]byte{1}, have: newSet(geo.Pieces()), out: newOutbox(), parts: make(map[*part]struct{}),
			errands: make(map[uint32]*errand), wanted: make(map[uint32]want)}
		a := relay.Assignment{Stripes: 2, Parents: make([][]relay.Parent, 2)}
		for s := range a.Parents {
			a.Parents[s] = []relay.Parent{{ID: p.id}}
		}
		r := relaying{geo: g, a: a, picker: relay.NewPicker(g)}
		r.picker.Assign(at, a)
		r.picker.Connected(at, p.id)
		for s := range r.came {
			r.came[s] = at
		}
		l := &loop{t: tor, relay: r, ids: map[[20]byte]*peer{p.id: p}, active: make(map[*part]struct{})}
		pt := newPart(&flight{t: tor, class: blob.Background}, blob.Run{First: 0, Count: 2}, make([]byte, 2*blob.BlockSize))
		pt.state, pt.asks = asked, []ask{{p: p, at: at.Add(-time.Second), planned: true}}
		p.parts[pt], l.active[pt] = struct{}{}, struct{}{}
		if owed {
			p.errands[1] = &errand{part: pt, next: 0, end: 2, wait: true}
		}
		l.follow(pt, pt.asks[0], at)
		if waits := pt.state == asked; waits != owed {
			t.Errorf("the parent owes it: %v; goes on waiting: %v", owed, waits)
		}
	}
}
