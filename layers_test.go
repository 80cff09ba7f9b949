package pantala

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// module is the import path of this repository.
const module = "github.com/pantala/pantala"

// layers are the rooms of the house from the bottom up, in the opposite order to the one in which a read travels.
// A room imports only rooms of lower layers: rooms of one layer do not know each other.
var layers = [][]string{
	{"blob"},                           // the vocabulary: knows the standard library only
	{"pace", "codec"},                  // when bytes may move, and how short
	{"mmap", "relay", "bencode"},       // mapped regions; who passes what on to whom; the encoding of BEP 3
	{"metainfo"},                       // what a .torrent and a magnet link say
	{"peerwire", "tracker", "blockio"}, // the wire, the scheduler, the disk
	{"swarm", "origin", "discovery"},   // the two kinds of source; fetch sees both through blob.Source. Peers without a tracker
	{"fetch"},                          // makes absent blocks present
	{"image"},                          // what an image is made of: manifest, layers, index, merged tree
	{"fs", "control", "snapshotter"},   // the doors: the kernel's, the command line's, containerd's
	{"config"},                         // settings; see onlyFrom
	{"node"},                           // builds all parts, stops them in reverse
	{"cmd"},                            // flags to config to node
	{"e2e", "bench"},                   // use the binary from outside; see onlyFrom
}

// onlyFrom narrows who may import a room beyond what layers say.
var onlyFrom = map[string]struct {
	rooms []string
	why   string
}{
	"config": {[]string{"cmd", "node"}, "parts take an Options struct of their own, so that each can be built without the whole program's settings"},
	"e2e":    {[]string{"bench"}, "it starts whole programs, which only benchmarks of whole programs need too"},
	"bench":  {nil, "it measures; nothing is built on it"},
	"cmd":    {nil, "a main program is not a library"},
}

// fence says which rooms may import which third-party modules: the longest prefix that matches an import path
// counts. tests are rooms that may do so from _test.go files and test-support packages only. An import that no
// line allows is refused: a new dependency enters with a line here, and its reason.
var fence = []struct {
	path         string
	rooms, tests []string
	why          string
}{
	{"github.com/hanwen/go-fuse/v2", []string{"fs"}, nil, "ProtocolServer is experimental: one room to change when it changes"},
	{"github.com/klauspost/compress", []string{"codec"}, []string{"bench", "image"}, "decompression belongs to codec; tests of image write layers with it"},
	{"github.com/pierrec/lz4", []string{"codec"}, []string{"image"}, "decompression belongs to codec; tests of image write chunks with it"},
	{"lukechampine.com/blake3", []string{"image"}, nil, "the digest of chunks that Nydus images have"},
	{"golang.org/x/sys", []string{"tracker", "mmap", "blockio", "image", "fs", "swarm", "peerwire", "discovery", "node", "cmd", "e2e", "bench"}, nil, "system calls stay in rooms that speak to the kernel"},
	{"github.com/anacrolix/torrent/bencode", []string{"peerwire", "tracker", "swarm"}, []string{"blob", "e2e", "bench"}, "blob stays on the standard library"},
	{"github.com/anacrolix/torrent/metainfo", []string{"swarm", "node", "cmd"}, []string{"blob", "peerwire", "tracker", "e2e", "bench"}, "torrent files are read where a torrent is opened"},
	{"github.com/anacrolix/torrent/merkle", nil, []string{"blob", "swarm", "peerwire"}, "an oracle for our own tree, in tests"},
	{"github.com/anacrolix/torrent", nil, nil, "only its subpackages bencode, metainfo and merkle: the rest brings a whole client with 100 modules"},
	{"github.com/spf13/cobra", []string{"cmd"}, nil, "only the command line parses flags"},
	{"github.com/spf13/pflag", []string{"cmd"}, nil, "only the command line parses flags"},
	{"github.com/knadh/koanf", []string{"config"}, nil, "one room reads settings"},
	{"go.yaml.in/yaml/v3", []string{"config"}, nil, "one room reads settings"},
	{"github.com/vbauerster/mpb/v8", []string{"cmd"}, nil, "only the command line draws"},
	{"github.com/lmittmann/tint", []string{"cmd"}, nil, "only the command line colours"},
	{"github.com/mattn/go-isatty", []string{"cmd"}, nil, "only the command line has a terminal"},
	{"golang.org/x/term", []string{"cmd"}, nil, "only the command line has a terminal"},
	{"github.com/dustin/go-humanize", []string{"cmd", "config", "node"}, nil, "inside the program a size is an integer; these speak to people"},
	{"github.com/cenkalti/backoff/v5", []string{"origin", "tracker", "swarm"}, nil, "who speaks to a network retries"},
	{"golang.org/x/net/http/httpguts", []string{"origin", "cmd"}, nil, "what a header field may hold, for those who take one and those who send it"},
	{"golang.org/x/net", []string{"origin"}, nil, "HTTP beyond the standard library belongs to origin"},
	{"golang.org/x/sync", []string{"origin", "swarm", "fetch", "tracker", "blockio", "node", "e2e", "bench"}, nil, "plain helpers, but blob and mmap need none"},
	{"golang.org/x/time", []string{"origin", "swarm", "fetch", "tracker"}, nil, "rates are limited where bytes move"},
	{"github.com/redis/rueidis", []string{"tracker"}, nil, "trackers share their state through Redis or Valkey; nothing else keeps state outside of this machine"},
	{"oras.land/oras-go/v2", []string{"origin"}, nil, "who speaks to a registry"},
	{"github.com/opencontainers/image-spec", []string{"origin", "image", "snapshotter"}, []string{"e2e", "bench"}, "the words of the OCI image specification"},
	{"github.com/opencontainers/go-digest", []string{"origin", "image", "snapshotter"}, []string{"e2e", "bench"}, "a type of image-spec"},
	{"github.com/containerd/stargz-snapshotter/estargz", nil, []string{"image"}, "the reference implementation of eStargz writes layers that tests read"},
	{"github.com/containerd", []string{"snapshotter"}, []string{"e2e", "bench"}, "containerd's types end at its door"},
	{"google.golang.org/grpc", []string{"snapshotter"}, []string{"e2e", "bench"}, "containerd speaks it, nobody else"},
	{"github.com/pelletier/go-toml/v2", []string{"origin", "cmd"}, []string{"e2e", "bench"}, "hosts.toml is read where registries are asked; containerd's configuration is written by a command"},
	{"k8s.io/cri-api", nil, []string{"e2e"}, "tests pull as the kubelet does"},
	{"go.etcd.io/bbolt", []string{"snapshotter"}, nil, "containerd's snapshot metadata is kept in it"},
	{"github.com/google/go-cmp", nil, []string{"*"}, "compares in tests"},
	{"pgregory.net/rapid", nil, []string{"*"}, "property tests"},
	{"go.uber.org/goleak", nil, []string{"*"}, "finds leaked goroutines in tests"},
	{"github.com/rogpeppe/go-internal", nil, []string{"*"}, "test scripts"},
}

// badDeps are packages that must not be linked into the program, not even through others.
var badDeps = []struct{ path, why string }{
	{"testing", "test support has leaked into the program"},
	{"net/http/pprof", "it registers handlers on the default mux of whoever imports it"},
	{"github.com/anacrolix/torrent", "the client package: see the fence"},
	{"github.com/pion/webrtc/v4", "a dependency of anacrolix's client that we never speak"},
	{"modernc.org/sqlite", "a dependency of anacrolix's client that we never use"},
	{"github.com/hanwen/go-fuse/v2/fs", "its node API cannot be taken over by a successor; fs uses the raw file system"},
}

// badNames are folder names that say nothing about what is inside.
var badNames = []string{"util", "utils", "common", "pkg", "types", "manager", "base", "helper", "helpers", "misc", "lib", "core", "shared"}

// otherFolders are top-level folders without packages of this module.
var otherFolders = []string{"docs", "tools", "bin", "deploy", "testdata"}

// headings are what every package comment answers, in this order.
var headings = []string{"Place", "Goroutines", "Locks", "Errors"}

// badTexts must not stand in any file: built from halves, so that this file may name them.
var badTexts = []struct {
	re  *regexp.Regexp
	why string
}{
	{regexp.MustCompile("/wo" + `rk/|/ro` + `ot/\w|/ho` + `me/\w{2,}/|/Us` + `ers/\w`), "a path of one machine: use a temporary or relative one"},
	{regexp.MustCompile(`\b(DES` + `IGN|CONTR` + `ACTS|ISS` + `UE2)\b|\b(STY` + `LE|WI` + `RE|PEE` + `RS|SEE` + `DS)\.md`), "a paper that is not in this repository: say it here, or refer to docs/"},
}

// TestHouse applies all rules to this repository.
func TestHouse(t *testing.T) {
	house, err := scan(".")
	if err != nil {
		t.Fatal(err)
	}
	if len(house.files) == 0 {
		t.Fatal("no files found: the test looks in the wrong place")
	}
	for _, p := range house.problems() {
		t.Error(p)
	}
}

// TestDeps asks the go command what the program is really linked from, for build tags and generated files that a
// parser of imports could miss.
func TestDeps(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports", "./cmd/...").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []listed
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p listed
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if !slices.ContainsFunc(all, func(p listed) bool { return p.ImportPath == module+"/cmd/pantala" }) {
		t.Fatal("go list does not know cmd/pantala")
	}
	for _, p := range depProblems(all) {
		t.Error(p)
	}
}

// listed is what TestDeps needs of one package of `go list -json`.
type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string
}

// depProblems names linked packages that must not be, each with who imports it.
func depProblems(all []listed) (problems []string) {
	for _, p := range all {
		for _, bad := range badDeps {
			if p.ImportPath == bad.path {
				problems = append(problems, "the program links "+bad.path+" (through "+strings.Join(importers(all, bad.path), ", ")+"): "+bad.why)
			}
		}
		if name, inside := strings.CutPrefix(p.ImportPath, module+"/"); inside && isTestSupport(name) {
			problems = append(problems, "the program links "+name+" (through "+strings.Join(importers(all, p.ImportPath), ", ")+"): it is test support")
		}
		if p.ImportPath == module+"/blob" {
			for _, imp := range p.Imports {
				if strings.Contains(imp, ".") {
					problems = append(problems, "blob imports "+imp+": it knows the standard library only")
				}
			}
		}
	}
	return problems
}

// importers are the packages that import path.
func importers(all []listed, path string) (who []string) {
	for _, p := range all {
		if slices.Contains(p.Imports, path) {
			who = append(who, p.ImportPath)
		}
	}
	return who
}
