package fs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSwitchToPassthrough(t *testing.T) {
	promise(t, "K19", "Once the file is complete, a new `open` is passed through")
	promise(t, "K20", "Completion never makes an `open`, `read` or `mmap` fail")
	promise(t, "K9", "The file has one inode number for the life of the mount")
	m := serve(t, setup{})
	old, direct := m.open(os.O_RDONLY), m.open(os.O_RDONLY|unix.O_DIRECT)
	before := stat(t, m.path)
	m.check(old, 0)
	mapping := m.mapFile(old)

	m.ask(command{Op: "complete"})
	m.until("passthrough", func(a answer) bool { return a.Stats.Passthrough })
	m.untilPassed()
	if after := stat(t, m.path); after != before {
		t.Errorf("stat changed from %+v to %+v", before, after)
	}

	reads := m.stats().Reads
	f := m.open(os.O_RDONLY)
	m.check(f, 0)
	m.mapFile(f)
	m.sequential(t)
	m.direct(t)
	if now := m.stats().Reads; now != reads {
		t.Errorf("%d READ requests for a file that is passed through", now-reads)
	}

	// Who has it open from before goes on, by way of us.
	m.check(old, 2<<20)
	m.check(direct, 2<<20)
	if !bytes.Equal(mapping, m.want) {
		t.Error("old mapping differs")
	}
	m.mapFile(old)
	if now := m.stats().Reads; now == reads {
		t.Error("the old descriptor read without us: it cannot have been on the arriving node")
	}
}

// untilPassed opens the file by name until it is passed through: the kernel is told a moment after the store.
func (m *mounted) untilPassed() {
	m.t.Helper()
	m.until("an open that is passed through", func(a answer) bool {
		f, err := os.Open(m.path)
		if err != nil {
			m.t.Fatal(err)
		}
		defer f.Close()
		return m.stats().PassthroughOpens > 0
	})
}

// check reads a little at off and compares.
func (m *mounted) check(f *os.File, off int64) {
	m.t.Helper()
	b := make([]byte, min(70_000, int64(len(m.want))-off))
	if _, err := f.ReadAt(b, off); err != nil || !bytes.Equal(b, m.want[off:off+int64(len(b))]) {
		m.t.Errorf("read at %d: %v", off, err)
	}
}

// mapFile maps f, compares the mapping and leaves it mapped until the end of the test.
func (m *mounted) mapFile(f *os.File) []byte {
	m.t.Helper()
	b, err := unix.Mmap(int(f.Fd()), 0, len(m.want), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { unix.Munmap(b) })
	if !bytes.Equal(b, m.want) {
		m.t.Error("mapping differs")
	}
	return b
}

func stat(t testing.TB, path string) (st unix.Stat_t) {
	t.Helper()
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

func TestSwitchOfFileMount(t *testing.T) {
	m := serve(t, setup{serverConfig: serverConfig{Options: Options{AsFile: true}}})
	old := m.open(os.O_RDONLY)
	m.check(old, 0)
	m.mapFile(old)
	held, err := os.Open(m.path)
	if err != nil {
		t.Fatal(err)
	}
	kept := m.mapFile(held)
	held.Close() // the mapping holds the file

	m.ask(command{Op: "complete"})
	m.until("passthrough", func(a answer) bool { return a.Stats.Passthrough })
	// As long as somebody has it open and mapped, passing it through would fail: it must not be tried.
	for range 3 {
		f := m.open(os.O_RDONLY)
		m.check(f, 1<<20)
		m.mapFile(f)
		f.Close()
	}
	if n := m.stats().PassthroughOpens; n != 0 {
		t.Errorf("%d opens passed through while the file is mapped", n)
	}
	if !bytes.Equal(kept, m.want) {
		t.Error("old mapping differs")
	}
}

func TestFileMountIsPassedThroughWhenNobodyHasItOpen(t *testing.T) {
	promise(t, "K19", "With `--as-file` this begins with the first `open` at which nobody has the file open from before")
	m := serve(t, setup{serverConfig: serverConfig{Options: Options{AsFile: true}}})
	old, err := os.Open(m.path)
	if err != nil {
		t.Fatal(err)
	}
	m.check(old, 0)
	m.ask(command{Op: "complete"})
	m.until("passthrough", func(a answer) bool { return a.Stats.Passthrough })
	old.Close()
	m.untilPassed() // the kernel sends RELEASE a moment after close
	reads := m.stats().Reads
	f := m.open(os.O_RDONLY)
	m.check(f, 0)
	m.mapFile(f)
	m.sequential(t)
	if now := m.stats().Reads; now != reads {
		t.Errorf("%d READ requests for a file that is passed through", now-reads)
	}
}

func TestCompleteFromTheStart(t *testing.T) {
	for _, asFile := range []bool{false, true} {
		m := serve(t, setup{serverConfig: serverConfig{Complete: true, Options: Options{AsFile: asFile}}})
		m.sequential(t)
		if s := m.stats(); s.Reads != 0 || s.PassthroughOpens == 0 {
			t.Errorf("asFile=%v: %+v", asFile, s)
		}
	}
}

func TestEmptyFile(t *testing.T) {
	for _, asFile := range []bool{false, true} {
		m := serve(t, setup{size: empty, serverConfig: serverConfig{Complete: true, Options: Options{AsFile: asFile}}})
		m.sequential(t)
		m.check(m.open(os.O_RDONLY|unix.O_DIRECT), 0)
	}
}

func TestWithoutPassthrough(t *testing.T) {
	promise(t, "K21", "Where passthrough is not possible, reads go on through pantala with the same results")
	t.Run("not wanted", func(t *testing.T) {
		m := serve(t, setup{noPass: true})
		f := m.open(os.O_RDONLY)
		m.ask(command{Op: "complete"})
		m.check(f, 0)
		m.sequential(t)
		if s := m.stats(); s.PassthroughOpens != 0 || s.Passthrough || s.Reads == 0 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("stacked file system", func(t *testing.T) {
		needFUSE(t)
		data := filepath.Join(overlay(t), "data")
		if err := os.WriteFile(data, content(4<<20+4321), 0o644); err != nil {
			t.Fatal(err)
		}
		m := serve(t, setup{serverConfig: serverConfig{Data: data}})
		f := m.open(os.O_RDONLY)
		m.ask(command{Op: "complete"})
		m.until("a line in the log", func(answer) bool { return strings.Contains(m.stderr.String(), "no passthrough") })
		m.check(f, 0)
		m.sequential(t)
		m.mapFile(m.open(os.O_RDONLY))
		if s := m.stats(); s.PassthroughOpens != 0 || s.Passthrough {
			t.Errorf("%+v", s)
		}
		if !strings.Contains(m.stderr.String(), "overlayfs") {
			t.Errorf("the log does not say why: %s", m.stderr)
		}
	})
}

// overlay mounts an overlay file system, which is stacked, on a temporary directory.
func overlay(t *testing.T) string {
	t.Helper()
	tmp := t.TempDir()
	var dirs []string
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		dirs = append(dirs, filepath.Join(tmp, name))
		if err := os.Mkdir(dirs[len(dirs)-1], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := "lowerdir=" + dirs[0] + ",upperdir=" + dirs[1] + ",workdir=" + dirs[2]
	if err := unix.Mount("overlay", dirs[3], "overlay", 0, options); err != nil {
		if err == syscall.ENODEV {
			t.Skip("this kernel has no overlayfs")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dirs[3], unix.MNT_DETACH) })
	return dirs[3]
}

// TestPageCacheIsKept needs no passthrough: the file is arriving.
func TestPageCacheIsKept(t *testing.T) {
	promise(t, "K18", "The page cache is kept across `close` and `open`")
	m := serve(t, setup{})
	m.sequential(t)
	reads := m.stats().Reads
	m.sequential(t)
	m.sequential(t)
	if now := m.stats().Reads; now != reads {
		t.Errorf("%d READ requests for bytes that were just read", now-reads)
	}
}

func TestReadAhead(t *testing.T) {
	for name, c := range map[string]struct {
		want string
		s    setup
	}{
		"default": {"1024", setup{}},
		"chosen":  {"4096", setup{serverConfig: serverConfig{Options: Options{ReadAhead: 4 << 20}}}},
	} {
		t.Run(name, func(t *testing.T) {
			m := serve(t, c.s)
			b, err := os.ReadFile(filepath.Join("/sys/class/bdi", m.info.Dev, "read_ahead_kb"))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(string(b)); got != c.want {
				t.Errorf("read_ahead_kb is %s, want %s", got, c.want)
			}
			m.sequential(t)
			// 4 MiB and a bit, in READs of up to 1 MiB, with smaller ones while the window grows.
			if n := m.stats().Reads; n > 16 {
				t.Errorf("%d READ requests for 4 MiB: the largest READ is not used", n)
			}
		})
	}
}
