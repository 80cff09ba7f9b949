package swarm

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

// TestHoldings: what is added is there, and nothing else, also when it is listed as runs.
func TestHoldings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bpp := rapid.SampledFrom([]uint32{1, 16, 63, 64, 65, 128, 200}).Draw(t, "bpp")
		piece := rapid.Uint32Range(0, 5).Draw(t, "piece")
		h, naive := make(holdings), make([]bool, bpp)
		for range rapid.IntRange(0, 8).Draw(t, "runs") {
			first := rapid.Uint32Range(0, bpp-1).Draw(t, "first")
			n := rapid.Uint32Range(1, bpp-first).Draw(t, "count")
			fresh := false
			for i := first; i < first+n; i++ {
				fresh = fresh || !naive[i]
				naive[i] = true
			}
			if got := h.add(piece, bpp, blob.Run{First: piece*bpp + first, Count: n}); got != fresh {
				t.Fatalf("add says %v", got)
			}
		}
		var want []blob.Run
		for i := range bpp {
			one := blob.Run{First: piece*bpp + i, Count: 1}
			if h.has(piece, bpp, one) != naive[i] {
				t.Fatalf("block %d of %d: %v", i, bpp, !naive[i])
			}
			if naive[i] {
				want = appendRun(want, one)
			}
		}
		if got := h.runs(nil, piece, bpp); !slices.Equal(got, want) {
			t.Fatalf("runs %v, want %v", got, want)
		}
	})
}

// TestHasPartialAllocations: asking for blocks of incomplete pieces allocates nothing either.
func TestHasPartialAllocations(t *testing.T) {
	g, err := newSpace(1<<20, 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	a := newAvailability(4)
	a.trust(1, true)
	r := blob.Run{First: 70, Count: 5}
	if a.hasBlocks(g, r) {
		t.Error("nobody has them")
	}
	a.partial.add(1, g.bpp, r)
	if !a.hasBlocks(g, r) || a.hasBlocks(g, blob.Run{First: 70, Count: 6}) || a.has(blob.Run{First: 1, Count: 1}) {
		t.Error("five blocks of a piece")
	}
	if n := testing.AllocsPerRun(100, func() { a.hasBlocks(g, r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	a.trust(1, false)
	if a.hasBlocks(g, r) {
		t.Error("without a trusted root")
	}
	a.trust(1, true)
	a.partial.set(1, nil)
	if a.hasBlocks(g, r) {
		t.Error("they are gone")
	}
}

// TestOutboxRuns serves the most urgent class first, cuts bulk, and forgets what was ended.
func TestOutboxRuns(t *testing.T) {
	o := newOutbox()
	run := func(tag, first, n uint32, c blob.Class) *served {
		s := &served{tag: tag, class: c, next: first, end: first + n}
		if !o.admit(s) {
			t.Fatalf("run %d was not admitted", tag)
		}
		return s
	}
	bulk, dropped, fault := run(1, 0, 10, blob.Background), run(2, 50, 4, blob.Background), run(3, 100, 1, blob.Fault)
	o.queueRun(bulk, 6)
	o.queueRun(dropped, 54)
	take := func(most uint32) job {
		_, j, err := o.next(most)
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	if j := take(4); j.run != bulk || j.blocks != (blob.Run{First: 0, Count: 4}) || j.last || j.drained {
		t.Errorf("first %+v", j)
	}
	o.queueRun(fault, 101)
	if j := take(4); j.run != fault || !j.last || o.tagged(3) != nil {
		t.Errorf("urgent %+v", j)
	}
	if !o.end(dropped) || o.end(dropped) {
		t.Error("a run ends once")
	}
	if j := take(4); j.run != bulk || j.blocks != (blob.Run{First: 4, Count: 2}) || j.last || !j.drained {
		t.Errorf("the rest that is ready: %+v", j)
	}
	if j := take(4); j.kind != noJob {
		t.Errorf("nothing is ready: %+v", j)
	}
	o.queueRun(bulk, 10)
	if j := take(16); !j.last || j.blocks.Count != 4 {
		t.Errorf("the end: %+v", j)
	}
	if o.dropRuns(true); o.admit(&served{tag: 9}) {
		t.Error("a closed outbox admits a run")
	}
}
