package e2e

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/origin/origintest"
)

// blocked mounts the object of an origin, lets the origin fall silent, and returns the node and the path; the
// first 128 KiB are present, nothing else is.
func blocked(t *testing.T, flags ...string) (*e2etest.World, *e2etest.Node, string) {
	t.Helper()
	w := e2etest.New(t)
	o := origintest.New(t, origintest.Of(small(t).Bytes(t)))
	n := w.Node("n")
	path := n.Mount(o.At("/object.bin"), append([]string{"--fill", "never"}, flags...)...)
	o.Set(origintest.Faults{Stall: -1}) // accepts, and answers nothing
	return w, n, path
}

// An application that is blocked on a dead origin dies when it is killed.
func TestKilledReaderIsGoneAtOnce(t *testing.T) {
	w, n, path := blocked(t)
	reader := w.Start(e2etest.Command{Args: []string{"dd", "if=" + path, "of=/dev/null", "bs=4096", "skip=8192", "count=1"}})
	w.Until(20*time.Second, "the read waits", func() bool { return n.MountStatus(path).Waiting > 0 })
	start := time.Now()
	reader.Signal(syscall.SIGKILL)
	r := reader.Wait(20 * time.Second)
	took := time.Since(start)
	t.Logf("gone %v after SIGKILL", took.Round(100*time.Microsecond))
	if r.TimedOut || took >= time.Second {
		t.Errorf("gone %v after SIGKILL, the promise is less than 1 s: %v", took, r)
	}
}

// A read that nobody can serve fails with EIO at --timeout, 30 s by default, ± 1 s; what is present is read all the
// same.
func TestNobodyAnswers(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags []string
		want  float64
	}{{"default", nil, 30}, {"five seconds", []string{"--timeout", "5s"}, 5}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, n, path := blocked(t, c.flags...)
			found, _ := w.Read(time.Minute, e2etest.Read{Path: path, Off: 32 << 20, Len: 4096, Block: 4096})
			t.Logf("%s after %.3f s", found.Error, found.ErrAfter)
			if found.Errno != int(syscall.EIO) {
				t.Errorf("the read ended with %q, not EIO", found.Error)
			}
			if found.ErrAfter < c.want-1 || found.ErrAfter > c.want+1 {
				t.Errorf("the read failed after %.2f s, the promise is %.0f s ± 1 s", found.ErrAfter, c.want)
			}
			if m := n.MountStatus(path); m.Errors == 0 {
				t.Error("status counts no failed read")
			}
			w.MustRead(10*time.Second, e2etest.Read{Path: path, Want: small(t).Path, Len: 64 << 10})
		})
	}
}

// --hard waits for ever, and can still be killed.
func TestHardMountWaits(t *testing.T) {
	t.Parallel()
	w, n, path := blocked(t, "--hard", "--timeout", "1s")
	reader := w.Reader(e2etest.Read{Path: path, Off: 32 << 20, Len: 4096, Block: 4096})
	w.Until(20*time.Second, "the read waits", func() bool { return n.MountStatus(path).Waiting > 0 })
	select {
	case <-reader.Done():
		t.Errorf("the read ended: %v", reader.Wait(time.Second))
	case <-time.After(4 * time.Second): // four times the timeout that must not apply
	}
	reader.Signal(syscall.SIGKILL)
	if r := reader.Wait(20 * time.Second); r.TimedOut {
		t.Errorf("the killed reader did not go: %v", r)
	}
}

// An object whose size nobody says, one that comes only as a whole, and one that is elsewhere mount too.
func TestOddServers(t *testing.T) {
	for _, how := range []string{"chunked", "norange", "moved"} {
		t.Run(how, func(t *testing.T) {
			w := e2etest.New(t)
			file := small(t)
			ng := w.Nginx("100m")
			ng.Serve(file, "model.bin")
			n := w.Node("n")
			path := n.Mount(ng.URL + "/" + how + "/model.bin")
			// The end first: there is no way to ask for it alone.
			w.MustRead(readLimit, e2etest.Read{Path: path, Want: file.Path, Off: file.Size - 5000})
			mustSum(t, sum(w, path), file)
			if m := n.MountStatus(path); m.Errors != 0 || m.Size != file.Size {
				t.Errorf("status: %+v", m)
			}
		})
	}
}

// The origin goes down while somebody reads, and comes back: the reader waits, and nothing else.
func TestOriginComesBack(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	ng := w.Nginx("100m")
	n := w.Node("n")
	path := n.Mount(ng.Serve(file, "model.bin"), "--fill", "never")
	w.MustRead(readLimit, e2etest.Read{Path: path, Want: file.Path, Len: 8 << 20})
	ng.Stop()
	reader := w.Reader(e2etest.Read{Path: path, Want: file.Path})
	w.Until(20*time.Second, "the read waits", func() bool { return n.MountStatus(path).Waiting > 0 })
	if reader.Ended() {
		t.Fatalf("%v", reader.Wait(time.Second))
	}
	ng.Again()
	found, _ := w.ReadResult(reader, readLimit)
	found.MustBeRight(w)
	if m := n.MountStatus(path); m.Errors != 0 {
		t.Errorf("%d reads failed", m.Errors)
	}
}

// What is cached can be mounted while the origin is away; who mounts is told.
func TestMountWhileTheOriginIsAway(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	ng := w.Nginx("100m")
	url := ng.Serve(file, "model.bin")
	n, dir := w.Node("n"), w.Dir("mnt")
	mustSum(t, sum(w, n.MountAt(dir, url)), file)
	n.Stop()
	ng.Stop()
	r := n.Must("mount", url, dir)
	t.Logf("%s", r.Stderr)
	if len(e2etest.Lines(r.Stderr)) != 1 || !strings.Contains(r.Stderr, "warning") {
		t.Errorf("want one line with a warning: %q", r.Stderr)
	}
	mustSum(t, sum(w, filepath.Join(dir, "model.bin")), file)
}

// A changed object is another blob: the old mount reads what it has, and EIO for what it has not; a new mount
// shows the new bytes. Never a mix.
func TestChangedObject(t *testing.T) {
	w := e2etest.New(t)
	old := small(t)
	changed := e2etest.Content(t, old.Size, 3)
	ng := w.Nginx("100m")
	url := ng.Serve(old, "model.bin")
	n := w.Node("n")
	dir := w.Dir("mnt")
	path := n.MountAt(dir, url, "--fill", "never", "--timeout", "10s")
	w.MustRead(readLimit, e2etest.Read{Path: path, Want: old.Path, Len: 8 << 20})
	ng.Replace("model.bin", changed)

	found, _ := w.Read(30*time.Second, e2etest.Read{Path: path, Want: old.Path, Off: 48 << 20, Len: 1 << 20})
	if found.Mismatch >= 0 {
		t.Fatalf("WRONG BYTES at offset %d: a mix of two versions", found.Mismatch)
	}
	if found.Errno != int(syscall.EIO) {
		t.Errorf("reading what only the old version had: %q (%d bytes), want EIO", found.Error, found.Bytes)
	}
	w.MustRead(readLimit, e2etest.Read{Path: path, Want: old.Path, Len: 8 << 20, Drop: true})

	if r := n.Umount(dir); r.Code != 0 {
		t.Fatalf("%v", r)
	}
	mustSum(t, sum(w, n.MountAt(dir, url)), changed)
}
