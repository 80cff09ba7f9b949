package snapshotter

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pantala/pantala/blob"
)

// serve starts Serve and returns a client as containerd has one, and what ends it.
func (w *world) serve(socket string) (client snapshots.Snapshotter, end func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(namespaces.WithNamespace(context.Background(), "ns"))
	done := make(chan error, 1)
	go func() { done <- w.Serve(ctx, socket) }()
	until(w.t, "a socket", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.t.Fatal(err)
	}
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		conn.Close()
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.t.Error(err)
			}
		case <-time.After(patience):
			w.t.Fatal("Serve does not end")
		}
	}
	w.t.Cleanup(end)
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "pantala"), end
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestServe: what containerd gets over the socket, the classes of errors included.
func TestServe(t *testing.T) {
	w := newWorld(t)
	a := w.add("a", "one")
	socket := filepath.Join(t.TempDir(), "run", "s.sock")
	client, _ := w.serve(socket)
	if _, err := client.Prepare(t.Context(), "key", "", snapshots.WithLabels(a.labels(0))); !errdefs.IsAlreadyExists(err) {
		t.Fatalf("not said to be there: %v", err)
	}
	if _, err := client.Stat(t.Context(), "nothing"); !errdefs.IsNotFound(err) {
		t.Errorf("Stat of nothing: %v", err)
	}
	if _, err := client.Prepare(t.Context(), "box", a.chain[0]); err != nil {
		t.Error(err)
	}
	if err := client.Remove(t.Context(), a.chain[0]); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Remove below a container: %v", err)
	}
	b := w.add("b", "uno")
	b.broken = errors.New("layer 1 of 1: gzip: bad block")
	if _, err := client.Prepare(t.Context(), "key", "", snapshots.WithLabels(b.labels(0))); err == nil || !strings.Contains(err.Error(), "layer 1 of 1: gzip: bad block") {
		t.Errorf("the reason does not arrive: %v", err)
	}
	if err := client.(snapshots.Cleaner).Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(socket); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", st.Mode(), err)
	}
	if err := w.Serve(t.Context(), socket); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("a second server on the socket: %v", err)
	}
}

// TestRestart: the socket is up at once, what was mounted is mounted again, and an image that cannot be holds up nothing.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	good, bad, slow, idle := w.add("good", "1"), w.add("bad", "2"), w.add("slow", "3"), w.add("idle", "4")
	for _, p := range []pulled{good, bad, slow, idle} {
		w.mustPull("ns", p, "lazy")
		if p.Ref != idle.Ref {
			w.run("box of "+p.Ref, p.chain[0])
		}
	}
	w.open()
	bad.broken = errors.New("layer 1 of 1 is gone")
	slow.gate = make(chan struct{})
	w.fake.mu.Lock()
	clear(w.fake.mounted)
	w.fake.calls = nil
	w.fake.mu.Unlock()
	client, end := w.serve(filepath.Join(t.TempDir(), "s.sock"))
	if _, err := client.Mounts(t.Context(), "box of "+good.Ref); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Mounts(t.Context(), "box of "+bad.Ref); err == nil || !strings.Contains(err.Error(), "layer 1 of 1 is gone") {
		t.Errorf("mounts of a broken image: %v", err)
	}
	until(t, "the mounts of before", func() bool {
		w.fake.mu.Lock()
		defer w.fake.mu.Unlock()
		return w.fake.mounted[filepath.Join(w.fake.dir, "sha256_good-1")] && w.fake.mounted[filepath.Join(w.fake.dir, "sha256_idle-1")]
	})
	until(t, "the log of the broken one", func() bool { return strings.Contains(w.said.String(), "registry.test/bad:1") })
	end() // while slow still waits

	// What another process mounted is dropped too, without being mounted again.
	w.open()
	w.fake.said()
	w.remove("box of "+slow.Ref, slow.chain[0])
	w.is("drop sha256_slow-1", "forget sha256:slow")
}

// TestStaleSocket: a socket that nobody answers on is replaced.
func TestStaleSocket(t *testing.T) {
	w := newWorld(t)
	socket := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	client, _ := w.serve(socket)
	if err := client.Walk(t.Context(), func(context.Context, snapshots.Info) error { return nil }); err != nil {
		t.Error(err)
	}
}
