package soci

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/toc/toctest"
)

// The files in testdata are two layers of one archive, and what `soci` 0.16.1 makes of them and of the archive: gzip
// with a name in its header, spans of 400000 bytes; two members, 500000; the plain archive, 300000.

func load(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func archive(t testing.TB) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(load(t, "layer.tar.gz")))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(ztoc []byte, layer int) (index.Facts, []index.Entry, []index.Span, [][]byte, error) {
	return Parse(context.Background(), &toctest.Layer{Bytes: ztoc}, sha256.Sum256(ztoc), int64(layer))
}

func TestReference(t *testing.T) {
	tar := archive(t)
	// Of the first version the checkpoint at the start is missing: here it is taken out of the second.
	first := load(t, "two.ztoc")
	head := binary.LittleEndian.AppendUint64([]byte{3, 0, 0, 0}, 500000)
	at := bytes.Index(first, head)
	size := binary.LittleEndian.Uint32(first[at-4:])
	binary.LittleEndian.PutUint32(first[at-4:], size-checkpoint)
	copy(first[at+zinfoHead:], first[at+zinfoHead+checkpoint:at+int(size)])

	for name, c := range map[string]struct {
		layer, ztoc []byte
		spans       int
	}{
		"gzip":          {load(t, "layer.tar.gz"), load(t, "gzip.ztoc"), 3},
		"two members":   {load(t, "two.gz"), load(t, "two.ztoc"), 3},
		"plain":         {tar, load(t, "plain.ztoc"), 5},
		"first version": {load(t, "two.gz"), first, 3},
	} {
		t.Run(name, func(t *testing.T) {
			facts, entries, spans, windows, err := parse(c.ztoc, len(c.layer))
			if err != nil {
				t.Fatal(err)
			}
			if facts.Format != "soci" || facts.Stored != int64(len(c.layer)) || len(spans) != c.spans {
				t.Errorf("facts %+v, %d spans", facts, len(spans))
			}
			space := toctest.Space(t, &toctest.Layer{Bytes: c.layer}, facts, spans, windows)
			if !bytes.HasPrefix(tar, space) {
				t.Error("the address space is not the archive")
			}
			toctest.Compare(t, tar, entries, space)
		})
	}
}

func TestRefused(t *testing.T) {
	ztoc, layer := load(t, "gzip.ztoc"), load(t, "layer.tar.gz")
	if _, _, _, _, err := Parse(context.Background(), &toctest.Layer{Bytes: ztoc}, blob.Hash{1}, int64(len(layer))); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("another digest: %v", err)
	}
	if _, _, _, _, err := parse(ztoc, len(layer)+1); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("another layer: %v", err)
	}
	for _, b := range [][]byte{nil, {1}, []byte("something that is no ztoc at all"), layer} {
		if _, _, _, _, err := parse(b, len(layer)); !errors.Is(err, index.ErrFormat) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		bad := bytes.Clone(ztoc)
		for range 1 + r.IntN(3) {
			at := r.IntN(len(bad))
			if r.IntN(2) == 0 {
				at = r.IntN(5000) // where the tables are
			}
			bad[at] ^= 1 << r.IntN(8)
		}
		check(t, bad, len(layer))
	}
}

// check holds for whatever comes.
func check(t *testing.T, ztoc []byte, layer int) {
	t.Helper()
	facts, entries, spans, windows, err := parse(ztoc, layer)
	if err != nil {
		if !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) && err != index.ErrFormat {
			t.Fatalf("class of %v", err)
		}
		return
	}
	var list index.Entries
	for _, e := range entries {
		for _, x := range e.Extents {
			if x.Device < 0 || x.Length <= 0 || x.Device > facts.Size-x.Length {
				t.Fatalf("%+v in %d bytes", e, facts.Size)
			}
		}
	}
	if _, err := index.Encode(io.Discard, facts, &list, spans, windows); err != nil {
		t.Fatal(err)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"plain.ztoc", "gzip.ztoc"} {
		f.Add(load(f, name), uint32(185795))
	}
	f.Fuzz(func(t *testing.T, b []byte, layer uint32) {
		check(t, b, int(layer))
	})
}

func TestManifest(t *testing.T) {
	sum := func(c string) string { return "sha256:" + strings.Repeat(c, 64) }
	good := `{"schemaVersion":2,"artifactType":"` + TypeV2 + `","config":{"mediaType":"application/vnd.oci.empty.v1+json"},
"layers":[{"mediaType":"application/octet-stream","digest":"` + sum("a") + `","size":77,"annotations":{"com.amazon.soci.image-layer-digest":"` + sum("b") + `"}}]}`
	all, err := Manifest([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	layer := blob.Hash(bytes.Repeat([]byte{0xbb}, 32))
	if z := all[layer]; len(all) != 1 || z.Size != 77 || z.Digest != blob.Hash(bytes.Repeat([]byte{0xaa}, 32)) {
		t.Errorf("%+v", all)
	}
	for from, to := range map[string]string{TypeV2: "application/x", `"size":77`: `"size":-1`, sum("a"): "sha256:aa", sum("b"): "md5:b", "}]}": ""} {
		if _, err := Manifest([]byte(strings.Replace(good, from, to, 1))); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%s for %s: %v", to, from, err)
		}
	}
	old := strings.Replace(good, `"artifactType":"`+TypeV2+`",`, "", 1)
	old = strings.Replace(old, "application/vnd.oci.empty.v1+json", TypeV1, 1)
	if all, err := Manifest([]byte(old)); err != nil || len(all) != 1 {
		t.Errorf("first version: %v, %v", all, err)
	}
}
