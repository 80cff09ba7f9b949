package build

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/erofslayer/erofslayertest"
	"github.com/pantala/pantala/image/index"
)

// TestImage: the index of a layer that is an EROFS image, plain or compressed as a whole, is the same however the image
// is kept while its bytes come, and holds against the layer; one that places ends of files elsewhere does not.
func TestImage(t *testing.T) {
	for _, c := range []struct {
		name, format string
		zstd         bool
	}{{"lower", "erofs", false}, {"inline", "erofs", false}, {"upper", "erofs", false}, {"lower", "erofs+zstd", true}} {
		t.Run(c.format+" "+c.name, func(t *testing.T) {
			data := erofslayertest.Golden(t, c.name)
			stored := data
			if c.zstd {
				stored = filter(t, data, "zstd")
			}
			scratch, err := os.CreateTemp(t.TempDir(), "scratch")
			if err != nil {
				t.Fatal(err)
			}
			defer scratch.Close()
			full, err := os.CreateTemp(t.TempDir(), "decoded")
			if err != nil {
				t.Fatal(err)
			}
			defer full.Close()
			var first []byte
			var b *Built
			want := Want{blob.Hash(sha256.Sum256(stored)), int64(len(stored)), blob.Hash(sha256.Sum256(data))}
			for _, o := range []Options{{}, {Scratch: scratch}, {Decoded: new(file)}, {Decoded: full}} {
				o.Want, o.Image = want, true
				if b, err = Build(t.Context(), bytes.NewReader(stored), o); err != nil {
					t.Fatal(err)
				}
				var w bytes.Buffer
				if _, err := b.Encode(&w); err != nil {
					t.Fatal(err)
				}
				if first == nil {
					first = w.Bytes()
				}
				if !bytes.Equal(w.Bytes(), first) {
					t.Error("it depends on where the image is kept")
				}
			}
			if b.Format != c.format || b.Entries.Len() < 10 {
				t.Errorf("%s, %d entries", b.Format, b.Entries.Len())
			}
			if behind := b.Size > int64(len(data)); behind != (c.name == "inline") {
				t.Errorf("an address space of %d bytes of an image of %d", b.Size, len(data))
			}
			x, err := index.Open(t.Context(), &file{b: first})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Check(t.Context(), x, &file{b: stored}, &file{b: first}, nil); err != nil {
				t.Error(err)
			}
			// Every span, decoded alone, is what was decoded in one pass.
			whole := make([]byte, b.Size)
			if n, err := full.ReadAt(whole, 0); err != nil && err != io.EOF {
				t.Fatal(n, err)
			}
			for i, s := range b.Spans {
				if index.Root(whole[s.Device:s.Device+s.Decoded()]) != s.Digest {
					t.Errorf("span %d", i)
				}
			}
			if c.name != "inline" {
				return
			}
			last := &x.Spans[len(x.Spans)-1]
			last.Stored, last.StoredLength, last.Pad = 0, 4, last.Length-4
			last.Digest = index.Root(data[:4])
			if _, err := Check(t.Context(), x, &file{b: stored}, &file{b: first}, nil); !errors.Is(err, blob.ErrCorrupt) || !strings.Contains(err.Error(), "ends of files") {
				t.Errorf("an index that gives a file another end: %v", err)
			}
		})
	}
	_, err := Build(t.Context(), bytes.NewReader(filter(t, erofslayertest.Golden(t, "inline"), "zstd")), Options{Image: true})
	if !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), "-Enoinline_data") {
		t.Errorf("inline content, compressed: %v", err)
	}
	_, err = Build(t.Context(), bytes.NewReader(erofslayertest.Golden(t, "inline")), Options{Image: true, MaxSize: int64(len(erofslayertest.Golden(t, "inline")))})
	if !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), "max-layer-size") {
		t.Errorf("more than may be: %v", err)
	}
}
