package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// sharedDir makes a directory with what trees have: files of all sizes, an executable, a link, an empty file.
func sharedDir(t *testing.T, w *e2etest.World) string {
	t.Helper()
	dir := filepath.Join(w.Dir("shared"), "data set")
	r := rand.NewChaCha8([32]byte{1})
	for name, size := range map[string]int{"big.bin": 24 << 20, "sub/deep/a b.txt": 100, "sub/one": 1 << 20, "empty": 0, "run.sh": 20} {
		path := filepath.Join(dir, name)
		b := make([]byte, size)
		r.Read(b)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../big.bin", filepath.Join(dir, "sub", "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sharedTorrent is what `pantala share -o json` promises of a torrent.
type sharedTorrent struct {
	InfoHash   string `json:"infohash"`
	InfoHashV1 string `json:"infohash_v1"`
	Magnet     string `json:"magnet"`
	Torrent    string `json:"torrent"`
	Files      int    `json:"files"`
}

func shareTree(t *testing.T, n *e2etest.Node, args ...string) (s sharedTorrent) {
	t.Helper()
	r := n.Must("share", append([]string{"-q", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		t.Fatalf("%v: %v", err, r)
	}
	return s
}

// bare is a magnet link with nothing but its infohashes.
func bare(magnet string) string {
	var topics []string
	for part := range strings.SplitSeq(strings.TrimPrefix(magnet, "magnet:?"), "&") {
		if strings.HasPrefix(part, "xt=") {
			topics = append(topics, part)
		}
	}
	return "magnet:?" + strings.Join(topics, "&")
}

// A directory that one machine shares is mounted on others, by the .torrent and by a link that has only the hash.
// Only what is read comes over the wire; then all of it, the same; and once more when nobody else is there.
func TestTorrentMount(t *testing.T) {
	for _, version := range []string{"--v1", "", "--hybrid"} {
		t.Run("version"+version, func(t *testing.T) {
			w := e2etest.New(t)
			dir := sharedDir(t, w)
			tr := w.Tracker()
			a := w.Node("a", "--tracker", tr.URL)
			torrent := filepath.Join(w.Dir("out"), "x.torrent")
			args := []string{"--torrent", torrent, dir}
			if version != "" {
				args = append(args, version)
			}
			s := shareTree(t, a, args...)
			if s.Torrent != torrent || s.Files != 6 || (s.InfoHash != "") != (version != "--v1") || (s.InfoHashV1 != "") != (version != "") {
				t.Errorf("%+v", s)
			}
			nodes := map[string]*e2etest.Node{}
			for how, source := range map[string]string{"torrent": torrent, "link": bare(s.Magnet)} {
				b := w.Node(how, "--tracker", tr.URL)
				nodes[how] = b
				mnt := w.Dir(how + "-mnt")
				if r := b.Must("mount", "--fill", "never", source, mnt); strings.TrimSpace(r.Stdout) != mnt {
					t.Errorf("%v", r)
				}
				w.MustRun(readLimit, "dd", "if="+mnt+"/big.bin", "bs=4096", "skip=4000", "count=1", "status=none", "of=/dev/null")
				m := b.MountStatus("")
				t.Logf("%s: a page of %d bytes: %s of %s came", how, 4096, e2etest.MiB(m.FromPeers), e2etest.MiB(m.Size))
				if m.FromPeers > m.Size/4 || m.FromPeers < 4096 {
					t.Errorf("%s: %d bytes came for a page", how, m.FromPeers)
				}
				w.MustRun(readLimit, "diff", "-r", "--no-dereference", dir, mnt)
				if r := w.Run(readLimit, "cp", "/etc/hostname", mnt+"/new"); r.Code == 0 {
					t.Errorf("%s: the mount can be written to", how)
				}
				if r := b.Umount(mnt); r.Code != 0 {
					t.Errorf("%v", r)
				}
				b.Stop()
			}
			a.Stop()
			tr.Kill()
			// Nobody is there any more: what was opened and read before is here.
			b, mnt := nodes["link"], w.Dir("again-mnt")
			b.Must("mount", bare(s.Magnet), mnt)
			w.MustRun(readLimit, "diff", "-r", "--no-dereference", dir, mnt)
			if m := b.MountStatus(""); m.FromPeers != 0 || m.Errors != 0 {
				t.Errorf("%+v", m)
			}
		})
	}
}

// A torrent of several files is downloaded into a directory; what an interrupted download left is used again.
func TestTorrentGet(t *testing.T) {
	w := e2etest.New(t)
	dir := sharedDir(t, w)
	a := w.Node("a")
	s := shareTree(t, a, "--hybrid", dir)
	b, out := w.Node("b"), filepath.Join(w.Dir("out"), "copy")
	p := b.Start("get", "-q", "--limit-rate", "8MB", "-O", out, s.Magnet)
	w.Until(30*time.Second, "bytes of the download", func() bool {
		var n int64
		filepath.Walk(filepath.Join(filepath.Dir(out), ".copy.pantala"), func(path string, st os.FileInfo, err error) error {
			if err == nil && st.Mode().IsRegular() && strings.HasSuffix(path, "data") {
				if sys, ok := st.Sys().(*syscall.Stat_t); ok {
					n += sys.Blocks * 512
				}
			}
			return nil
		})
		return n > 4<<20
	})
	p.Signal(syscall.SIGINT)
	if r := p.Wait(readLimit); r.Code == 0 {
		t.Fatalf("it was to be interrupted: %v", r)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("half a download has the name of a whole one")
	}
	r := b.Must("get", "-c", "-O", out, s.Magnet)
	if !strings.Contains(r.Stderr, "were here already") {
		t.Errorf("nothing was used again: %s", r.Stderr)
	}
	w.MustRun(readLimit, "diff", "-r", "--no-dereference", dir, out)
	w.MustRun(readLimit, "test", "-x", filepath.Join(out, "run.sh"))
	if left, err := os.ReadDir(filepath.Dir(out)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if r := b.Run("get", "-O", out, s.Magnet); r.Code != exitLocal || !strings.Contains(r.Stderr, "is not empty") {
		t.Errorf("%v", r)
	}
}

// What is wrong with a .torrent or a link is said in one line, with what to do, and an exit code of its class.
func TestTorrentErrors(t *testing.T) {
	w := e2etest.New(t)
	n := w.Node("n")
	sum := strings.Repeat("a", 20)
	evil := "d4:infod5:filesld6:lengthi1e4:pathl2:..4:evileee4:name1:n12:piece lengthi16384e6:pieces20:" + sum + "ee"
	for i, c := range []struct {
		source, text string
		code         int
	}{
		{w.Write("evil.torrent", []byte(evil)), "lead out of the torrent's directory", exitUsage},
		{w.Write("cut.torrent", []byte(evil[:60])), "is it complete?", exitUsage},
		{w.Write("page.torrent", []byte("<html></html>")), "is it the right file?", exitUsage},
		{filepath.Join(w.Dir("none"), "no.torrent"), "name a .torrent that is there", exitLocal},
		{"magnet:?xt=urn:btih:123", "is not a v1 infohash", exitUsage},
		{"magnet:?xt=urn:btih:" + strings.Repeat("ab", 20), "name one with --tracker", exitTemporary},
	} {
		mnt := w.Dir(fmt.Sprintf("mnt%d", i))
		for _, r := range []e2etest.Result{n.Run("mount", "--timeout", "2s", c.source, mnt), n.Run("get", "--timeout", "2s", "-O", filepath.Join(mnt, "x"), c.source)} {
			if r.Code != c.code || !strings.Contains(r.Stderr, c.text) || strings.Count(strings.TrimSpace(r.Stderr), "\n") != 0 {
				t.Errorf("want %d and %q: %v", c.code, c.text, r)
			}
		}
	}
}

// A mount of which the digest was given is found under its infohash once all bytes are there and have that digest.
func TestMountBecomesCanonical(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	ng := w.Nginx("100m")
	tr := w.Tracker()
	a, b, other := w.Node("a", "--tracker", tr.URL), w.Node("b", "--tracker", tr.URL), w.Node("other")
	// What the infohash is, from somebody whom nobody knows.
	link := bare(shareTree(t, other, file.Path).Magnet)
	other.Stop()
	a.Mount(ng.Serve(file, "model.bin"), "--fill", "eager", "--digest", "sha256:"+file.SHA256)
	out := filepath.Join(w.Dir("out"), "x.bin")
	b.Must("get", "-O", out, link)
	if got := fileSum(t, out); got != file.SHA256 {
		t.Errorf("wrong bytes: %s", got)
	}
}
