package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// The exit codes of the command line.
const (
	exitUsage     = 2
	exitNotFound  = 3
	exitAuth      = 4
	exitTemporary = 5
	exitIntegrity = 6
	exitLocal     = 7
	exitInterrupt = 130
)

// nobody is the user and group of the tests that need somebody without rights.
const nobody = 65534

// refused checks what every refusal has to look like: one line on stderr that begins with "pantala:" and names
// what it is about, nothing on stdout, the exit code, nothing mounted below dir, no process left.
func refused(t *testing.T, n *e2etest.Node, r e2etest.Result, code int, dir string, words ...string) {
	t.Helper()
	lines := e2etest.Lines(r.Stderr)
	t.Logf("exit %d: %s", r.Code, strings.TrimSpace(r.Stderr))
	if r.Code != code {
		t.Errorf("exit code %d, want %d", r.Code, code)
	}
	if len(lines) != 1 || !strings.HasPrefix(lines[0], "pantala: ") {
		t.Errorf("stderr is not one line that begins with %q: %q", "pantala: ", r.Stderr)
	}
	if strings.TrimSpace(r.Stdout) != "" {
		t.Errorf("a refusal says something on stdout: %q", r.Stdout)
	}
	for _, word := range words {
		if !strings.Contains(strings.ToLower(r.Stderr), strings.ToLower(word)) {
			t.Errorf("the line does not mention %q", word)
		}
	}
	if left := e2etest.MountsBelow(dir); len(left) != 0 {
		t.Errorf("left mounted: %v", left)
	}
	if !e2etest.Poll(5*time.Second, func() bool { return len(n.PIDs()) == 0 }) {
		for _, pid := range n.PIDs() {
			t.Errorf("left running: %s", e2etest.CommandLine(pid))
		}
	}
}

// Every bad source is refused with the right code before anything is mounted.
func TestBadSource(t *testing.T) {
	w := e2etest.New(t)
	ng := w.Nginx("100m")
	ng.Serve(small(t), "model.bin")
	for _, c := range []struct {
		name, source string
		code         int
		words        []string
	}{
		{"no scheme", "model.bin", exitUsage, []string{"http"}},
		{"no host", "http:///model.bin", exitUsage, []string{"host"}},
		{"not a URL", "http://%zz/", exitUsage, nil},
		{"unsupported scheme", "gopher://127.0.0.1/model.bin", exitUsage, []string{"gopher", "https"}},
		{"404", ng.URL + "/missing.bin", exitNotFound, []string{"missing.bin"}},
		{"401", ng.URL + "/auth/model.bin", exitAuth, []string{"-H", "Authorization"}},
		{"403", ng.URL + "/denied/model.bin", exitAuth, []string{"403"}},
		{"nobody listens", fmt.Sprintf("http://127.0.0.1:%d/model.bin", e2etest.FreePort(t)), exitTemporary, []string{"refused"}},
		{"no such name", "http://pantala.invalid/model.bin", exitTemporary, []string{"pantala.invalid"}},
		{"no such file", "file:///nonexistent/model.bin", exitNotFound, []string{"/nonexistent/model.bin"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, dir := w.Node("n"), w.Dir("mnt")
			refused(t, n, n.Run("mount", c.source, dir), c.code, dir, c.words...)
		})
	}
}

// Every bad directory, port and disk is refused with code 7 and says what to do.
func TestBadDirectory(t *testing.T) {
	w := e2etest.New(t)
	url := w.Nginx("100m").Serve(small(t), "model.bin")

	t.Run("missing", func(t *testing.T) {
		n, dir := w.Node("n"), filepath.Join(w.Root, "missing")
		refused(t, n, n.Run("mount", url, dir), exitLocal, dir, dir, "mkdir")
	})
	t.Run("a file", func(t *testing.T) {
		n, dir := w.Node("n"), filepath.Join(w.Dir("d"), "file")
		if err := os.WriteFile(dir, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		refused(t, n, n.Run("mount", url, dir), exitLocal, dir, dir, "--as-file")
	})
	t.Run("not empty", func(t *testing.T) {
		n, dir := w.Node("n"), w.Dir("mnt")
		if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		refused(t, n, n.Run("mount", url, dir), exitLocal, dir, dir, "empty")
	})
	t.Run("under our own state", func(t *testing.T) {
		n := w.Node("n")
		dir := filepath.Join(n.State, "mnt")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		refused(t, n, n.Run("mount", url, dir), exitLocal, dir, dir, "state")
	})
	t.Run("above our own state", func(t *testing.T) {
		// Mounting over the folder that holds the cache would hide it. The folder is not empty, which is
		// reason enough.
		n := w.Node("n")
		dir := n.State
		if err := os.WriteFile(filepath.Join(dir, "config"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		refused(t, n, n.Run("mount", url, dir), exitLocal, dir, dir)
	})
	t.Run("port taken", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		n, dir := w.Node("n"), w.Dir("mnt")
		n.Flags = []string{"--listen", l.Addr().String()}
		refused(t, n, n.Run("mount", url, dir), exitLocal, dir, l.Addr().String(), "--listen")
	})
	t.Run("no permission for the state", func(t *testing.T) {
		e2etest.NeedRoot(t)
		n, dir := w.Node("n"), w.Dir("mnt")
		n.UID = nobody
		if err := os.Chmod(n.State, 0o700); err != nil {
			t.Fatal(err)
		}
		refused(t, n, n.Run("mount", url, dir), exitLocal, dir, "permission", n.State)
	})
	t.Run("no permission for the configuration", func(t *testing.T) {
		e2etest.NeedRoot(t)
		n, dir, conf := w.Node("n"), w.Dir("mnt"), w.Dir("conf")
		n.UID = nobody
		file := filepath.Join(conf, "config.yaml")
		if err := os.WriteFile(file, []byte("timeout: 5s\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(conf, 0o755); err != nil {
			t.Fatal(err)
		}
		refused(t, n, n.Run("mount", "--config", file, url, dir), exitLocal, dir, file, "permission", "readable", "--config")
		if err := os.Chmod(conf, 0o700); err != nil {
			t.Fatal(err)
		}
		refused(t, n, n.Run("mount", "--config", file, url, dir), exitLocal, dir, file, "permission", "readable", "--config")
	})
	t.Run("no permission for the directory", func(t *testing.T) {
		e2etest.NeedRoot(t)
		n, dir := w.Node("n"), w.Dir("mnt")
		n.UID = nobody
		if err := os.Chown(n.State, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		refused(t, n, n.Run("mount", url, dir), exitLocal, dir, "permission")
	})
	t.Run("already mounted", func(t *testing.T) {
		n, dir := w.Node("n"), w.Dir("mnt")
		n.MountAt(dir, url)
		r := n.Run("mount", url, dir)
		if got := e2etest.MountsBelow(dir); len(got) != 1 {
			t.Errorf("%d mounts on %s: %v", len(got), dir, got)
		}
		if u := n.Umount(dir); u.Code != 0 {
			t.Errorf("%v", u)
		}
		n.Stop()
		refused(t, n, r, exitLocal, dir, dir, "umount")
		// A mount of somebody else's is not ours to take over either.
		other, m := w.Node("other"), w.Node("m")
		other.MountAt(dir, url)
		r = m.Run("mount", url, dir)
		other.Stop()
		refused(t, m, r, exitLocal, dir, dir)
	})
}

// The words of the command line itself.
func TestBadUsage(t *testing.T) {
	w := e2etest.New(t)
	url := w.Nginx("100m").Serve(small(t), "model.bin")
	dir := w.Dir("mnt")
	for _, c := range []struct {
		name string
		args []string
		word string
	}{
		{"no directory", []string{url}, "DIR"},
		{"unknown flag", []string{"--no-such-flag", url, dir}, "no-such-flag"},
		{"bad fill", []string{"--fill", "sometimes", url, dir}, "idle"},
		{"bad timeout", []string{"--timeout", "soon", url, dir}, "timeout"},
		{"bad digest", []string{"--digest", "md5:00", url, dir}, "sha256"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := w.Node("n")
			refused(t, n, n.Run("mount", c.args...), exitUsage, dir, c.word)
		})
	}
	t.Run("unknown key", func(t *testing.T) {
		n, dir := w.Node("n"), w.Dir("mnt")
		conf := filepath.Join(dir, "config.yaml")
		if err := os.WriteFile(conf, []byte("timeuot: 5s\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		refused(t, n, n.Run("mount", "--config", conf, url, w.Dir("m")), exitUsage, dir, "timeuot", "timeout")
	})
}

// smallDisk makes the state directory of a node a disk of its own.
func smallDisk(t *testing.T, w *e2etest.World, n *e2etest.Node, size string) {
	t.Helper()
	e2etest.NeedRoot(t)
	if err := syscall.Mount("tmpfs", n.State, "tmpfs", 0, "size="+size+",mode=700"); err != nil {
		t.Fatal(err)
	}
	w.Defer(func() {
		n.Stop()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(n.State, "daemon.log"))
			t.Logf("daemon.log on the small disk:\n%s", log)
		}
		if err := syscall.Unmount(n.State, 0); err != nil {
			t.Errorf("unmounting the small disk: %v", err)
		}
	})
}

// A full cache disk costs the cache, not the reader: all bytes flow, and somebody is told.
func TestDiskFull(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	url := w.Nginx("100m").Serve(file, "model.bin")
	n := w.Node("n")
	smallDisk(t, w, n, "16m")
	path := n.Mount(url, "--fill", "never")
	found, _ := w.MustRead(readLimit, e2etest.Read{Path: path, Want: file.Path})
	if found.Bytes != file.Size {
		t.Errorf("read %d bytes of %d", found.Bytes, file.Size)
	}
	// Again, and in another order, with the pages dropped: what was not kept comes from the origin again.
	w.MustRead(readLimit, e2etest.Read{Path: path, Want: file.Path, Block: 128 << 10, Random: 400, Drop: true})
	m := n.MountStatus(path)
	t.Logf("present %s of %s, %d errors", e2etest.MiB(m.Present), e2etest.MiB(m.Size), m.Errors)
	if m.Errors != 0 {
		t.Errorf("%d reads failed", m.Errors)
	}
	if m.Present >= file.Size {
		t.Errorf("%s fit on a disk of 16 MiB: this test has shown nothing", e2etest.MiB(m.Present))
	}
	log, err := os.ReadFile(filepath.Join(n.State, "daemon.log"))
	if err != nil {
		t.Fatal(err)
	}
	warned := 0
	for _, line := range e2etest.Lines(string(log)) {
		if strings.Contains(strings.ToLower(line), "space") {
			warned++
		}
	}
	if warned == 0 || warned > 20 {
		t.Errorf("the log mentions the lack of space %d times; want a warning, and not one per block", warned)
	}
}

// A disk that is full from the first byte is a clear refusal, or a mount that works.
func TestDiskFullFromTheStart(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	url := w.Nginx("100m").Serve(file, "model.bin")
	n := w.Node("n")
	smallDisk(t, w, n, "64k")
	if err := os.WriteFile(filepath.Join(n.State, "filler"), make([]byte, 1<<20), 0o644); err == nil {
		t.Fatal("a disk of 64 KiB took 1 MiB")
	}
	dir := w.Dir("mnt")
	if r := n.Run("mount", url, dir); r.Code != 0 {
		refused(t, n, r, exitLocal, dir, "space")
		return
	}
	mustSum(t, sum(w, filepath.Join(dir, "model.bin")), file)
}
