package relay

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// world is a picker with two parents and a backup per stripe, all connected.
func world(t *testing.T) *Picker {
	t.Helper()
	p := NewPicker(geo)
	p.Assign(start, Assignment{Gen: 1, Stripes: 2, Parents: [][]Parent{
		{{ID: id(1), Rate: 2_500_000}, {ID: id(3)}},
		{{ID: id(2), Rate: 2_500_000}, {ID: id(3)}},
	}})
	for i := 1; i <= 3; i++ {
		p.Connected(start, id(i))
	}
	return p
}

func from(t *testing.T, p *Picker, at time.Duration, piece uint32, want int) {
	t.Helper()
	got, ok := p.From(start.Add(at), piece)
	if want < 0 && ok || want >= 0 && (!ok || got != id(want)) {
		t.Fatalf("at %s piece %d is asked of %x, %v, want %d", at, piece, got[:2], ok, want)
	}
}

func complaints(t *testing.T, p *Picker, want ...Complaint) {
	t.Helper()
	if diff := cmp.Diff(want, p.Complaints()); diff != "" {
		t.Fatalf("complaints (-want +got):\n%s", diff)
	}
}

// TestFailover goes to the backup at once, back when the tracker says so, and on alone when nobody is left.
func TestFailover(t *testing.T) {
	p := world(t)
	from(t, p, 0, 0, 1)
	from(t, p, 0, 1, 2)
	from(t, p, 0, 4, 1)
	p.Gone(start.Add(time.Second), id(1), Lost)
	from(t, p, time.Second, 0, 3)
	from(t, p, time.Second, 1, 2)
	complaints(t, p, Complaint{Parent: id(1), Stripe: 0, Reason: Lost})
	p.Connected(start.Add(2*time.Second), id(1))
	from(t, p, 2*time.Second, 0, 3)
	p.Gone(start.Add(2*time.Second), id(3), Lost)
	complaints(t, p) // a backup is nobody's duty
	from(t, p, 2*time.Second, 0, -1)
	if !p.Planned(0) || !p.Planned(1) {
		t.Error("no plan any more, at once")
	}
	p.Tick(start.Add(3*time.Second + time.Millisecond))
	if p.Planned(0) || !p.Planned(1) {
		t.Errorf("planned after a second without parents: %v, %v", p.Planned(0), p.Planned(1))
	}
	p.Assign(start.Add(4*time.Second), Assignment{Gen: 2, Stripes: 2, Parents: [][]Parent{{{ID: id(1)}}, {{ID: id(2)}}}})
	from(t, p, 4*time.Second, 0, 1)
	p.Assign(start.Add(5*time.Second), Assignment{})
	from(t, p, 5*time.Second, 0, -1)
	if p.Planned(0) || p.Heads(0) {
		t.Error("planned without a plan")
	}
}

// TestDial waits a moment for the parent, takes a backup then, and comes back.
func TestDial(t *testing.T) {
	p := NewPicker(geo)
	p.Assign(start, Assignment{Gen: 1, Stripes: 2, Parents: [][]Parent{{{ID: id(1)}, {ID: id(3)}}, {}}, Head: 2})
	p.Connected(start, id(3))
	from(t, p, 100*time.Millisecond, 0, -1)
	from(t, p, 400*time.Millisecond, 0, 3)
	p.Connected(start.Add(500*time.Millisecond), id(1))
	from(t, p, 500*time.Millisecond, 0, 1)
	if p.Planned(1) || !p.Heads(1) || p.Heads(0) || !p.Planned(0) {
		t.Error("the head of stripe 1 reads it from the origin")
	}

	p = NewPicker(geo)
	p.Assign(start, Assignment{Gen: 1, Stripes: 2, Parents: [][]Parent{{{ID: id(1)}, {ID: id(3)}}, {}}, Head: 2})
	p.Tick(start.Add(1100 * time.Millisecond))
	complaints(t, p, Complaint{Parent: id(1), Stripe: 0, Reason: Lost})
}

// stream has a parent deliver blocks of a stripe at a rate, while it and the others say how far they are.
func stream(p *Picker, parent int, from, to time.Duration, rate int, marks map[int]func(at time.Duration) uint32) {
	const step = 10 * time.Millisecond
	sent := 0
	p.Asked(start.Add(from), id(parent), 0, 100<<20)
	for at := from; at < to; at += step {
		for i, m := range marks {
			p.Has(start.Add(at), id(i), Watermark{0, m(at)})
		}
		for want := int(float64(rate) * (at - from).Seconds()); sent+16<<10 <= want; sent += 16 << 10 {
			p.Came(start.Add(at), id(parent), uint32(sent/int(geo.PieceLength))*2, 16<<10)
		}
		p.Tick(start.Add(at))
	}
}

// pace is the watermark of who gets a stripe at a rate.
func paced(rate int) func(time.Duration) uint32 {
	return func(at time.Duration) uint32 {
		return uint32(float64(rate) * at.Seconds() / float64(geo.PieceLength) * 2)
	}
}

func TestSlowParent(t *testing.T) {
	const full = 2_500_000
	for _, c := range []struct {
		name     string
		rate     int // of what comes
		own, its int // pace of the parent's watermark, and of the backup's
		reports  int
		use      int
	}{
		{"healthy", full, full, full, 0, 1},
		{"a little slow", full * 3 / 4, full, full, 0, 1},
		{"a tenth", full / 10, full, full, 1, 3},
		{"a tenth, and nobody else has it", full / 10, full, 0, 1, 1},
		{"its parent is slow", full / 10, full / 10, full / 10, 0, 1},
		{"nothing", 0, full, full, 1, 3},
		{"nothing, it has nothing itself", 0, 0, full, 0, 3},
		{"nobody has anything", 0, 0, 0, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := world(t)
			stream(p, 1, 0, 5*time.Second, c.rate, map[int]func(time.Duration) uint32{1: paced(c.own), 3: paced(c.its)})
			from(t, p, 5*time.Second, 0, c.use)
			got := p.Complaints()
			if (len(got) > 0) != (c.reports > 0) || len(got) > 3 {
				t.Fatalf("complaints: %v", got)
			}
			for _, r := range got {
				if r.Reason != Slow || r.Parent != id(1) || r.Rate > full/5 {
					t.Errorf("complaint %v", r)
				}
			}
			from(t, p, 5*time.Second, 1, 2)
		})
	}
}

// TestRoomAndPart follow the rate of a parent.
func TestRoomAndPart(t *testing.T) {
	for _, c := range []struct{ rate, part, room int }{
		{100_000, 1, minRoom},
		{2_500_000, 3, minRoom + 500_000},
		{12_500_000, 15, minRoom + 2_500_000},
		{1_000_000_000, 16, maxRoom},
	} {
		p := world(t)
		stream(p, 1, 0, 2*time.Second, c.rate, map[int]func(time.Duration) uint32{1: paced(c.rate)})
		p.Dropped(start, id(1), 0, 1<<40)
		if part, room := p.Part(id(1)), p.Room(id(1)); part != c.part || room < c.room*9/10 || room > c.room*11/10 {
			t.Errorf("at %d B/s: parts of %d, room for %d", c.rate, part, room)
		}
		p.Asked(start.Add(3*time.Second), id(1), 4, 100_000)
		if room := p.Room(id(1)); room < c.room*9/10-100_000 || room > c.room*11/10-100_000 {
			t.Errorf("at %d B/s: room for %d beside 100 kB", c.rate, room)
		}
	}
	if p := world(t); p.Room(id(9)) != 0 {
		t.Error("room at a stranger")
	}
}

// TestHotPathDoesNotAllocate covers what runs for every part.
func TestHotPathDoesNotAllocate(t *testing.T) {
	p := world(t)
	at := start
	n := testing.AllocsPerRun(1000, func() {
		at = at.Add(time.Millisecond)
		for piece := range uint32(4) {
			id, _ := p.From(at, piece)
			p.Planned(piece)
			p.Asked(at, id, piece, p.Part(id)*16<<10+p.Room(id)&1)
			p.Came(at, id, piece, 16<<10)
			p.Dropped(at, id, piece, 1<<20)
			p.Has(at, id, Watermark{0, piece})
		}
		p.Tick(at)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
