package fs

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// startHolding runs a holder in this process and returns the server's end of its first connection.
func startHolding(t *testing.T, ctx context.Context, socket string) (server *net.UnixConn, ended chan error) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ended = make(chan error, 1)
	go func() { ended <- Hold(ctx, os.NewFile(uintptr(pair[0]), "first"), socket) }()
	f := os.NewFile(uintptr(pair[1]), "server")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn), ended
}

func dialHolder(t *testing.T, socket string) *net.UnixConn {
	t.Helper()
	var c *net.UnixConn
	err := withSocketPath(socket, func(path string) (err error) {
		c, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestHolderHolds: what is given is what a successor gets, whoever is not the server changes nothing, and who was it is
// it no more after another one has taken the mount.
func TestHolderHolds(t *testing.T) {
	// A long path: it does not fit a socket address.
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "hold.sock")
	if err := os.WriteFile(socket, nil, 0o600); err != nil { // what one that was killed has left
		t.Fatal(err)
	}
	server, ended := startHolding(t, context.Background(), socket)
	file, err := os.CreateTemp(t.TempDir(), "held")
	if err != nil {
		t.Fatal(err)
	}
	mount := &heldMount{Dir: "/somewhere", Dev: "0:99", Init: []byte("init"), Pass: true}
	ask := func(c *net.UnixConn, m holdMessage, refused string) holdMessage {
		t.Helper()
		a, err := exchange(c, m)
		if (err == nil) != (refused == "") || err != nil && !strings.Contains(err.Error(), refused) {
			t.Fatalf("%s: %v, want %q", m.Op, err, refused)
		}
		return a
	}
	none := func(op string) holdMessage { return holdMessage{Op: op, fd: -1} }
	ask(server, none(holdTake), "no mount is held")
	ask(server, none(holdKeep), "one mount is held")
	ask(server, holdMessage{Op: holdKeep, Mount: mount, Files: []heldFile{{ID: 3, Name: "c"}}, fd: int(file.Fd())}, "")
	ask(server, holdMessage{Op: holdKeep, Mount: mount, fd: int(file.Fd())}, "one mount is held")
	ask(server, holdMessage{Op: holdFile, File: &heldFile{ID: 2, Name: "b", Size: 5, Handles: map[uint64]bool{8: true}}, fd: -1}, "")
	ask(server, holdMessage{Op: holdFile, File: &heldFile{ID: 4, Name: "d"}, fd: -1}, "")
	ask(server, holdMessage{Op: holdGone, File: &heldFile{ID: 3}, fd: -1}, "")
	ask(server, none(holdFile), "no file")
	ask(server, none("dance"), "unknown")
	if st, err := os.Stat(socket); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", st.Mode(), err)
	}

	stranger := dialHolder(t, socket)
	ask(stranger, none(holdEnd), "another process")
	ask(stranger, holdMessage{Op: holdGone, File: &heldFile{ID: 2}, fd: -1}, "another process")
	if _, err := dialHolder(t, socket).Write([]byte("\xff\xff\xff\xffnonsense")); err != nil {
		t.Error(err)
	}

	successor := dialHolder(t, socket)
	a := ask(successor, none(holdTake), "")
	if a.Mount == nil || a.Mount.Dir != mount.Dir || string(a.Mount.Init) != "init" || !a.Mount.Pass || len(a.Files) != 2 ||
		a.Files[0].ID != 2 || !a.Files[0].Handles[8] || a.Files[1].Name != "d" {
		t.Errorf("%+v %+v", a.Mount, a.Files)
	}
	var held, given unix.Stat_t
	if err := errors.Join(unix.Fstat(a.fd, &held), unix.Fstat(int(file.Fd()), &given)); err != nil || held.Ino != given.Ino {
		t.Errorf("another descriptor came: %v", err)
	}
	unix.Close(a.fd)
	if _, err := exchange(server, none(holdEnd)); err == nil {
		t.Error("the old server still has the mount")
	}
	select {
	case err := <-ended:
		t.Fatalf("the holder ended: %v", err)
	default:
	}
	ask(successor, none(holdEnd), "")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	file.Close()
}

// TestHolderEnds: when nobody serves the mount for long, when the mount is gone, when it is told to.
func TestHolderEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	_, ended := startHolding(t, ctx, filepath.Join(t.TempDir(), "s"))
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}

	now := time.Now()
	h := &holder{fd: -1, since: now}
	if !h.needed(now.Add(holdFor-time.Second)) || h.needed(now.Add(holdFor+time.Second)) {
		t.Error("a mount that nobody serves is not held for holdFor")
	}
	h.server = new(net.UnixConn)
	if !h.needed(now.Add(24 * time.Hour)) {
		t.Error("a mount that is served is given up")
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	if h.fd = pipe[0]; !h.needed(now) {
		t.Error("a connection that lives is given up")
	}
	unix.Close(pipe[1]) // POLLHUP, as POLLERR of /dev/fuse
	if h.needed(now) {
		t.Error("a connection that is gone is held")
	}
}

// TestHoldVersions: another version of the holder is not misunderstood.
func TestHoldVersions(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	f := os.NewFile(uintptr(pair[1]), "c")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, body := range []string{`{"Version":2,"Op":"take"}`, `{"Version":`, `[]`} {
		if _, err := unix.Write(pair[0], append([]byte{0, 0, 0, byte(len(body))}, body...)); err != nil {
			t.Fatal(err)
		}
		if _, err := receiveHold(c.(*net.UnixConn)); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// TestLatch: whoever waits is answered once, by the blob, by failure, or not at all when it has been taken back.
func TestLatch(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(data, content(100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := newFakeBlob(data)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	l := newLatch(b.size)
	waits := func() *oneWaiter { return &oneWaiter{make(chan error, 2)} }
	first, back := waits(), waits()
	if l.Want(0, 10, first) || l.Want(50_000, 10, back) || l.Complete() || l.File() != nil {
		t.Fatal("it has bytes")
	}
	if _, err := l.WriteTo(-1, nil, 0, 10); err != blob.ErrAbsent {
		t.Error(err)
	}
	if !l.Cancel(back) || l.Cancel(back) {
		t.Error("Cancel")
	}
	b.finish()
	if err := l.open(b); err != nil {
		t.Fatal(err)
	}
	if err := <-first.ready; err != nil {
		t.Error(err)
	}
	if !l.Want(0, 10, waits()) || !l.Complete() || l.File() == nil || l.Cancel(first) {
		t.Error("it does not do what its blob does")
	}
	l.fail(errTest) // too late to matter
	if !l.Want(0, 10, waits()) {
		t.Error("it fails although it has a blob")
	}

	l = newLatch(1)
	w := waits()
	l.Want(0, 1, w)
	l.fail(errTest)
	late := waits()
	l.Want(0, 1, late)
	for _, w := range []*oneWaiter{w, late} {
		if err := <-w.ready; !errors.Is(err, errTest) {
			t.Error(err)
		}
	}
	if err := l.open(b); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("a blob of another size: %v", err)
	}
	select {
	case <-back.ready:
		t.Error("Ready after Cancel")
	case <-first.ready:
		t.Error("Ready twice")
	default:
	}
}

type oneWaiter struct{ ready chan error }

func (w *oneWaiter) Ready(err error) { w.ready <- err }
