package node

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fs"
	"github.com/pantala/pantala/origin/origintest"
)

// needFuse skips on a machine that cannot mount; one that should be able to fails the test.
func needFuse(t testing.TB) {
	t.Helper()
	problems := fs.Prerequisites()
	if len(problems) == 0 {
		return
	}
	if _, err := os.Stat("/dev/fuse"); os.Getenv("CI") == "true" || err == nil && os.Geteuid() == 0 {
		t.Fatalf("this machine should be able to mount: %v", problems)
	}
	t.Skipf("this machine cannot mount: %v", problems)
}

// holder has a file of a mount open, in another process: this one must never touch what it serves.
type holder struct {
	t   testing.TB
	cmd *exec.Cmd
	say func(string)
	out *bufio.Scanner
}

// hold opens path and returns when it is open.
func hold(t testing.TB, path string) *holder {
	t.Helper()
	h := &holder{t: t, cmd: exec.Command("timeout", "60", "sh", "-c",
		`exec 3<"$0"; echo open; while read x; do if head -c 16 <&3 >/dev/null 2>&1; then echo read; else echo failed; fi; done`, path)}
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := h.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var closed bool
	h.say = func(s string) {
		if s != "" {
			in.Write([]byte(s + "\n"))
		} else if !closed {
			closed = true
			in.Close()
			h.cmd.Wait()
		}
	}
	t.Cleanup(func() { h.say("") })
	h.out = bufio.NewScanner(out)
	if !h.out.Scan() || h.out.Text() != "open" {
		t.Fatalf("the file could not be opened: %q", h.out.Text())
	}
	return h
}

// reads reports whether the open file can be read.
func (h *holder) reads() bool {
	h.t.Helper()
	h.say("read")
	if !h.out.Scan() {
		h.t.Fatal("the holder has ended")
	}
	return h.out.Text() == "read"
}

// letGo closes the file.
func (h *holder) letGo() { h.say("") }

// soon fails the test when f does not end.
func soon(t testing.TB, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second):
		t.Fatalf("%s does not end", what)
		return nil
	}
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ctx := patient(t); !ok(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func isMounted(t testing.TB, dir string) bool {
	t.Helper()
	mounts, err := fs.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(mounts, func(i fs.MountInfo) bool { return i.Dir == dir })
}

// mountOne mounts a complete blob on a new directory.
func mountOne(t testing.TB) (n *Node, s *origintest.Server, r control.MountRequest, reply control.MountReply) {
	t.Helper()
	needFuse(t)
	s = origintest.New(t, origintest.Of(origintest.Bytes(30, 300<<10)))
	r = control.MountRequest{Source: s.At("/m"), Dir: t.TempDir()}
	n = start(t, conf(t)) // closed before the directory is removed
	fetchAll(t, n, r.Source, control.Options{})
	reply, err := n.Mount(patient(t), r)
	if err != nil {
		t.Fatal(err)
	}
	return n, s, r, reply
}

// inUse reports whether a mount, share or download uses the blob.
func (n *Node) inUse(name string) bool {
	c, err := n.CacheStat(context.Background(), name)
	return err == nil && c.Open
}

// TestForcedUnmount: it does not wait for who has a file open. They read on, the directory is free, and the blob
// is released when they are done.
func TestForcedUnmount(t *testing.T) {
	n, _, r, reply := mountOne(t)
	h := hold(t, reply.Path)
	if err := soon(t, "the forced unmount", func() error { return n.Unmount(patient(t), r.Dir, true) }); err != nil {
		t.Fatal(err)
	}
	if isMounted(t, r.Dir) {
		t.Error("still in the mount table")
	}
	if st, err := n.Status(t.Context()); err != nil || len(st.Mounts) != 0 {
		t.Errorf("still in status: %+v, %v", st.Mounts, err)
	}
	if stopping, err := n.Stop(t.Context(), true); err != nil || stopping {
		t.Errorf("idle while a file is open: %v, %v", stopping, err)
	}
	if _, err := n.Mount(patient(t), r); err != nil {
		t.Fatalf("the directory is not free: %v", err)
	}
	if !h.reads() {
		t.Error("who has the file open cannot read on")
	}
	if err := n.Unmount(patient(t), r.Dir, false); err != nil {
		t.Errorf("the second mount: %v", err)
	}
	if !n.inUse(reply.ID) {
		t.Error("the blob was released while a file is open")
	}
	h.letGo()
	until(t, "the blob is released", func() bool { return !n.inUse(reply.ID) })
	until(t, "the node is idle", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.isIdle() })
}

// TestLazyUnmountFreesTheDirectory: the same when somebody else has done it, by umount -l.
func TestLazyUnmountFreesTheDirectory(t *testing.T) {
	n, _, r, reply := mountOne(t)
	h := hold(t, reply.Path)
	if out, err := exec.Command("timeout", "20", "umount", "-l", r.Dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := n.Mount(patient(t), r); err != nil {
		t.Fatalf("the directory is not free: %v", err)
	}
	if !h.reads() {
		t.Error("who has the file open cannot read on")
	}
	if err := n.Unmount(patient(t), r.Dir, false); err != nil {
		t.Error(err)
	}
}

// TestCloseWithOpenFiles: the node ends although somebody has files of it open, of a mount and of one that was
// detached before.
func TestCloseWithOpenFiles(t *testing.T) {
	n, _, r, reply := mountOne(t)
	hold(t, reply.Path)
	if err := soon(t, "the forced unmount", func() error { return n.Unmount(patient(t), r.Dir, true) }); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Mount(patient(t), r); err != nil {
		t.Fatal(err)
	}
	hold(t, reply.Path)
	if err := soon(t, "Close", func() error { return n.Close(patient(t)) }); err != nil {
		t.Error(err)
	}
	if isMounted(t, r.Dir) {
		t.Error("still in the mount table")
	}
}

// TestWrongDigestIsCutOff: what turned out to be wrong is not served to those who have it open either.
func TestWrongDigestIsCutOff(t *testing.T) {
	needFuse(t)
	s := origintest.New(t, origintest.Of(origintest.Bytes(31, 1<<20)))
	r := control.MountRequest{Source: s.At("/m"), Dir: t.TempDir(), Options: control.Options{Fill: "never", Digest: "sha256:" + blob.Hash{1}.String()}}
	n := start(t, conf(t))
	reply, err := n.Mount(patient(t), r)
	if err != nil {
		t.Fatal(err)
	}
	h := hold(t, reply.Path)
	if !h.reads() {
		t.Error("cannot be read at first")
	}
	fetchAll(t, n, r.Source, control.Options{}) // does not change --fill
	until(t, "the mount is gone", func() bool { return !isMounted(t, r.Dir) })
	st, err := n.Status(t.Context())
	if err != nil || len(st.Mounts) != 1 || st.Mounts[0].State != "failed" {
		t.Fatalf("%+v, %v", st.Mounts, err)
	}
	until(t, "nothing is served any more", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.mounts[r.Dir].over })
	if err := soon(t, "unmounting it by name", func() error { return n.Unmount(patient(t), r.Dir, false) }); err != nil {
		t.Error(err)
	}
	if n.inUse(reply.ID) {
		t.Error("the blob is still in use")
	}
}
