package build

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/image/index"
)

// filter pipes data through a program.
func filter(t testing.TB, data []byte, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v: apt-get install gzip pigz zstd", err)
		}
		t.Skipf("%v: apt-get install gzip pigz zstd", err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(args, err)
	}
	return out
}

// members is data as many gzip members of n bytes each, with padding behind.
func members(data []byte, n int) []byte {
	var b bytes.Buffer
	for len(data) > 0 {
		w := gzip.NewWriter(&b)
		w.Write(data[:min(n, len(data))])
		w.Close()
		data = data[min(n, len(data)):]
	}
	b.Write(make([]byte, 1<<20))
	return b.Bytes()
}

// frames is data as many frames of Zstandard, some of which are skipped.
func frames(data []byte, n int) []byte {
	var b []byte
	for len(data) > 0 {
		b = append(b, 0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c')
		b = codec.Shrink(b, data[:min(n, len(data))])
		data = data[min(n, len(data)):]
	}
	return b
}

// TestCompressed: what is built of a layer is right whoever compressed it, holds against it, and is the same twice.
func TestCompressed(t *testing.T) {
	data := archive(4 << 20)
	for name, c := range map[string]struct {
		format string
		pack   func(t *testing.T) []byte
	}{
		"gzip -1":     {"gzip", func(t *testing.T) []byte { return filter(t, data, "gzip", "-1") }},
		"gzip -6":     {"gzip", func(t *testing.T) []byte { return filter(t, data, "gzip", "-6") }},
		"pigz":        {"gzip", func(t *testing.T) []byte { return filter(t, data, "pigz") }},
		"members":     {"gzip", func(t *testing.T) []byte { return members(data, 100_000) }},
		"one member":  {"gzip", func(t *testing.T) []byte { return members(data, 1<<30) }},
		"zstd":        {"zstd", func(t *testing.T) []byte { return filter(t, data, "zstd") }},
		"zstd --long": {"zstd", func(t *testing.T) []byte { return filter(t, data, "zstd", "-5", "--long=23", "-T1") }},
		"zstd frames": {"zstd", func(t *testing.T) []byte { return frames(data, 100_000) }},
	} {
		t.Run(name, func(t *testing.T) {
			stored := c.pack(t)
			var out file
			want := Want{blob.Hash(sha256.Sum256(stored)), int64(len(stored)), blob.Hash(sha256.Sum256(data))}
			b, err := Build(t.Context(), bytes.NewReader(stored), Options{Decoded: &out, Want: want})
			if err != nil {
				t.Fatal(err)
			}
			if b.Format != c.format || len(b.Spans) < 6 {
				t.Errorf("%s, %d spans", b.Format, len(b.Spans))
			}
			verify(t, b, stored, data, &out)
			last := b.Spans[len(b.Spans)-1]
			if last.StoredLength > 600<<10 {
				t.Errorf("the last span takes %d stored bytes, padding among them", last.StoredLength)
			}

			stays := &file{b: stored}
			var w, again bytes.Buffer
			if _, err := b.Encode(&w); err != nil {
				t.Fatal(err)
			}
			x, err := index.Open(t.Context(), &file{b: w.Bytes()})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Check(t.Context(), x, stays, &file{b: w.Bytes()}, nil); err != nil {
				t.Error(err)
			}
			if b, err = Build(t.Context(), bytes.NewReader(stored), Options{}); err != nil {
				t.Fatal(err)
			}
			b.Encode(&again)
			if !bytes.Equal(w.Bytes(), again.Bytes()) {
				t.Error("not the same index twice")
			}
			t.Logf("%d bytes, %d decoded, index of %d, %d spans", len(stored), len(data), w.Len(), len(x.Spans))

			// Damage in the middle, and an end that is missing.
			bad := bytes.Clone(stored)
			bad[len(bad)/3] ^= 0x10
			if _, err := Build(t.Context(), bytes.NewReader(bad), Options{Want: want}); !errors.Is(err, blob.ErrCorrupt) {
				t.Errorf("damaged: %v", err)
			}
			for _, cut := range []int{10, len(data) / 10, len(stored) / 3} {
				_, err := Build(t.Context(), bytes.NewReader(stored[:cut]), Options{})
				if !errors.Is(err, blob.ErrCorrupt) {
					t.Errorf("cut at %d: %v", cut, err)
				}
			}
		})
	}
}

// TestCheck: whatever an index says that its layer is not is found.
func TestCheck(t *testing.T) {
	data := archive(3 << 20)
	stored := members(data, 1<<30)
	build := func() *Built {
		b, err := Build(t.Context(), bytes.NewReader(stored), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		change func(b *Built)
		stored []byte
		text   string
	}{
		"nothing":    {func(b *Built) {}, stored, ""},
		"layer":      {func(b *Built) { b.Layer[0]++ }, stored, "have the digest"},
		"diffID":     {func(b *Built) { b.DiffID[0]++ }, stored, "diff_ids"},
		"no diffID":  {func(b *Built) { b.DiffID = blob.Hash{} }, stored, ""},
		"root":       {func(b *Built) { b.Root[0]++; b.Roots = nil }, stored, "the layer's root"},
		"piece root": {func(b *Built) { b.Roots[1][0]++; b.Root = blob.GeometryFor(b.Stored).Root(b.Roots) }, stored, "root"},
		"digest":     {func(b *Built) { b.Spans[3].Digest[0]++ }, stored, "span 3 of"},
		"window":     {func(b *Built) { b.windows.held[b.Spans[3].Window.Offset]++ }, stored, "span 3 of"},
		"bit":        {func(b *Built) { b.Spans[2].Bit ^= 1 }, stored, "span 2 of"},
		"entries":    {func(b *Built) { b.Entries = new(index.Entries) }, stored, "it does not list"},
		"one more":   {func(b *Built) { b.Entries = listed(b, func(e *index.Entry) {}, index.Entry{Name: "more"}) }, stored, `it lists "more"`},
		"an entry":   {func(b *Built) { b.Entries = listed(b, func(e *index.Entry) { e.UID = 7 }) }, stored, "it lists as entry 0"},
		"TOC":        {func(b *Built) { b.Format, b.Entries = "estargz", new(index.Entries) }, stored, ""},
		"size":       {func(b *Built) {}, stored[:len(stored)-1], "it is of a layer of"},
		"bytes":      {func(b *Built) {}, append([]byte{0x1f, 0x8b, 8, 1}, stored[4:]...), "the digest"},
	} {
		b := build()
		c.change(b)
		var w bytes.Buffer
		if _, err := b.Encode(&w); err != nil {
			t.Fatal(name, err)
		}
		x, err := index.Open(t.Context(), &file{b: w.Bytes()})
		if err != nil {
			t.Fatal(name, err)
		}
		all, err := Check(t.Context(), x, &file{b: c.stored}, &file{b: w.Bytes()}, nil)
		if all != (c.text == "" && name != "TOC") {
			t.Errorf("%s: all was compared: %v", name, all)
		}
		if c.text == "" && err != nil || c.text != "" && (!errors.Is(err, blob.ErrCorrupt) || !strings.Contains(err.Error(), c.text)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// listed are the entries of b, changed, and more.
func listed(b *Built, change func(*index.Entry), more ...index.Entry) *index.Entries {
	l := new(index.Entries)
	for e := range b.Entries.All() {
		change(&e)
		l.Add(e)
	}
	for _, e := range more {
		l.Add(e)
	}
	return l
}

// TestDecodeFails: the text says what is broken, and where.
func TestDecodeFails(t *testing.T) {
	data := archive(1 << 20)
	stored := filter(t, data, "gzip")
	bad := bytes.Clone(stored)
	bad[len(bad)-6] ^= 1 // of the checksum
	for name, c := range map[string]struct {
		b    []byte
		text string
	}{
		"checksum":      {bad, fmt.Sprintf("decoded byte %d", len(data))},
		"cut":           {stored[:len(stored)/2], "stored byte"},
		"only a magic":  {stored[:2], "gzip"},
		"frame":         {frames(data, 1000)[:500], "zstd"},
		"another layer": {append(bytes.Clone(stored), "behind it"...), "gzip"},
	} {
		_, err := Build(t.Context(), bytes.NewReader(c.b), Options{})
		if !errors.Is(err, blob.ErrCorrupt) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
