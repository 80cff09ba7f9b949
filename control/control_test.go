package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Node that records what it is asked and answers what the test says.
type fake struct {
	err     error
	mount   func(context.Context, MountRequest) (MountReply, error)
	share   func(context.Context, ShareRequest, func(Progress)) (ShareReply, error)
	status  Status
	asked   []string
	stopped bool
}

func (f *fake) note(format string, args ...any) error {
	f.asked = append(f.asked, fmt.Sprintf(format, args...))
	return f.err
}

func (f *fake) Mount(ctx context.Context, r MountRequest) (MountReply, error) { return f.mount(ctx, r) }
func (f *fake) Unmount(_ context.Context, dir string, force bool) error {
	return f.note("unmount %s %v", dir, force)
}
func (f *fake) Status(context.Context) (Status, error) { return f.status, f.err }
func (f *fake) Share(ctx context.Context, r ShareRequest, p func(Progress)) (ShareReply, error) {
	return f.share(ctx, r, p)
}
func (f *fake) Unshare(_ context.Context, name string) error { return f.note("unshare %s", name) }
func (f *fake) CacheList(context.Context) ([]Cached, error) {
	return []Cached{{ID: "sha256:00"}}, f.err
}
func (f *fake) CacheStat(_ context.Context, name string) (Cached, error) {
	return Cached{ID: name}, f.note("stat %s", name)
}
func (f *fake) CachePin(_ context.Context, name string, on bool) (Cached, error) {
	return Cached{ID: name, Pinned: on}, f.note("pin %s %v", name, on)
}
func (f *fake) CacheRemove(_ context.Context, name string) (Cached, error) {
	return Cached{ID: name}, f.note("rm %s", name)
}
func (f *fake) CacheGC(_ context.Context, free int64) (int64, error) {
	return free * 2, f.note("gc %d", free)
}
func (f *fake) ProfileList(context.Context) ([]Profile, error) {
	return []Profile{{Image: "a"}}, f.note("profiles")
}
func (f *fake) ProfileGet(_ context.Context, image string) (Profile, error) {
	return Profile{Image: image, Data: []byte("order")}, f.note("profile %s", image)
}
func (f *fake) ProfilePut(_ context.Context, image string, data []byte) (Profile, error) {
	return Profile{Image: image}, f.note("profile %s is %s", image, data)
}
func (f *fake) ImageInspect(_ context.Context, r ImageRequest) (Image, error) {
	return Image{Ref: r.Ref}, f.note("inspect %s", r.Ref)
}
func (f *fake) ImageCheck(_ context.Context, r ImageRequest, p func(Progress)) (Image, error) {
	p(Progress{What: "checking"})
	return Image{Ref: r.Ref, Layers: []ImageLayer{{Fault: FaultOf(blob.ErrCorrupt)}}}, f.note("check %s", r.Ref)
}
func (f *fake) ImageIndex(_ context.Context, r ImageRequest, p func(Progress)) (Image, error) {
	p(Progress{What: "indexing"})
	return Image{Ref: r.Ref}, f.note("index %s %v", r.Ref, r.Own)
}
func (f *fake) ImagePush(_ context.Context, r ImageRequest) (Image, error) {
	return Image{Ref: r.Ref}, f.note("push %s %s", r.Ref, r.Signatures["l"])
}
func (f *fake) Limits(_ context.Context, r LimitsRequest) (Limits, error) {
	return Limits{Rates: Rates{Upload: *r.Upload}, Tenants: map[string]Rates{r.Tenant: {Origin: 1}}}, f.note("limits %s %d", r.Tenant, *r.Upload)
}
func (f *fake) Stop(_ context.Context, idle bool) (bool, error) {
	f.stopped = true
	return !idle, f.err
}

// serve returns a client of n, in a directory of its own.
func serve(t *testing.T, n Node) (*Client, string) {
	t.Helper()
	state := t.TempDir()
	s, err := Serve(state, n, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return NewClient(state), state
}

func TestRoundTrip(t *testing.T) {
	yes := true
	request := MountRequest{
		Source: "https://host/a?b=c&d", Dir: "/mnt/ä b", AsFile: true, AllowOther: &yes, NoPassthrough: true,
		Options: Options{
			Header: http.Header{"Authorization": {"Bearer x"}, "X-A": {"1", "2"}}, Digest: "sha256:00", Fill: "eager", Timeout: 5 * time.Second,
			Hard: true, Strict: true, CACert: "/ca", Mirrors: []string{"m"}, Trackers: []string{"t"},
		},
		Expect: []Setting{{"listen", ":1", "flag --listen"}},
	}
	reply := MountReply{ID: "url:00", Path: "/mnt/ä b/a", Size: 1 << 40, Present: 3, Warnings: []string{"w"}}
	status := Status{
		PID: 42, Version: "v", State: "/s", Listen: "l", Started: time.Unix(1e9, 0).UTC(),
		Mounts: []Mount{{Source: "s", Dir: "d", Name: "n", State: "ready", Fill: "idle", Transfer: Transfer{ID: "i", Size: 1 << 53, Present: 2, FromPeers: 3, FromOrigin: 4, Waiting: 5, Errors: 6}, Requests: 7}},
		Shares: []Share{{Source: "p"}}, Peers: []Peer{{Addr: "a", Downloaded: 9}}, Trackers: []Tracker{{URL: "u"}}, Cache: &Usage{Bytes: 1},
	}
	var got MountRequest
	f := &fake{status: status, mount: func(_ context.Context, r MountRequest) (MountReply, error) { got = r; return reply, nil }}
	c, _ := serve(t, f)
	ctx := t.Context()

	gotReply, err := c.Mount(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(request, got); d != "" {
		t.Errorf("request (-sent +came):\n%s", d)
	}
	if d := cmp.Diff(reply, gotReply); d != "" {
		t.Errorf("reply (-sent +came):\n%s", d)
	}
	gotStatus, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(status, gotStatus); d != "" {
		t.Errorf("status (-sent +came):\n%s", d)
	}
	for _, call := range []struct {
		name string
		do   func() error
	}{
		{"unmount /a true", func() error { return c.Unmount(ctx, "/a", true) }},
		{"unshare x", func() error { return c.Unshare(ctx, "x") }},
		{"stat b", func() error { _, err := c.CacheStat(ctx, "b"); return err }},
		{"pin b true", func() error {
			b, err := c.CachePin(ctx, "b", true)
			if !b.Pinned {
				t.Error("not pinned")
			}
			return err
		}},
		{"rm b", func() error { _, err := c.CacheRemove(ctx, "b"); return err }},
		{"limits t 5", func() error {
			rate := int64(5)
			l, err := c.Limits(ctx, LimitsRequest{Tenant: "t", Upload: &rate})
			if l.Upload != 5 || l.Tenants["t"].Origin != 1 {
				t.Errorf("limits answered %+v", l)
			}
			return err
		}},
		{"profiles", func() error {
			all, err := c.ProfileList(ctx)
			if len(all) != 1 || all[0].Image != "a" {
				t.Errorf("profiles: %v", all)
			}
			return err
		}},
		{"profile i", func() error {
			p, err := c.ProfileGet(ctx, "i")
			if p.Image != "i" || string(p.Data) != "order" {
				t.Errorf("profile: %v", p)
			}
			return err
		}},
		{"profile i is x\x00y", func() error {
			p, err := c.ProfilePut(ctx, "i", []byte("x\x00y"))
			if p.Image != "i" {
				t.Errorf("profile: %v", p)
			}
			return err
		}},
		{"inspect i", func() error {
			i, err := c.ImageInspect(ctx, ImageRequest{Ref: "i"})
			if i.Ref != "i" {
				t.Errorf("inspect: %v", i)
			}
			return err
		}},
		{"check i", func() error {
			said := 0
			i, err := c.ImageCheck(ctx, ImageRequest{Ref: "i"}, func(Progress) { said++ })
			if said != 1 || len(i.Layers) != 1 || !errors.Is(i.Layers[0].Fault, blob.ErrCorrupt) {
				t.Errorf("check: %v after %d", i, said)
			}
			return err
		}},
		{"index i true", func() error {
			said := 0
			i, err := c.ImageIndex(ctx, ImageRequest{Ref: "i", Own: true}, func(Progress) { said++ })
			if said != 1 || i.Ref != "i" {
				t.Errorf("index: %v after %d", i, said)
			}
			return err
		}},
		{"push i s", func() error {
			_, err := c.ImagePush(ctx, ImageRequest{Ref: "i", Signatures: map[string]string{"l": "s"}})
			return err
		}},
		{"gc 21", func() error {
			n, err := c.CacheGC(ctx, 21)
			if n != 42 {
				t.Errorf("gc answered %d", n)
			}
			return err
		}},
	} {
		f.asked = nil
		if err := call.do(); err != nil {
			t.Errorf("%s: %v", call.name, err)
		}
		if d := cmp.Diff([]string{call.name}, f.asked); d != "" {
			t.Errorf("asked (-want +got):\n%s", d)
		}
	}
	if all, err := c.CacheList(ctx); err != nil || len(all) != 1 {
		t.Errorf("list: %v, %v", all, err)
	}
	if stopping, err := c.Stop(ctx, true); err != nil || stopping || !f.stopped {
		t.Errorf("stop: %v, %v", stopping, err)
	}
}

// TestErrorClasses: every class survives the socket, with its text and no other class.
func TestErrorClasses(t *testing.T) {
	f := new(fake)
	c, _ := serve(t, f)
	for _, class := range classes {
		f.err = fmt.Errorf("doing it: %w: do that", class.err)
		err := c.Unmount(t.Context(), "/x", false)
		if !errors.Is(err, class.err) || err.Error() != f.err.Error() {
			t.Errorf("%s: got %v", class.word, err)
		}
		for _, other := range classes {
			if other.err != class.err && errors.Is(err, other.err) {
				t.Errorf("%s came as %s too", class.word, other.word)
			}
		}
	}
	f.err = errors.New("of no class")
	if err := c.Unmount(t.Context(), "/x", false); err == nil || err.Error() != "of no class" || Class(err) != "" {
		t.Errorf("got %v", err)
	}
	f.err = Local(fmt.Errorf("%w: here", blob.ErrUnavailable))
	if err := c.Unmount(t.Context(), "/x", false); !errors.Is(err, ErrLocal) {
		t.Errorf("got %v", err)
	}
}

func TestLocal(t *testing.T) {
	if Local(nil) != nil {
		t.Error("nil became an error")
	}
	err := Local(fmt.Errorf("x: %w", os.ErrPermission))
	if !errors.Is(err, ErrLocal) || !errors.Is(err, os.ErrPermission) || err.Error() != "x: permission denied" {
		t.Errorf("%v", err)
	}
	if Local(err) != err {
		t.Error("wrapped twice")
	}
}

func TestNoDaemon(t *testing.T) {
	dir := t.TempDir()
	for name, state := range map[string]string{"no directory": filepath.Join(dir, "none"), "no socket": dir} {
		if _, err := NewClient(state).Status(t.Context()); !errors.Is(err, ErrNoDaemon) || strings.Contains(err.Error(), "http://") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// One that died leaves its socket.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, SocketName), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := NewClient(dir).Status(t.Context()); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("dead socket: %v", err)
	}
	s, err := Serve(dir, &fake{}, nil)
	if err != nil {
		t.Fatalf("a dead socket is in the way: %v", err)
	}
	if _, err := NewClient(dir).Status(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, SocketName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Errorf("second close: %v", err)
	}
}

// TestLongPath: sockaddr_un takes 107 bytes, a state directory may be longer.
func TestLongPath(t *testing.T) {
	state := filepath.Join(t.TempDir(), strings.Repeat("d", 200))
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Serve(state, &fake{status: Status{PID: 7}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := NewClient(state).Status(t.Context())
	if err != nil || st.PID != 7 {
		t.Errorf("%+v, %v", st, err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSocketIsPrivate(t *testing.T) {
	_, state := serve(t, &fake{})
	st, err := os.Lstat(filepath.Join(state, SocketName))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if _, err := Listen(filepath.Join(state, "none")); !errors.Is(err, ErrLocal) {
		t.Errorf("listening in no directory: %v", err)
	}
}

func TestShareStreams(t *testing.T) {
	var request ShareRequest
	f := &fake{share: func(_ context.Context, r ShareRequest, p func(Progress)) (ShareReply, error) {
		request = r
		p(Progress{What: "hashing", Done: 1, Total: 3})
		return ShareReply{Digest: "sha256:00"}, nil
	}}
	c, _ := serve(t, f)
	var seen []Progress
	reply, err := c.Share(t.Context(), ShareRequest{Path: "/p"}, func(p Progress) { seen = append(seen, p) })
	if err != nil || reply.Digest != "sha256:00" || request.Path != "/p" {
		t.Errorf("%+v, %v", reply, err)
	}
	if d := cmp.Diff([]Progress{{What: "hashing", Done: 1, Total: 3}}, seen); d != "" {
		t.Error(d)
	}
	f.share = func(_ context.Context, _ ShareRequest, p func(Progress)) (ShareReply, error) {
		p(Progress{})
		return ShareReply{}, fmt.Errorf("late: %w", blob.ErrCorrupt)
	}
	if _, err := c.Share(t.Context(), ShareRequest{}, nil); !errors.Is(err, blob.ErrCorrupt) || err.Error() != "late: corrupt" {
		t.Errorf("got %v", err)
	}
}

// TestAskerGone: what a command asked for is given up when the command ends.
func TestAskerGone(t *testing.T) {
	entered, left := make(chan struct{}), make(chan error, 1)
	c, _ := serve(t, &fake{mount: func(ctx context.Context, _ MountRequest) (MountReply, error) {
		close(entered)
		<-ctx.Done()
		left <- ctx.Err()
		return MountReply{}, ctx.Err()
	}})
	why := errors.New("interrupted by the test")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { <-entered; cancel(why) }()
	if _, err := c.Mount(ctx, MountRequest{}); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	select {
	case err := <-left:
		if err == nil {
			t.Error("the request was not cancelled")
		}
	case <-time.After(10 * time.Second):
		t.Error("the request goes on")
	}
}

// TestCloseCutsOff: an answer that takes longer than Close is patient ends with its context.
func TestCloseCutsOff(t *testing.T) {
	entered := make(chan struct{})
	state := t.TempDir()
	s, err := Serve(state, &fake{mount: func(ctx context.Context, _ MountRequest) (MountReply, error) {
		close(entered)
		<-ctx.Done()
		return MountReply{}, fmt.Errorf("%w: stopping", blob.ErrClosed)
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan error, 1)
	go func() {
		_, err := NewClient(state).Mount(context.Background(), MountRequest{})
		asked <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("close: %v", err)
	}
	if err := <-asked; err == nil {
		t.Error("the asker was told that all is well")
	}
}

func TestPanicIsAnError(t *testing.T) {
	f := &fake{
		mount: func(context.Context, MountRequest) (MountReply, error) { panic("boom") },
		share: func(context.Context, ShareRequest, func(Progress)) (ShareReply, error) { panic("boom") },
	}
	c, _ := serve(t, f)
	if _, err := c.Mount(t.Context(), MountRequest{}); err == nil || !strings.Contains(err.Error(), "BUG: the daemon panicked: boom") {
		t.Errorf("mount: %v", err)
	}
	if _, err := c.Share(t.Context(), ShareRequest{}, nil); err == nil || !strings.Contains(err.Error(), "BUG: the daemon panicked: boom") {
		t.Errorf("share: %v", err)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestStrangers: whoever speaks something else at either end gets an error, not a hang.
func TestStrangers(t *testing.T) {
	c, _ := serve(t, &fake{})
	for _, path := range []string{"/v1/none", "/v2/mount"} {
		if _, err := c.post(t.Context(), path, empty{}); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := ask[empty](t.Context(), c, "/v1/mount", "not an object"); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("malformed request: %v", err)
	}
	if _, err := ask[empty](t.Context(), c, "/v1/mount", strings.Repeat("x", maxBody)); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("long request: %v", err)
	}
	for name, answer := range map[string]string{
		"nothing":            "",
		"no HTTP":            "hello\n",
		"no JSON":            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"cut off":            "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{",
		"error without text": "HTTP/1.1 422 Unprocessable Entity\r\nContent-Length: 2\r\n\r\n{}",
	} {
		state := t.TempDir()
		l, err := net.Listen("unix", filepath.Join(state, SocketName))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				io.WriteString(conn, answer)
				conn.Close()
			}
		}()
		if _, err := NewClient(state).Status(t.Context()); !errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		l.Close()
		<-done
	}
}

// TestStatusShape pins the names that scripts rely on.
func TestStatusShape(t *testing.T) {
	raw, err := json.Marshal(Status{Mounts: []Mount{{}}, Peers: []Peer{}})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		PID    *int
		Mounts []map[string]any
		Peers  []any
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if got.PID == nil || got.Peers == nil || len(got.Mounts) != 1 {
		t.Fatalf("%s", raw)
	}
	for _, k := range []string{"source", "dir", "size", "present", "from_peers", "from_origin", "waiting", "errors"} {
		if _, ok := got.Mounts[0][k]; !ok {
			t.Errorf("no %q in %s", k, raw)
		}
	}
}

// FuzzRequest: nothing that comes through the socket makes the server panic.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{"", "{}", `{"source":"x","dir":"/y","timeout":-1}`, `{"allow_other":null}`, "[", `{"header":{"a":["b"]}}`, `{"timeout":1e300}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var m MountRequest
		if err := decode(strings.NewReader(string(body)), &m); err != nil && !errors.Is(err, blob.ErrInvalid) {
			t.Fatalf("class of %v", err)
		}
		fault := new(Fault)
		if json.Unmarshal(body, fault) == nil && fault.Check() == nil && fault.Error() == "" {
			t.Fatal("a fault without a text was accepted")
		}
	})
}
