package metainfo_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/metainfo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ignore = cmpopts.IgnoreUnexported(metainfo.Info{})

// versions are the kinds of torrents that can be made.
var versions = map[string]metainfo.MakeOptions{
	"v1": {V1: true}, "v2": {V2: true}, "hybrid": {V1: true, V2: true},
}

// random is n bytes that depend on seed.
func random(n, seed int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return b
}

// write makes files below a new directory called "set".
func write(t *testing.T, files map[string][]byte) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "set")
	for name, data := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// tree has all that is special: an empty file in the middle and at the end, exact pieces, names that sort
// differently as paths than as bytes.
func tree(t *testing.T) (string, map[string][]byte) {
	files := map[string][]byte{
		"a/x.bin":   random(700_000, 1),
		"a.txt":     random(5, 2),
		"a/deep/er": random(1<<18, 3),
		"b":         {},
		"c":         random(1<<18+1, 4),
		"z/empty":   {},
	}
	root := write(t, files)
	if err := os.Chmod(filepath.Join(root, "a.txt"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../a/x.bin", filepath.Join(root, "z", "link")); err != nil {
		t.Fatal(err)
	}
	return root, files
}

func TestMakeTree(t *testing.T) {
	root, files := tree(t)
	for name, o := range versions {
		t.Run(name, func(t *testing.T) {
			last := int64(0)
			o.Progress = func(done, total int64) {
				if done < last || total != 700_000+5+1<<18+1<<18+1 {
					t.Errorf("progress %d of %d after %d", done, total, last)
				}
				last = done
			}
			made, err := metainfo.Make(context.Background(), root, o)
			if err != nil {
				t.Fatal(err)
			}
			made.Announce = [][]string{{"http://t/announce"}, {"udp://u:1", "https://v/announce"}}
			made.WebSeeds, made.Comment = []string{"http://w/"}, "no"
			m, err := metainfo.Parse(bytes.NewReader(made.Append(nil)))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(made.MetaInfo, m, ignore, cmp.Comparer(func(a, b []byte) bool { return bytes.Equal(a, b) })); d != "" && name == "v2" {
				t.Error(d)
			}
			if m.Info.Kind() != name || m.Info.Name != "set" || m.Info.Single {
				t.Errorf("%s %q single %v", m.Info.Kind(), m.Info.Name, m.Info.Single)
			}
			space := make([]byte, m.Info.Length)
			var paths []string
			for i, f := range m.Info.Files {
				paths = append(paths, f.String())
				if f.Symlink != nil {
					if strings.Join(f.Symlink, "/") != "a/x.bin" {
						t.Errorf("link to %q", f.Symlink)
					}
					continue
				}
				data := files[f.String()]
				if f.Length != int64(len(data)) || f.Executable != (f.String() == "a.txt") {
					t.Errorf("%+v", f)
				}
				copy(space[f.Offset:], data)
				if o.V2 && f.Length > 0 {
					checkV2(t, made, i, data)
				}
			}
			if d := cmp.Diff([]string{"a/deep/er", "a/x.bin", "a.txt", "b", "c", "z/empty", "z/link"}, paths); d != "" {
				t.Error(d)
			}
			if o.V1 {
				checkV1(t, m.Info, space)
			}
		})
	}
}

func checkV2(t *testing.T, made *metainfo.Made, i int, data []byte) {
	t.Helper()
	g := made.Info.Geometry(i)
	leaves := make([]blob.Hash, g.Blocks())
	blob.Leaves(leaves, data)
	if d := cmp.Diff(leaves, made.Local[i].Leaves); d != "" {
		t.Errorf("leaves of %s: %s", made.Info.Files[i].String(), d)
	}
	if got := g.RootOfLeaves(leaves); got != made.Info.Files[i].Root {
		t.Errorf("root of %s: %v", made.Info.Files[i].String(), got)
	}
}

func checkV1(t *testing.T, info *metainfo.Info, space []byte) {
	t.Helper()
	for p, want := range info.Pieces {
		from := int64(p) * info.PieceLength
		if got := sha1.Sum(space[from:min(from+info.PieceLength, int64(len(space)))]); got != want {
			t.Errorf("piece %d of %d", p, len(info.Pieces))
		}
	}
}

func TestMakeSingle(t *testing.T) {
	for _, size := range []int{0, 1, blob.BlockSize, 1 << 18, 1<<18 + 1, 3 << 20} {
		data := random(size, size)
		path := filepath.Join(write(t, map[string][]byte{"f": data}), "f")
		for name, o := range versions {
			o.Digest = true
			made, err := metainfo.Make(context.Background(), path, o)
			if err != nil {
				t.Fatal(name, size, err)
			}
			if made.Digest != sha256.Sum256(data) {
				t.Errorf("%s %d: digest", name, size)
			}
			i := made.Info
			if !i.Single || len(i.Files) != 1 || i.Files[0].String() != "f" || i.Bytes() != int64(size) {
				t.Errorf("%s %d: %+v", name, size, i)
			}
			if o.V2 && size > 0 {
				checkV2(t, made, 0, data)
			}
			if o.V1 {
				checkV1(t, i, data)
			}
		}
	}
}

func TestMakeRefuses(t *testing.T) {
	root := write(t, map[string][]byte{"f": []byte("x")})
	out, pipe, bad := write(t, map[string][]byte{"f": nil}), write(t, map[string][]byte{"f": nil}), write(t, map[string][]byte{"a\xff": nil})
	dangling := write(t, map[string][]byte{"f": nil})
	os.Symlink("nowhere", filepath.Join(dangling, "l"))
	os.Symlink("/etc/passwd", filepath.Join(out, "l"))
	if err := exec.Command("mkfifo", filepath.Join(pipe, "p")).Run(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, want string
		o          metainfo.MakeOptions
	}{
		{path: out, want: "out of the directory"},
		{path: pipe, want: "neither a file"},
		{path: bad, want: "not UTF-8"},
		{path: dangling, want: "not in the torrent"},
		{path: t.TempDir(), want: "has no files"},
		{path: root, want: "power of two", o: metainfo.MakeOptions{PieceLength: 100}},
		{path: root, want: "power of two", o: metainfo.MakeOptions{PieceLength: 1 << 30}},
		{path: root, want: "cannot be the name", o: metainfo.MakeOptions{Name: "../x"}},
	} {
		c.o.V2 = true
		if _, err := metainfo.Make(context.Background(), c.path, c.o); !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.path, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := metainfo.Make(ctx, root, metainfo.MakeOptions{V1: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestMakeWarnsOfEmptyDirectories(t *testing.T) {
	root := write(t, map[string][]byte{"f": []byte("x")})
	if err := os.MkdirAll(filepath.Join(root, "d", "e"), 0o755); err != nil {
		t.Fatal(err)
	}
	made, err := metainfo.Make(context.Background(), root, metainfo.MakeOptions{V2: true})
	if err != nil || len(made.Warnings) != 1 || !strings.Contains(made.Warnings[0], "d/e is empty") {
		t.Errorf("%v %v", made.Warnings, err)
	}
}

// python is the interpreter that has libtorrent 2 (Debian: python3-libtorrent).
const python = "/usr/bin/python3"

func needLibtorrent(t *testing.T) {
	t.Helper()
	out, err := exec.Command(python, "-c", "import libtorrent; print(libtorrent.__version__)").CombinedOutput()
	switch {
	case err == nil && strings.HasPrefix(string(out), "2."):
	case os.Getenv("CI") == "true":
		t.Fatalf("CI must have libtorrent 2 (apt install python3-libtorrent): %v %s", err, out)
	default:
		t.Skipf("no libtorrent 2 (apt install python3-libtorrent): %v %s", err, out)
	}
}

// seen is what libtorrent says of a torrent.
type seen struct {
	V1, V2 string
	Files  []string // path and length, without pads
}

const describe = `
import libtorrent as lt, json, sys
i = lt.torrent_info(sys.argv[1])
h = i.info_hashes()
fs = i.files()
out = [ "%s %d" % (fs.file_path(n), fs.file_size(n)) for n in range(fs.num_files()) if not fs.file_flags(n) & lt.file_flags_t.flag_pad_file ]
print(json.dumps({"V1": str(h.v1) if h.has_v1() else "", "V2": str(h.v2) if h.has_v2() else "", "Files": out}))
`

const create = `
import libtorrent as lt, sys
src, dst, flags = sys.argv[1], sys.argv[2], sys.argv[3]
fs = lt.file_storage()
lt.add_files(fs, src)
c = lt.create_torrent(fs, 0, {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}[flags])
lt.set_piece_hashes(c, src[:src.rindex("/")])
open(dst, "wb").write(lt.bencode(c.generate()))
`

func libtorrentSees(t *testing.T, path string) (s seen) {
	t.Helper()
	out, err := exec.Command(python, "-c", describe, path).CombinedOutput()
	if err != nil {
		t.Fatalf("libtorrent: %v\n%s", err, out)
	}
	if err := json.Unmarshal(out, &s); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return s
}

// weSee is the same from our side.
func weSee(i *metainfo.Info) (s seen) {
	if i.HasV1 {
		s.V1 = fmt.Sprintf("%x", i.InfoHashV1)
	}
	if i.HasV2 {
		s.V2 = i.InfoHashV2.String()
	}
	for _, f := range i.Files {
		path := i.Name + "/" + f.String()
		if i.Single {
			path = i.Name
		}
		s.Files = append(s.Files, fmt.Sprintf("%s %d", path, f.Length))
	}
	return s
}

// TestLibtorrentReadsOurs, and we read its torrents, with the same meaning.
func TestLibtorrentReadsOurs(t *testing.T) {
	needLibtorrent(t)
	root, _ := tree(t)
	for name, o := range versions {
		for _, path := range []string{root, filepath.Join(root, "a/x.bin")} {
			made, err := metainfo.Make(context.Background(), path, o)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "x.torrent")
			if err := os.WriteFile(file, made.Append(nil), 0o644); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(weSee(made.Info), libtorrentSees(t, file)); d != "" {
				t.Errorf("%s %s (-ours +libtorrent):\n%s", name, path, d)
			}
		}
	}
}

func TestWeReadLibtorrents(t *testing.T) {
	needLibtorrent(t)
	root, _ := tree(t)
	os.Remove(filepath.Join(root, "z", "link")) // it would be followed
	for name := range versions {
		for _, path := range []string{root, filepath.Join(root, "a/x.bin")} {
			file := filepath.Join(t.TempDir(), "x.torrent")
			if out, err := exec.Command(python, "-c", create, path, file, name).CombinedOutput(); err != nil {
				t.Fatalf("libtorrent: %v\n%s", err, out)
			}
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			m, err := metainfo.Parse(bytes.NewReader(raw))
			if err != nil {
				t.Errorf("%s %s: %v", name, path, err)
				continue
			}
			if m.Info.Kind() != name {
				t.Errorf("%s is %s", name, m.Info.Kind())
			}
			if d := cmp.Diff(libtorrentSees(t, file), weSee(m.Info)); d != "" {
				t.Errorf("%s %s (-libtorrent +ours):\n%s", name, path, d)
			}
		}
	}
}
