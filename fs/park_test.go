package fs

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// reader is a process that reads the mounted file; see readerMain.
type reader struct {
	t     testing.TB
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

// read starts a reader and returns once it has opened the file.
func (m *mounted) read(mode string, off int64) *reader {
	m.t.Helper()
	return startReader(m.t, mode, m.path, off)
}

// startReader starts a process that reads path.
func startReader(t testing.TB, mode, path string, off int64) *reader {
	t.Helper()
	r := &reader{t: t}
	r.cmd = exec.Command(testBinary(t), mode, path, fmt.Sprint(off))
	r.cmd.Dir = "/"
	r.cmd.Env = append(os.Environ(), roleEnv+"=reader", "GORACE=atexit_sleep_ms=0")
	r.cmd.Stderr = os.Stderr
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.lines = bufio.NewScanner(out)
	t.Cleanup(func() {
		r.cmd.Process.Kill()
		r.cmd.Wait()
	})
	if line := r.line(); line != "open" {
		t.Fatalf("reader: %s", line)
	}
	return r
}

func (r *reader) line() string {
	r.lines.Scan()
	return r.lines.Text()
}

// dies waits until a process that has been sent a fatal signal is gone.
func (r *reader) dies() {
	r.t.Helper()
	start := time.Now()
	done := make(chan struct{})
	go func() { r.cmd.Wait(); close(done) }()
	// The promise is one second; a machine that is busy with other tests gets ten before it is called a hang.
	select {
	case <-done:
		if took := time.Since(start); took > time.Second {
			r.t.Logf("slow: gone after %v", took)
		}
	case <-time.After(10 * time.Second):
		r.t.Fatal("a killed reader hangs")
	}
}

func TestParkedReadIsAnsweredLater(t *testing.T) {
	promise(t, "K12", "A read of absent bytes waits until they are here")
	for name, s := range map[string]setup{"directory": {hold: true}, "file": {hold: true, serverConfig: serverConfig{Options: Options{AsFile: true}}}} {
		t.Run(name, func(t *testing.T) {
			m := serve(t, s)
			r := m.read("read", 1<<20)
			m.until("a parked read", func(a answer) bool { return a.Waiting > 0 })

			// Another one goes on meanwhile.
			m.ask(command{Op: "present", Off: 0, N: 256 << 10})
			f, b := m.open(os.O_RDONLY), make([]byte, 4096)
			if _, err := f.ReadAt(b, 0); err != nil || !bytes.Equal(b, m.want[:4096]) {
				t.Errorf("read of present bytes while another waits: %v", err)
			}

			m.ask(command{Op: "present", Off: 0, N: int64(len(m.want))})
			if got, want := r.line(), fmt.Sprintf("%x", sha256.Sum256(m.want[1<<20:1<<20+4096])); got != want {
				t.Errorf("parked read got %s, want %s", got, want)
			}
			// A read is counted after its answer, which the reader may have before that.
			m.until("no waiting reads and all of them counted", func(a answer) bool {
				return a.Waiting == 0 && a.Stats.Waiting == 0 && a.Touched > 0 && a.Stats.Parked > 0 && a.Stats.Reads >= 2 && a.Stats.Bytes >= 2*4096
			})
		})
	}
}

func TestKilledReader(t *testing.T) {
	promise(t, "K13", "A process that is killed while it waits for bytes is gone in less than a second")
	for _, asFile := range []bool{false, true} {
		for _, mode := range []string{"read", "map", "maprandom"} {
			t.Run(fmt.Sprintf("%v file=%v", mode, asFile), func(t *testing.T) {
				m := serve(t, setup{hold: true, serverConfig: serverConfig{Options: Options{AsFile: asFile}}})
				r := m.read(mode, 2<<20)
				m.until("a parked read", func(a answer) bool { return a.Waiting > 0 })
				if err := r.cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				r.dies()
			})
		}
	}
}

// TestFatalSignals sends signals whose default action is to end a program that does not handle them.
func TestFatalSignals(t *testing.T) {
	for name, c := range map[string]struct {
		signal syscall.Signal
		args   []string
	}{
		"cached INT":  {syscall.SIGINT, []string{"cat"}},
		"cached TERM": {syscall.SIGTERM, []string{"cat"}},
		"direct TERM": {syscall.SIGTERM, []string{"dd", "iflag=direct", "if="}},
		"direct HUP":  {syscall.SIGHUP, []string{"dd", "iflag=direct", "if="}},
		// It dumps core, so the kernel does not make a SIGKILL of it, and does not wake readers of the page cache.
		"direct QUIT": {syscall.SIGQUIT, []string{"dd", "iflag=direct", "if="}},
	} {
		t.Run(name, func(t *testing.T) {
			m := serve(t, setup{hold: true})
			args := append([]string(nil), c.args...)
			if args[0] == "cat" {
				args = append(args, m.path)
			} else {
				args[len(args)-1] += m.path
			}
			cmd := exec.Command(args[0], args[1:]...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cmd.Process.Kill() })
			m.until("a parked read", func(a answer) bool { return a.Waiting > 0 })
			if err := cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			(&reader{t: t, cmd: cmd}).dies()
		})
	}
}

func TestHandledSignals(t *testing.T) {
	promise(t, "K14", "A signal that a process handles does not interrupt a read")
	for _, asFile := range []bool{false, true} {
		t.Run(fmt.Sprintf("file=%v", asFile), func(t *testing.T) {
			m := serve(t, setup{hold: true, serverConfig: serverConfig{Options: Options{AsFile: asFile}}})
			const off = 2 << 20
			lives, killed := m.read("maprandom", off), m.read("maprandom", off+1<<20)
			// Both are interrupted by SIGALRM, again and again, and stay parked.
			m.until("two parked reads", func(a answer) bool { return a.Waiting >= 2 })
			for range 20 {
				lives.cmd.Process.Signal(syscall.SIGALRM)
				killed.cmd.Process.Signal(syscall.SIGALRM)
				if a := m.until("two parked reads", func(a answer) bool { return a.Waiting >= 2 }); a.Stats.Interrupted != 0 {
					t.Fatalf("a handled signal ended a read: %+v", a.Stats)
				}
			}
			killed.cmd.Process.Kill()
			killed.dies()
			m.ask(command{Op: "present", Off: off, N: 1 << 20})
			if got, want := lives.line(), fmt.Sprintf("%x", sha256.Sum256(m.want[off:off+4096])); got != want {
				t.Errorf("after many signals got %q, want %s", got, want)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	promise(t, "K15", "Errors of a read are those of the table above")
	promise(t, "K16", "the next read of the same bytes asks again")
	want := map[string]syscall.Errno{
		"notfound": syscall.ENOENT, "denied": syscall.EACCES, "unavailable": syscall.EIO, "corrupt": syscall.EIO,
		"changed": syscall.EIO, "nospace": syscall.EIO, "closed": syscall.EIO, "deadline": syscall.EIO, "other": syscall.EIO,
		"canceled": syscall.EINTR,
	}
	// Read past the page cache, which turns every error into EIO.
	m := serve(t, setup{hold: true})
	f, b := m.open(os.O_RDONLY|syscall.O_DIRECT), make([]byte, 100)
	for class, errno := range want {
		m.ask(command{Op: "fail", Class: class})
		// Not ReadAt, which tries again after EINTR.
		if _, err := syscall.Pread(int(f.Fd()), b, 12345); err != errno {
			t.Errorf("%s: %v, want %v", class, err, errno)
		}
	}
	m.ask(command{Op: "auto"})
	if _, err := f.ReadAt(b, 12345); err != nil || !bytes.Equal(b, m.want[12345:12445]) {
		t.Errorf("after the errors: %v", err)
	}

	m = serve(t, setup{hold: true})
	m.ask(command{Op: "fail", Class: "unavailable"})
	f = m.open(os.O_RDONLY)
	if _, err := f.ReadAt(b, 1<<20); err == nil || err.(*os.PathError).Err != syscall.EIO {
		t.Errorf("through the page cache: %v", err)
	}
	m.ask(command{Op: "auto"})
	if _, err := f.ReadAt(b, 1<<20); err != nil {
		t.Errorf("after the error, through the page cache: %v", err)
	}
}

func TestErrnoTable(t *testing.T) {
	for _, e := range errnoTable {
		if got := errnoOf(fmt.Errorf("read: %w: here", e.class)); got != e.errno {
			t.Errorf("%v: %v, want %v", e.class, got, e.errno)
		}
	}
	if got := errnoOf(nil); got != 0 {
		t.Errorf("nil: %v", got)
	}
	if got := errnoOf(io.ErrUnexpectedEOF); got != syscall.EIO {
		t.Errorf("unknown class: %v", got)
	}
}

func TestPanic(t *testing.T) {
	promise(t, "K17", "A panic while a request is answered becomes `EIO` for that request")
	m := serve(t, setup{hold: true})
	f, b := m.open(os.O_RDONLY|syscall.O_DIRECT), make([]byte, 100)
	m.ask(command{Op: "panic", N: 1})
	if _, err := f.ReadAt(b, 0); err == nil || err.(*os.PathError).Err != syscall.EIO {
		t.Errorf("panic in the loop: %v", err)
	}
	// And one in the goroutine that delivers.
	m.ask(command{Op: "panic", N: 0})
	failed := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(make([]byte, 100), 1<<20)
		failed <- err
	}()
	m.until("a parked read", func(a answer) bool { return a.Waiting > 0 })
	m.ask(command{Op: "panic", N: 1})
	m.ask(command{Op: "present", Off: 1 << 20, N: 100})
	if err := <-failed; err == nil || err.(*os.PathError).Err != syscall.EIO {
		t.Errorf("panic in Ready: %v", err)
	}
	m.ask(command{Op: "panic", N: 0})
	if _, err := f.ReadAt(b, 1<<20); err != nil {
		t.Errorf("after the panics: %v", err)
	}
	// What has failed is taken from the lot after its answer.
	m.until("two panics and nobody who waits", func(a answer) bool { return a.Stats.Panics == 2 && a.Stats.Waiting == 0 })
	if !strings.Contains(m.stderr.String(), "fakeBlob") {
		t.Error("no stack of the panic in the log")
	}
}

// TestNothingIsKept: bytes are present for one answer only, as when the cache disk is full.
func TestNothingIsKept(t *testing.T) {
	m := serve(t, setup{})
	m.ask(command{Op: "forget", N: 1})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			f, err := os.OpenFile(m.path, os.O_RDONLY|syscall.O_DIRECT, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			b := make([]byte, 100_000)
			for j := range 20 {
				off := int64((i*20 + j) % 16 * 200_000)
				if _, err := f.ReadAt(b, off); err != nil || !bytes.Equal(b, m.want[off:off+int64(len(b))]) {
					t.Errorf("at %d: %v", off, err)
				}
			}
		})
	}
	wg.Wait()
}

// TestStorm kills readers at random while bytes come and go.
func TestStorm(t *testing.T) {
	m := serve(t, setup{size: 8 << 20, serverConfig: serverConfig{Auto: 3, Options: Options{Threads: 4}}})
	m.ask(command{Op: "forget", N: 1})
	rng := rand.New(rand.NewPCG(3, 4))
	var wg sync.WaitGroup
	for range 6 {
		seed := rng.Uint64()
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 0))
			for range 12 {
				cmd := exec.Command("dd", "if="+m.path, "of=/dev/null", "bs=64k", "iflag=direct", "status=none")
				if err := cmd.Start(); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
				cmd.Process.Kill()
				(&reader{t: t, cmd: cmd}).dies()
			}
		})
	}
	wg.Wait()
	a := m.until("nobody to wait", func(a answer) bool { return a.Stats.Waiting == 0 })
	t.Logf("%+v", a.Stats)
	if a.Stats.Interrupted == 0 || a.Stats.Errors != 0 {
		t.Errorf("stats: %+v", a.Stats)
	}
	m.ask(command{Op: "forget"})
	m.sequential(t)
}
