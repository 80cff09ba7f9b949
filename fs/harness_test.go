package fs

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watchdog bounds the life of every test mount: after it the server is killed and the connection aborted, so
// that a bug cannot freeze the machine.
const watchdog = 60 * time.Second

// mounted is a mount whose server is another process.
type mounted struct {
	t    testing.TB
	dir  string
	path string // of the file
	want []byte
	info MountInfo

	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *json.Decoder
	stderr *syncBuffer
	mu     sync.Mutex // serialises commands
	ended  bool
	first  answer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// setup is what a test may choose; the zero value is an arriving file of 4 MiB and a bit in a directory, whose
// bytes come by themselves at once.
type setup struct {
	serverConfig
	size    int64 // default 4 MiB + 4321
	hold    bool  // bytes do not come by themselves
	noPass  bool
	binary  string   // the server; default: this test
	wrapper []string // program and arguments that run it
}

const empty = -1

// serve mounts in a child process and fails the test if that does not work.
func serve(t testing.TB, s setup) *mounted {
	t.Helper()
	m := tryServe(t, s)
	if m.first.Err != "" {
		t.Fatalf("mount: %s\n%s", m.first.Err, m.stderr)
	}
	return m
}

// tryServe leaves what the server said about mounting in first.
func tryServe(t testing.TB, s setup) *mounted {
	t.Helper()
	needFUSE(t)
	switch s.size {
	case 0:
		s.size = 4<<20 + 4321
	case empty:
		s.size = 0
	}
	if s.Name == "" {
		s.Name = "model.bin"
	}
	s.Options.Passthrough = !s.noPass
	s.Options.FSName = testSource() + t.Name()
	if s.hold {
		s.Auto = -1
	}
	m := &mounted{t: t, want: content(s.size), stderr: new(syncBuffer), dir: s.Dir}
	tmp := t.TempDir()
	if s.Data == "" {
		s.Data = filepath.Join(tmp, "data")
		if err := os.WriteFile(s.Data, m.want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if m.dir == "" {
		m.dir = filepath.Join(tmp, "mnt")
		if s.Options.AsFile {
			if err := os.WriteFile(m.dir, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		} else if err := os.Mkdir(m.dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.Dir = m.dir
	m.path = filepath.Join(m.dir, s.Name)
	if s.Options.AsFile {
		m.path = m.dir
	}

	binary := s.binary
	if binary == "" {
		binary = testBinary(t)
	}
	args := append(s.wrapper, binary)
	m.cmd = exec.Command(args[0], args[1:]...)
	m.cmd.Dir = "/"
	// The race detector sleeps for a second at exit unless told otherwise.
	m.cmd.Env = append(os.Environ(), roleEnv+"=server", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	m.cmd.Stderr = m.stderr
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := m.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.in, m.out = stdin, json.NewDecoder(stdout)
	dog := time.AfterFunc(watchdog, func() {
		t.Errorf("watchdog: the test did not end within %v; killing the server", watchdog)
		m.kill()
	})
	t.Cleanup(func() {
		m.end()
		dog.Stop()
		if s := m.stderr.String(); t.Failed() && s != "" {
			t.Logf("server: %s", s)
		}
	})
	if err := json.NewEncoder(m.in).Encode(s.serverConfig); err != nil {
		t.Fatal(err)
	}
	if err := m.out.Decode(&m.first); err != nil {
		t.Fatalf("server: %v\n%s", err, m.stderr)
	}
	m.info = m.first.Info
	m.ended = m.first.Err != ""
	return m
}

// ask sends a command and fails the test if it fails.
func (m *mounted) ask(q command) answer {
	m.t.Helper()
	a := m.try(q)
	if a.Err != "" {
		m.t.Fatalf("%s: %s", q.Op, a.Err)
	}
	return a
}

// try sends a command and returns whatever comes.
func (m *mounted) try(q command) (a answer) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := json.NewEncoder(m.in).Encode(q); err != nil {
		m.t.Fatalf("%s: %v", q.Op, err)
	}
	if err := m.out.Decode(&a); err != nil {
		m.t.Fatalf("%s: %v\n%s", q.Op, err, m.stderr)
	}
	return a
}

func (m *mounted) stats() Stats { m.t.Helper(); return m.ask(command{Op: "stats"}).Stats }

// until waits for a condition of the server. The bound is the watchdog's, not a promise.
func (m *mounted) until(what string, ok func(answer) bool) answer {
	m.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		a := m.ask(command{Op: "stats"})
		if ok(a) {
			return a
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("waited in vain for %s: %+v", what, a)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// kill is kill -9 of the server; the mount becomes stale.
func (m *mounted) kill() {
	m.cmd.Process.Kill()
	AbortDir(m.dir)
}

// end stops the server in good order and checks what it leaves behind.
func (m *mounted) end() {
	m.t.Helper()
	defer func() {
		for range 4 { // however the test ended, nothing stays mounted
			if UnmountDir(m.dir, true) != nil {
				break
			}
		}
	}()
	defer m.kill()
	if !m.ended {
		m.ended = true
		if a := m.try(command{Op: "exit"}); a.Err != "" {
			m.t.Errorf("after the mount: %s", a.Err)
		} else if a.Stats.Panics > 0 && !strings.Contains(m.t.Name(), "Panic") {
			m.t.Errorf("%d handlers panicked", a.Stats.Panics)
		}
	}
	m.in.Close()
	timer := time.AfterFunc(20*time.Second, m.kill)
	err := m.cmd.Wait()
	timer.Stop()
	if err != nil && m.cmd.ProcessState.ExitCode() >= 0 {
		m.t.Errorf("server: %v", err)
	}
}

var binaryOnce = sync.OnceValues(os.Executable)

func testBinary(t testing.TB) string {
	t.Helper()
	path, err := binaryOnce()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// open opens the mounted file.
func (m *mounted) open(flags int) *os.File {
	m.t.Helper()
	f, err := os.OpenFile(m.path, flags, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { f.Close() })
	return f
}

// dropCaches empties the page cache of one file.
func dropCaches(t testing.TB, f *os.File) {
	t.Helper()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}
