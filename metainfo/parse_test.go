package metainfo_test

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/metainfo"
)

const sum20 = "20:aaaaaaaaaaaaaaaaaaaa"

// v1 is an info dictionary of one piece with what is in files.
func v1(files string) string {
	return "d5:filesl" + files + "e4:name1:n12:piece lengthi16384e6:pieces" + sum20 + "e"
}

func file1(n int, path ...string) string {
	s := fmt.Sprintf("d6:lengthi%de4:pathl", n)
	for _, p := range path {
		s += fmt.Sprintf("%d:%s", len(p), p)
	}
	return s + "ee"
}

// v2 is an info dictionary with a file tree.
func v2(tree string) string {
	return "d9:file tree" + tree + "12:meta versioni2e4:name1:n12:piece lengthi16384ee"
}

const leaf2 = "d0:d6:lengthi5e11:pieces root32:rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrree"

func TestParseInfoRefuses(t *testing.T) {
	deep := strings.Repeat("d1:a", 70) + leaf2 + strings.Repeat("e", 70)
	many := make([]string, 70)
	for i := range many {
		many[i] = "a"
	}
	for name, c := range map[string]struct{ info, want string }{
		"empty":              {"", "value missing"},
		"list":               {"le", "dictionary expected"},
		"neither":            {"d4:name1:n12:piece lengthi16384ee", "neither"},
		"version":            {"d12:meta versioni3ee", "meta version 3"},
		"twice":              {"d4:name1:n4:name1:me", "twice"},
		"no name":            {"d6:lengthi1e12:piece lengthi16384e6:pieces" + sum20 + "e", "empty"},
		"name ..":            {"d6:lengthi1e4:name2:..12:piece lengthi16384e6:pieces" + sum20 + "e", "lead out"},
		"name /":             {"d6:lengthi1e4:name4:/etc12:piece lengthi16384e6:pieces" + sum20 + "e", "slash"},
		"piece 0":            {"d6:lengthi1e4:name1:n12:piece lengthi0e6:pieces" + sum20 + "e", "piece length of 0"},
		"piece odd":          {"d6:lengthi1e4:name1:n12:piece lengthi16385e6:pieces" + sum20 + "e", "multiples of 16 KiB"},
		"piece huge":         {"d6:lengthi1e4:name1:n12:piece lengthi99999999999e6:pieces" + sum20 + "e", "piece length of"},
		"pieces cut":         {"d6:lengthi1e4:name1:n12:piece lengthi16384e6:pieces3:abce", "multiple of 20"},
		"pieces too few":     {"d6:lengthi16385e4:name1:n12:piece lengthi16384e6:pieces" + sum20 + "e", "1 piece hashes for 16385 bytes"},
		"pieces too many":    {"d6:lengthi0e4:name1:n12:piece lengthi16384e6:pieces" + sum20 + "e", "1 piece hashes for 0 bytes"},
		"length and files":   {"d5:filesle6:lengthi1e4:name1:n12:piece lengthi16384e6:pieces" + sum20 + "e", "both"},
		"no length":          {"d4:name1:n12:piece lengthi16384e6:pieces" + sum20 + "e", "neither \"length\""},
		"negative":           {v1(file1(-1, "a")), "outside"},
		"absurd":             {v1(file1(1<<62, "a")), "outside"},
		"absurd sum":         {v1(file1(1<<45, "a") + file1(1<<45, "b") + file1(1<<45, "c")), "bytes in all"},
		"path missing":       {v1("d6:lengthi1ee"), "missing"},
		"path empty":         {v1(file1(1)), "without names"},
		"path ..":            {v1(file1(1, "..", "x")), "lead out"},
		"path .":             {v1(file1(1, ".")), "lead out"},
		"path absolute":      {v1(file1(1, "", "etc", "passwd")), "empty"},
		"path slash":         {v1(file1(1, "a/../../b")), "slash"},
		"path NUL":           {v1(file1(1, "a\x00b")), "NUL"},
		"path deep":          {v1(file1(1, many...)), "more than 64"},
		"path long":          {v1(file1(1, strings.Split(strings.Repeat(strings.Repeat("x", 200)+"/", 30), "/")[:30]...)), "at most 4096"},
		"same path":          {v1(file1(1, "a") + file1(1, "a")), "twice"},
		"same after mending": {v1(file1(1, "a\x01") + file1(1, "a_")), "twice"},
		"file as directory":  {v1(file1(1, "a") + file1(1, "a", "b")), "both a file and a directory"},
		"directory as file":  {v1(file1(1, "a", "b") + file1(1, "a")), "both a file and a directory"},
		"link out":           {v1("d4:attr1:l6:lengthi0e4:pathl1:le12:symlink pathl2:..2:..eed6:lengthi1e4:pathl1:aee"), "lead out"},
		"link to nothing":    {v1("d4:attr1:l6:lengthi0e4:pathl1:le12:symlink pathl1:beed6:lengthi1e4:pathl1:aee"), "not in the torrent"},
		"link nowhere":       {v1("d4:attr1:l6:lengthi0e4:pathl1:leed6:lengthi1e4:pathl1:aee"), "symlink path"},
		"v2 no tree":         {"d12:meta versioni2e4:name1:n12:piece lengthi16384ee", "no \"file tree\""},
		"v2 empty tree":      {v2("de"), "has no files"},
		"v2 piece length":    {"d9:file treed1:a" + leaf2 + "e12:meta versioni2e4:name1:n12:piece lengthi49152ee", "power of two"},
		"v2 ..":              {v2("d2:.." + leaf2 + "e"), "lead out"},
		"v2 slash":           {v2("d3:a/b" + leaf2 + "e"), "slash"},
		"v2 NUL":             {v2("d3:a\x00b" + leaf2 + "e"), "NUL"},
		"v2 root file":       {v2(leaf2), "both a file and a directory"},
		"v2 clash":           {v2("d1:ad0:d6:lengthi0ee1:b" + leaf2 + "ee"), "both a file and a directory"},
		"v2 twice":           {v2("d1:a" + leaf2 + "1:a" + leaf2 + "e"), "sorted and different"},
		"v2 unsorted":        {v2("d1:b" + leaf2 + "1:a" + leaf2 + "e"), "sorted and different"},
		"v2 deep":            {v2("d1:a" + deep + "e"), "too deep"},
		"v2 no root":         {v2("d1:ad0:d6:lengthi5eeee"), "\"pieces root\" of 0 bytes"},
		"v2 short root":      {v2("d1:ad0:d6:lengthi5e11:pieces root3:abceee"), "\"pieces root\" of 3 bytes"},
		"v2 root of nothing": {v2("d1:ad0:d6:lengthi0e11:pieces root3:abceee"), "is empty"},
		"v2 pad":             {v2("d1:ad0:d4:attr1:p6:lengthi5e11:pieces root32:rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrreee"), "pad file"},
		"hybrid other file":  {"d9:file treed1:n" + leaf2 + "e6:lengthi6e12:meta versioni2e4:name1:n12:piece lengthi16384e6:pieces" + sum20 + "e", "hybrid"},
		"hybrid no pads": {"d5:filesl" + file1(5, "a") + file1(5, "b") + "e9:file treed1:a" + leaf2 + "1:b" + leaf2 +
			"e12:meta versioni2e4:name1:n12:piece lengthi16384e6:pieces" + sum20 + "e", "pad files are missing"},
	} {
		i, err := metainfo.ParseInfo([]byte(c.info))
		if !errors.Is(err, blob.ErrInvalid) || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %+v, %v; want %q", name, i, err, c.want)
		}
	}
}

func TestParseInfoAccepts(t *testing.T) {
	i, err := metainfo.ParseInfo([]byte(v1("d4:attr1:p6:lengthi3e4:pathl4:.pad1:3ee" + file1(1, "a\x01b", strings.Repeat("x", 300)+".ext") + "d6:lengthi2e4:pathl2:\xff\xfee10:path.utf-8l2:üee")))
	if err != nil {
		t.Fatal(err)
	}
	want := []metainfo.File{
		{Path: []string{"a_b", strings.Repeat("x", 251) + ".ext"}, Length: 1, Offset: 3},
		{Path: []string{"ü"}, Length: 2, Offset: 4},
	}
	if d := cmp.Diff(want, i.Files); d != "" || i.Length != 6 || i.Bytes() != 3 {
		t.Error(d, i.Length)
	}
	if _, err := metainfo.ParseInfo([]byte("d5:filesle4:name1:n12:piece lengthi49152e6:pieces0:7:privatei1ee")); err != nil {
		t.Error("v1 needs no power of two:", err)
	}
}

func TestPieceLayers(t *testing.T) {
	root, _ := tree(t)
	made, err := metainfo.Make(t.Context(), root, metainfo.MakeOptions{V2: true})
	if err != nil {
		t.Fatal(err)
	}
	whole := made.Append(nil)
	at := bytes.Index(whole, []byte("12:piece layersd")) + len("12:piece layersd")
	for name, c := range map[string]struct {
		raw  []byte
		want string
		is   error
	}{
		"missing": {append(append([]byte{}, whole[:at]...), "ee"...), "has no entry for", blob.ErrInvalid},
		"altered": {func() []byte { b := bytes.Clone(whole); b[at+60] ^= 1; return b }(), "lead to the root", blob.ErrCorrupt},
		"cut":     {whole[:len(whole)-9], "is it complete", blob.ErrInvalid},
		"html":    {[]byte("<html>"), "is it the right file", blob.ErrInvalid},
		"none":    {nil, "is it the right file", blob.ErrInvalid},
	} {
		if _, err := metainfo.Parse(bytes.NewReader(c.raw)); !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// endless is a .torrent without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, "l"), nil }

// TestMemory: hostile files of the largest size cost less than 64 MiB beside themselves.
func TestMemory(t *testing.T) {
	if _, err := metainfo.Parse(endless{}); !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("endless: %v", err)
	}
	pad := func(s string, unit string) []byte {
		n := (metainfo.MaxInfo - 1024) / len(unit)
		return []byte(fmt.Sprintf(s, strings.Repeat(unit, n)))
	}
	var dirs strings.Builder
	for i := range 900_000 {
		fmt.Fprintf(&dirs, "6:%06dde", i)
	}
	for _, q := range []string{"&tr=http://a/", "&ws=http://a/", "&x.pe=1.2.3.4:5", "&so=1", "&dn=%ff", "&xt=urn:btih:", "&"} {
		var before, after runtime.MemStats
		link := "magnet:?xt=urn:btih:" + strings.Repeat("a", 40) + strings.Repeat(q, (64<<10-100)/len(q))
		runtime.ReadMemStats(&before)
		_, err := metainfo.ParseMagnet(link)
		_, long := metainfo.ParseMagnet(link + strings.Repeat(q, 1<<20))
		runtime.ReadMemStats(&after)
		if err != nil && !errors.Is(err, blob.ErrInvalid) || !errors.Is(long, blob.ErrInvalid) || len(long.Error()) > 1000 {
			t.Errorf("magnet link of many %s: %v, %v", q, err, long)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20+uint64(len(q))<<20 { // the second argument is made here
			t.Errorf("magnet link of many %s: %d MiB allocated", q, got>>20)
		}
	}
	for name, raw := range map[string][]byte{
		"files":       pad("d5:filesl%se4:name1:n12:piece lengthi16384e6:pieces0:e", "d6:lengthi0e4:pathl1:aee"),
		"pads":        pad("d5:filesl%se4:name1:n12:piece lengthi16384e6:pieces0:e", "d4:attr1:p6:lengthi0ee"),
		"directories": []byte(v2("d" + dirs.String() + "e")),
		"keys":        []byte("d" + dirs.String() + "e"),
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		_, err := metainfo.ParseInfo(raw)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
			t.Errorf("%s: %d MiB allocated for %d MiB", name, got>>20, len(raw)>>20)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, info := range []string{v1(file1(1, "a") + file1(2, "b", "c")), v2("d1:a" + leaf2 + "1:bd1:c" + leaf2 + "ee"), "d6:lengthi1e4:name1:n12:piece lengthi16384e6:pieces" + sum20 + "e"} {
		f.Add([]byte("d8:announce10:http://t/a13:announce-listll9:udp://u:1ee7:comment1:c4:info" + info + "5:nodesll4:hosti1eee12:piece layersde8:url-listl9:http://w/ee"))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := metainfo.Parse(bytes.NewReader(raw))
		if err != nil {
			if !errors.Is(err, blob.ErrInvalid) && !errors.Is(err, blob.ErrCorrupt) {
				t.Fatalf("no class: %v", err)
			}
			return
		}
		seen := map[string]bool{}
		for _, file := range m.Info.Files {
			for _, name := range append([]string{m.Info.Name}, file.Path...) {
				if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00\n") {
					t.Fatalf("name %q", name)
				}
			}
			if seen[file.String()] || file.Length < 0 || file.Offset < 0 || file.Offset+file.Length > m.Info.Length {
				t.Fatalf("file %+v of %d", file, m.Info.Length)
			}
			seen[file.String()] = true
		}
		again, err := metainfo.Parse(bytes.NewReader(m.Append(nil)))
		if err != nil {
			t.Fatalf("what was written is not read back: %v", err)
		}
		again.Nodes = m.Nodes
		if d := cmp.Diff(m, again, ignore, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}
