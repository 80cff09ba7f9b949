package zstdspan

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
)

// small is a stream of one frame with some points inside.
func small(t testing.TB) (stored, decoded []byte, points []codec.Point) {
	t.Helper()
	stored = klauspost(t, content()[4<<20:5<<20+1<<19], zstd.WithWindowSize(1<<20))
	decoded, points, err := scan(stored, codec.Spacing{Stored: 100 << 10, Decoded: 300 << 10})
	if err != nil {
		t.Fatal(err)
	}
	if len(points) < 4 {
		t.Fatalf("%d points", len(points))
	}
	return stored, decoded, points
}

// TestCutShort: wherever a stream ends too soon it is corrupt, and so is one with something behind it.
func TestCutShort(t *testing.T) {
	stored, _, _ := small(t)
	r := rand.New(rand.NewPCG(3, 4))
	cuts := []int{1, 3, 4, 5, 6, 7, 8, 9, 10, len(stored) - 4, len(stored) - 1}
	for range 50 {
		cuts = append(cuts, r.IntN(len(stored)-1)+1)
	}
	for _, n := range cuts {
		if _, _, err := scan(stored[:n], codec.Spacing{Stored: 1 << 20, Decoded: 1 << 20}); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%d of %d bytes: %v", n, len(stored), err)
		}
	}
	for _, tail := range []string{"x", "\x00\x00\x00\x00", "\x50\x2a\x4d\x18\x09\x00\x00\x00short", "not zstd"} {
		if _, _, err := scan(append(bytes.Clone(stored), tail...), codec.Spacing{Stored: 1 << 20, Decoded: 1 << 20}); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%q behind the stream: %v", tail, err)
		}
	}
	if _, _, err := scan(nil, codec.Spacing{Stored: 1, Decoded: 1}); err != nil {
		t.Errorf("no frames at all: %v", err)
	}
}

// TestFlipped: a changed bit anywhere is found by Scan, since frames have a checksum, unless it changes nothing (a match
// from other bytes that are equal); and it never brings Span down.
func TestFlipped(t *testing.T) {
	stored, decoded, points := small(t)
	r := rand.New(rand.NewPCG(5, 6))
	for range 60 {
		bad := bytes.Clone(stored)
		at := r.IntN(len(bad))
		bad[at] ^= 1 << r.IntN(8)
		got, _, err := scan(bad, codec.Spacing{Stored: 1 << 20, Decoded: 1 << 20})
		if err == nil && !bytes.Equal(got, decoded) || err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("byte %d changed: %v", at, err)
		}
		i := r.IntN(len(points) - 1)
		dst := make([]byte, points[i+1].Out-points[i].Out)
		if err := Span(dst, bad[points[i].In:points[i+1].In], 0, points[i].Window); err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("class of %v", err)
		}
	}
	// Nothing of that is left in the decoders.
	checkSpans(t, stored, decoded, points)
}

// TestWrongLength: a span that is asked for more bytes than its blocks have is refused; one that ends inside of a block
// is as good as any.
func TestWrongLength(t *testing.T) {
	stored, decoded, points := small(t)
	last := points[len(points)-1]
	for _, wrong := range []int64{1, maxBlock} {
		if err := Span(make([]byte, int64(len(decoded))-last.Out+wrong), stored[last.In:], 0, last.Window); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%d bytes too many: %v", wrong, err)
		}
	}
	r := rand.New(rand.NewPCG(9, 10))
	for range 300 {
		i := r.IntN(len(points) - 1)
		p := points[i]
		n := int(points[i+1].Out - p.Out)
		dst := make([]byte, n-r.IntN(n/2))
		if err := Span(dst, stored[p.In:points[i+1].In], 0, p.Window); err != nil || !bytes.Equal(dst, decoded[p.Out:p.Out+int64(len(dst))]) {
			t.Errorf("%d bytes from %d: %v", len(dst), p.Out, err)
		}
	}
	if err := Span(make([]byte, points[1].Out), stored, 3, nil); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("between two bits: %v", err)
	}
}

// TestForeignWindow: a span with the window of another, or of none, is an error or other bytes, never a panic.
func TestForeignWindow(t *testing.T) {
	stored, _, points := small(t)
	r := rand.New(rand.NewPCG(7, 8))
	for i, p := range points[:len(points)-1] {
		for j, q := range points {
			if i == j {
				continue
			}
			window := bytes.Clone(q.Window)
			if len(window) > 0 && j%2 == 0 {
				window[r.IntN(len(window))] ^= 0x10
			}
			dst := make([]byte, points[i+1].Out-p.Out)
			if err := Span(dst, stored[p.In:points[i+1].In], 0, window); err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) {
				t.Errorf("class of %v", err)
			}
		}
	}
}

// TestRefused: what is well-formed but asks for too much.
func TestRefused(t *testing.T) {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithEncoderDictRaw(7, content()[:10000]), zstd.WithEncoderCRC(false))
	if err != nil {
		t.Fatal(err)
	}
	w.Write(content()[:20000])
	w.Close()
	if _, _, err := scan(b.Bytes(), codec.Spacing{Stored: 1, Decoded: 1}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("a dictionary: %v", err)
	}
	wide := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 17<<3 | 1, 1, 0, 0} // 144 MiB
	if _, _, err := scan(wide, codec.Spacing{Stored: 1, Decoded: 1}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("a window of 144 MiB: %v", err)
	}
	wide[5] = 17 << 3 // 128 MiB, and an empty block: that takes no memory
	n := testing.AllocsPerRun(1, func() {
		if out, _, err := scan(wide, codec.Spacing{Stored: 1, Decoded: 1}); err != nil || len(out) != 0 {
			t.Errorf("an empty frame: %v", err)
		}
	})
	t.Logf("%v allocations", n)
}

// TestPassedOn: what fails outside of the stream is reported as it is.
func TestPassedOn(t *testing.T) {
	stored, _, points := small(t)
	mine := errors.New("mine")
	s := codec.Spacing{Stored: 100 << 10, Decoded: 300 << 10}
	ok := func([]byte) error { return nil }
	if err := Scan(io.MultiReader(bytes.NewReader(stored[:len(stored)/2]), failing{mine}), s, ok, func(codec.Point) error { return nil }); !errors.Is(err, mine) || errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("reading: %v", err)
	}
	if err := Scan(bytes.NewReader(stored), s, func([]byte) error { return mine }, func(codec.Point) error { return nil }); err != mine {
		t.Errorf("emit: %v", err)
	}
	for k := range points {
		if err := Scan(bytes.NewReader(stored), s, ok, func(codec.Point) error {
			if k--; k < 0 {
				return mine
			}
			return nil
		}); err != mine {
			t.Errorf("mark: %v", err)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestSteady: a span is decoded without allocations once there is a decoder.
func TestSteady(t *testing.T) {
	stored, _, points := small(t)
	dst := make([]byte, points[2].Out-points[1].Out)
	r := newReader()
	if n := testing.AllocsPerRun(100, func() {
		if err := r.span(dst, stored[points[1].In:points[2].In], points[1].Window); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
}
