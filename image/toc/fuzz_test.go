package toc

import (
	"errors"
	"strings"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
)

const sum = `"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"`

// good is a table with one of everything.
const good = `{"version":1,"more":{"a":[1]},"entries":[
{"name":"d/","type":"dir","mode":16877,"modtime":"2020-01-01T00:00:00.5Z"},
{"name":"d/whole","type":"reg","size":5,"offset":10,"digest":` + sum + `,"xattrs":{"user.a":"AP8=","user.A":""}},
{"name":"d/parts","type":"reg","size":1000,"offset":20,"chunkSize":600,"chunkDigest":` + sum + `,"endOffset":70},
{"type":"chunk","name":"d/parts","offset":40,"chunkOffset":600,"chunkSize":400,"chunkDigest":` + sum + `},
{"name":".landmark","type":"reg","size":1,"offset":80,"digest":` + sum + `},
{"type":"chunk","offset":85},
{"name":"d/holes","type":"reg","size":6000,"offset":90,"chunkSize":700,"chunkType":"zeros","endOffset":200},
{"type":"chunk","offset":90,"chunkOffset":700,"chunkSize":300,"chunkDigest":` + sum + `},
{"type":"chunk","offset":110,"chunkOffset":1000,"chunkSize":4500,"chunkType":"zeros"},
{"type":"chunk","offset":110,"chunkOffset":5500,"chunkSize":10,"chunkDigest":` + sum + `},
{"type":"chunk","offset":130,"chunkOffset":5510,"chunkType":"zeros"},
{"name":"d/inner","type":"reg","size":7,"offset":300,"innerOffset":512,"digest":` + sum + `},
{"name":"n","type":"char","devMajor":1,"devMinor":3},
{"name":"s","type":"symlink","linkName":"x"}]}`

var options = Options{Codec: index.Deflate, End: 400, Drop: []string{".landmark"}}

func TestLayout(t *testing.T) {
	size, entries, spans, err := Read(strings.NewReader(good), options)
	if err != nil {
		t.Fatal(err)
	}
	check(t, size, entries, spans)
	type stored struct{ at, length, skip, decoded, pad int64 }
	want := []stored{
		{10, 10, 0, 5, 507},
		{20, 20, 0, 600, 0}, {40, 30, 0, 400, 24 + 188}, // then zeros from the block's start to the first chunk of holes
		{90, 20, 0, 300, 24 + 380}, // to the end of the block, and from the start of a block to the next chunk
		{110, 20, 0, 10, 122},      // to the end of the block
		{300, 100, 512, 7, 505},
	}
	if len(spans) != len(want) {
		t.Fatalf("%d spans", len(spans))
	}
	for i, s := range spans {
		if got := (stored{s.Stored, s.StoredLength, s.Skip, s.Decoded(), s.Pad}); got != want[i] {
			t.Errorf("span %d: %+v, not %+v", i, got, want[i])
		}
	}
	x := entries[3].Extents
	if entries[3].Name != "d/holes" || len(x) != 2 || x[0].File != 512 || x[0].Length != 512 || x[1].File != 5120 || x[1].Length != 512 {
		t.Errorf("holes: %+v", entries[3])
	}
	if e := entries[0]; e.Type != '5' || e.Mode != 0o755 || e.Sec != 1577836800 || e.Nsec != 5e8 {
		t.Errorf("%+v", e)
	}
	if a := entries[1].Xattrs; len(a) != 2 || a[0].Name != "user.A" || a[1].Value != "\x00\xff" {
		t.Errorf("attributes %q", a)
	}
}

// check holds for whatever a table says.
func check(t *testing.T, size int64, entries []index.Entry, spans []index.Span) {
	t.Helper()
	at := int64(0)
	for i, s := range spans {
		if s.Device != at || s.Length <= 0 || s.Pad < 0 || s.Pad >= 2048 || s.Pad > s.Length || s.Stored < 0 || s.StoredLength < 0 || s.Stored+s.StoredLength > options.End {
			t.Fatalf("span %d: %+v", i, s)
		}
		at += s.Length
	}
	if at != size {
		t.Fatalf("%d bytes, not %d", at, size)
	}
	for _, e := range entries {
		at := int64(0)
		for _, x := range e.Extents {
			if x.File < at || x.Length <= 0 || x.File+x.Length > e.Size || x.Device < 0 || x.Device+x.Length > size || x.Device%512 != 0 || x.File%512 != 0 {
				t.Fatalf("%+v in %d bytes", e, size)
			}
			at = x.File + x.Length
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		from, to string
		class    error
	}{
		{`"version":1`, `"version":2`, blob.ErrInvalid},
		{`"size":5,`, `"size":-5,`, blob.ErrInvalid},
		{`"size":5,`, `"size":6,"chunkSize":5,`, blob.ErrInvalid}, // a chunk without digest
		{`"size":1000`, `"size":1001`, blob.ErrCorrupt},
		{`"chunkOffset":600`, `"chunkOffset":500`, blob.ErrCorrupt},
		{`"chunkSize":400`, `"chunkSize":4000`, blob.ErrCorrupt},
		{`"offset":10,`, `"offset":400,`, blob.ErrCorrupt},
		{`"offset":10,`, `"offset":-1,`, blob.ErrCorrupt},
		{`"offset":10,"digest":"sha256`, `"offset":10,"digest":"sha512`, blob.ErrInvalid},
		{`"innerOffset":512`, `"innerOffset":-512`, blob.ErrInvalid},
		{`"chunkType":"zeros"`, `"chunkType":"ones"`, blob.ErrInvalid},
		{`"type":"char"`, `"type":"door"`, blob.ErrInvalid},
		{`"devMajor":1`, `"devMajor":5000000000`, blob.ErrInvalid},
		{`"devMajor":1`, `"uid":-1`, blob.ErrInvalid},
		{`2020-01-01`, `2020-13-01`, blob.ErrCorrupt},
		{`"AP8="`, `"!"`, blob.ErrCorrupt},
		{`"name":"s"`, "\"name\":\"\xff\"", blob.ErrInvalid},
		{`"name":".landmark","type":"reg"`, `"name":"d","type":"dir"`, blob.ErrCorrupt}, // a chunk of it follows
		{`"linkName":"x"}]}`, `"linkName":"x"}]`, blob.ErrCorrupt},
		{`{"version"`, `["version"`, blob.ErrCorrupt},
	} {
		text := strings.Replace(good, c.from, c.to, 1)
		if text == good {
			t.Fatalf("%s is not there", c.from)
		}
		if _, _, _, err := Read(strings.NewReader(text), options); !errors.Is(err, c.class) {
			t.Errorf("%s for %s: %v", c.to, c.from, err)
		}
	}
	many := `{"version":1,"entries":[` + strings.Repeat(`{"type":"fifo"},`, maxRecords) + `{"type":"fifo"}]}`
	if _, _, _, err := Read(strings.NewReader(many), options); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("too many members: %v", err)
	}
	long := `{"version":1,"entries":[]` + strings.Repeat(" ", MaxTable)
	if _, _, _, err := Read(strings.NewReader(long), options); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("too long: %v", err)
	}
}

// FuzzRead: whatever a table says, what comes of it is consistent, or an error of class.
func FuzzRead(f *testing.F) {
	f.Add(good)
	f.Add(`{"version":1,"entries":null}`)
	f.Fuzz(func(t *testing.T, text string) {
		size, entries, spans, err := Read(strings.NewReader(text), options)
		if err != nil {
			if !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		check(t, size, entries, spans)
	})
}
