package index

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pantala/pantala/blob"
)

// memory is a file in memory.
type memory []byte

func (m memory) Size() int64 { return int64(len(m)) }

func (m memory) ReadAt(_ context.Context, p []byte, off int64) error {
	if off < 0 || off > int64(len(m)) || copy(p, m[off:]) < len(p) {
		return fmt.Errorf("BUG: %d bytes at %d of %d", len(p), off, len(m))
	}
	return nil
}

// odd are entries with everything that an entry may have.
func odd(space int64) []Entry {
	return []Entry{
		{Name: "a/", Type: '5', Mode: 0755, Sec: 1700000000},
		{Name: "a/b", Type: '0', Mode: 04755, UID: 1000, GID: math.MaxUint32, Size: 100, Sec: -5, Nsec: 999_999_999, Extents: []Extent{{0, 512, 100}}},
		{Name: "a/b\xff\x00\n", Type: '0', Mode: 0644, Size: 1 << 50, Extents: []Extent{{512, 1024, 512}, {1 << 40, 1536, 7}}},
		{Name: "a/hole", Type: '0', Size: math.MaxInt64, Sec: math.MinInt64},
		{Name: "a/odd", Type: '0', Size: 3, Extents: []Extent{{0, 513, 3}}},
		{Name: "", Type: '2', Link: strings.Repeat("../", 30000), Sec: math.MaxInt64},
		{Name: "null", Type: '3', Major: 1, Minor: math.MaxUint32},
		{Name: "n", Type: '1', Link: "a/b", Xattrs: []Xattr{{"security.capability", "\x01\x00"}, {"user.empty", ""}}},
		{Name: "last", Type: '0', Size: space - 1024, Extents: []Extent{{0, 1024, space - 1024}}},
		{Name: "back", Type: '0', Size: 512, Extents: []Extent{{0, 0, 512}}},
		{Name: strings.Repeat("deep/", 200000), Type: '5', Mode: 07777},
	}
}

// sample is an index with n spans, every other with a window.
func sample(t testing.TB, n int, entries []Entry) (f Facts, l *Entries, spans []Span, windows [][]byte) {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	hash := func() (h blob.Hash) {
		for i := range h {
			h[i] = byte(r.Uint32())
		}
		return h
	}
	l = new(Entries)
	for _, e := range entries {
		if err := l.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	f = Facts{Format: "zstd:chunked", Layer: hash(), DiffID: hash()}
	for i := range n {
		s := Span{Device: f.Size, Length: 1 + int64(r.IntN(1<<20)), Stored: f.Stored, StoredLength: int64(r.IntN(1 << 18)), Codec: Deflate, Bit: uint8(i % 8), Digest: hash()}
		f.Size += s.Length
		f.Stored += s.StoredLength
		spans = append(spans, s)
		w := make([]byte, i%2*(1+r.IntN(1000)))
		windows = append(windows, w)
	}
	geo := blob.GeometryFor(f.Stored)
	for range geo.Pieces() {
		f.Roots = append(f.Roots, hash())
	}
	if f.Root = hash(); len(f.Roots) > 1 {
		f.Root = geo.Root(f.Roots)
	}
	return f, l, spans, windows
}

func encode(t testing.TB, f Facts, l *Entries, spans []Span, windows [][]byte) memory {
	var b bytes.Buffer
	n, err := Encode(&b, f, l, spans, windows)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("%d of %d: %v", n, b.Len(), err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3000} {
		size, _, _, _ := sample(t, n, nil)
		entries := odd(size.Size)
		if n < 3000 {
			entries = nil
		}
		f, l, spans, windows := sample(t, n, entries)
		file := encode(t, f, l, spans, windows)
		x, err := Open(t.Context(), file)
		if err != nil {
			t.Fatal(n, err)
		}
		if d := cmp.Diff(f, x.Facts); d != "" {
			t.Error(n, d)
		}
		var got []Entry
		for e, err := range x.Entries() {
			if err != nil {
				t.Fatal(n, err)
			}
			got = append(got, e)
		}
		if d := cmp.Diff(entries, got); d != "" {
			t.Error(n, d)
		}
		if len(x.Spans) != n {
			t.Fatalf("%d of %d spans", len(x.Spans), n)
		}
		for i, s := range x.Spans {
			w, err := x.Window(t.Context(), file, i)
			if err != nil || !bytes.Equal(w, windows[i]) {
				t.Fatal(n, i, err)
			}
			if (w == nil) != (i%2 == 0) {
				t.Fatalf("window %d is %v", i, w)
			}
			if s.Window = (Window{}); s != spans[i] {
				t.Fatalf("%+v, not %+v", s, spans[i])
			}
			for _, at := range []int64{s.Device, s.Device + s.Length - 1} {
				if x.Find(at) != i {
					t.Fatalf("%d is in span %d, not %d", at, x.Find(at), i)
				}
			}
		}
		// Twice the same: it is one blob of one swarm, whoever makes it.
		f, l, spans, windows = sample(t, n, entries)
		if !bytes.Equal(file, encode(t, f, l, spans, windows)) {
			t.Error(n, "not the same twice")
		}
	}
}

// TestManyEntries: across frames, and entries longer than one.
func TestManyEntries(t *testing.T) {
	var want []Entry
	for i := range 20000 {
		e := Entry{Name: fmt.Sprintf("usr/lib/x86_64-linux-gnu/lib%d.so.%d", i/7, i%7), Type: '0', Mode: 0644, Sec: 1700000000 + int64(i%100), Size: int64(i)}
		if i > 0 {
			e.Extents = []Extent{{0, int64(i) * (20480 + 512), int64(i)}}
		}
		if i%1000 == 999 {
			e.Xattrs = []Xattr{{"user.long", strings.Repeat(fmt.Sprint(i), 100000)}}
		}
		want = append(want, e)
	}
	_, l, _, _ := sample(t, 0, want)
	if l.Len() != len(want) {
		t.Fatal(l.Len())
	}
	for range 2 {
		i := 0
		for e, err := range l.All() {
			if err != nil || cmp.Diff(e, want[i]) != "" {
				t.Fatal(i, err, cmp.Diff(e, want[i]))
			}
			i++
		}
		if i != len(want) {
			t.Fatal(i)
		}
	}
	if err := l.Add(Entry{}); err == nil {
		t.Error("added to a list that is closed")
	}
	if err := new(Entries).Add(Entry{Name: strings.Repeat("x", maxEntry)}); !errors.Is(err, blob.ErrInvalid) {
		t.Error(err)
	}
}

// TestDamage: any damage of the head is found, and no claim of the file leads to memory beyond its length.
func TestDamage(t *testing.T) {
	f, _, spans, windows := sample(t, 9, nil)
	_, l, _, _ := sample(t, 9, odd(f.Size)[:10])
	file := encode(t, f, l, spans, windows)
	x, err := Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	head := int64(len(file))
	for _, s := range x.Spans {
		if s.Window.Length > 0 {
			head = min(head, s.Window.Offset)
		}
	}
	for i := range head {
		b := slices.Clone(file)
		b[i] ^= 1 << (i % 8)
		_, err := Open(t.Context(), b)
		// What the magic, the version and the length of the head say is checked before the hash.
		invalid := i < 12 || i >= 16 && i < 24 && errors.Is(err, blob.ErrInvalid)
		if invalid != errors.Is(err, blob.ErrInvalid) || !invalid && !errors.Is(err, blob.ErrCorrupt) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	for _, n := range []int{0, 1, headerSize - 1, headerSize, len(file) - 1} {
		if _, err := Open(t.Context(), file[:n]); !errors.Is(err, blob.ErrInvalid) && !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	b := slices.Clone(file)
	binary.LittleEndian.PutUint32(b[8:], 7)
	if _, err := Open(t.Context(), b); !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), "version 7; this program reads version 1") {
		t.Error(err)
	}
	if _, err := x.Window(t.Context(), file[:len(file)-1], 1); !errors.Is(err, blob.ErrCorrupt) {
		t.Error("a window of a file that was cut:", err)
	}
}

// resign makes the hash of a head right again.
func resign(b memory) memory {
	b = slices.Clone(b)
	if n, err := headLength(b[:headerSize], b.Size()); err == nil {
		sign(b[:n])
	}
	return b
}

// TestLies: a head whose hash is right is not believed either, field by field.
func TestLies(t *testing.T) {
	f, _, spans, windows := sample(t, 4, nil)
	_, l, _, _ := sample(t, 4, odd(f.Size)[:3])
	file := encode(t, f, l, spans, windows)
	second := headerSize + spanSize
	for name, lie := range map[string]func(b memory){
		"stored size":    func(b memory) { binary.LittleEndian.PutUint64(b[160:], 1<<63) },
		"smaller stored": func(b memory) { binary.LittleEndian.PutUint64(b[160:], 1) },
		"size":           func(b memory) { b[168]++ },
		"spans":          func(b memory) { binary.LittleEndian.PutUint64(b[176:], 1<<60) },
		"fewer spans":    func(b memory) { b[176]-- },
		"roots":          func(b memory) { binary.LittleEndian.PutUint64(b[184:], 1<<60) },
		"no roots":       func(b memory) { b[184] = 0 },
		"entries":        func(b memory) { binary.LittleEndian.PutUint64(b[192:], 1<<60) },
		"entries' size":  func(b memory) { binary.LittleEndian.PutUint64(b[200:], 1<<60) },
		"gap":            func(b memory) { b[second]++ },
		"length":         func(b memory) { binary.LittleEndian.PutUint32(b[second+24:], 0) },
		"stored at":      func(b memory) { binary.LittleEndian.PutUint64(b[second+8:], 1<<62) },
		"stored before":  func(b memory) { binary.LittleEndian.PutUint64(b[second+8:], 1<<63) },
		"stored length":  func(b memory) { binary.LittleEndian.PutUint32(b[second+28:], math.MaxUint32) },
		"window in head": func(b memory) { binary.LittleEndian.PutUint64(b[second+16:], 8) },
		"window behind":  func(b memory) { binary.LittleEndian.PutUint64(b[second+16:], uint64(len(b))) },
		"window far":     func(b memory) { binary.LittleEndian.PutUint64(b[second+16:], 1<<63) },
		"window length":  func(b memory) { binary.LittleEndian.PutUint32(b[second+32:], math.MaxUint32) },
		"codec":          func(b memory) { b[second+36] = 4 },
		"stored codec":   func(b memory) { b[second+36] = 0 },
		"bit":            func(b memory) { b[second+37] = 8 },
	} {
		b := slices.Clone(file)
		lie(b)
		b = resign(b)
		x, err := Open(t.Context(), b)
		if err != nil {
			if !errors.Is(err, blob.ErrCorrupt) {
				t.Errorf("%s: class of %v", name, err)
			}
			continue
		}
		if name != "no roots" && name != "entries' size" {
			t.Errorf("%s: believed", name)
			continue
		}
		if name == "no roots" {
			continue // entries begin where roots were, which shows when they are read
		}
		for _, err = range x.Entries() {
		}
		if !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWithin: an entry whose content lies outside of the address space is not handed out.
func TestWithin(t *testing.T) {
	for _, x := range [][]Extent{
		{{0, 900, 200}}, {{0, -512, 10}}, {{100, 0, 10}, {0, 512, 10}}, {{0, 0, 0}}, {{1 << 40, 0, 10}}, {{-1, 0, 1}},
	} {
		f, l, _, _ := sample(t, 0, []Entry{{Name: "x", Type: '0', Size: 1000, Extents: x}})
		f.Size = 1000
		spans, windows := []Span{{Length: 1000, Codec: Deflate}}, [][]byte(nil)
		index, err := Open(t.Context(), encode(t, f, l, spans, windows))
		if err != nil {
			t.Fatal(err)
		}
		for _, err = range index.Entries() {
		}
		if !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%v: %v", x, err)
		}
	}
}

func TestRoot(t *testing.T) {
	data := make([]byte, 5*blob.BlockSize+3)
	for i := range data {
		data[i] = byte(i * 7)
	}
	for _, n := range []int{0, 1, blob.BlockSize, blob.BlockSize + 1, len(data)} {
		var leaves []blob.Hash
		for at := 0; at < n; at += blob.BlockSize {
			leaves = append(leaves, blob.Leaf(data[at:min(n, at+blob.BlockSize)]))
		}
		if got, want := Root(data[:n]), (blob.Geometry{Size: int64(n), PieceLength: 1 << 20}).RootOfLeaves(leaves); got != want {
			t.Errorf("%d bytes: %v, not %v", n, got, want)
		}
	}
}

// FuzzOpen: whatever a file says, with a right hash, is refused or can be read to its end within bounds.
func FuzzOpen(f *testing.F) {
	for _, n := range []int{0, 1, 5} {
		facts, _, _, _ := sample(f, n, nil)
		facts, l, spans, windows := sample(f, n, odd(facts.Size)[:8])
		f.Add([]byte(encode(f, facts, l, spans, windows)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file := memory(b)
		if len(b) >= headerSize {
			file = resign(b)
		}
		x, err := Open(t.Context(), file)
		if err != nil {
			if !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		for i := range x.Spans {
			if _, err := x.Window(t.Context(), file, i); err != nil {
				t.Fatal(err)
			}
		}
		n := 0
		for e, err := range x.Entries() {
			if n++; err != nil && !errors.Is(err, blob.ErrCorrupt) {
				t.Fatalf("class of %v", err)
			}
			if err == nil && !e.within(x.Size) {
				t.Fatalf("%+v", e)
			}
		}
		if n > x.Count()+1 {
			t.Fatalf("%d entries of %d", n, x.Count())
		}
	})
}

// FuzzEntries: what an encoder never wrote is refused or read, and what was read is written the same.
func FuzzEntries(f *testing.F) {
	for _, e := range odd(1 << 20) {
		f.Add((&encoding{}).append(nil, e))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, ok := new(encoding).read(b)
		if !ok {
			return
		}
		again, ok := new(encoding).read(new(encoding).append(nil, e))
		if !ok || cmp.Diff(e, again) != "" {
			t.Fatalf("%+v\n%+v", e, again)
		}
	})
}

// BenchmarkEntries reads the entries of a layer of 20 000 files.
func BenchmarkEntries(b *testing.B) {
	var l Entries
	for i := range 20000 {
		l.Add(Entry{Name: fmt.Sprintf("usr/lib/python3/dist-packages/module%d/file%d.py", i/20, i), Type: '0', Mode: 0644, Sec: 1700000000, Size: 4000, Extents: []Extent{{0, int64(i) * 4608, 4000}}})
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range l.All() {
			if n++; err != nil {
				b.Fatal(err)
			}
		}
		if n != l.Len() {
			b.Fatal(n)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*l.Len()), "ns/entry")
}
