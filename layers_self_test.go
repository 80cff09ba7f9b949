package pantala

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// comment is a package comment that passes.
func comment(pkg string) string {
	return "// Package " + pkg + " is an example.\n//\n// # Place\n//\n// Here.\n//\n// # Goroutines\n//\n// None.\n//\n// # Locks\n//\n// None.\n//\n// # Errors\n//\n// None.\npackage " + pkg + "\n"
}

// good is a small repository without a fault.
var good = map[string]string{
	"README.md":                  "See [the glossary](docs/glossary.md).\n",
	"docs/glossary.md":           "Words. Back to [README](../README.md#top), or [out](https://example.com/x.md).\n",
	"blob/doc.go":                comment("blob"),
	"blob/id_test.go":            "package blob_test\n\nimport _ \"github.com/anacrolix/torrent/merkle\"\n",
	"origin/doc.go":              comment("origin"),
	"origin/get.go":              "package origin\n\nimport (\n\t_ \"github.com/cenkalti/backoff/v5\"\n\t_ \"github.com/pantala/pantala/blob\"\n\t_ \"net/http\"\n)\n",
	"origin/origintest/serve.go": comment("origintest"),
	"fetch/doc.go":               comment("fetch"),
	"fetch/a_test.go":            "package fetch\n\nimport (\n\t_ \"github.com/pantala/pantala/origin\"\n\t_ \"github.com/pantala/pantala/origin/origintest\"\n\t_ \"pgregory.net/rapid\"\n)\n",
	"cmd/pantala/main.go":        "// Command pantala mounts.\npackage main\n\nimport _ \"github.com/pantala/pantala/config\"\n",
	"config/doc.go":              comment("config"),
	"e2e/e2etest/run.go":         comment("e2etest"),
	"bench/b_test.go":            "package bench\n\nimport _ \"github.com/pantala/pantala/e2e/e2etest\"\n",
	"tools/anything/main.go":     "package main\n\nimport _ \"example.com/whatever\"\n",
}

// problemsWith scans the good repository with some files put in, replaced, or ("") taken out.
func problemsWith(t *testing.T, change map[string]string) []string {
	t.Helper()
	root := t.TempDir()
	for _, files := range []map[string]string{good, change} {
		for name, text := range files {
			p := filepath.Join(root, filepath.FromSlash(name))
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			if text == "" {
				if err := os.Remove(p); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	h, err := scan(root)
	if err != nil {
		t.Fatal(err)
	}
	return h.problems()
}

// TestHouseChecks shows that the rules find what they are for: each change to the good repository is answered by
// exactly one problem, with these words in it.
func TestHouseChecks(t *testing.T) {
	if p := problemsWith(t, nil); len(p) != 0 {
		t.Fatalf("the good example is refused:\n%s", strings.Join(p, "\n"))
	}
	imports := func(pkg, path string) string { return "package " + pkg + "\n\nimport _ \"" + path + "\"\n" }
	own := func(room string) string { return module + "/" + room }
	swap := func(text, from, to string) string {
		if !strings.Contains(text, from) {
			t.Fatalf("%q is not in the example", from)
		}
		return strings.Replace(text, from, to, 1)
	}
	for name, c := range map[string]struct {
		file, text string
		want       string
	}{
		"upward":                  {"blob/x.go", imports("blob", own("origin")), "imports point downward only"},
		"upward, in a test":       {"blob/x_test.go", imports("blob", own("fetch")), "imports point downward only"},
		"sideways":                {"origin/x.go", imports("origin", own("swarm")), "imports point downward only"},
		"config from a part":      {"fetch/x.go", imports("fetch", own("config")), "which only [cmd node] may"},
		"root":                    {"fetch/x.go", imports("fetch", module), "the root package"},
		"test support":            {"fetch/x.go", imports("fetch", own("origin/origintest")), "test support is for _test.go files"},
		"a program as library":    {"bench/x_test.go", imports("bench", own("cmd/pantala")), "a main program is not a library"},
		"go-fuse outside fs":      {"fetch/x.go", imports("fetch", "github.com/hanwen/go-fuse/v2/fuse"), "which only [fs] may"},
		"lz4 outside codec":       {"blob/x.go", imports("blob", "github.com/pierrec/lz4/v4"), "which only [codec] may"},
		"x/sys in fetch":          {"fetch/x.go", imports("fetch", "golang.org/x/sys/unix"), "system calls"},
		"anacrolix client":        {"fetch/x_test.go", imports("fetch", "github.com/anacrolix/torrent"), "only its subpackages"},
		"anacrolix tracker":       {"fetch/x.go", imports("fetch", "github.com/anacrolix/torrent/tracker"), "only its subpackages"},
		"merkle outside a test":   {"blob/x.go", imports("blob", "github.com/anacrolix/torrent/merkle"), "outside a test"},
		"cobra outside cmd":       {"config/x.go", imports("config", "github.com/spf13/cobra"), "which only [cmd] may"},
		"rapid outside a test":    {"fetch/x.go", imports("fetch", "pgregory.net/rapid"), "outside a test"},
		"unknown module":          {"fetch/x.go", imports("fetch", "example.com/new/thing"), "no line of the fence"},
		"prefix is not a path":    {"fs/doc.go", comment("fs") + "\nimport _ \"github.com/hanwen/go-fuse/v2x\"\n", "no line of the fence"},
		"unknown folder":          {"extras/doc.go", comment("extras"), "unknown top-level folder"},
		"folder that says little": {"fetch/util/doc.go", comment("util"), "says nothing"},
		"folder in capitals":      {"fetch/Plan/doc.go", comment("Plan"), "one lower-case word"},
		"folder and package":      {"fetch/plan/doc.go", comment("planner"), "they carry one name"},
		"misplaced test support":  {"fetch/origintest/doc.go", comment("origintest"), "x/xtest"},
		"no comment":              {"blob/doc.go", "package blob\n", "no package comment"},
		"two comments":            {"blob/x.go", comment("blob"), "2 files carry a package comment"},
		"wrong first words":       {"blob/doc.go", swap(comment("blob"), "Package blob", "This package"), "begins with"},
		"main without comment":    {"cmd/pantala/main.go", "// Package main is.\npackage main\n", "begins with"},
		"heading missing":         {"blob/doc.go", swap(comment("blob"), "# Locks", "Locks"), "no heading \"# Locks\""},
		"heading empty":           {"blob/doc.go", swap(comment("blob"), "// # Errors\n//\n// None.\n", "// # Errors\n"), "nothing stands under \"# Errors\""},
		"headings out of order":   {"blob/doc.go", swap(swap(comment("blob"), "# Place", "# Errors"), "# Errors\n//\n// None", "# Place\n//\n// None"), "out of order"},
		"path of a machine":       {"docs/x.md", "Look into /ho" + "me/somebody/pantala.\n", "a path of one machine"},
		"foreign paper":           {"origin/get.go", "package origin\n\n// See DES" + "IGN D2.\n", "not in this repository"},
		"comment names nothing":   {"origin/get.go", "package origin\n\n// See docs/" + "nothing.md.\n", "docs/nothing.md, which does not exist"},
		"dead link":               {"docs/x.md", "[a](../b.md)\n", "links b.md, which does not exist"},
		"linked file gone":        {"docs/glossary.md", "", "links docs/glossary.md, which does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			p := problemsWith(t, map[string]string{c.file: c.text})
			// README.md names docs/glossary.md as text and as link: one fault, two messages.
			p = slices.DeleteFunc(p, func(s string) bool { return strings.HasPrefix(s, "README.md: names") })
			if len(p) != 1 || !strings.Contains(p[0], c.want) {
				t.Errorf("found %d problems, want one with %q:\n%s", len(p), c.want, strings.Join(p, "\n"))
			}
		})
	}
}

// TestDepChecks does the same for what is linked.
func TestDepChecks(t *testing.T) {
	program := []listed{
		{ImportPath: "io", Standard: true},
		{ImportPath: module + "/blob", Imports: []string{"io"}},
		{ImportPath: module + "/cmd/pantala", Imports: []string{module + "/blob", "io"}},
	}
	if p := depProblems(program); len(p) != 0 {
		t.Fatalf("the good example is refused: %v", p)
	}
	for name, c := range map[string]struct {
		more listed
		want string
	}{
		"testing":      {listed{ImportPath: "testing", Standard: true}, "test support has leaked"},
		"test support": {listed{ImportPath: module + "/swarm/swarmtest"}, "it is test support"},
		"blob":         {listed{ImportPath: module + "/blob", Imports: []string{"golang.org/x/sys/unix"}}, "the standard library only"},
	} {
		t.Run(name, func(t *testing.T) {
			p := depProblems(append(slices.Clone(program), c.more))
			if len(p) != 1 || !strings.Contains(p[0], c.want) {
				t.Errorf("found %q, want one problem with %q", p, c.want)
			}
		})
	}
	who := importers(append(program, listed{ImportPath: "x", Imports: []string{"testing"}}), "testing")
	if !slices.Equal(who, []string{"x"}) {
		t.Errorf("importers of testing = %v", who)
	}
}
