package estargz

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/toc/toctest"
)

// make builds a layer with the reference implementation.
func build(t testing.TB, archive []byte, o ...estargz.Option) (*toctest.Layer, map[string]string) {
	t.Helper()
	b, err := estargz.Build(io.NewSectionReader(bytes.NewReader(archive), 0, int64(len(archive))), o...)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	layer, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	return &toctest.Layer{Bytes: layer}, map[string]string{Annotation: b.TOCDigest().String()}
}

func TestReference(t *testing.T) {
	for name, o := range map[string][]estargz.Option{
		"plain":             {},
		"small chunks":      {estargz.WithChunkSize(50000)},
		"many in a member":  {estargz.WithMinChunkSize(200000)},
		"chunks in members": {estargz.WithChunkSize(30001), estargz.WithMinChunkSize(100000)},
		"prioritized":       {estargz.WithPrioritizedFiles(nil)},
		"fast":              {estargz.WithCompressionLevel(1)},
	} {
		t.Run(name, func(t *testing.T) {
			archive := toctest.Archive()
			layer, annotations := build(t, archive, o...)
			if !Pinned(annotations) || Pinned(nil) {
				t.Error("pinned by other things than the annotation")
			}
			for _, a := range []map[string]string{annotations, nil} {
				layer.Read = 0
				facts, entries, spans, windows, err := Parse(context.Background(), layer, a)
				if err != nil {
					t.Fatal(err)
				}
				if layer.Read > 20000 {
					t.Errorf("%d bytes read of %d", layer.Read, layer.Size())
				}
				if facts.Format != "estargz" || facts.Stored != layer.Size() {
					t.Errorf("facts %+v", facts)
				}
				toctest.Compare(t, archive, entries, toctest.Space(t, layer, facts, spans, windows))
			}
		})
	}
}

// TestLegacy: stargz has a footer of 47 bytes.
func TestLegacy(t *testing.T) {
	archive := toctest.Archive()
	layer, annotations := build(t, archive)
	at, _ := field(layer.Bytes[layer.Size()-footerSize:], "SG\x16\x00")
	var b bytes.Buffer
	b.Write(layer.Bytes[:layer.Size()-footerSize])
	z, _ := gzip.NewWriterLevel(&b, gzip.NoCompression)
	z.Extra = fmt.Appendf(nil, "%016xSTARGZ", at)
	z.Close()
	legacy := &toctest.Layer{Bytes: b.Bytes()}
	if n := legacy.Size() - layer.Size(); n != legacyFooter-footerSize {
		t.Fatalf("a footer that is %d bytes longer", n)
	}
	facts, entries, spans, windows, err := Parse(context.Background(), legacy, annotations)
	if err != nil {
		t.Fatal(err)
	}
	toctest.Compare(t, archive, entries, toctest.Space(t, legacy, facts, spans, windows))
}

// TestOthers: layers of other formats cost no more than a footer.
func TestOthers(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(toctest.Archive())
	z.Close()
	external := estargz.CreateGzipFooter([]byte("SG\x11\x00STARGZEXTERNALTOC"))
	for name, bytes := range map[string][]byte{
		"gzip": b.Bytes(), "tar": toctest.Archive(), "empty": nil, "short": {1, 2, 3},
		"table elsewhere": append(b.Bytes(), external...),
	} {
		layer := &toctest.Layer{Bytes: bytes}
		_, _, _, _, err := Parse(context.Background(), layer, nil)
		if err != index.ErrFormat || !errors.Is(err, blob.ErrNotFound) || layer.Read > footerSize {
			t.Errorf("%s: %v after %d bytes", name, err, layer.Read)
		}
	}
}

// TestTampered: whatever is changed in a table is found by the annotation, and nothing brings the reader down.
func TestTampered(t *testing.T) {
	layer, annotations := build(t, toctest.Archive())
	at, _ := field(layer.Bytes[layer.Size()-footerSize:], "SG\x16\x00")
	r := rand.New(rand.NewPCG(1, 2))
	same, _, spans, _, err := Parse(context.Background(), layer, annotations)
	if err != nil {
		t.Fatal(err)
	}
	for range 300 {
		bad := &toctest.Layer{Bytes: bytes.Clone(layer.Bytes)}
		i := int(at) + r.IntN(len(bad.Bytes)-int(at))
		bad.Bytes[i] ^= 1 << r.IntN(8)
		facts, _, s, _, err := Parse(context.Background(), bad, annotations)
		switch {
		case err == nil: // fields of a gzip header that mean nothing
			if facts.Size != same.Size || len(s) != len(spans) {
				t.Errorf("byte %d changed, and nobody noticed", i)
			}
		case !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) && err != index.ErrFormat:
			t.Errorf("byte %d: class of %v", i, err)
		}
		Parse(context.Background(), bad, nil)
	}
	other := map[string]string{Annotation: "sha256:" + strings.Repeat("ab", 32)}
	if _, _, _, _, err := Parse(context.Background(), layer, other); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("another digest: %v", err)
	}
	other[Annotation] = "md5:00"
	if _, _, _, _, err := Parse(context.Background(), layer, other); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("no digest: %v", err)
	}
}

// TestUnread: errors of the reader are passed on.
func TestUnread(t *testing.T) {
	layer, annotations := build(t, toctest.Archive())
	for k := range 2 {
		_, _, _, _, err := Parse(context.Background(), &failing{layer, k}, annotations)
		if !errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("read %d: %v", k, err)
		}
	}
}

type failing struct {
	*toctest.Layer
	left int
}

func (f *failing) ReadAt(ctx context.Context, p []byte, off int64) error {
	if f.left--; f.left < 0 {
		return blob.ErrUnavailable
	}
	return f.Layer.ReadAt(ctx, p, off)
}

// TestBomb: a table that decodes to much more than it may have is refused.
func TestBomb(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	head := make([]byte, 512)
	copy(head, tableName)
	copy(head[124:], "77777777777\x00")
	z.Write(head)
	z.Close()
	footer := make([]byte, footerSize)
	copy(footer, "\x1f\x8b\x08\x04")
	binary.LittleEndian.PutUint16(footer[10:], 26)
	copy(footer[12:], fmt.Sprintf("SG\x16\x00%016xSTARGZ", 1))
	layer := &toctest.Layer{Bytes: append(append([]byte{0}, b.Bytes()...), footer...)}
	if _, _, _, _, err := Parse(context.Background(), layer, nil); !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("%v", err)
	}
}
