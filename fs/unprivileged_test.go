package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nobody is a user without any privilege.
var nobody = &syscall.Credential{Uid: 65534, Gid: 65534}

// asNobody runs a program as another user.
func asNobody(t testing.TB, args ...string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: nobody}
	return cmd.CombinedOutput()
}

// publicBinary is the test binary where everybody may execute it; TestMain removes it.
var publicBinary = sync.OnceValues(func() (path string, err error) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "pantala-fs-")
	if err != nil {
		return "", err
	}
	publicDir = dir
	path = filepath.Join(dir, "fs.test")
	return path, errors.Join(os.WriteFile(path, self, 0o755), os.Chmod(dir, 0o755))
})

var publicDir string

// needNobody is needFUSE for mounts of another user.
func needNobody(t *testing.T) {
	t.Helper()
	needFUSE(t)
	for _, name := range []string{"fusermount3", "unshare", "setpriv", "nsenter", "mount"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

// asUser are the arguments that run a program as nobody.
var asUser = []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}

// serveAsNobody mounts as another user, in a directory of that user and in a mount namespace of its own: there
// /dev/fuse is open to everybody, as it is on most machines, whatever it is on this one, and the mounts of other tests
// are not kept alive.
func serveAsNobody(t *testing.T, s setup) *mounted {
	t.Helper()
	needNobody(t)
	binary, err := publicBinary()
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.MkdirTemp("", "pantala-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	if s.Dir == "" {
		s.Dir = filepath.Join(home, "mnt")
		if s.Options.AsFile {
			err = os.WriteFile(s.Dir, nil, 0o644)
		} else {
			err = os.Mkdir(s.Dir, 0o755)
		}
		if err == nil {
			err = os.Chown(s.Dir, int(nobody.Uid), int(nobody.Gid))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if s.size == 0 {
		s.size = 3<<20 + 1
	}
	s.Data = filepath.Join(home, "data")
	if err := os.WriteFile(s.Data, content(s.size), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(home, int(nobody.Uid), int(nobody.Gid)); err != nil {
		t.Fatal(err)
	}
	s.binary = binary
	s.wrapper = ownNamespace(t, home)
	return tryServe(t, s)
}

// ownNamespace are the arguments that run a program as nobody in a mount namespace of its own, with a /dev/fuse, made
// below home, that is open to everybody.
func ownNamespace(t *testing.T, home string) []string {
	t.Helper()
	device := filepath.Join(home, "fuse")
	if err := unix.Mknod(device, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(device, 0o666); err != nil {
		t.Fatal(err)
	}
	return append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-c",
		`umount -l -a -t fuse.pantala; mount --bind "$0" /dev/fuse && exec "$@"`, device}, asUser...)
}

// inside runs a program in the mount namespace of the server.
func (m *mounted) inside(args ...string) *exec.Cmd {
	m.t.Helper()
	args = append([]string{"nsenter", "--mount", "--target", strconv.Itoa(m.cmd.Process.Pid)}, args...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// output runs inside, bounded by the watchdog.
func (m *mounted) output(args ...string) (string, error) {
	m.t.Helper()
	out, err := m.inside(args...).Output()
	return string(out), err
}

func TestUnprivileged(t *testing.T) {
	promise(t, "K28", "Other users mount through `fusermount3`")
	promise(t, "K6", "Mounted by another user, only that user may, not even root")
	for _, asFile := range []bool{false, true} {
		m := serveAsNobody(t, setup{serverConfig: serverConfig{Options: Options{AsFile: asFile}}})
		if m.first.Err != "" {
			t.Fatal(m.first.Err)
		}
		if m.first.Privileged || m.first.CanPass {
			t.Errorf("%+v", m.first)
		}
		user := func(args ...string) (string, error) { return m.output(append(asUser, args...)...) }
		if out, err := user("cat", m.path); err != nil || out != string(m.want) {
			t.Errorf("%v, %d bytes of %d", err, len(out), len(m.want))
		}
		if out, err := user("stat", "-c", "%u %g %a %s", m.path); err != nil || out != fmt.Sprintf("65534 65534 444 %d\n", len(m.want)) {
			t.Errorf("stat: %v %s", err, out)
		}
		if out, err := user("stat", "-f", "-c", "%b", m.path); err != nil || out != "769\n" {
			t.Errorf("statfs: %v %s", err, out)
		}
		if out, err := m.output("cat", m.path); err == nil {
			t.Errorf("root reads %d bytes of another user's mount", len(out))
		}
		m.ask(command{Op: "complete"}) // no passthrough: reads go on
		if out, err := user("cat", m.path); err != nil || out != string(m.want) {
			t.Errorf("complete: %v, %d bytes of %d", err, len(out), len(m.want))
		}
		if a := m.ask(command{Op: "unmount"}); a.Stats.PassthroughOpens != 0 {
			t.Errorf("%+v", a.Stats)
		}
		if out, err := m.output("cat", "/proc/self/mountinfo"); err != nil || strings.Contains(out, m.dir) {
			t.Errorf("still mounted: %v %s", err, out)
		}
		m.ask(command{Op: "done"})
	}
}

func TestUnprivilegedKilledReader(t *testing.T) {
	m := serveAsNobody(t, setup{hold: true})
	if m.first.Err != "" {
		t.Fatal(m.first.Err)
	}
	cmd := m.inside(append(asUser, "dd", "iflag=direct", "if="+m.path, "of=/dev/null")...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.until("a parked read", func(a answer) bool { return a.Waiting > 0 })
	// In use: fusermount3 says so too.
	if a := m.try(command{Op: "unmount"}); a.Class != "busy" {
		t.Errorf("unmount: %+v", a)
	}
	cmd.Process.Kill()
	(&reader{t: t, cmd: cmd}).dies()
	m.ask(command{Op: "unmount"})
}

func TestUnprivilegedDetach(t *testing.T) {
	m := serveAsNobody(t, setup{hold: true})
	if m.first.Err != "" {
		t.Fatal(m.first.Err)
	}
	cmd := m.inside(append(asUser, "dd", "iflag=direct", "if="+m.path, "of=/dev/null")...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.until("a parked read", func(a answer) bool { return a.Waiting > 0 })
	m.ask(command{Op: "detach"})
	if err := cmd.Wait(); err == nil {
		t.Error("a parked read succeeded")
	}
	m.ask(command{Op: "done"})
}

func TestUnprivilegedMistakes(t *testing.T) {
	t.Run("allow_other", func(t *testing.T) {
		m := serveAsNobody(t, setup{serverConfig: serverConfig{Options: Options{AllowOther: true}}})
		allowed := false
		if conf, err := os.ReadFile("/etc/fuse.conf"); err == nil {
			allowed = strings.Contains("\n"+string(conf), "\nuser_allow_other")
		}
		if allowed != (m.first.Err == "") {
			t.Fatalf("%+v", m.first)
		}
		if !allowed && (m.first.Class != "prerequisite" || !strings.Contains(m.first.Err, "user_allow_other to /etc/fuse.conf")) {
			t.Errorf("%+v", m.first)
		}
	})
	t.Run("not ours", func(t *testing.T) {
		dir, err := os.MkdirTemp("", "pantala-root-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		m := serveAsNobody(t, setup{serverConfig: serverConfig{Dir: dir}})
		if m.first.Class != "mountpoint" || !strings.Contains(m.first.Err, "no permission to mount on") {
			t.Errorf("%+v", m.first)
		}
	})
}
