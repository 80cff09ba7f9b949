package inflate

import (
	"bytes"
	stdflate "compress/flate"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
)

func nil2(s string) func(*stdflate.Writer, *bytes.Buffer) {
	return func(w *stdflate.Writer, _ *bytes.Buffer) { w.Write([]byte(s)) }
}

// spans calls f with each span that points cut a file into: its decoded bytes, and the stored ones that the contract
// of codec.Span asks for, both in memory of exactly their size.
func (s scanned) spans(stored []byte, f func(i int, p codec.Point, src, want []byte)) {
	for i, p := range s.points {
		out, in := len(s.decoded), len(stored)
		if i+1 < len(s.points) {
			next := s.points[i+1]
			out, in = int(next.Out), int(next.In)+1
		}
		f(i, p, slices.Clone(stored[p.In:in]), s.decoded[p.Out:out])
	}
}

// exact is a slice of n bytes in the middle of others, and a function that tells whether those were changed.
func exact(n int) (dst []byte, intact func() bool) {
	fence := bytes.Repeat([]byte{0xa5}, 512)
	all := slices.Concat(fence, make([]byte, n), fence)
	return all[len(fence) : len(fence)+n : len(fence)+n], func() bool {
		return bytes.HasPrefix(all, fence) && bytes.HasSuffix(all, fence)
	}
}

// TestSpan: every span of every sample, decoded alone, is a slice of the whole.
func TestSpan(t *testing.T) {
	for _, f := range corpus(t) {
		t.Run(f.name, func(t *testing.T) {
			for _, space := range []codec.Spacing{{Decoded: 1}, {Decoded: 300 << 10}} {
				s, err := scanAll(t, bytes.NewReader(f.stored), space)
				if err != nil {
					t.Fatal(err)
				}
				s.spans(f.stored, func(i int, p codec.Point, src, want []byte) {
					dst, intact := exact(len(want))
					if err := Span(dst, src, p.Bit, p.Window); err != nil || !bytes.Equal(dst, want) {
						t.Fatalf("span %d of %d, %d bytes from %d: %v", i, len(s.points), len(want), p.Out, err)
					}
					if !intact() {
						t.Fatalf("span %d: written outside of dst", i)
					}
					// Less of it, and all of the file behind it.
					for _, n := range []int{1, len(want) / 2, len(want) - 1} {
						if n < 0 || n > len(want) {
							continue
						}
						dst, intact := exact(n)
						if err := Span(dst, src, p.Bit, p.Window); err != nil || !bytes.Equal(dst, want[:n]) || !intact() {
							t.Fatalf("%d bytes of span %d of %d: %v", n, i, len(want), err)
						}
					}
				})
				for _, p := range s.points {
					dst := make([]byte, min(len(f.decoded)-int(p.Out), 400<<10))
					if err := Span(dst, f.stored[p.In:], p.Bit, p.Window); err != nil || !bytes.Equal(dst, f.decoded[p.Out:][:len(dst)]) {
						t.Fatalf("from %d through other points: %v", p.Out, err)
					}
				}
			}
		})
	}
}

// TestSpanShort: a span whose source is cut short fails, and so does one that asks for more than there is.
func TestSpanShort(t *testing.T) {
	stored, decoded := generated(11, 1, 6, 300, 0, 1, 2)
	for n := range stored[:len(stored)-9] {
		dst, intact := exact(len(decoded))
		if err := Span(dst, stored[:n:n], 0, nil); !errors.Is(err, blob.ErrCorrupt) && !bytes.Equal(dst, decoded) {
			t.Fatalf("%d of %d stored bytes: %v", n, len(stored), err)
		}
		if !intact() {
			t.Fatal("written outside of dst")
		}
	}
	for _, more := range []int{1, 500} {
		if err := Span(make([]byte, len(decoded)+more), stored, 0, nil); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%d bytes more than there are: %v", more, err)
		}
	}
	if err := Span(make([]byte, 1), stored[1:], 0, nil); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("neither a window nor a header: %v", err)
	}
	if err := Span(nil, nil, 0, nil); err != nil {
		t.Errorf("nothing of nothing: %v", err)
	}
	for bit := uint8(1); bit < 12; bit++ {
		if err := Span(make([]byte, 1), stored, bit, nil); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("a header at bit %d: %v", bit, err)
		}
	}
	if err := Span(make([]byte, 1), stored, 9, []byte{bare}); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("bit 9: %v", err)
	}
}

// TestSpanChunks: a chunk of an eStargz layer is a member whose place its table of contents tells, and needs no index.
func TestSpanChunks(t *testing.T) {
	plain := bigContent()
	type chunk struct{ stored, decoded, length int }
	var file []byte
	var toc []chunk
	for at := 0; at < len(plain); {
		n := min(len(plain)-at, 100<<10-at%7)
		toc = append(toc, chunk{len(file), at, n})
		file = append(file, stdMember(plain[at:at+n], func(w *stdflate.Writer, _ *bytes.Buffer) { w.Write(plain[at : at+n]) })...)
		at += n
	}
	for i, c := range toc {
		dst, intact := exact(c.length)
		if err := Span(dst, file[c.stored:], 0, nil); err != nil || !bytes.Equal(dst, plain[c.decoded:][:c.length]) || !intact() {
			t.Errorf("chunk %d: %v", i, err)
		}
	}
}

// TestSpanAllocates nothing once it is warm.
func TestSpanAllocates(t *testing.T) {
	f := library("std-6")
	s, err := scanAll(t, bytes.NewReader(f.stored), codec.Spacing{Decoded: 256 << 10})
	if err != nil || len(s.points) < 4 {
		t.Fatal(len(s.points), err)
	}
	p := s.points[2]
	dst := make([]byte, 64<<10)
	if n := testing.AllocsPerRun(100, func() {
		if err := Span(dst, f.stored[p.In:], p.Bit, p.Window); err != nil {
			t.Fatal(err)
		}
	}); n > 1 { // a collection may empty the pool
		t.Errorf("%v allocations", n)
	}
}

// TestSpanAtOnce: calls share nothing.
func TestSpanAtOnce(t *testing.T) {
	f := library("std-6")
	s, err := scanAll(t, bytes.NewReader(f.stored), codec.Spacing{Decoded: 1})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for g := range 4 {
		go func() {
			r := rand.New(rand.NewPCG(uint64(g), 0))
			var err error
			for range 200 {
				p := s.points[r.IntN(len(s.points))]
				dst := make([]byte, min(1+r.IntN(50000), len(f.decoded)-int(p.Out)))
				if e := Span(dst, f.stored[p.In:], p.Bit, p.Window); e != nil || !bytes.Equal(dst, f.decoded[p.Out:][:len(dst)]) {
					err = errors.Join(errors.New("wrong bytes"), e)
				}
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
