package e2etest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// roleEnv names the part that this test binary plays when it is started as a child of itself.
const roleEnv = "E2E_ROLE"

// markEnv is set in everything a [World] starts, to the World's root: what still carries it when the World
// ends was left behind.
const markEnv = "E2E_WORLD"

// base is the folder of this test process, which holds every World; empty until somebody asks.
var base struct {
	once  sync.Once
	dir   string
	err   error
	guard io.WriteCloser
	wait  func() error
}

// Main is TestMain of a package that uses e2etest: it plays the role this process was started for, or runs the
// tests and removes the folder they shared.
func Main(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(play(role))
	}
	code := m.Run()
	if base.dir != "" {
		if len(MountsBelow(base.dir)) == 0 {
			os.RemoveAll(base.dir)
		}
		io.WriteString(base.guard, "done\n")
		base.guard.Close()
		base.wait()
	}
	os.Exit(code)
}

func play(role string) int {
	switch role {
	case "read":
		return playRead()
	case "unmount":
		return playUnmount()
	case "guard":
		return playGuard()
	}
	fmt.Fprintf(os.Stderr, "e2etest: no such role %q\n", role)
	return 2
}

// baseDir creates the folder of this process and the guard that removes what is left if this process dies
// without its cleanups (go test -timeout, SIGKILL).
func baseDir(t testing.TB) string {
	base.once.Do(func() {
		if base.dir, base.err = os.MkdirTemp("", "pantala-e2e-"); base.err != nil {
			return
		}
		if base.err = os.Chmod(base.dir, 0o755); base.err != nil { // readable for the unprivileged tests
			return
		}
		guard := exec.Command("/proc/self/exe", base.dir)
		guard.Env = append(os.Environ(), roleEnv+"=guard")
		guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if base.guard, base.err = guard.StdinPipe(); base.err != nil {
			return
		}
		base.err, base.wait = guard.Start(), guard.Wait
	})
	if base.err != nil {
		t.Fatalf("e2etest: preparing %q: %v", os.TempDir(), base.err)
	}
	return base.dir
}

// playGuard waits for the end of the test process. Unless that said "done" first, it unmounts, kills and
// removes what the process left. Lines "pid N START" name processes whose environment cannot be read.
func playGuard() int {
	dir := os.Args[1]
	started := map[int]string{}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		f := strings.Fields(in.Text())
		switch {
		case len(f) == 1 && f[0] == "done":
			return 0
		case len(f) == 3 && f[0] == "pid":
			if pid, err := strconv.Atoi(f[1]); err == nil {
				started[pid] = f[2]
			}
		}
	}
	for pid, start := range started {
		if startTime(pid) == start {
			syscall.Kill(pid, syscall.SIGTERM)
		}
	}
	for range 50 { // 5 s: mounts go first, so that no process of ours is stuck in one
		for _, m := range MountsBelow(dir) {
			syscall.Unmount(m.Dir, syscall.MNT_FORCE)
			syscall.Unmount(m.Dir, syscall.MNT_DETACH)
		}
		left := Marked(markEnv, dir)
		for _, pid := range left {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(left) == 0 && len(MountsBelow(dir)) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if len(MountsBelow(dir)) == 0 {
		os.RemoveAll(dir)
	}
	return 0
}

func tellGuard(pid int) {
	fmt.Fprintf(base.guard, "pid %d %s\n", pid, startTime(pid))
}

// built is the pantala that is tested.
var built struct {
	once sync.Once
	path string
	err  error
}

// Binary builds ./cmd/pantala once, the way it is released (CGO off), and returns its path. E2E_BINARY names
// a ready one instead; E2E_RACE=1 has it built with the race detector.
func Binary(t testing.TB) string {
	t.Helper()
	dir := baseDir(t)
	built.once.Do(func() {
		if built.path = os.Getenv("E2E_BINARY"); built.path != "" {
			_, built.err = os.Stat(built.path)
			return
		}
		root, err := moduleRoot()
		if err != nil {
			built.err = err
			return
		}
		if built.err = dependOn(root); built.err != nil {
			return
		}
		built.path = filepath.Join(dir, "pantala")
		args, cgo := []string{"build", "-o", built.path, "./cmd/pantala"}, "CGO_ENABLED=0"
		if os.Getenv("E2E_RACE") == "1" {
			args, cgo = []string{"build", "-race", "-o", built.path, "./cmd/pantala"}, "CGO_ENABLED=1"
		}
		build := exec.Command("go", args...)
		build.Dir = root
		build.Env = append(os.Environ(), cgo)
		if out, err := build.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build ./cmd/pantala: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatalf("e2etest: %v", built.err)
	}
	return built.path
}

// dependOn looks at every source file, so that `go test`, which takes a result from its cache unless a file that
// the test has looked at is another now, does not take that of an older pantala.
func dependOn(root string) error {
	return filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && strings.HasPrefix(e.Name(), ".") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") || e.Name() == "go.mod" {
			_, err = os.Stat(path) // DirEntry.Info would not be noticed
		}
		return err
	})
}

// Shared is a folder that lives as long as the test process.
func Shared(t testing.TB) string {
	t.Helper()
	return baseDir(t)
}

// Repository is the folder with go.mod.
func Repository(t testing.TB) string {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatalf("e2etest: %v", err)
	}
	return root
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no go.mod above the working directory: run the tests inside the repository")
}
