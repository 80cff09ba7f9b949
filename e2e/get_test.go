package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// fileSum is the SHA-256 of an ordinary file (not one on a mount).
func fileSum(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func TestGet(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	ng := w.Nginx("100m")
	url := ng.Serve(file, "model.bin")

	t.Run("to a file", func(t *testing.T) {
		n, out := w.Node("n"), filepath.Join(w.Dir("out"), "x.bin")
		r := n.Must("get", "-O", out, "--digest", "sha256:"+file.SHA256, url)
		if got := fileSum(t, out); got != file.SHA256 {
			t.Errorf("wrong bytes: %s", got)
		}
		if strings.ContainsAny(r.Stderr, "\r\x1b") {
			t.Errorf("without a terminal the progress must be plain lines: %q", r.Stderr)
		}
		t.Logf("%s", r.Stderr)
	})
	t.Run("to stdout", func(t *testing.T) {
		n := w.Node("n")
		out, err := os.Create(filepath.Join(w.Dir("out"), "stdout"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		p := w.Start(e2etest.Command{Args: []string{e2etest.Binary(t), "get", "--state", n.State, "-O", "-", url}, Stdout: out})
		if r := p.Wait(readLimit); r.Code != 0 {
			t.Fatalf("%v", r)
		}
		if got := fileSum(t, out.Name()); got != file.SHA256 {
			t.Errorf("wrong bytes: %s", got)
		}
	})
	for _, c := range []struct {
		name, digest string
		code         int
	}{
		{"wrong digest", "12" + file.SHA256[2:], exitIntegrity},
		{"digest of zeros", strings.Repeat("0", 64), exitUsage}, // a placeholder, which must not mean "any"
	} {
		t.Run(c.name, func(t *testing.T) {
			n, dir := w.Node("n"), w.Dir("out")
			out := filepath.Join(dir, "x.bin")
			r := n.Run("get", "-O", out, "--digest", "sha256:"+c.digest, url)
			t.Logf("%s", r.Stderr)
			if r.Code != c.code {
				t.Errorf("exit code %d, want %d: %v", r.Code, c.code, r)
			}
			if _, err := os.Stat(out); err == nil {
				t.Errorf("bytes with a wrong digest stand under the name that was asked for")
			}
		})
	}
	t.Run("not found", func(t *testing.T) {
		n, dir := w.Node("n"), w.Dir("out")
		r := n.Run("get", "-O", filepath.Join(dir, "x.bin"), ng.URL+"/missing.bin")
		if r.Code != exitNotFound {
			t.Errorf("exit code %d, want %d: %v", r.Code, exitNotFound, r)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	t.Run("no size", func(t *testing.T) {
		n, out := w.Node("n"), filepath.Join(w.Dir("out"), "x.bin")
		n.Must("get", "-O", out, ng.URL+"/chunked/model.bin")
		if got := fileSum(t, out); got != file.SHA256 {
			t.Errorf("wrong bytes: %s", got)
		}
	})
}

// The first Ctrl-C cleans up and leaves a download that -c goes on with: nothing is fetched twice but what was on
// its way.
func TestGetResumes(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	ng := w.Nginx("8m")
	ng.Serve(file, "model.bin")
	url := ng.URL + "/slow/model.bin"
	n, dir := w.Node("n"), w.Dir("out")
	out := filepath.Join(dir, "x.bin")

	p := n.Start("get", "-O", out, url)
	w.Until(readLimit, "a third is there", func() bool {
		return p.Ended() || max(e2etest.Disk(dir), e2etest.Disk(n.State)) > file.Size/3
	})
	if p.Ended() {
		t.Fatalf("get ended before it could be interrupted: %v", p.Wait(0))
	}
	p.Signal(syscall.SIGINT)
	r := p.Wait(20 * time.Second)
	t.Logf("interrupted: %s", r.Stderr)
	if r.Code != exitInterrupt {
		t.Errorf("exit code %d after Ctrl-C, want %d: %v", r.Code, exitInterrupt, r)
	}
	if len(n.PIDs()) != 0 {
		t.Errorf("Ctrl-C left %v", n.PIDs())
	}
	if fi, err := os.Stat(out); err == nil && fi.Size() == file.Size {
		t.Errorf("a third of a file looks like all of it")
	}

	n.Must("get", "-c", "-O", out, "--digest", "sha256:"+file.SHA256, url)
	if got := fileSum(t, out); got != file.SHA256 {
		t.Errorf("wrong bytes after resuming: %s", got)
	}
	ng.Stop()
	t.Logf("nginx sent %s for %s", e2etest.MiB(ng.Sent()), e2etest.MiB(file.Size))
	atMost(t, "sent by nginx", ng.Sent(), file.Size+flightOnTheWire)
}

// get is a peer like any other: what a node of the swarm has is taken from there.
func TestGetFromPeers(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	ng := w.Nginx("100m")
	url := ng.Serve(file, "model.bin")
	tr := w.Tracker()
	a := w.Node("a", "--tracker", tr.URL)
	mustSum(t, sum(w, a.Mount(url)), file)
	before := ng.Sent()

	n, out := w.Node("n", "--tracker", tr.URL), filepath.Join(w.Dir("out"), "x.bin")
	r := n.Must("get", "-O", out, url)
	if got := fileSum(t, out); got != file.SHA256 {
		t.Errorf("wrong bytes: %s", got)
	}
	a.Stop()
	ng.Stop()
	t.Logf("%s\nnginx sent %s for it", r.Stderr, e2etest.MiB(ng.Sent()-before))
	atMost(t, "sent by nginx for a file that a peer has", ng.Sent()-before, file.Size*5/100)
	if !strings.Contains(r.Stderr, "peer") {
		t.Errorf("the summary does not say how much came from peers: %q", r.Stderr)
	}
}
