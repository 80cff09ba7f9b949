package lz4block

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pierrec/lz4/v4"
	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

// packed compresses p with an encoder of others, as hard as it can when hard is set.
func packed(t testing.TB, p []byte, hard bool) []byte {
	t.Helper()
	out := make([]byte, lz4.CompressBlockBound(len(p)))
	var n int
	var err error
	if hard {
		n, err = lz4.CompressBlockHC(p, out, lz4.Level9, nil, nil)
	} else {
		n, err = lz4.CompressBlock(p, out, nil)
	}
	if err != nil || n == 0 {
		t.Fatalf("the encoder gave %d bytes: %v", n, err)
	}
	return out[:n]
}

// TestSpan: what another encoder has written is read, from its first byte to any other.
func TestSpan(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	noisy := make([]byte, 70_000)
	for i := range noisy {
		noisy[i] = "abcdefgh"[rng.IntN(8)]
	}
	for name, p := range map[string][]byte{
		"zeros":  make([]byte, 300_000),
		"text":   []byte(strings.Repeat("the same again and again, ", 5_000)),
		"noisy":  noisy,
		"period": bytes.Repeat([]byte{1, 2, 3}, 1000),
		"short":  []byte(strings.Repeat("x", 64)),
	} {
		for _, hard := range []bool{false, true} {
			src := packed(t, p, hard)
			for _, n := range []int{0, 1, 63, len(p) / 2, len(p) - 1, len(p)} {
				dst := make([]byte, n)
				if err := Span(dst, src, 0, nil); err != nil || !bytes.Equal(dst, p[:n]) {
					t.Errorf("%s: the first %d bytes differ: %v", name, n, err)
				}
			}
			if err := Span(make([]byte, len(p)+1), src, 0, nil); !errors.Is(err, blob.ErrCorrupt) {
				t.Errorf("%s: more than the block holds: %v", name, err)
			}
			if err := Span(make([]byte, len(p)), src[:len(src)-1], 0, nil); !errors.Is(err, blob.ErrCorrupt) {
				t.Errorf("%s: cut short: %v", name, err)
			}
		}
	}
	if err := Span(make([]byte, 1), []byte{0x10, 'a'}, 1, nil); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("a bit inside: %v", err)
	}
	if err := Span(make([]byte, 9), []byte{0x10, 'a', 2, 0, 0}, 0, nil); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("a match before the beginning: %v", err)
	}
}

// TestSpanProperty: whatever is compressed comes back.
func TestSpanProperty(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		word := rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(r, "word")
		p := bytes.Repeat(word, rapid.IntRange(20, 2000).Draw(r, "times"))
		dst := make([]byte, len(p))
		if err := Span(dst, packed(t, p, rapid.Bool().Draw(r, "hard")), 0, nil); err != nil || !bytes.Equal(dst, p) {
			r.Fatalf("%d bytes differ: %v", len(p), err)
		}
	})
}

// FuzzSpan: beside the decoder of others, which takes whole blocks only.
func FuzzSpan(f *testing.F) {
	f.Add([]byte{0x10, 'a'}, uint16(1))
	f.Add([]byte{0x1f, 'a', 1, 0, 255, 3, 0x50, 'b', 'c', 'd', 'e', 'f'}, uint16(282))
	f.Fuzz(func(t *testing.T, src []byte, n uint16) {
		dst := make([]byte, n)
		err := Span(dst, src, 0, nil)
		if err != nil && !errors.Is(err, blob.ErrCorrupt) {
			t.Fatalf("class of %v", err)
		}
		other := make([]byte, n)
		if k, oerr := lz4.UncompressBlock(src, other); oerr == nil && k == int(n) && (err != nil || !bytes.Equal(dst, other)) {
			t.Fatalf("another decoder reads it: %v", err)
		}
	})
}
