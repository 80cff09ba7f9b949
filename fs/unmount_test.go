package fs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// notMounted fails the test if the mount is still in the table.
func (m *mounted) notMounted() {
	m.t.Helper()
	if i, err := find(m.dir); err == nil {
		m.t.Errorf("still mounted: %+v", i)
	}
}

func TestUnmount(t *testing.T) {
	m := serve(t, setup{})
	m.sequential(t)
	m.ask(command{Op: "unmount"})
	m.notMounted()
	m.ask(command{Op: "done"})
	m.ask(command{Op: "unmount"}) // again: nothing to do
}

func TestUnmountInUse(t *testing.T) {
	promise(t, "K22", "Unmounting a mount that is in use fails, and nothing changes for those who use it")
	m := serve(t, setup{hold: true})
	f := m.open(os.O_RDONLY)
	r := m.read("read", 1<<20)
	m.until("a parked read", func(a answer) bool { return a.Waiting > 0 })
	if a := m.try(command{Op: "unmount"}); a.Class != "busy" || !strings.Contains(a.Err, "--force") {
		t.Errorf("%+v", a)
	}
	if err := UnmountDir(m.dir, false); !errors.Is(err, ErrBusy) {
		t.Errorf("%v", err)
	}
	m.ask(command{Op: "present", N: int64(len(m.want))})
	if r.line(); r.cmd.Wait() != nil {
		t.Error("the parked read failed")
	}
	m.check(f, 0)
	f.Close()
	m.ask(command{Op: "unmount"})
	m.notMounted()
}

func TestDetach(t *testing.T) {
	promise(t, "K23", "Reads that wait for bytes fail with `EIO`; files that are open can be read on where bytes are present")
	m := serve(t, setup{hold: true})
	m.ask(command{Op: "present", N: 1 << 20})
	f := m.open(os.O_RDONLY | syscall.O_DIRECT)
	failed := make(chan error, 1)
	go func() {
		_, err := unix.Pread(int(f.Fd()), make([]byte, 4096), 2<<20)
		failed <- err
	}()
	m.until("a parked read", func(a answer) bool { return a.Waiting > 0 })
	m.ask(command{Op: "detach"})
	if err := <-failed; err != unix.EIO {
		t.Errorf("parked read: %v", err)
	}
	m.notMounted()
	m.check(f, 0)
	f.Close()
	m.ask(command{Op: "done"})
}

func TestUnmountFromOutside(t *testing.T) {
	promise(t, "K24", "`umount DIR` by anybody has the same effect as `pantala umount DIR`")
	m := serve(t, setup{})
	m.sequential(t)
	if out, err := exec.Command("umount", m.dir).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v: %s", err, out)
	}
	m.ask(command{Op: "done"})
	m.ask(command{Op: "unmount"})
}

// orphan leaves a READ behind whose reader is gone: readahead outlives who caused it.
func (m *mounted) orphan() {
	m.t.Helper()
	r := m.read("read", 1<<20)
	m.until("a parked read", func(a answer) bool { return a.Waiting > 0 })
	r.cmd.Process.Kill()
	r.dies()
	if a := m.ask(command{Op: "stats"}); a.Waiting == 0 {
		m.t.Log("the kernel left no read behind")
	}
}

func TestOrphansDoNotKeepTheMount(t *testing.T) {
	promise(t, "K25", "A read whose reader is gone, such as readahead, does not keep a mount from being unmounted")
	t.Run("by us", func(t *testing.T) {
		m := serve(t, setup{hold: true})
		m.orphan()
		m.ask(command{Op: "unmount"})
		m.notMounted()
	})
	t.Run("from outside", func(t *testing.T) {
		m := serve(t, setup{hold: true})
		m.orphan()
		if err := UnmountDir(m.dir, false); err != nil {
			t.Fatal(err)
		}
		m.ask(command{Op: "done"})
	})
}

func TestLazyUnmount(t *testing.T) {
	promise(t, "K26", "a read of absent bytes waits for at most 5 seconds")
	m := serve(t, setup{hold: true})
	m.ask(command{Op: "present", N: 1 << 20})
	f := m.open(os.O_RDONLY)
	if err := unix.Unmount(m.dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	m.check(f, 0)
	if _, err := f.ReadAt(make([]byte, 10), 3<<20); !errors.Is(err, unix.EIO) {
		t.Errorf("absent bytes: %v", err)
	}
	// Bytes that come in time are served.
	m.ask(command{Op: "auto", Ms: 10})
	m.check(f, 2<<20)
	f.Close()
	m.ask(command{Op: "done"})
}

// TestOtherNamespace: a container that was started while the mount was there has it too.
func TestOtherNamespace(t *testing.T) {
	m := serve(t, setup{hold: true})
	m.ask(command{Op: "present", N: 1 << 20})
	// The shell says something once it is in its own namespace, and ends when its input does.
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", `echo in; read x; cmp -n 1048576 "$0" "$1" && echo same; read x`, m.path, m.dir+"/../data")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewScanner(out)
	lines.Scan()
	if a := m.try(command{Op: "unmount"}); a.Class != "busy" || !strings.Contains(a.Err, "another mount namespace") {
		t.Errorf("%+v", a)
	}
	m.notMounted()
	fmt.Fprintln(in)
	if lines.Scan(); lines.Text() != "same" {
		t.Errorf("the container reads %q", lines.Text())
	}
	in.Close()
	cmd.Wait()
	m.ask(command{Op: "done"})
}

func TestAbort(t *testing.T) {
	for _, mounted := range []bool{false, true} {
		t.Run(fmt.Sprintf("fusectl=%v", mounted), func(t *testing.T) {
			m := serve(t, setup{hold: true})
			if mounted {
				control := t.TempDir()
				if err := unix.Mount("none", control, "fusectl", 0, ""); err != nil {
					t.Fatal(err)
				}
				defer unix.Unmount(control, unix.MNT_DETACH)
			}
			f := m.open(os.O_RDONLY)
			failed := make(chan error, 1)
			go func() {
				_, err := f.ReadAt(make([]byte, 10), 0)
				failed <- err
			}()
			m.until("a parked read", func(a answer) bool { return a.Waiting > 0 })
			m.ask(command{Op: "abort"})
			if err := <-failed; err == nil {
				t.Error("a parked read survived the abort")
			}
			m.ask(command{Op: "done"})
			m.ask(command{Op: "abort"})
		})
	}
}

func TestStale(t *testing.T) {
	promise(t, "K27", "When the daemon dies, its mounts answer `ENOTCONN`")
	m := serve(t, setup{hold: true})
	r := m.read("read", 0)
	m.until("a parked read", func(a answer) bool { return a.Waiting > 0 })
	m.ended = true
	m.cmd.Process.Kill()
	m.cmd.Wait()
	if r.line(); r.cmd.Wait() == nil {
		t.Error("a parked read survived its server")
	}
	if _, err := os.Open(m.path); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("open: %v", err)
	}
	if err := CheckDir(m.dir, false); !errors.Is(err, ErrStale) || !strings.Contains(err.Error(), "pantala umount") {
		t.Errorf("CheckDir: %v", err)
	}
	if err := UnmountDir(m.dir, false); err != nil {
		t.Errorf("UnmountDir: %v", err)
	}
	if err := CheckDir(m.dir, false); err != nil {
		t.Errorf("CheckDir afterwards: %v", err)
	}
}

func TestUnmountDirMistakes(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing"), "/proc"} {
		if err := UnmountDir(dir, true); !errors.Is(err, ErrNotMounted) {
			t.Errorf("%s: %v", dir, err)
		}
		if err := AbortDir(dir); !errors.Is(err, ErrNotMounted) {
			t.Errorf("abort %s: %v", dir, err)
		}
	}
}
