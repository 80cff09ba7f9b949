package tree

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const space = 1 << 40

// layer is entries of a layer, named by text: "d/" a directory, "l -> t" a symbolic link, "h = t" a hard link, others
// files.
func layer(name string, lines ...string) Layer {
	var all []index.Entry
	for _, l := range lines {
		e := index.Entry{Name: l, Type: '0', Mode: 0o644}
		if n, to, ok := strings.Cut(l, " -> "); ok {
			e = index.Entry{Name: n, Link: to, Type: '2'}
		} else if n, to, ok := strings.Cut(l, " = "); ok {
			e = index.Entry{Name: n, Link: to, Type: '1'}
		} else if strings.HasSuffix(l, "/") {
			e = index.Entry{Name: l, Type: '5', Mode: 0o755}
		}
		all = append(all, e)
	}
	return entries(name, all...)
}

func entries(name string, all ...index.Entry) Layer {
	return Layer{Name: name, Size: space, Entries: func(yield func(index.Entry, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	}}
}

// list is a tree in the words of layer, sorted; names of a hard link are told with how many there are.
func list(t *Tree) (all []string) {
	var walk func(id ID, at string)
	walk = func(id ID, at string) {
		for name, child := range t.Children(id) {
			p := path.Join(at, string(name))
			switch i := t.Inode(child); {
			case i.Mode&TypeMask == Directory:
				all = append(all, p+"/")
				walk(child, p)
			case i.Mode&TypeMask == Symlink:
				all = append(all, p+" -> "+i.Target)
			case i.Links > 1:
				all = append(all, fmt.Sprintf("%s (%d)", p, i.Links))
			default:
				all = append(all, p)
			}
		}
	}
	walk(Root, "")
	return all
}

func mustMerge(t testing.TB, layers ...Layer) *Tree {
	t.Helper()
	merged, err := Merge(layers)
	if err != nil {
		t.Fatal(err)
	}
	return merged
}

// TestMerge: the rules of the package comment, one by one. That they are those of unpacking is for the tests of fs/erofs
// to show, which have umoci beside them.
func TestMerge(t *testing.T) {
	for name, c := range map[string]struct {
		layers []Layer
		want   string
	}{
		"order":            {[]Layer{layer("0", "b", "a", "c/", "c/z", "c/y", "B", "!")}, "! B a b c/ c/y c/z"},
		"whiteout":         {[]Layer{layer("0", "d/", "d/a", "d/b"), layer("1", "d/.wh.a")}, "d/ d/b"},
		"own stays":        {[]Layer{layer("0", "d/a"), layer("1", "d/b", ".wh.d")}, "d/ d/b"},
		"opaque":           {[]Layer{layer("0", "d/a", "d/s/x"), layer("1", "d/s/y", "d/.wh..wh..opq")}, "d/ d/s/ d/s/y"},
		"opaque twice":     {[]Layer{layer("0", "d/a"), layer("1", "d/b"), layer("2", "d/.wh..wh..opq", "d/c")}, "d/ d/c"},
		"comes back":       {[]Layer{layer("0", "a"), layer("1", ".wh.a"), layer("2", "a")}, "a"},
		"hard link":        {[]Layer{layer("0", "a"), layer("1", "b = a", "c = b")}, "a (3) b (3) c (3)"},
		"of what goes":     {[]Layer{layer("0", "a"), layer("1", "b = a", ".wh.a")}, "b"},
		"replaced":         {[]Layer{layer("0", "a", "b = a"), layer("1", "a")}, "a b"},
		"link to link":     {[]Layer{layer("0", "s -> x", "h = s")}, "h -> x s -> x"},
		"through a link":   {[]Layer{layer("0", "e -> /etc", "e/f")}, "e -> /etc etc/ etc/f"},
		"out of the tree":  {[]Layer{layer("0", "e -> ../../..", "e/f", "../../g", "/h")}, "e -> ../../.. f g h"},
		"dangling":         {[]Layer{layer("0", "e -> a/../b/c", "e/f")}, "b/ b/c/ b/c/f e -> a/../b/c"},
		"file over dir":    {[]Layer{layer("0", "d/a"), layer("1", "d")}, "d"},
		"dir over link":    {[]Layer{layer("0", "r/f", "d -> r"), layer("1", "d/", "d/g")}, "d/ d/g r/ r/f"},
		"dir over dir":     {[]Layer{layer("0", "d/a"), layer("1", "d/", "d/b")}, "d/ d/a d/b"},
		"removed parent":   {[]Layer{layer("0", "d/a", "d/b", ".wh.d", "d/c"), layer("1", ".wh.d", "d/e", "d/f")}, "d/ d/e d/f"},
		"link after a dir": {[]Layer{layer("0", "x/", "x/a", "y/"), layer("1", "x -> y", "x/b")}, "x -> y y/ y/b"},
		"no layers":        {nil, ""},
	} {
		if got := strings.Join(list(mustMerge(t, c.layers...)), " "); got != c.want {
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
		}
	}
}

// TestRefused: errors name layer, entry and reason.
func TestRefused(t *testing.T) {
	sparse := func(size int64, extents ...index.Extent) index.Entry {
		return index.Entry{Name: "the-file", Type: '0', Size: size, Extents: extents}
	}
	named := func(name string) Layer { return layer("1", "ok", name) }
	for name, c := range map[string]struct {
		layer Layer
		text  string
	}{
		"long name":      {named("the-file/" + strings.Repeat("n", 256)), "255 bytes"},
		"long path":      {named("the-file/" + strings.Repeat("n/", 2100)), "4095 bytes"},
		"zero byte":      {named("the-file\x00"), "zero byte"},
		"below a file":   {named("ok/the-file"), "not a directory"},
		"whiteout":       {named("the-file/.wh."), "whiteout"},
		"no target":      {named("the-file = nowhere"), "does not exist"},
		"empty link":     {entries("1", index.Entry{Name: "the-file", Type: '2'}), "no target"},
		"top":            {entries("1", index.Entry{Name: "./the-file/..", Type: '0'}), "stay a directory"},
		"type":           {entries("1", index.Entry{Name: "the-file", Type: 'X'}), "type"},
		"negative":       {entries("1", sparse(-1)), "negative"},
		"beyond file":    {entries("1", sparse(512, index.Extent{Length: 1024})), "extent"},
		"beyond layer":   {entries("1", sparse(1024, index.Extent{Device: space - 512, Length: 1024})), "extent"},
		"overflow":       {entries("1", sparse(1<<62, index.Extent{Device: 1<<63 - 512, Length: 1 << 62})), "extent"},
		"overlap":        {entries("1", sparse(4096, index.Extent{Length: 2048}, index.Extent{File: 1024, Length: 512})), "extent"},
		"unaligned":      {entries("1", sparse(4096, index.Extent{Device: 100, Length: 4096})), "multiple of 512"},
		"unaligned hole": {entries("1", sparse(4096, index.Extent{File: 0, Length: 100})), "multiple of 512"},
		// A sparse log of the last logins of uid 4294967294, in pieces of 4 KiB: its map would take more than a gigabyte.
		"pieces": {entries("1", sparse(292<<32, index.Extent{Length: 4096}, index.Extent{File: 292<<32 - 4096, Device: 4096, Length: 4096})), "pieces"},
	} {
		_, err := Merge([]Layer{layer("0", "unrelated"), c.layer})
		if !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, want := range []string{"layer 1", "the-file", c.text} {
			if name == "top" && want == "the-file" {
				want = "./the-file/.."
			}
			if !strings.Contains(err.Error(), want) && name != "long path" {
				t.Errorf("%s: %v does not tell %q", name, err, want)
			}
		}
		if len(err.Error()) > 600 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
	if _, err := Merge(slices.Repeat([]Layer{layer("x")}, MaxLayers+1)); !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), "1001 layers") {
		t.Errorf("too many layers: %v", err)
	}
	boom := errors.New("boom")
	broken := Layer{Name: "the layer", Entries: func(yield func(index.Entry, error) bool) { yield(index.Entry{}, boom) }}
	if _, err := Merge([]Layer{broken}); !errors.Is(err, boom) || !strings.Contains(err.Error(), "the layer") {
		t.Errorf("an index that cannot be read: %v", err)
	}
}

// TestBusyLinks: names that lead through many long links cost a bounded amount of work in all.
func TestBusyLinks(t *testing.T) {
	lines := []string{"l -> " + strings.Repeat("./", 2000)}
	for i := range 100 {
		lines = append(lines, fmt.Sprintf("%sf%d", strings.Repeat("l/", 200+i%2), i)) // some 400 000 elements each
	}
	if _, err := Merge([]Layer{layer("x", lines[:20]...)}); err != nil {
		t.Errorf("twenty such names: %v", err)
	}
	if _, err := Merge([]Layer{layer("x", lines...)}); !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), errLoop.Error()) {
		t.Errorf("a hundred: %v", err)
	}
	// Links that multiply what is left to resolve.
	lines = []string{"l0 -> ."}
	for i := range 10 {
		lines = append(lines, fmt.Sprintf("l%d -> %s.", i+1, strings.Repeat(fmt.Sprintf("l%d/", i), 800)))
	}
	if _, err := Merge([]Layer{layer("x", append(lines, "l10/f")...)}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("links to links: %v", err)
	}
}

// TestDeep: trees as deep as paths allow neither recurse nor are walked twice as often as they are deep.
func TestDeep(t *testing.T) {
	deep := strings.Repeat("d/", 2040)
	tree := mustMerge(t, layer("0", deep+"f"), layer("1", deep+"g", ".wh.d"), layer("2", "d/.wh..wh..opq", "d/x"))
	if got := list(tree); !slices.Equal(got, []string{"d/", "d/x"}) {
		t.Errorf("%v", got)
	}
}

// TestGranule: pieces of sparse files are as large as their edges allow.
func TestGranule(t *testing.T) {
	for _, c := range []struct {
		extents []index.Extent
		size    int64
		want    uint
	}{
		{nil, 1, 9}, {nil, 512, 9}, {nil, 513, 10}, {nil, 1 << 30, 30}, {nil, 1<<30 + 1, 31}, {nil, 1 << 60, 40},
		{[]index.Extent{{File: 0, Length: 4096}}, 1 << 20, 12},
		{[]index.Extent{{File: 8192, Length: 100}}, 8292, 13},
		{[]index.Extent{{File: 512, Length: 512}}, 1 << 20, 9},
	} {
		if got := Granule(c.extents, c.size); got != c.want {
			t.Errorf("%v of %d: %d, want %d", c.extents, c.size, got, c.want)
		}
	}
}

func at(file, device, length int64) index.Extent {
	return index.Extent{File: file, Device: device, Length: length}
}

// TestExtents: one piece, joined pieces, pieces with holes, holes only.
func TestExtents(t *testing.T) {
	tree := mustMerge(t, entries("0",
		index.Entry{Name: "a", Type: '0', Size: 100, Extents: []index.Extent{{File: 0, Device: 512, Length: 100}}},
		index.Entry{Name: "b", Type: '0', Size: 1500, Extents: []index.Extent{at(0, 1024, 512), at(512, 1536, 512), at(1024, 2048, 476)}},
		index.Entry{Name: "c", Type: '0', Size: 4096, Extents: []index.Extent{at(512, 4096, 512), at(1024, 4608, 512), at(2048, 5120, 512)}},
		index.Entry{Name: "d", Type: '0', Size: 7},
		index.Entry{Name: "e", Type: '0'}))
	want := map[string][]index.Extent{
		"a": {at(0, 512, 100)}, "b": {at(0, 1024, 1500)}, "c": {at(512, 4096, 1024), at(2048, 5120, 512)}, "d": nil, "e": nil,
	}
	for name, id := range tree.Children(Root) {
		if got := tree.Extents(id, nil); !slices.Equal(got, want[string(name)]) {
			t.Errorf("%s: %v", name, got)
		}
	}
	if tree.Bytes != 100+1500+4096+7 {
		t.Errorf("%d bytes in all", tree.Bytes)
	}
}

// FuzzMerge: whatever entries come, there is an error of the right class, or a tree in which every inode is reached,
// counted right, and sorted.
func FuzzMerge(f *testing.F) {
	f.Add("d/\nd/a\n|d/.wh.a\nb = d/a\n|e -> d\ne/x")
	f.Add("a -> b\nb -> a\n|a/x")
	f.Add("a/b/c\n|a/.wh..wh..opq\n.wh.a|a -> ../..\na/../x")
	f.Add("d/.wh.x/y\nh = d/.wh.x\n/\n..\n.wh.d")
	f.Fuzz(func(t *testing.T, text string) {
		var layers []Layer
		for i, l := range strings.Split(text, "|") {
			if len(layers) < 10 {
				layers = append(layers, layer(fmt.Sprint(i), strings.Split(l, "\n")...))
			}
		}
		tree, err := Merge(layers)
		if err != nil {
			if !errors.Is(err, blob.ErrInvalid) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		links := make([]uint32, tree.Len())
		seen := make([]bool, tree.Len())
		todo := []ID{Root}
		seen[Root] = true
		for len(todo) > 0 {
			dir := todo[0]
			todo = todo[1:]
			links[dir] += 2
			last := ""
			for name, child := range tree.Children(dir) {
				if string(name) <= last || len(name) > 255 || strings.ContainsAny(string(name), "/\x00") || string(name) == "." || string(name) == ".." {
					t.Fatalf("name %q after %q", name, last)
				}
				last = string(name)
				if tree.Type(child) != Directory {
					links[child]++
				} else {
					if seen[child] {
						t.Fatal("a directory with two names")
					}
					if tree.Parent(child) != dir {
						t.Fatalf("parent of %q", name)
					}
					links[dir]++
					todo = append(todo, child)
				}
				seen[child] = true
			}
		}
		for id := range links {
			if !seen[id] || tree.Inode(ID(id)).Links != links[id] {
				t.Fatalf("inode %d: reached %v, links %d, counted %d", id, seen[id], tree.Inode(ID(id)).Links, links[id])
			}
		}
	})
}
