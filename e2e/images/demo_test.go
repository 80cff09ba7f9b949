package images

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// demoLimit bounds a run of the demonstration, which takes seconds.
const demoLimit = 2 * time.Minute

// demo starts tools/demo-image.sh with its temporary folder below tmp.
func demo(t *testing.T, w *e2etest.World, tmp string, env ...string) *e2etest.Process {
	t.Helper()
	root := e2etest.Repository(t)
	registry := filepath.Join(e2etest.Shared(t), "demo-registry")
	build := exec.Command("go", "build", "-C", filepath.Join(root, "tools"), "-o", registry, "./demo-registry")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	script := filepath.Join(root, "tools/demo-image.sh")
	for _, path := range []string{script, filepath.Join(root, "tools/demo-parts.sh")} {
		if _, err := os.Stat(path); err != nil { // go test looks at them, too, before it believes an earlier result
			t.Fatal(err)
		}
	}
	return w.Start(e2etest.Command{
		Args: []string{"env", "--default-signal=INT", "bash", script}, // go test in the background ignores it
		Env:  append(env, "PANTALA="+e2etest.Binary(t), "REGISTRY="+registry, "TMPDIR="+tmp),
	})
}

// nothingLeft fails the test when something of a demonstration that has ended is still there.
func nothingLeft(t *testing.T, w *e2etest.World, tmp string) {
	t.Helper()
	for _, m := range e2etest.MountsBelow(tmp) {
		t.Errorf("left mounted: %s (%s)", m.Dir, m.Type)
	}
	for _, pid := range w.Left(time.Second) {
		t.Errorf("left running: %d %s", pid, e2etest.CommandLine(pid))
	}
	if all, err := os.ReadDir(tmp); err != nil || len(all) > 0 {
		t.Errorf("left in the temporary folder: %v, %v", all, err)
	}
}

// TestDemo: make demo-image shows what it says, and leaves nothing.
func TestDemo(t *testing.T) {
	e2etest.NeedRoot(t)
	w := e2etest.New(t)
	tmp := w.Dir("tmp")
	r := demo(t, w, tmp, "IMAGE_MIB=16", "RATE_MIB=0").Wait(demoLimit)
	if r.Code != 0 {
		t.Fatalf("%v", r)
	}
	if n := strings.Count(r.Stdout, "in the image: pantala "); n != 3 {
		t.Errorf("the program of the image ran %d times, not 3", n)
	}
	for _, line := range e2etest.Lines(r.Stdout) {
		f := strings.Fields(line)
		if len(f) == 10 && f[0] == "node" && f[1] == "b" { // node b 0.2 s 50 % 0.0 MiB 9.1 MiB
			if got, err := strconv.ParseFloat(f[6], 64); err != nil || got > 1 {
				t.Errorf("node b cost the registry something: %s", line)
			}
			if got, err := strconv.ParseFloat(f[8], 64); err != nil || got < 1 {
				t.Errorf("node b had nothing from its neighbour: %s", line)
			}
		}
	}
	if !strings.Contains(r.Stdout, "\n  node b ") || !strings.Contains(r.Stdout, ", 0.0 MiB from the registry") {
		t.Errorf("figures are missing: %v", r)
	}
	if t.Failed() {
		t.Log(r.Stdout)
	}
	nothingLeft(t, w, tmp)
}

// TestDemoInterrupted: Ctrl-C ends the demonstration soon, whatever it is doing, and even after a node of it has died.
func TestDemoInterrupted(t *testing.T) {
	e2etest.NeedRoot(t)
	for name, c := range map[string]struct {
		env  []string
		when string // is being shown
		kill bool   // node a dies first
	}{
		"making the image": {env: []string{"IMAGE_MIB=512"}, when: "A registry"},
		"mounting":         {env: []string{"IMAGE_MIB=64", "RATE_MIB=1"}, when: "Node a:"}, // for half a minute
		"a node has died":  {env: []string{"IMAGE_MIB=16", "RATE_MIB=0"}, when: "Node b:", kill: true},
		"registry stopped": {env: []string{"IMAGE_MIB=16", "RATE_MIB=0"}, when: "The registry is stopped"},
	} {
		t.Run(name, func(t *testing.T) {
			w := e2etest.New(t)
			tmp := w.Dir("tmp")
			p := demo(t, w, tmp, c.env...)
			w.Until(demoLimit, c.when, func() bool { return p.Ended() || strings.Contains(p.Output(), c.when) })
			pidFile := func() string {
				all, _ := filepath.Glob(filepath.Join(tmp, "*/a/daemon.pid"))
				return strings.Join(all, "")
			}
			if c.when == "Node a:" {
				w.Until(demoLimit, "node a runs", func() bool { return pidFile() != "" })
			}
			if c.kill {
				b, err := os.ReadFile(pidFile())
				pid, err2 := strconv.Atoi(strings.TrimSpace(string(b)))
				if err != nil || err2 != nil {
					t.Fatalf("node a: %v, %v", err, err2)
				}
				syscall.Kill(pid, syscall.SIGKILL)
			}
			p.Signal(syscall.SIGINT)
			if r := p.Wait(demoLimit / 2); r.Code != 130 {
				t.Errorf("%v", r)
			}
			nothingLeft(t, w, tmp)
		})
	}
}
