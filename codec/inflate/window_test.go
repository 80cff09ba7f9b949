package inflate

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
)

// TestWindowSparse: a window has each byte that the data behind it refers to, and no other, except for gaps too short
// to leave out. A span whose window lacked a byte would fail, see reach; whether one is needed shows when it is
// changed: the decoded bytes change too.
func TestWindowSparse(t *testing.T) {
	kept, of := 0, 0
	for _, name := range []string{"std-6", "made-mixed", "one-block"} {
		f := library(name)
		s, err := scanAll(t, bytes.NewReader(f.stored), codec.Spacing{Decoded: 200 << 10})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(s.points, func(p codec.Point) bool { return len(p.Window) > 1 })
		if i < 0 {
			t.Fatalf("%s: no window", name)
		}
		p := s.points[i]
		var changed spanner
		within, err := changed.before.unpack(p.Window, &changed.block, &changed.scratch)
		if err != nil {
			t.Fatal(err)
		}
		w, around := changed.before, changed.block
		want := f.decoded[p.Out:]
		want = want[:min(len(want), winSize)]
		dst := make([]byte, len(want))
		needed := bitmap{}
		for at := w.have.next(0, true); at < winSize; at = w.have.next(at+1, true) {
			if w.bytes[at] != f.decoded[int(p.Out)-winSize+at] {
				t.Fatalf("%s: byte %d of the window is not that of the file", name, at)
			}
			changed.before.bytes[at] ^= 1
			changed.last, changed.past, changed.floor = true, &changed.before, 0
			src := f.stored[p.In:]
			if !changed.begin(src, 0, p.Bit) {
				t.Fatal("no first byte")
			}
			if changed.block = around; within && !changed.enter() {
				t.Fatal(changed.fault)
			}
			if err := changed.fillUp(dst, src); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(dst, want) {
				needed.set(at, at+1)
			}
			changed.before.bytes[at] ^= 1
			of++
		}
		for from := w.have.next(0, true); from < winSize; {
			to := w.have.next(from, false)
			if !needed.all(from, from+1) || !needed.all(to-1, to) {
				t.Errorf("%s: the window's run from %d to %d is longer than need be", name, from, to)
			}
			for at := from; at < to; {
				gap := needed.next(at, false)
				at = needed.next(gap, true)
				if gap < to && at-gap > nearby {
					t.Errorf("%s: the window holds %d bytes from %d on that nothing refers to", name, at-gap, gap)
				}
				kept += max(0, min(gap, to)-from)
			}
			from = w.have.next(to, true)
		}
	}
	if kept == 0 || of == 0 {
		t.Fatal("nothing was tried")
	}
}

// TestWindowBare: where the history was given up (Z_FULL_FLUSH), a window is the one byte that says so, and not
// nothing, which would ask for a header.
func TestWindowBare(t *testing.T) {
	f := library("full-flush")
	s, err := scanAll(t, bytes.NewReader(f.stored), codec.Spacing{Decoded: 1})
	if err != nil {
		t.Fatal(err)
	}
	bares := 0
	for _, p := range s.points[1:] {
		if bytes.Equal(p.Window, []byte{bare}) {
			bares++
		} else if len(p.Window) == 0 {
			t.Errorf("point %+v has no window", p)
		}
	}
	if bares < 10 {
		t.Errorf("%d of %d windows are bare", bares, len(s.points))
	}
}

func TestWindowPack(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	var scratch []byte
	for _, runs := range []int{0, 1, 2, 100, 5000, winSize} {
		for _, longest := range []int{1, 5, 300, winSize} {
			var w, got window
			for i := range w.bytes {
				w.bytes[i] = byte(r.IntN(1 + r.IntN(256)))
				got.bytes[i] = 0xee
			}
			for range runs {
				at := r.IntN(winSize)
				w.have.set(at, min(winSize, at+1+r.IntN(longest)))
			}
			packed := w.pack(nil, &scratch)
			if _, err := got.unpack(packed, nil, &scratch); err != nil {
				t.Fatalf("%d, %d: %v", runs, longest, err)
			}
			if len(packed) == 0 || len(packed) > maxBody {
				t.Errorf("%d, %d: packed to %d", runs, longest, len(packed))
			}
			for i := range w.bytes {
				if have := got.have.all(i, i+1); have && w.bytes[i] != got.bytes[i] || !have && w.have.all(i, i+1) {
					t.Fatalf("%d, %d: byte %d", runs, longest, i)
				}
			}
			// Damage is refused or makes another window; it never makes a panic.
			for range 200 {
				bad := slices.Clone(packed)
				bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
				bad = bad[:r.IntN(len(bad)+1)]
				if _, err := got.unpack(bad, new(block), &scratch); err != nil && !errors.Is(err, blob.ErrCorrupt) {
					t.Fatal(err)
				}
			}
		}
	}
	var w window
	for _, bad := range [][]byte{{}, {bare, 0}, {plain}, {plain, 0}, {plain, 0, 1, 0, 0}, {plain, 1, 1, 0, 0}, {plain, 0, 0, 7}, {plain, 0xff, 0xff, 3, 1, 0, 0, 7}, {zipped}, {zipped, 0xff, 0xff, 0xff, 0x7f, 0}, {zipped, 4, 1, 2, 3}, {3}} {
		if _, err := w.unpack(bad, new(block), &scratch); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestBitmap(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for range 300 {
		var b bitmap
		var naive [winSize]bool
		for range r.IntN(6) {
			from := r.IntN(winSize)
			to := min(winSize, from+r.IntN(400))
			b.set(from, to)
			for i := from; i < to; i++ {
				naive[i] = true
			}
		}
		for range 50 {
			from := r.IntN(winSize)
			to := min(winSize, from+r.IntN(400))
			if got, want := b.all(from, to), !slices.Contains(naive[from:to], false); got != want {
				t.Fatalf("all(%d, %d) is %t", from, to, got)
			}
			for _, want := range []bool{true, false} {
				next := slices.Index(naive[from:], want) + from
				if next < from {
					next = winSize
				}
				if got := b.next(from, want); got != next {
					t.Fatalf("next(%d, %t) is %d, not %d", from, want, got, next)
				}
			}
		}
	}
}

// TestWindowInside: where no block ends for long, there are points inside of one, and their windows hold its codes.
func TestWindowInside(t *testing.T) {
	for _, name := range []string{"one-block", "one-fixed-block"} {
		f := library(name)
		s, err := scanAll(t, bytes.NewReader(f.stored), codec.Spacing{Decoded: 100 << 10})
		if err != nil {
			t.Fatal(err)
		}
		if want := len(f.decoded) / (600 << 10); len(s.points) < want {
			t.Errorf("%s: %d points in %d bytes", name, len(s.points), len(f.decoded))
		}
		for i, p := range s.points[1:] {
			if p.Window[0]&inside == 0 {
				t.Errorf("%s: point %d is not inside of a block", name, i+1)
			}
		}
	}
}

func TestBlockPack(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 1))
	for range 200 {
		b := block{final: r.IntN(2) == 0, fixed: r.IntN(4) == 0}
		if !b.fixed {
			b.lits, b.dists = 257+r.IntN(30), 1+r.IntN(30)
			for i := range b.lits + b.dists {
				b.lengths[i] = uint8(r.IntN(16))
			}
		}
		packed := b.pack(nil)
		var got block
		if rest, ok := got.unpack(append(packed, 'x')); !ok || string(rest) != "x" || got != b {
			t.Fatalf("%+v became %+v, rest %q, %t", b, got, rest, ok)
		}
		for n := range packed {
			if _, ok := got.unpack(packed[:n]); ok {
				t.Fatalf("%d of %d bytes are accepted", n, len(packed))
			}
		}
	}
	for _, bad := range [][]byte{{4}, {0, 30, 0}, {0, 0, 30}, append([]byte{0, 0, 0}, bytes.Repeat([]byte{16}, 258)...)} {
		if _, ok := new(block).unpack(append(bad, make([]byte, 600)...)); ok {
			t.Errorf("%v is accepted", bad[:min(3, len(bad))])
		}
	}
}
