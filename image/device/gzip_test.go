package device

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/codec/inflate"
	"github.com/pantala/pantala/image/index"
)

// TestGzip: a layer as registries have them, read at random through its index.
func TestGzip(t *testing.T) {
	l := gzipLayer(t, 6<<20, 256<<10)
	d := l.open(t, &memory{bytes: l.stored}, nil)
	d.decoders = &decoders
	if len(d.spans) < 5 {
		t.Fatalf("%d spans", len(d.spans))
	}
	for range 20 {
		off := rand.IntN(len(l.decoded) - 1)
		l.check(t, d, int64(off), min(1+rand.IntN(300_000), len(l.decoded)-off))
	}
	l.check(t, d, 0, len(l.decoded))
	<-d.Completed()
}

// gzipLayer is an archive of size bytes of text, cut into spans of about spacing decoded bytes.
func gzipLayer(t testing.TB, size, spacing int) *layer {
	t.Helper()
	var archive, stored bytes.Buffer
	w := tar.NewWriter(&archive)
	rng := rand.New(rand.NewPCG(1, 2))
	for archive.Len() < size {
		b := make([]byte, 100_000)
		for i := range b {
			b[i] = "etaoin shrdlu\n"[rng.IntN(14)]
		}
		if err := w.WriteHeader(&tar.Header{Name: "file", Size: int64(len(b)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	z := gzip.NewWriter(&stored)
	if _, err := z.Write(archive.Bytes()); err != nil {
		t.Fatal(err)
	}
	z.Close()
	l := &layer{decoded: archive.Bytes(), stored: stored.Bytes()}
	var points []codec.Point
	err := inflate.Scan(bytes.NewReader(l.stored), codec.Spacing{Stored: 1 << 40, Decoded: int64(spacing)},
		func([]byte) error { return nil },
		func(p codec.Point) error {
			p.Window = bytes.Clone(p.Window)
			points = append(points, p)
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	var spans []index.Span
	var windows [][]byte
	for i, p := range points {
		out, in := int64(len(l.decoded)), int64(len(l.stored))
		if i+1 < len(points) {
			out, in = points[i+1].Out, points[i+1].In+1
		}
		spans = append(spans, index.Span{
			Device: p.Out, Length: out - p.Out, Stored: p.In, StoredLength: in - p.In, Codec: index.Deflate, Bit: p.Bit,
			Digest: index.Root(l.decoded[p.Out:out]),
		})
		windows = append(windows, p.Window)
	}
	var file bytes.Buffer
	f := index.Facts{Format: "gzip", Stored: int64(len(l.stored)), Size: int64(len(l.decoded))}
	if _, err := index.Encode(&file, f, new(index.Entries), spans, windows); err != nil {
		t.Fatal(err)
	}
	l.file = file.Bytes()
	if l.index, err = index.Open(context.Background(), &memory{bytes: l.file}); err != nil {
		t.Fatal(err)
	}
	return l
}

// BenchmarkMiss reads a gzip layer that is nowhere yet from beginning to end, with as many workers as there are cores.
func BenchmarkMiss(b *testing.B) {
	l := gzipLayer(b, 64<<20, 4<<20)
	b.SetBytes(int64(len(l.decoded)))
	null := io.Discard
	buf := make([]byte, 1<<20)
	for b.Loop() {
		b.StopTimer()
		d := l.open(b, &memory{bytes: l.stored}, nil)
		d.decoders = &decoders
		b.StartTimer()
		for off := 0; off < len(l.decoded); off += len(buf) {
			p := buf[:min(len(buf), len(l.decoded)-off)]
			if err := d.ReadAt(b.Context(), p, int64(off)); err != nil {
				b.Fatal(err)
			}
			null.Write(p)
		}
		b.StopTimer()
		d.Close()
		Remove(d.path)
		b.StartTimer()
	}
}
