package clientstest

import (
	"embed"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// Kind is the version of a torrent.
type Kind string

// V1 is BEP 3, V2 is BEP 52, and a Hybrid is both.
const (
	V1     Kind = "v1"
	V2     Kind = "v2"
	Hybrid Kind = "hybrid"
)

// Torrent is a .torrent file and what it describes.
type Torrent struct {
	Kind   Kind
	Path   string // of the .torrent file
	Name   string // of the file or folder in it
	From   string // the folder that holds Name
	Magnet string
	Hashes []string // the infohashes that trackers see: 40 hexadecimal digits
}

// pieceLength makes torrents of a few MiB have many pieces: 64 KiB, four blocks.
const pieceLength = 64 << 10

//go:embed testdata
var scripts embed.FS

// script writes a file of testdata to a folder of the test.
func script(w *e2etest.World, name string) string {
	w.T.Helper()
	b, err := scripts.ReadFile("testdata/" + name)
	if err != nil {
		w.T.Fatal(err)
	}
	return w.Write(name, b)
}

// python is the interpreter that has libtorrent 2 (Debian: python3-libtorrent).
const python = "/usr/bin/python3"

// NeedLibtorrent is [e2etest.Need] for libtorrent 2.
func NeedLibtorrent(t testing.TB) {
	t.Helper()
	out, err := exec.Command(python, "-c", "import libtorrent; print(libtorrent.__version__)").CombinedOutput()
	if err == nil && !strings.HasPrefix(string(out), "2.") {
		err = os.ErrNotExist
	}
	e2etest.Need(t, "libtorrent 2", err, "apt-get install python3-libtorrent")
}

// Make makes a torrent of a file or folder by libtorrent. pieces is the piece length in bytes, 0 for a short one.
func Make(w *e2etest.World, kind Kind, path string, pieces int, trackers ...string) Torrent {
	w.T.Helper()
	NeedLibtorrent(w.T)
	if pieces == 0 {
		pieces = pieceLength
	}
	t := Torrent{Kind: kind, Name: filepath.Base(path), From: filepath.Dir(path)}
	t.Path = filepath.Join(w.Dir("torrent"), string(kind)+".torrent")
	r := w.MustRun(2*time.Minute, append([]string{python, script(w, "libtorrent_make.py"), string(kind), path, t.Path, strconv.Itoa(pieces)}, trackers...)...)
	var said struct{ V1, V2, Magnet string }
	if err := json.Unmarshal([]byte(r.Stdout), &said); err != nil {
		w.T.Fatalf("libtorrent_make.py: %v\n%v", err, r)
	}
	t.Magnet = said.Magnet
	if said.V1 != "" {
		t.Hashes = append(t.Hashes, said.V1)
	}
	if said.V2 != "" {
		t.Hashes = append(t.Hashes, said.V2[:40]) // BEP 52: trackers see a truncated one
	}
	return t
}

// treeSizes are the files of [Tree]: shorter than a block, shorter than a piece, and longer, none of them even.
var treeSizes = map[string]int64{"a.bin": 1<<20 + 4321, "sub/b.bin": 700_001, "sub/deep/c.bin": 5_003, "z.bin": 2<<20 + 17}

// Tree makes a folder called name with files of odd sizes, and returns its path.
func Tree(w *e2etest.World, name string) string {
	w.T.Helper()
	dir := filepath.Join(w.Dir("tree"), name)
	seed := uint64(100)
	for _, file := range slices.Sorted(maps.Keys(treeSizes)) {
		seed++
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.T.Fatal(err)
		}
		Copy(w, e2etest.Content(w.T, treeSizes[file], seed).Path, path)
	}
	return dir
}
