package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"github.com/pantala/pantala/metainfo"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/origin/origintest"
	"github.com/pantala/pantala/tracker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patient bounds what a test waits for; nothing takes nearly as long when it works.
func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// conf is the configuration of a test's node.
func conf(t testing.TB, trackers ...string) config.Config {
	c := config.Default(0, os.Getenv)
	c.State, c.Listen, c.Trackers, c.Timeout = t.TempDir(), "127.0.0.1:0", trackers, 20*time.Second
	return c
}

func start(t testing.TB, c config.Config) *Node {
	t.Helper()
	n, err := New(c, Options{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := n.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return n
}

func startTracker(t testing.TB) string {
	t.Helper()
	s := tracker.NewServer(tracker.ServerOptions{})
	h := httptest.NewServer(s)
	t.Cleanup(func() { s.Close(); h.CloseClientConnections(); h.Close() })
	return h.URL + "/announce"
}

func noProgress(int64) {}

// fetchAll downloads source and returns its bytes.
func fetchAll(t testing.TB, n *Node, source string, o control.Options) ([]byte, control.Transfer) {
	t.Helper()
	d, err := n.Download(patient(t), source, o, 0, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Wait(patient(t), blob.Hash{}, func(control.Transfer) {}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := d.CopyTo(patient(t), &b, blob.Hash{}, func(control.Transfer) {}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), d.Status()
}

func TestDownload(t *testing.T) {
	for _, size := range []int{0, 1, blob.BlockSize, blob.BlockSize + 1, 128 << 10, 1<<20 + 77, 5 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			want := origintest.Bytes(1, size)
			s := origintest.New(t, origintest.Of(want))
			got, st := fetchAll(t, start(t, conf(t)), s.At("/a/model.bin"), control.Options{})
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes differ from the origin's %d", len(got), len(want))
			}
			if st.FromOrigin != int64(size) || st.FromPeers != 0 || !st.Complete {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestPeers: what one node has, the other gets from it and not from the origin.
func TestPeers(t *testing.T) {
	want := origintest.Bytes(2, 3<<20+5)
	s := origintest.New(t, origintest.Of(want))
	announce := startTracker(t)
	first, second := start(t, conf(t, announce)), start(t, conf(t, announce))
	if _, err := first.Share(patient(t), control.ShareRequest{URL: s.At("/model.bin")}, nil); err != nil {
		t.Fatal(err)
	}
	before := s.Bytes()
	got, st := fetchAll(t, second, s.At("/model.bin"), control.Options{})
	if !bytes.Equal(got, want) {
		t.Fatal("bytes differ")
	}
	if st.FromPeers < int64(len(want))*9/10 {
		t.Errorf("%d of %d bytes came from the peer, %d from the origin", st.FromPeers, len(want), s.Bytes()-before)
	}
	status, err := first.Status(patient(t))
	if err != nil || len(status.Shares) != 1 || len(status.Trackers) == 0 || status.Shares[0].Uploaded == 0 {
		t.Errorf("%+v, %v", status, err)
	}
}

// TestTogether: nodes that start together divide the origin's bytes.
func TestTogether(t *testing.T) {
	want := origintest.Bytes(3, 8<<20)
	s := origintest.New(t, origintest.Of(want))
	s.Set(origintest.Faults{Rate: 2 << 20}) // else the first is done before the tracker knows of the others
	announce := startTracker(t)
	type result struct {
		got []byte
		err error
	}
	results := make(chan result, 3)
	all := make(chan struct{}) // have been heard: one that leaves takes away what others have not got yet
	defer close(all)
	for range cap(results) {
		n := start(t, conf(t, announce))
		go func() {
			d, err := n.Download(patient(t), s.At("/model.bin"), control.Options{}, 0, noProgress)
			if err != nil {
				results <- result{nil, err}
				return
			}
			defer d.Close()
			var b bytes.Buffer
			err = d.CopyTo(patient(t), &b, blob.Hash{}, func(control.Transfer) {})
			results <- result{b.Bytes(), err}
			<-all
		}()
	}
	for range cap(results) {
		if r := <-results; r.err != nil || !bytes.Equal(r.got, want) {
			t.Errorf("%d bytes, %v", len(r.got), r.err)
		}
	}
	t.Logf("three nodes read %.2f times the object", float64(s.Bytes())/float64(len(want)))
	// Each asks for the first 128 KiB to learn what the object is.
	if most := int64(len(want))*2 + 3*128<<10; s.Bytes() > most {
		t.Errorf("three nodes read %d bytes of %d", s.Bytes(), len(want))
	}
}

func TestSharePath(t *testing.T) {
	for _, size := range []int{0, 10, 200 << 10, 256 << 10, 2<<20 + 3} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			want := origintest.Bytes(4, size)
			path := filepath.Join(t.TempDir(), "model & co.bin")
			if err := os.WriteFile(path, want, 0o600); err != nil {
				t.Fatal(err)
			}
			seeder, leecher := start(t, conf(t)), start(t, conf(t))
			seen := int64(-1)
			reply, err := seeder.Share(patient(t), control.ShareRequest{Path: path}, func(p control.Progress) { seen = p.Done })
			if err != nil {
				t.Fatal(err)
			}
			if size > 0 && seen != int64(size) {
				t.Errorf("progress ended at %d", seen)
			}
			got, st := fetchAll(t, leecher, reply.Magnet, control.Options{Digest: reply.Digest})
			if !bytes.Equal(got, want) {
				t.Error("bytes differ")
			}
			if st.FromPeers != int64(size) {
				t.Errorf("%+v", st)
			}
			m, err := metainfo.ParseMagnet(reply.Magnet)
			if err != nil || m.Name != "model & co.bin" || m.V2.String() != reply.InfoHash {
				t.Errorf("%+v, %v", m, err)
			}
			if err := seeder.Unshare(patient(t), path); err != nil {
				t.Error(err)
			}
			if err := seeder.Unshare(patient(t), path); !errors.Is(err, blob.ErrNotFound) {
				t.Errorf("unshared twice: %v", err)
			}
		})
	}
}

// TestShareURLMagnet: a URL's object that is complete is also found under its magnet link.
func TestShareURLMagnet(t *testing.T) {
	want := origintest.Bytes(5, 700<<10)
	s := origintest.New(t, origintest.Of(want))
	seeder, leecher := start(t, conf(t)), start(t, conf(t))
	reply, err := seeder.Share(patient(t), control.ShareRequest{URL: s.At("/x")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	got, _ := fetchAll(t, leecher, reply.Magnet, control.Options{})
	if !bytes.Equal(got, want) {
		t.Error("bytes differ")
	}
}

func TestShareRefuses(t *testing.T) {
	n := start(t, conf(t))
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := "sha256:" + strings.Repeat("1", 64)
	for name, c := range map[string]struct {
		r    control.ShareRequest
		want error
	}{
		"missing":      {control.ShareRequest{Path: file + "x"}, control.ErrLocal},
		"no files":     {control.ShareRequest{Path: t.TempDir()}, blob.ErrInvalid},
		"device":       {control.ShareRequest{Path: "/dev/null"}, control.ErrLocal},
		"wrong digest": {control.ShareRequest{Path: file, Options: control.Options{Digest: wrong}}, blob.ErrCorrupt},
		"bad digest":   {control.ShareRequest{Path: file, Options: control.Options{Digest: "md5:1"}}, blob.ErrInvalid},
		"bad source":   {control.ShareRequest{URL: "gopher://x/"}, blob.ErrInvalid},
		"other daemon": {control.ShareRequest{Path: file, Expect: []control.Setting{{Key: "listen", Value: ":9", From: "flag --listen"}}}, blob.ErrInvalid},
	} {
		if _, err := n.Share(patient(t), c.r, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st, err := n.Status(patient(t)); err != nil || len(st.Shares) != 0 {
		t.Errorf("%+v, %v", st.Shares, err)
	}
}

func TestDigest(t *testing.T) {
	want := origintest.Bytes(6, 600<<10)
	s := origintest.New(t, origintest.Of(want))
	n := start(t, conf(t))
	g := blob.GeometryFor(int64(len(want)))
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sums, err := hashFile(t.Context(), f, g, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		digest blob.Hash
		err    error
	}{"right": {sums.digest, nil}, "wrong": {blob.Hash{1}, blob.ErrCorrupt}} {
		d, err := n.Download(patient(t), s.At("/"+name), control.Options{}, 0, noProgress)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Wait(patient(t), c.digest, func(control.Transfer) {}); !errors.Is(err, c.err) || c.err == nil && err != nil {
			t.Errorf("%s: wait: %v", name, err)
		}
		var b bytes.Buffer
		if err := d.CopyTo(patient(t), &b, c.digest, func(control.Transfer) {}); !errors.Is(err, c.err) || c.err == nil && err != nil {
			t.Errorf("%s: copy: %v", name, err)
		}
		d.Close()
	}
}

// TestUnknownSize: an object without a length is read first and named afterwards.
func TestUnknownSize(t *testing.T) {
	want := origintest.Bytes(7, 300<<10)
	s := origintest.New(t, origintest.Of(want))
	s.Set(origintest.Faults{Chunked: true})
	c := conf(t)
	n := start(t, c)
	var streamed int64
	d, err := n.Download(patient(t), s.At("/c"), control.Options{}, 0, func(done int64) { streamed = done })
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var b bytes.Buffer
	if err := d.CopyTo(patient(t), &b, blob.Hash{}, func(control.Transfer) {}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) || streamed != int64(len(want)) {
		t.Errorf("%d bytes, %d streamed", b.Len(), streamed)
	}
	again, err := n.Download(patient(t), s.At("/c"), control.Options{}, 0, func(int64) {}) // the blob is open already
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if left, _ := os.ReadDir(streamDir(c.State)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestOriginErrors: each keeps its class, and nothing stays open.
func TestOriginErrors(t *testing.T) {
	s := origintest.New(t, origintest.Of(origintest.Bytes(8, 1000)))
	n := start(t, conf(t))
	dead := origintest.New(t, origintest.Of(nil))
	dead.Close()
	for _, c := range []struct {
		name   string
		status int
		source string
		want   error
	}{
		{"404", 404, s.At("/x"), blob.ErrNotFound},
		{"401", 401, s.At("/x"), blob.ErrDenied},
		{"403", 403, s.At("/x"), blob.ErrDenied},
		{"refused", 0, dead.At("/x"), blob.ErrUnavailable},
		{"no scheme", 0, "host/x", blob.ErrInvalid},
		{"local path", 0, "node_test.go", blob.ErrInvalid},
		{"unknown scheme", 0, "gopher://host/x", blob.ErrInvalid},
		{"foreign magnet", 0, "magnet:?xt=urn:btmh:1220" + strings.Repeat("0", 64), blob.ErrInvalid},
	} {
		s.Set(origintest.Faults{Status: c.status})
		_, err := n.Download(patient(t), c.source, control.Options{}, 0, noProgress)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := n.Download(patient(t), "node_test.go", control.Options{}, 0, noProgress); !strings.Contains(err.Error(), "file:///") {
		t.Errorf("a path is not told how to be a URL: %v", err)
	}
	if l, err := n.CacheList(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("cached: %v, %v", l, err)
	}
}

// TestHangingOrigin: an origin that says nothing is an error after the timeout, or when the asker gives up.
func TestHangingOrigin(t *testing.T) {
	s := origintest.New(t, origintest.Of(origintest.Bytes(8, 1000)))
	s.Set(origintest.Faults{Stall: -1})
	n := start(t, conf(t))
	if _, err := n.Download(patient(t), s.At("/x"), control.Options{Timeout: 50 * time.Millisecond}, 0, noProgress); !errors.Is(err, blob.ErrUnavailable) || !strings.Contains(err.Error(), "50ms") {
		t.Errorf("got %v", err)
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { s.Await(s.Requests() + 1); cancel(why) }()
	if _, err := n.Download(ctx, s.At("/x"), control.Options{}, 0, noProgress); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

// TestStaleIfError: while the origin is away its newest cached version is used, and completed from the
// origin when that is back with the same version.
func TestStaleIfError(t *testing.T) {
	want := origintest.Bytes(9, 1<<20)
	s := origintest.New(t, origintest.Of(want))
	n := start(t, conf(t))
	d, err := n.Download(patient(t), s.At("/m"), control.Options{}, 1<<10, noProgress) // so slow that it stays incomplete
	if err != nil {
		t.Fatal(err)
	}
	id := d.ID()
	d.Close()
	s.Set(origintest.Faults{Status: 503})
	d, err = n.Download(patient(t), s.At("/m"), control.Options{Timeout: 10 * time.Second}, 0, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.ID() != id || len(d.Warnings) == 0 || !strings.Contains(d.Warnings[0], "newest cached version") {
		t.Fatalf("%v, warnings %q", d.ID(), d.Warnings)
	}
	s.Set(origintest.Faults{})
	if err := d.Wait(patient(t), blob.Hash{}, func(control.Transfer) {}); err != nil {
		t.Fatalf("the origin came back: %v", err)
	}
	var b bytes.Buffer
	if err := d.CopyTo(patient(t), &b, blob.Hash{}, func(control.Transfer) {}); err != nil || !bytes.Equal(b.Bytes(), want) {
		t.Errorf("%d bytes, %v", b.Len(), err)
	}
}

// TestChangedIsAnotherBlob: a new version never mixes with the cached one.
func TestChangedIsAnotherBlob(t *testing.T) {
	one, two := origintest.Bytes(10, 500<<10), origintest.Bytes(11, 500<<10)
	s := origintest.New(t, origintest.Of(one))
	n := start(t, conf(t))
	got, st := fetchAll(t, n, s.At("/m"), control.Options{})
	if !bytes.Equal(got, one) {
		t.Error("first version differs")
	}
	s.Change(origintest.Of(two))
	got, st2 := fetchAll(t, n, s.At("/m"), control.Options{})
	if !bytes.Equal(got, two) || st.ID == st2.ID {
		t.Errorf("second version differs, %s and %s", st.ID, st2.ID)
	}
}

// TestNoValidator: what cannot be named again is not kept.
func TestNoValidator(t *testing.T) {
	s := origintest.New(t, origintest.Of(origintest.Bytes(12, 100<<10)))
	s.Set(origintest.Faults{NoETag: true, NoLastModified: true})
	n := start(t, conf(t))
	if _, st := fetchAll(t, n, s.At("/m"), control.Options{}); !st.Complete {
		t.Error("incomplete")
	}
	if l, err := n.CacheList(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("cached: %v, %v", l, err)
	}
}

func TestCache(t *testing.T) {
	s := origintest.New(t, origintest.Of(origintest.Bytes(13, 300<<10)))
	c := conf(t)
	n := start(t, c)
	_, a := fetchAll(t, n, s.At("/a.bin?Signature=secret"), control.Options{})
	fetchAll(t, n, s.At("/b.bin"), control.Options{})
	ctx := t.Context()
	hex := strings.TrimPrefix(a.ID, "url:")
	for _, name := range []string{a.ID, hex[:8], "url:" + hex[:12], s.At("/a.bin"), s.At("/a.bin?Signature=other"), "a.bin"} {
		if got, err := n.CacheStat(ctx, name); err != nil || got.ID != a.ID || strings.Contains(got.Source, "secret") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for _, name := range []string{"c.bin", "abc", "url:" + strings.Repeat("0", 64), ""} {
		if _, err := n.CacheStat(ctx, name); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := n.CachePin(ctx, "a.bin", true); err != nil || !got.Pinned {
		t.Errorf("%+v, %v", got, err)
	}
	if freed, err := n.CacheGC(ctx, 1<<62); err == nil && freed == 0 {
		t.Error("nothing was freed, and nobody said why")
	}
	if l, err := n.CacheList(ctx); err != nil || len(l) != 1 || l[0].ID != a.ID {
		t.Errorf("after gc: %+v, %v", l, err)
	}
	d, err := n.Download(patient(t), s.At("/a.bin"), control.Options{}, 0, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.CacheRemove(ctx, "a.bin"); !errors.Is(err, control.ErrLocal) {
		t.Errorf("removed while in use: %v", err)
	}
	d.Close()
	if _, err := n.CacheRemove(ctx, "a.bin"); err != nil {
		t.Error(err)
	}
}

// TestOneLivePerBlob: who asks for what is open already gets the same one, and is told what differs.
func TestOneLivePerBlob(t *testing.T) {
	s := origintest.New(t, origintest.Of(origintest.Bytes(14, 2<<20)))
	s.Set(origintest.Faults{Rate: 1 << 20})
	n := start(t, conf(t))
	a, err := n.Download(patient(t), s.At("/m"), control.Options{}, 0, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	b, err := n.Download(patient(t), s.At("/m"), control.Options{Timeout: time.Second, Trackers: []string{"http://127.0.0.1:1/announce"}}, 0, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	if a.live != b.live || len(b.Warnings) != 2 {
		t.Errorf("same: %v, warnings %q", a.live == b.live, b.Warnings)
	}
	if _, err := n.Download(patient(t), s.At("/m"), control.Options{Strict: true}, 0, noProgress); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("strict beside not strict: %v", err)
	}
	a.Close()
	if b.live.closing {
		t.Error("closed while in use")
	}
	b.Close()
	if c, err := n.Download(patient(t), s.At("/m"), control.Options{}, 0, noProgress); err != nil || c.live == a.live {
		t.Errorf("opened again: %v", err)
	} else {
		c.Close()
	}
}

func TestStateIsLocked(t *testing.T) {
	c := conf(t)
	start(t, c)
	if _, err := New(c, Options{}); !errors.Is(err, control.ErrLocal) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("two nodes in one directory: %v", err)
	}
	if _, err := OpenCache(c.State, cacheOptions); !errors.Is(err, control.ErrLocal) {
		t.Errorf("cache beside a node: %v", err)
	}
}

func TestNewUndoes(t *testing.T) {
	c := conf(t)
	other := start(t, conf(t))
	c.Listen = other.swarm.Addr().String()
	if _, err := New(c, Options{}); !errors.Is(err, control.ErrLocal) || !strings.Contains(err.Error(), "--listen") {
		t.Fatalf("port taken: %v", err)
	}
	c.Listen, c.CACert = "127.0.0.1:0", filepath.Join(c.State, "none.pem")
	if _, err := New(c, Options{}); err == nil {
		t.Fatal("no such certificate, and no error")
	}
	c.CACert = ""
	start(t, c) // everything is free again
}

func TestStop(t *testing.T) {
	s := origintest.New(t, origintest.Of(origintest.Bytes(15, 1000)))
	n := start(t, conf(t))
	if _, err := n.Share(patient(t), control.ShareRequest{URL: s.At("/m")}, nil); err != nil {
		t.Fatal(err)
	}
	if stopping, err := n.Stop(t.Context(), true); err != nil || stopping {
		t.Errorf("stops though something is shared: %v, %v", stopping, err)
	}
	if err := n.Unshare(t.Context(), s.At("/m")); err != nil {
		t.Fatal(err)
	}
	if stopping, err := n.Stop(t.Context(), true); err != nil || !stopping {
		t.Errorf("does not stop: %v, %v", stopping, err)
	}
	<-n.Done()
	if _, err := n.Share(t.Context(), control.ShareRequest{URL: s.At("/m")}, nil); !errors.Is(err, blob.ErrClosed) {
		t.Errorf("takes work while stopping: %v", err)
	}
}

func TestStopsWhenIdle(t *testing.T) {
	n := start(t, conf(t))
	n.StopWhenIdle(time.Millisecond)
	select {
	case <-n.Done():
	case <-patient(t).Done():
		t.Error("does not stop")
	}
}

// TestCloseEndsRequests: Close does not wait for what is being asked; it ends it.
func TestCloseEndsRequests(t *testing.T) {
	s := origintest.New(t, origintest.Of(origintest.Bytes(16, 1000)))
	s.Set(origintest.Faults{Stall: -1})
	n := start(t, conf(t))
	asked := make(chan error, 1)
	go func() {
		_, err := n.Share(context.Background(), control.ShareRequest{URL: s.At("/m")}, nil)
		asked <- err
	}()
	s.Await(1)
	if err := n.Close(patient(t)); err != nil {
		t.Error(err)
	}
	if err := <-asked; !errors.Is(err, blob.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestPlace(t *testing.T) {
	want := origintest.Bytes(17, 100<<10)
	s := origintest.New(t, origintest.Of(want))
	n := start(t, conf(t))
	d, err := n.Download(patient(t), s.At("/m"), control.Options{}, 0, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Wait(patient(t), blob.Hash{}, func(control.Transfer) {}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Place(path); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	st, _ := os.Stat(path)
	if err != nil || !bytes.Equal(got, want) || st.Mode().Perm() != 0o666&^umask() {
		t.Errorf("%d bytes, %v, %v", len(got), st.Mode(), err)
	}
	if err := d.Place(filepath.Join(dir, "none", "out")); !errors.Is(err, control.ErrLocal) {
		t.Errorf("no such directory: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// TestMountRefuses: what can be known without FUSE is refused before anything is asked of the origin.
func TestMountRefuses(t *testing.T) {
	s := origintest.New(t, origintest.Of(origintest.Bytes(18, 1000)))
	c := conf(t)
	n := start(t, c)
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(c.State, "below")
	if err := os.Mkdir(below, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		r    control.MountRequest
		want error
	}{
		"missing":         {control.MountRequest{Dir: filepath.Join(full, "none")}, control.ErrLocal},
		"not empty":       {control.MountRequest{Dir: full}, control.ErrLocal},
		"under the state": {control.MountRequest{Dir: below}, control.ErrLocal},
		"a file":          {control.MountRequest{Dir: filepath.Join(full, "x")}, control.ErrLocal},
		"a directory":     {control.MountRequest{Dir: t.TempDir(), AsFile: true}, control.ErrLocal},
		"relative":        {control.MountRequest{Dir: "x"}, blob.ErrInvalid},
		"digest":          {control.MountRequest{Dir: t.TempDir(), Options: control.Options{Digest: "x"}}, blob.ErrInvalid},
	} {
		x.r.Source = s.At("/m")
		if _, err := n.Mount(patient(t), x.r); !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.Requests() != 0 {
		t.Errorf("the origin was asked %d times", s.Requests())
	}
	if _, err := n.Mount(patient(t), control.MountRequest{Source: s.At("/m"), Dir: t.TempDir(), Options: control.Options{Fill: "x"}}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("fill: %v", err)
	}
	if err := n.Unmount(patient(t), "/nowhere", false); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("unmount: %v", err)
	}
	if st, err := n.Status(t.Context()); err != nil || len(st.Mounts) != 0 || st.Peers == nil || st.Trackers == nil {
		t.Errorf("%+v, %v", st, err)
	}
}
