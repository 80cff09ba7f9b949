package e2etest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// World is everything one test starts. Its cleanup stops the parts in reverse order, and fails the test when a
// mount or a process is left.
type World struct {
	T    testing.TB
	Root string // a folder of its own, removed at the end

	children sync.WaitGroup
	mu       sync.Mutex
	closers  []func()
	logs     []string // files shown when the test has failed
	dirs     int
	ended    bool
}

// New makes an empty World for a test that mounts.
func New(t testing.TB) *World {
	t.Helper()
	NeedFUSE(t)
	root, err := os.MkdirTemp(baseDir(t), "w")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	w := &World{T: t, Root: root}
	t.Cleanup(w.End)
	return w
}

// Defer has f called when the test ends, before what was deferred or started earlier is stopped.
func (w *World) Defer(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closers = append(w.closers, f)
}

// ShowLog has the end of a file shown when the test has failed.
func (w *World) ShowLog(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logs = append(w.logs, path)
}

// End stops everything now instead of at the end of the test.
func (w *World) End() {
	if w.ended {
		return
	}
	w.ended = true
	t := w.T
	for {
		w.mu.Lock()
		n := len(w.closers)
		var f func()
		if n > 0 {
			f, w.closers = w.closers[n-1], w.closers[:n-1]
		}
		w.mu.Unlock()
		if f == nil {
			break
		}
		f()
	}
	for _, m := range MountsBelow(w.Root) {
		t.Errorf("left mounted: %s (%s)", m.Dir, m.Type)
		if err := ForceUnmount(m.Dir); err != nil {
			t.Error(err)
		}
	}
	left := w.Left(3 * time.Second)
	for _, pid := range left {
		t.Errorf("left running: %d %s", pid, CommandLine(pid))
		syscall.Kill(pid, syscall.SIGKILL)
	}
	w.children.Wait()
	for _, path := range w.logs {
		if line := alarm(path); line != "" {
			t.Errorf("%s: %s", path, line)
		}
	}
	if t.Failed() {
		for _, path := range w.logs {
			t.Logf("end of %s:\n%s", path, tail(path, 6000))
		}
	}
	if len(MountsBelow(w.Root)) == 0 {
		os.RemoveAll(w.Root)
	}
}

// alarm is the first line of a log that no run may cause, whatever else the test looks at: a panic, or a race
// found by a binary that was built with E2E_RACE=1.
func alarm(path string) string {
	log, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(log)) {
		for _, word := range []string{"panic", "DATA RACE", "BUG:", "fatal error", "[signal "} {
			if strings.Contains(line, word) {
				return strings.TrimSpace(line)
			}
		}
	}
	return ""
}

// Left lists the processes of this World that still run after limit.
func (w *World) Left(limit time.Duration) []int {
	var left []int
	Poll(limit, func() bool {
		left = Marked(markEnv, w.Root)
		return len(left) == 0
	})
	return left
}

// Dir makes an empty folder.
func (w *World) Dir(name string) string {
	w.T.Helper()
	w.mu.Lock()
	w.dirs++
	dir := filepath.Join(w.Root, name+"-"+itoa(w.dirs))
	w.mu.Unlock()
	if err := os.Mkdir(dir, 0o755); err != nil {
		w.T.Fatal(err)
	}
	return dir
}

// Write makes a file and returns its path.
func (w *World) Write(name string, content []byte) string {
	w.T.Helper()
	path := filepath.Join(w.Dir("file"), name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		w.T.Fatal(err)
	}
	return path
}

// Poll calls f every few milliseconds until it is true, at most for limit.
func Poll(limit time.Duration, f func() bool) bool {
	for end := time.Now().Add(limit); ; time.Sleep(2 * time.Millisecond) {
		if f() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// Until is [Poll] that fails the test.
func (w *World) Until(limit time.Duration, what string, f func() bool) {
	w.T.Helper()
	if !Poll(limit, f) {
		w.T.Fatalf("not within %v: %s", limit, what)
	}
}

// FreePort is a TCP port of 127.0.0.1 that nobody used a moment ago.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Listening reports whether somebody accepts connections at addr.
func Listening(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

func tail(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > n {
		f.Seek(-n, 2)
	}
	b := make([]byte, n)
	k, _ := f.Read(b)
	return string(b[:k])
}

func itoa(n int) string { return strconv.Itoa(n) }

// Disk is the number of bytes that files below dir occupy. It follows no mount.
func Disk(dir string) int64 {
	var sum int64
	filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil
		}
		if fi, err := e.Info(); err == nil {
			sum += fi.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	return sum
}

// MiB says a number of bytes the way the tests report them.
func MiB(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// Lines are the lines of s that are not empty.
func Lines(s string) []string {
	var out []string
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}
