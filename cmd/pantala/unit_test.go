package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
)

func TestExitCodes(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("doing it: %w: do that", err) }
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("of no class"), 1},
		{usagef("x"), 2}, {wrap(blob.ErrInvalid), 2},
		{wrap(blob.ErrNotFound), 3},
		{wrap(blob.ErrDenied), 4},
		{wrap(blob.ErrUnavailable), 5}, {wrap(blob.ErrChanged), 5}, {wrap(blob.ErrClosed), 5}, {context.DeadlineExceeded, 5},
		{wrap(blob.ErrCorrupt), 6},
		{control.Local(wrap(os.ErrPermission)), 7}, {control.Local(wrap(blob.ErrUnavailable)), 7}, {wrap(blob.ErrNoSpace), 7},
		{control.FaultOf(wrap(blob.ErrCorrupt)), 6}, {control.FaultOf(control.Local(errors.New("x"))), 7},
		{errInterrupted, 130}, {wrap(context.Canceled), 130},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: %d, not %d", c.err, got, c.want)
		}
	}
	for _, c := range []struct {
		err  error
		want int
	}{{nil, 0}, {usagef("x"), 1}, {wrap(blob.ErrNotFound), 32}, {errInterrupted, 8}, {errors.New("BUG: x"), 4}} {
		if got := mountCode(c.err); got != c.want {
			t.Errorf("mount: %v: %d, not %d", c.err, got, c.want)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		in     string
		helper bool
		want   map[string]string
		err    string
	}{
		{"ro,defaults,noauto,_netdev,nofail,x-systemd.automount,x-a=b,comment=c,", false, map[string]string{}, ""},
		{"fill=eager,strict,allow_other,as-file", false, map[string]string{"fill": "eager", "strict": "true", "allow-other": "true", "as-file": "true"}, ""},
		{"tracker=http://a/announce;http://b/announce,tracker=http://c/announce", false, map[string]string{"tracker": "http://a/announce,http://b/announce,http://c/announce"}, ""},
		{"header=A: b,header=C: d", false, map[string]string{"header": "[A: b,C: d]"}, ""},
		{"hard=false", false, map[string]string{"hard": "false"}, ""},
		{"rw,ro", true, map[string]string{}, ""},
		{"rw", false, nil, "read-only"},
		{"ro,rw", true, nil, "read-only"},
		{"timout=3s", false, nil, `"timeout"`},
		{"fill", false, nil, "fill=VALUE"},
		{"strict=perhaps", false, nil, "strict"},
		{"zzzzzz", false, nil, "--help"},
	} {
		m := new(mountFlags)
		f := pflag.NewFlagSet("", pflag.ContinueOnError)
		m.add(f)
		f.String("tracker", "", "")
		err := applyOptions(f, c.in, c.helper)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || exitCode(err) != exitUsage {
				t.Errorf("%s: %v", c.in, err)
			}
			continue
		}
		got := map[string]string{}
		f.Visit(func(f *pflag.Flag) { got[f.Name] = f.Value.String() })
		if err != nil || !cmp.Equal(got, c.want) {
			t.Errorf("%s: %v, %v", c.in, got, err)
		}
	}
}

func TestHeaders(t *testing.T) {
	h, err := parseHeaders([]string{"Authorization: Bearer a:b", "X-A:1", "x-a: 2"})
	if err != nil || h.Get("Authorization") != "Bearer a:b" || !cmp.Equal(h["X-A"], []string{"1", "2"}) {
		t.Errorf("%v, %v", h, err)
	}
	for _, l := range []string{"secret", "na me: secret", ": secret", "a: sec\nret", ""} {
		if _, err := parseHeaders([]string{l}); err == nil || strings.Contains(err.Error(), "sec") {
			t.Errorf("%q: %v", l, err)
		}
	}
	if h, err := parseHeaders(nil); h != nil || err != nil {
		t.Errorf("%v, %v", h, err)
	}
}

// TestExpect: only what the command line itself says about the daemon is insisted on.
func TestExpect(t *testing.T) {
	c, err := config.Load(config.Input{Env: []string{"PANTALA_QUOTA=1GiB"}, Flags: map[string]string{"listen": ":1", "fill": "eager"}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]control.Setting{{Key: "listen", Value: ":1", From: "flag --listen"}}, expect(c)); d != "" {
		t.Error(d)
	}
}

func TestProgressWithoutTerminal(t *testing.T) {
	var out strings.Builder
	a := &app{stderr: &out}
	p := a.progress("f", false)
	p.update(control.Progress{What: downloading, Done: 1 << 20, Total: 4 << 20})
	if out.Len() != 0 {
		t.Errorf("said at once: %q", out.String())
	}
	p.said, p.start = time.Time{}, time.Now().Add(-time.Second)
	p.update(control.Progress{What: downloading, Done: 3 << 20, Total: 4 << 20, FromPeers: 1 << 20})
	p.stop()
	line := out.String()
	for _, want := range []string{"f: downloading 3.0 MiB of 4.0 MiB (75 %)", "MiB/s", "ETA ", "50 % from peers\n"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q does not say %q", line, want)
		}
	}
	got := p.summary(control.Transfer{Size: 8 << 20, FromPeers: 3 << 20, FromOrigin: 1 << 20}, time.Now().Add(-2*time.Second))
	for _, want := range []string{"f: 8.0 MiB in 2", "MiB/s)", "75 % from peers", "4.0 MiB were here already"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not say %q", got, want)
		}
	}
	quiet := a.progress("f", true)
	quiet.said = time.Time{}
	out.Reset()
	quiet.update(control.Progress{Done: 1, Total: 2})
	if out.Len() != 0 {
		t.Errorf("quiet said %q", out.String())
	}
}

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		part, whole int64
		want        string
	}{{0, 0, "100 %"}, {0, 5, "0 %"}, {999, 1000, "99 %"}, {1000, 1000, "100 %"}, {1 << 62, 1 << 62, "100 %"}} {
		if got := percent(c.part, c.whole); got != c.want {
			t.Errorf("%d of %d: %s", c.part, c.whole, got)
		}
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{0: "0 blobs", 1: "1 blob", 2: "2 blobs"} {
		if got := count(n, "blob"); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	var out strings.Builder
	a := &app{stdout: &out}
	if err := a.printStatus(control.Status{PID: 1, Cache: &control.Usage{Blobs: 1}}); err != nil || !strings.Contains(out.String(), " in 1 blob, ") {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// leaving is a daemon that is stopping and takes its time: it answers, holds its lock, and refuses work or cuts it
// off.
type leaving struct {
	control.Node
	broken bool
	asked  atomic.Int32
}

func (l *leaving) Status(context.Context) (control.Status, error) { return control.Status{PID: 1}, nil }

func (l *leaving) Mount(context.Context, control.MountRequest) (control.MountReply, error) {
	l.asked.Add(1)
	if l.broken {
		panic(http.ErrAbortHandler) // the exchange breaks off
	}
	return control.MountReply{}, fmt.Errorf("%w: the daemon is being stopped", blob.ErrClosed)
}

// next is the daemon that comes after it.
type next struct{ control.Node }

func (next) Status(context.Context) (control.Status, error) { return control.Status{PID: 2}, nil }

func (next) Mount(context.Context, control.MountRequest) (control.MountReply, error) {
	return control.MountReply{ID: "next"}, nil
}

// TestStoppingDaemon: a mount that meets a daemon which is just stopping waits until that is gone.
func TestStoppingDaemon(t *testing.T) {
	stopTime, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for name, l := range map[string]*leaving{"refuses": {}, "breaks off": {broken: true}} {
		t.Run(name, func(t *testing.T) {
			c := config.Config{State: t.TempDir()}
			life, err := lock(filepath.Join(c.State, daemonLock))
			if err != nil {
				t.Fatal(err)
			}
			defer life.Close()
			s, err := control.Serve(c.State, l, nil)
			if err != nil {
				t.Fatal(err)
			}
			enough := int32(10)
			if l.broken {
				enough = 2
			}
			changed := make(chan error, 1)
			go func() {
				for l.asked.Load() < enough && stopTime.Err() == nil {
					time.Sleep(time.Millisecond)
				}
				s.Close(stopTime)
				var err error
				s, err = control.Serve(c.State, next{}, nil)
				changed <- err
			}()
			var reply control.MountReply
			err = new(app).withDaemon(stopTime, c, func(client *control.Client) (err error) {
				reply, err = client.Mount(stopTime, control.MountRequest{})
				return err
			})
			if cerr := <-changed; cerr != nil {
				t.Fatal(cerr)
			}
			defer s.Close(stopTime)
			if err != nil || reply.ID != "next" {
				t.Errorf("after %d requests: %+v, %v", l.asked.Load(), reply, err)
			}
		})
	}
}

// TestBrokenExchange: a request that breaks off again and again is an error in the end.
func TestBrokenExchange(t *testing.T) {
	c := config.Config{State: t.TempDir()}
	l := &leaving{broken: true}
	s, err := control.Serve(c.State, l, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	err = new(app).withDaemon(t.Context(), c, func(client *control.Client) error {
		_, err := client.Mount(t.Context(), control.MountRequest{})
		return err
	})
	if exitCode(err) != exitTemporary || l.asked.Load() != 1+maxBroken {
		t.Errorf("after %d requests: %v", l.asked.Load(), err)
	}
}

func TestNames(t *testing.T) {
	for in, want := range map[string]string{
		"http://h/a/b.bin": "b.bin", "http://h/a%20b?x=y": "a b", "http://h/": "", "http://h": "", "http://h/a/": "a", "file:///x/y": "y",
	} {
		if got := nameOf(in); got != want {
			t.Errorf("%s: %q", in, got)
		}
	}
	for in, want := range map[string]string{"a b": "'a b'", "a'b": "'a%27b'"} {
		if got := quote(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestResolveDir(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	real := filepath.Join(dir, "real")
	for _, err := range []error{
		os.Mkdir(real, 0o700), os.Symlink("real", filepath.Join(dir, "link")), os.Symlink(filepath.Join(dir, "link"), filepath.Join(dir, "again")),
		os.Symlink("loop", filepath.Join(dir, "loop")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for in, want := range map[string]string{
		"real": real, "link": real, "again": real, "again/": real, "none": filepath.Join(dir, "none"), "link/x": filepath.Join(real, "x"),
		"none/x": filepath.Join(dir, "none/x"), "loop": filepath.Join(dir, "loop"),
	} {
		if got, err := resolveDir(filepath.Join(dir, in)); err != nil || got != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
}

func TestAnnounceURL(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1:7700": "http://127.0.0.1:7700/announce", "[::1]:1": "http://[::1]:1/announce",
		"[::]:7700": "http://" + outward().String() + ":7700/announce", "0.0.0.0:1": "http://" + outward().String() + ":1/announce",
	} {
		a, err := net.ResolveTCPAddr("tcp", in)
		if err != nil {
			t.Fatal(err)
		}
		if got := announceURL("http", a); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestKernelRelease(t *testing.T) {
	for in, want := range map[string]bool{"6.9": true, "6.18.44-x": true, "7.0.0": true, "6.8.12": false, "5.15.0-91-generic": false, "x": false, "": false} {
		if atLeast(in, 6, 9) != want {
			t.Errorf("%q", in)
		}
	}
}

// FuzzOptions: no option string of fstab panics, and all errors are usage errors of one line.
func FuzzOptions(f *testing.F) {
	for _, s := range []string{"", "ro,fill=eager", "rw", "=", ",,", "tracker=;", "header=a", "quota=1e", "x-", "help", "options=x", "o=x"} {
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, s string, helper bool) {
		m := new(mountFlags)
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		m.add(flags)
		if err := applyOptions(flags, s, helper); err != nil && exitCode(err) != exitUsage {
			t.Fatalf("%v", err)
		}
	})
}
