package pantala

import (
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// hostile are the fuzz targets of what comes from strangers: torrents, magnet links, messages, hash proofs, replies of
// trackers, and of registries and what images are made of.
var hostile = []string{
	"metainfo.FuzzParse", "metainfo.FuzzMagnet", "bencode.FuzzCut",
	"peerwire.FuzzReader", "peerwire.FuzzExtension", "peerwire.FuzzPEX", "peerwire.FuzzMetadata", "peerwire.FuzzIndex",
	"blob.FuzzLeaves", "blob.FuzzTree",
	"tracker.FuzzAnnounceReply", "tracker.FuzzPlanReply", "tracker.FuzzUDPReply", "tracker.FuzzRecords", "tracker.FuzzRecordsReply",
	"discovery.FuzzKRPC", "discovery.FuzzAnnounce",
	"zstdspan.FuzzScan", "zstdspan.FuzzSpan", "toc.FuzzRead", "soci.FuzzParse", "estargz.FuzzParse", "zstdchunked.FuzzParse", "erofs.FuzzBootstrap", "erofslayer.FuzzLayer", "lz4block.FuzzSpan",
	"inflate.FuzzScan", "inflate.FuzzSpan", "inflate.FuzzDeflate", "artifact.FuzzParse", "tarscan.FuzzScan", "index.FuzzOpen", "index.FuzzEntries", "tree.FuzzMerge", "erofs.FuzzImage", "profile.FuzzParse",
	"registry.FuzzParse", "registry.FuzzManifest", "registry.FuzzHosts", "registry.FuzzAuth",
}

// TestFuzzTargets: make fuzz asks go test for the targets of every package of this module. None hides from that: in
// another module, behind a build constraint, with a name or parameter that go test passes over.
func TestFuzzTargets(t *testing.T) {
	found := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Fuzz") || !strings.HasSuffix(path, "_test.go") {
				continue
			}
			dir := filepath.ToSlash(filepath.Dir(path))
			name := filepath.Base(dir) + "." + f.Name.Name
			found[name] = true
			if strings.HasPrefix(dir, "tools") {
				t.Errorf("%s is in another module", name)
			}
			for _, c := range file.Comments {
				if c.Pos() < file.Package && constraint.IsGoBuild(c.List[0].Text) {
					t.Errorf("%s is behind %s", name, c.List[0].Text)
				}
			}
			param := f.Type.Params.List
			star, ok := param[0].Type.(*ast.StarExpr)
			if len(param) != 1 || !ok || star.X.(*ast.SelectorExpr).Sel.Name != "F" {
				t.Errorf("%s is no fuzz target for go test", name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range hostile {
		if !found[name] {
			t.Errorf("what comes from strangers is not fuzzed: %s", name)
		}
	}
	t.Logf("%d fuzz targets", len(found))
}
