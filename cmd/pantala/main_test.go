package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pantala/pantala/fs"
	"github.com/pantala/pantala/image/profile"
	"github.com/pantala/pantala/tracker"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pantala": main, "mount.pantala": main})
}

// content is what the origin of the scripts serves as /model.bin: 3 MiB and a bit.
func content() []byte {
	p := make([]byte, 3<<20+777)
	for i := range p {
		p[i] = byte(i>>16) ^ byte(i>>8) ^ byte(i)
	}
	return p
}

// TestScripts runs the programs of testdata: each line is a real process. The scripts whose name starts with
// fuse mount something.
func TestScripts(t *testing.T) {
	body := content()
	mux := http.NewServeMux()
	mux.HandleFunc("/model.bin", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, r, "", time.Unix(1e9, 0), bytes.NewReader(body))
	})
	mux.HandleFunc("/empty.bin", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, r, "", time.Unix(1e9, 0), bytes.NewReader(nil))
	})
	mux.HandleFunc("/secret.bin", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer token" || r.Header.Get("X-Second") != "a: b" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, r, "", time.Unix(1e9, 0), bytes.NewReader(body))
	})
	hung := make(chan struct{})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hung:
		case <-r.Context().Done():
		}
	})
	origin := httptest.NewServer(mux)
	announce := tracker.NewServer(tracker.ServerOptions{})
	trackers := httptest.NewServer(announce)
	t.Cleanup(func() {
		close(hung)
		announce.Close()
		for _, s := range []*httptest.Server{origin, trackers} {
			s.CloseClientConnections()
			s.Close()
		}
	})
	digest := sha256.Sum256(body)
	good, broken := images(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("ORIGIN", origin.URL)
			e.Setenv("TRACKER", trackers.URL+"/announce")
			e.Setenv("IMAGE", good)
			e.Setenv("BROKEN", broken)
			e.Setenv("NOWHERE", strings.Replace(good, ":good", ":nowhere", 1))
			e.Setenv("TAKEN", strings.TrimPrefix(origin.URL, "http://"))
			e.Setenv("DIGEST", fmt.Sprintf("sha256:%x", digest))
			e.Setenv("PANTALA_STATE", filepath.Join(e.WorkDir, "state"))
			e.Setenv("TMPDIR", e.WorkDir)
			e.Defer(func() { clean(t, e.WorkDir) })
			order := (&profile.Profile{Starts: 3, Touches: []profile.Touch{{Layer: 2, Span: 40}, {Layer: 0, Span: 7}, {Layer: 2, Span: 41}}}).Append(nil)
			if err := os.WriteFile(filepath.Join(e.WorkDir, "order.ptp"), order, 0o600); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(e.WorkDir, "model.want"), body, 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": code, "waitfile": waitFile, "nodaemon": noDaemon},
		Condition: func(cond string) (bool, error) {
			if cond == "fuse" {
				return canMount(t), nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

// canMount says whether scripts may mount; a machine that should be able to and is not fails the test.
func canMount(t *testing.T) bool {
	problems := fs.Prerequisites()
	if os.Geteuid() == 0 && len(problems) == 0 {
		return true
	}
	if _, err := os.Stat("/dev/fuse"); os.Getenv("CI") == "true" || err == nil && os.Geteuid() == 0 {
		t.Errorf("this machine should be able to mount: %v", problems)
	}
	return false
}

// clean stops what a script that failed has left: daemons by their pid, mounts by their directory.
func clean(t *testing.T, dir string) {
	mounts, err := fs.Mounts()
	if err != nil {
		t.Error(err)
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.Dir, dir+"/") {
			t.Errorf("left mounted: %s", m.Dir)
			if err := fs.UnmountDir(m.Dir, true); err != nil {
				t.Error(err)
			}
		}
	}
	pids, _ := filepath.Glob(filepath.Join(dir, "*", pidName))
	for _, p := range pids {
		raw, err := os.ReadFile(p)
		pid, aerr := strconv.Atoi(strings.TrimSpace(string(raw)))
		if err != nil || aerr != nil {
			continue
		}
		t.Errorf("left running: daemon %d of %s", pid, filepath.Dir(p))
		if proc, err := os.FindProcess(pid); err == nil {
			proc.Kill()
		}
	}
}

// code runs a program and checks its exit code and that it says one line on stderr: code N PROGRAM ARGS…
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N program args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(interface{ ExitCode() int })
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, not %d", got, want)
	}
	stderr := ts.ReadFile("stderr")
	if want != 0 && strings.Count(stderr, "\n") != 1 {
		ts.Fatalf("not one line on stderr: %q", stderr)
	}
}

// patience bounds what scripts wait for.
const patience = 30 * time.Second

// waitFile waits until a file has content.
func waitFile(ts *testscript.TestScript, neg bool, args []string) {
	waitFor(ts, "content of "+args[0], func() bool {
		st, err := os.Stat(ts.MkAbs(args[0]))
		return err == nil && st.Size() > 0
	})
}

// noDaemon waits until no daemon holds a state directory.
func noDaemon(ts *testscript.TestScript, neg bool, args []string) {
	waitFor(ts, "the end of the daemon of "+args[0], func() bool {
		f, err := lock(filepath.Join(ts.MkAbs(args[0]), daemonLock))
		if err != nil {
			return false
		}
		return f.Close() == nil
	})
}

func waitFor(ts *testscript.TestScript, what string, ok func() bool) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(patience)
	defer end.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			ts.Fatalf("waited in vain for %s", what)
		}
	}
}
