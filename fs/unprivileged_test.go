package fs

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
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

// publicBinary is the test binary where everybody may execute it.
var publicBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pantala-fs-")
	if err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	from, err := os.Open(self)
	if err != nil {
		return "", err
	}
	defer from.Close()
	path := filepath.Join(dir, "fs.test")
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(to, from); err != nil {
		return "", err
	}
	return path, os.Chmod(dir, 0o755)
})

// serveAsNobody mounts as another user, in a directory of that user.
func serveAsNobody(t *testing.T, s setup) *mounted {
	t.Helper()
	needFUSE(t)
	if _, err := fusermount(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	binary, err := publicBinary()
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.MkdirTemp("", "pantala-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	s.Dir = filepath.Join(home, "mnt")
	if s.Options.AsFile {
		err = os.WriteFile(s.Dir, nil, 0o644)
	} else {
		err = os.Mkdir(s.Dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	if s.size == 0 {
		s.size = 3<<20 + 1
	}
	s.Data = filepath.Join(home, "data")
	if err := os.WriteFile(s.Data, content(s.size), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{home, s.Dir, s.Data} {
		if err := os.Chown(path, int(nobody.Uid), int(nobody.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	s.binary, s.credential = binary, nobody
	return tryServe(t, s)
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
		out, err := asNobody(t, "cat", m.path)
		if err != nil || string(out) != string(m.want) {
			t.Errorf("%v, %d bytes of %d", err, len(out), len(m.want))
		}
		if out, err := asNobody(t, "stat", "-f", "-c", "%b", m.path); err != nil || strings.TrimSpace(string(out)) != "769" {
			t.Errorf("statfs: %v %s", err, out)
		}
		if _, err := os.ReadFile(m.path); err == nil {
			t.Error("root may read the mount of another user")
		}
		m.ask(command{Op: "complete"}) // no passthrough: reads go on
		if out, err := asNobody(t, "cat", m.path); err != nil || string(out) != string(m.want) {
			t.Errorf("complete: %v, %d bytes of %d", err, len(out), len(m.want))
		}
		if a := m.ask(command{Op: "unmount"}); a.Stats.PassthroughOpens != 0 {
			t.Errorf("%+v", a.Stats)
		}
		if _, err := find(m.dir); err == nil {
			t.Error("still mounted")
		}
	}
}

func TestUnprivilegedKilledReader(t *testing.T) {
	m := serveAsNobody(t, setup{hold: true})
	if m.first.Err != "" {
		t.Fatal(m.first.Err)
	}
	cmd := exec.Command("dd", "iflag=direct", "if="+m.path, "of=/dev/null")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: nobody, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.until("a parked read", func(a answer) bool { return a.Waiting > 0 })
	cmd.Process.Kill()
	(&reader{t: t, cmd: cmd}).dies()
}

func TestUnprivilegedMistakes(t *testing.T) {
	m := serveAsNobody(t, setup{serverConfig: serverConfig{Options: Options{AllowOther: true}}})
	if conf, _ := os.ReadFile("/etc/fuse.conf"); !strings.Contains("\n"+string(conf), "\nuser_allow_other") {
		if m.first.Class != "prerequisite" || !strings.Contains(m.first.Err, "user_allow_other to /etc/fuse.conf") {
			t.Errorf("allow_other: %+v", m.first)
		}
	}
	t.Run("not ours", func(t *testing.T) {
		needFUSE(t)
		binary, err := publicBinary()
		if err != nil {
			t.Fatal(err)
		}
		dir, err := os.MkdirTemp("", "pantala-root-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		data := filepath.Join(t.TempDir(), "data")
		os.WriteFile(data, nil, 0o644)
		os.Chmod(filepath.Dir(data), 0o755)
		os.Chmod(filepath.Dir(filepath.Dir(data)), 0o755)
		m := tryServe(t, setup{binary: binary, credential: nobody, serverConfig: serverConfig{Dir: dir, Data: data}})
		if m.first.Class != "mountpoint" || !strings.Contains(m.first.Err, "no permission to mount on") {
			t.Errorf("%+v", m.first)
		}
	})
}
