package device

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"math/rand/v2"
	"testing"

	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/image/build"
	"github.com/pantala/pantala/image/index"
)

// TestCodecs: layers as registries have them, each through the index that one pass over it makes, read at random.
func TestCodecs(t *testing.T) {
	archive := words(t, 4<<20)
	for name, stored := range map[string][]byte{"tar": archive, "gzip": gzipped(archive), "zstd": codec.Shrink(nil, archive)} {
		t.Run(name, func(t *testing.T) {
			l := builtLayer(t, stored)
			if !bytes.Equal(l.decoded, archive) {
				t.Fatal("built from something else")
			}
			d := l.open(t, &memory{bytes: l.stored}, nil)
			d.decoders = &decoders
			if len(d.spans) < 3 {
				t.Fatalf("%d spans", len(d.spans))
			}
			for range 20 {
				off := rand.IntN(len(l.decoded) - 1)
				l.check(t, d, int64(off), min(1+rand.IntN(300_000), len(l.decoded)-off))
			}
			l.check(t, d, 0, len(l.decoded))
			<-d.Completed()
		})
	}
}

// words is an archive of about size bytes of text.
func words(t testing.TB, size int) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	rng := rand.New(rand.NewPCG(1, 2))
	var snippets [500][]byte
	for i := range snippets {
		snippets[i] = make([]byte, 3+rng.IntN(20))
		for k := range snippets[i] {
			snippets[i][k] = "etaoin shrdlu\n"[rng.IntN(14)]
		}
	}
	b := make([]byte, 100_000)
	for archive.Len() < size {
		for i := 0; i < len(b); i += copy(b[i:], snippets[rng.IntN(len(snippets))]) {
		}
		if err := w.WriteHeader(&tar.Header{Name: "file", Size: int64(len(b)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	return archive.Bytes()
}

func gzipped(p []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(p)
	z.Close()
	return b.Bytes()
}

// growing is an io.WriterAt in memory.
type growing []byte

func (g *growing) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(*g) {
		*g = append(*g, make([]byte, need-len(*g))...)
	}
	return copy((*g)[off:], p), nil
}

// builtLayer is a layer as it is stored, with its index.
func builtLayer(t testing.TB, stored []byte) *layer {
	t.Helper()
	var decoded growing
	b, err := build.Build(context.Background(), bytes.NewReader(stored), build.Options{Decoded: &decoded})
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if _, err := b.Encode(&file); err != nil {
		t.Fatal(err)
	}
	l := &layer{decoded: decoded, stored: stored, file: file.Bytes()}
	if l.index, err = index.Open(context.Background(), &memory{bytes: l.file}); err != nil {
		t.Fatal(err)
	}
	return l
}

// BenchmarkMiss reads a layer that is nowhere yet from beginning to end, with as many workers as there are cores.
func BenchmarkMiss(b *testing.B) {
	archive := words(b, 64<<20)
	for name, stored := range map[string][]byte{"tar": archive, "gzip": gzipped(archive), "zstd": codec.Shrink(nil, archive)} {
		l := builtLayer(b, stored)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(l.decoded)))
			buf := make([]byte, 1<<20)
			for b.Loop() {
				b.StopTimer()
				d := l.open(b, &memory{bytes: l.stored}, nil)
				d.decoders = &decoders
				b.StartTimer()
				for off := 0; off < len(l.decoded); off += len(buf) {
					if err := d.ReadAt(b.Context(), buf[:min(len(buf), len(l.decoded)-off)], int64(off)); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				d.Close()
				Remove(d.path)
				b.StartTimer()
			}
		})
	}
}
