package codec

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// text is data that shrinks to about a third.
func text(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	words := [][]byte{[]byte("block "), []byte("piece "), []byte("the "), []byte("of "), []byte("swarm "), []byte("peer\n")}
	var b []byte
	for len(b) < n {
		b = append(b, words[r.IntN(len(words))]...)
	}
	return b[:n]
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 100, blob.BlockSize, blob.BlockSize + 1, Max} {
		for name, src := range map[string][]byte{"text": text(n), "noise": noise(n), "zeros": make([]byte, n)} {
			small := Shrink([]byte("head"), src)
			if string(small[:4]) != "head" {
				t.Fatalf("%s %d: what was there is gone", name, n)
			}
			got := make([]byte, n)
			if err := Expand(got, small[4:]); err != nil || !bytes.Equal(got, src) {
				t.Errorf("%s %d: %v", name, n, err)
			}
			for _, wrong := range []int{n - 1, n + 1, 2*n + 100} {
				if wrong < 0 {
					continue
				}
				if err := Expand(make([]byte, wrong), small[4:]); !errors.Is(err, blob.ErrInvalid) {
					t.Errorf("%s %d expanded into %d: %v", name, n, wrong, err)
				}
			}
		}
	}
	if n := len(Shrink(nil, text(Max))); n > Max/2 {
		t.Errorf("text shrinks to %d of %d", n, Max)
	}
}

// TestBomb: a frame that claims, or has, more than is expected costs no memory.
func TestBomb(t *testing.T) {
	bomb := Shrink(nil, make([]byte, 64<<20))
	dst := make([]byte, blob.BlockSize)
	if n := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			if err := Expand(dst, bomb); !errors.Is(err, blob.ErrInvalid) {
				b.Fatal(err)
			}
		}
	}).AllocedBytesPerOp(); n > 1<<20 {
		t.Errorf("%d bytes allocated", n)
	}
}

func TestGauge(t *testing.T) {
	var g Gauge
	tries := 0
	for range 1000 {
		if g.Try() {
			tries++
			if g.Tried(100, 99) {
				t.Fatal("worth it")
			}
		}
	}
	if tries < 3 || tries > 12 {
		t.Errorf("%d tries of 1000 that do not shrink", tries)
	}
	for !g.Try() {
	}
	if !g.Tried(100, 40) || !g.Try() {
		t.Error("what shrinks is not tried again at once")
	}
}

// FuzzExpand: whatever comes never panics, fills the memory that is there or is refused.
func FuzzExpand(f *testing.F) {
	f.Add(Shrink(nil, text(1000)), 1000)
	f.Add(Shrink(nil, noise(100)), 100)
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 10)
	f.Fuzz(func(t *testing.T, src []byte, n int) {
		if n < 0 || n > Max {
			return
		}
		dst := make([]byte, n+1)
		dst[n] = 0xa5
		if err := Expand(dst[:n:n], src); err != nil && !errors.Is(err, blob.ErrInvalid) {
			t.Fatalf("class of %v", err)
		}
		if dst[n] != 0xa5 {
			t.Fatal("written beyond the end")
		}
	})
}

func BenchmarkShrinkText(b *testing.B) {
	src, dst := text(Max), make([]byte, 0, 2*Max)
	b.SetBytes(Max)
	for b.Loop() {
		Shrink(dst, src)
	}
}

func BenchmarkShrinkNoise(b *testing.B) {
	src, dst := noise(Max), make([]byte, 0, 2*Max)
	b.SetBytes(Max)
	for b.Loop() {
		Shrink(dst, src)
	}
}

func BenchmarkExpandText(b *testing.B) {
	src := Shrink(nil, text(Max))
	dst := make([]byte, Max)
	b.SetBytes(Max)
	for b.Loop() {
		if err := Expand(dst, src); err != nil {
			b.Fatal(err)
		}
	}
}
