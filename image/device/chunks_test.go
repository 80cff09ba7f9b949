package device

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"

	"github.com/pantala/pantala/blob"
	formatestargz "github.com/pantala/pantala/image/estargz"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/soci"
	"github.com/pantala/pantala/image/toc/toctest"
)

// TestChunks: layers whose own tables of contents name chunks: with padding, several in a member, digests of what is
// stored.
func TestChunks(t *testing.T) {
	for name, make := range map[string]func(testing.TB) *layer{"estargz": estargzLayer, "soci": sociLayer} {
		t.Run(name, func(t *testing.T) {
			l := make(t)
			path := filepath.Join(t.TempDir(), "layer")
			stored := &memory{bytes: l.stored}
			d, err := l.tryOpen(path, stored, nil)
			if err != nil {
				t.Fatal(err)
			}
			d.decoders = &decoders
			l.check(t, d, 0, len(l.decoded)/2)
			d.Close()

			// What a process left behind is verified before it is believed, or fetched again.
			if d, err = l.tryOpen(path, stored, nil); err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			d.decoders = &decoders
			for range 20 {
				off := rand.IntN(len(l.decoded) - 1)
				l.check(t, d, int64(off), min(1+rand.IntN(300_000), len(l.decoded)-off))
			}
			l.check(t, d, 0, len(l.decoded))
			<-d.Completed()
		})
	}
}

func estargzLayer(t testing.TB) *layer {
	archive := toctest.Archive()
	b, err := estargz.Build(io.NewSectionReader(bytes.NewReader(archive), 0, int64(len(archive))), estargz.WithChunkSize(100_001), estargz.WithMinChunkSize(250_000))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	stored, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	facts, _, spans, windows, err := formatestargz.Parse(context.Background(), &memory{bytes: stored}, map[string]string{formatestargz.Annotation: b.TOCDigest().String()})
	if err != nil {
		t.Fatal(err)
	}
	return chunked(t, stored, facts, spans, windows)
}

func sociLayer(t testing.TB) *layer {
	read := func(name string) []byte {
		b, err := os.ReadFile("../soci/testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	stored, ztoc := read("layer.tar.gz"), read("gzip.ztoc")
	facts, _, spans, windows, err := soci.Parse(context.Background(), &memory{bytes: ztoc}, sha256.Sum256(ztoc), int64(len(stored)))
	if err != nil {
		t.Fatal(err)
	}
	return chunked(t, stored, facts, spans, windows)
}

func chunked(t testing.TB, stored []byte, facts index.Facts, spans []index.Span, windows [][]byte) *layer {
	l := &layer{stored: stored, decoded: toctest.Space(t, &toctest.Layer{Bytes: stored}, facts, spans, windows)}
	var file bytes.Buffer
	facts.Layer = blob.Hash{1}
	if _, err := index.Encode(&file, facts, new(index.Entries), spans, windows); err != nil {
		t.Fatal(err)
	}
	l.file = file.Bytes()
	var err error
	if l.index, err = index.Open(context.Background(), &memory{bytes: l.file}); err != nil {
		t.Fatal(err)
	}
	return l
}
