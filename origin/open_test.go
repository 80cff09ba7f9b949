package origin_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin"
	"github.com/pantala/pantala/origin/origintest"
)

func TestOpenIsOneRequest(t *testing.T) {
	want := origintest.Bytes(1, 1<<20+4321)
	s := origintest.New(t, origintest.Of(want))
	obj := open(t, newClient(t, origin.Options{}), s.At("/models/model.bin?sig=secret&rev=2"), origin.Options{})
	if n := s.Requests(); n != 1 {
		t.Errorf("Open sent %d requests, want 1", n)
	}
	if obj.Size() != int64(len(want)) || !obj.Ranges() || !obj.Shareable() || obj.Changed() {
		t.Errorf("size %d, ranges %v, shareable %v, changed %v", obj.Size(), obj.Ranges(), obj.Shareable(), obj.Changed())
	}
	if obj.Validator() != `"v1"` || obj.Name() != "model.bin" {
		t.Errorf("validator %s, name %s", obj.Validator(), obj.Name())
	}
	if got := obj.URL(); got != s.At("/models/model.bin?rev=2") {
		t.Errorf("URL %s has a signature, or lost what is none", got)
	}
	if obj.ID() != blob.URLID(obj.URL(), `"v1"`, obj.Size()) {
		t.Error("ID is not URLID of URL, validator and size")
	}
	if !bytes.Equal(obj.First(), want[:128<<10]) {
		t.Errorf("First: %d bytes, wrong or not the first 128 KiB", len(obj.First()))
	}
	if h := s.Log()[0].Header; h.Get("Accept-Encoding") != "identity" || h.Get("Range") != "bytes=0-131071" {
		t.Errorf("request header: %v", h)
	}
	sink := fetchAll(t, obj, want)
	if n := s.Requests(); n != 2 {
		t.Errorf("Open and one Fetch sent %d requests, want 2", n)
	}
	if s.Conns() != 1 {
		t.Errorf("%d connections, want 1: Fetch did not find the one of Open warm", s.Conns())
	}
	if s.Log()[1].Header.Get("If-Range") != `"v1"` {
		t.Error("Fetch sent no If-Range")
	}
	if runs := sink.Runs(); runs[0].Count != 1 {
		t.Errorf("the first buffer had %d blocks; somebody waits for the first one", runs[0].Count)
	}
}

func TestOpenSmallAndEmpty(t *testing.T) {
	for _, n := range []int{0, 1, 16383, 16384, 16385, 128<<10 - 1, 128 << 10, 128<<10 + 1} {
		for name, f := range map[string]origintest.Faults{"ranges": {}, "no ranges": {IgnoreRange: true}, "chunked": {Chunked: true}} {
			want := origintest.Bytes(uint64(n), n)
			s := origintest.New(t, origintest.Of(want))
			s.Set(f)
			obj := open(t, newClient(t, origin.Options{}), s.At("/x"), origin.Options{})
			if obj.Size() != int64(n) && !(f.Chunked && n > 128<<10) {
				t.Errorf("%s, %d bytes: size %d", name, n, obj.Size())
			}
			if !bytes.Equal(obj.First(), want[:min(n, 128<<10)]) {
				t.Errorf("%s, %d bytes: First has %d bytes, or wrong ones", name, n, len(obj.First()))
			}
			if got, err := streamAll(t, obj); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %d bytes: Stream gave %d bytes, %v", name, n, len(got), err)
			}
			if obj.Size() != int64(n) {
				t.Errorf("%s, %d bytes: size %d after Stream", name, n, obj.Size())
			}
			if obj.Ranges() {
				fetchAll(t, obj, want)
			}
			s.Close()
		}
	}
}

func TestOpenErrors(t *testing.T) {
	for _, test := range []struct {
		f     origintest.Faults
		class error
		says  string
	}{
		{origintest.Faults{Status: 404}, blob.ErrNotFound, "404"},
		{origintest.Faults{Status: 410}, blob.ErrNotFound, "410"},
		{origintest.Faults{Status: 401}, blob.ErrDenied, "-H 'Authorization: …'"},
		{origintest.Faults{Status: 403}, blob.ErrDenied, "-H 'Authorization: …'"},
		{origintest.Faults{Status: 407}, blob.ErrDenied, "proxy"},
		{origintest.Faults{Status: 400}, blob.ErrUnavailable, "400"},
		{origintest.Faults{Status: 204}, blob.ErrUnavailable, "204"},
		{origintest.Faults{Status: 302}, blob.ErrUnavailable, "Location"},
		{origintest.Faults{Status: 416}, blob.ErrUnavailable, "416"},
		{origintest.Faults{Status: 500}, blob.ErrUnavailable, "500"},
		{origintest.Faults{Status: 503, RetryAfter: "600"}, blob.ErrUnavailable, "in 10m0s"},
		{origintest.Faults{Stall: -1}, blob.ErrUnavailable, "nothing arrived for"},
		{origintest.Faults{NoRangeLine: true}, blob.ErrUnavailable, "Content-Range"},
		{origintest.Faults{ShiftRange: 100}, blob.ErrUnavailable, "broken"},
		{origintest.Faults{WrongTotal: -1 << 20}, blob.ErrUnavailable, "broken"},
		{origintest.Faults{RedirectTo: "/again"}, blob.ErrUnavailable, "redirects"},
		{origintest.Faults{RedirectTo: "ftp://host.invalid/x"}, blob.ErrUnavailable, "not an http"},
	} {
		s := origintest.New(t, origintest.Of(origintest.Bytes(2, 1<<20)))
		s.Set(test.f)
		_, err := newClient(t, impatient).Open(within(t, 10*time.Second), s.At("/x?token=hunter2"), origin.Options{})
		if !errors.Is(err, test.class) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v:\n got %v\nwant class %q and %q, no query", test.f, err, test.class, test.says)
		}
		s.Close()
	}
}

func TestOpenNobodyThere(t *testing.T) {
	s := origintest.New(t, origintest.Of(nil))
	url := s.At("/x")
	s.Close()
	c := newClient(t, impatient)
	if _, err := c.Open(within(t, 10*time.Second), url, origin.Options{}); !errors.Is(err, blob.ErrUnavailable) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("refused: %v", err)
	}
	if _, err := c.Open(within(t, 10*time.Second), "http://name.invalid/x", origin.Options{}); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("no such host: %v", err)
	}
}

func TestInvalidURLs(t *testing.T) {
	c := newClient(t, origin.Options{})
	for _, test := range []struct{ url, says string }{
		{"s3://bucket/key", "http, https, file"},
		{"model.bin", "http, https, file"},
		{"http://", "no host"},
		{"http:///x", "no host"},
		{"file://elsewhere/x", "three slashes"},
		{"file:relative", "not absolute"},
		{"http://user:hunter2@h:port/", "not a URL"},
	} {
		_, err := c.Open(within(t, time.Second), test.url, origin.Options{})
		if !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want invalid and %q", test.url, err, test.says)
		}
		if origin.Supported(test.url) {
			t.Errorf("Supported(%s)", test.url)
		}
	}
	for _, url := range []string{"http://h/x", "HTTPS://h", "file:///x", "file://localhost/x"} {
		if !origin.Supported(url) {
			t.Errorf("!Supported(%s)", url)
		}
	}
	for k, v := range map[string]string{"Range": "bytes=0-", "Bad Name": "x", "X": "line\nbreak"} {
		_, err := c.Open(within(t, time.Second), "http://h.invalid/", origin.Options{Header: http.Header{k: {v}}})
		if !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("header %q: %v", k, err)
		}
	}
	if _, err := c.Open(within(t, time.Second), "http://h.invalid/", origin.Options{CACert: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("missing CA file: %v", err)
	}
	if _, err := c.Open(within(t, time.Second), "http://h.invalid/", origin.Options{Mirrors: []string{"ftp://x/"}}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("bad mirror: %v", err)
	}
}

// TestOpenSlow: Open does not wait for a first 128 KiB that take their time.
func TestOpenSlow(t *testing.T) {
	want := origintest.Bytes(16, 512<<10)
	s := origintest.New(t, origintest.Of(want))
	s.Set(origintest.Faults{Rate: 48 << 10})
	c := newClient(t, origin.Options{})
	obj := open(t, c, s.At("/x"), origin.Options{})
	if n := len(obj.First()); n == 0 || n >= 128<<10 || !bytes.Equal(obj.First(), want[:n]) {
		t.Errorf("First has %d bytes, or wrong ones", n)
	}
	s.Set(origintest.Faults{})
	fetchAll(t, obj, want)
	// Nor for one that never comes: the header has said it all.
	s.Set(origintest.Faults{Stall: 100, Times: 1})
	obj = open(t, c, s.At("/x"), origin.Options{})
	if len(obj.First()) != 100 {
		t.Errorf("First has %d bytes, want 100", len(obj.First()))
	}
	fetchAll(t, obj, want)
}

// TestIdleConnectionsLost: warm connections that the server has closed meanwhile cost no retry.
func TestIdleConnectionsLost(t *testing.T) {
	want := origintest.Bytes(17, 512<<10)
	s := origintest.New(t, origintest.Of(want))
	obj := open(t, newClient(t, origin.Options{Retries: -1}), s.At("/x"), origin.Options{})
	for range 20 {
		s.CloseClientConnections()
		fetchAll(t, obj, want)
	}
}

func TestValidators(t *testing.T) {
	old := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	date := old.Format(http.TimeFormat)
	for _, test := range []struct {
		f         origintest.Faults
		validator string
		shareable bool
	}{
		{origintest.Faults{}, `"e"`, true},
		{origintest.Faults{NoETag: true}, date, true},
		{origintest.Faults{WeakETag: true}, `W/"e" ` + date, true},
		{origintest.Faults{WeakETag: true, NoLastModified: true}, "", false},
		{origintest.Faults{NoETag: true, NoLastModified: true}, "", false},
		{origintest.Faults{Fresh: true}, `"e"`, true},
	} {
		want := origintest.Bytes(3, 1<<20)
		s := origintest.New(t, origintest.Of(want))
		s.Version(`"e"`, old)
		s.Set(test.f)
		c := newClient(t, origin.Options{})
		a, b := open(t, c, s.At("/x"), origin.Options{}), open(t, c, s.At("/x"), origin.Options{})
		if a.Validator() != test.validator || a.Shareable() != test.shareable {
			t.Errorf("%+v: validator %q, shareable %v", test.f, a.Validator(), a.Shareable())
		}
		if (a.ID() == b.ID()) != test.shareable {
			t.Errorf("%+v: shareable %v, same ID %v", test.f, test.shareable, a.ID() == b.ID())
		}
		fetchAll(t, a, want)
	}
	// A date of this second may stand for two versions.
	s := origintest.New(t, origintest.Of(origintest.Bytes(3, 10)))
	s.Set(origintest.Faults{NoETag: true, Fresh: true})
	if obj := open(t, newClient(t, origin.Options{}), s.At("/x"), origin.Options{}); obj.Shareable() || obj.Validator() == "" {
		t.Errorf("fresh date: shareable %v, validator %q", obj.Shareable(), obj.Validator())
	}
}

func TestNameFromDisposition(t *testing.T) {
	s := origintest.New(t, origintest.Of(nil))
	s.Set(origintest.Faults{Header: http.Header{"Content-Disposition": {`attachment; filename="../../etc/passwd.txt"`}}})
	c := newClient(t, origin.Options{})
	for path, want := range map[string]string{"/download?id=7": "passwd.txt", "/a/b%2Fc.bin": "c.bin", "/": "passwd.txt", "/x.bin": "x.bin"} {
		if got := open(t, c, s.At(path), origin.Options{}).Name(); got != want {
			t.Errorf("%s is called %q, want %q", path, got, want)
		}
	}
}

func TestLocalFile(t *testing.T) {
	want := origintest.Bytes(4, 700_001)
	dir := t.TempDir()
	path := filepath.Join(dir, "with space.bin")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, origin.Options{})
	obj := open(t, c, "file://"+strings.ReplaceAll(path, " ", "%20"), origin.Options{})
	if obj.Name() != "with space.bin" || obj.Size() != int64(len(want)) || !obj.Shareable() {
		t.Errorf("name %q, size %d, shareable %v", obj.Name(), obj.Size(), obj.Shareable())
	}
	if !bytes.Equal(obj.First(), want[:128<<10]) {
		t.Error("First is wrong")
	}
	fetchAll(t, obj, want)
	if got, err := streamAll(t, obj); err != nil || !bytes.Equal(got, want) {
		t.Errorf("Stream gave %d bytes, %v", len(got), err)
	}
	if again := open(t, c, "file://localhost"+strings.ReplaceAll(path, " ", "%20"), origin.Options{}); again.ID() != obj.ID() {
		t.Error("another ID for the same file")
	}

	// Replaced by a file of the same size: the first bytes of the new one must not be believed.
	tmp := filepath.Join(dir, "new")
	if err := os.WriteFile(tmp, origintest.Bytes(5, len(want)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
	sink := origintest.NewSink(t, obj.Size())
	if err := obj.Fetch(within(t, time.Second), sink.All(), sink); !errors.Is(err, blob.ErrChanged) || !obj.Changed() || obj.Has(sink.All()) {
		t.Errorf("replaced: %v, changed %v", err, obj.Changed())
	}
	if err := sink.Wrong(want); err != nil {
		t.Error(err)
	}
}

// TestLocalFileReceiver: what the receiver says, and what ends a call.
func TestLocalFileReceiver(t *testing.T) {
	want := origintest.Bytes(18, size)
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, origin.Options{})
	own := errors.New("own trouble")
	fetch := func(ctx context.Context, obj *origin.Object, buffer, done error) error {
		sink := origintest.NewSink(t, size)
		sink.OnBuffer = func(ctx context.Context, r blob.Run) error {
			if buffer == context.Canceled {
				<-ctx.Done() // as a sink does whose memory is used up
			}
			return buffer
		}
		sink.OnDone = func(blob.Run, []byte) error { return done }
		err := obj.Fetch(ctx, sink.All(), sink)
		if err := sink.Wrong(want); err != nil {
			t.Error(err)
		}
		return err
	}
	for _, test := range []struct{ buffer, done, want error }{{own, nil, own}, {nil, own, own}, {nil, blob.ErrChanged, blob.ErrChanged}} {
		obj := open(t, c, "file://"+path, origin.Options{})
		if err := fetch(t.Context(), obj, test.buffer, test.done); !errors.Is(err, test.want) || obj.Changed() != (test.done == blob.ErrChanged) {
			t.Errorf("Fetch: %v, want %v", err, test.want)
		}
	}
	obj := open(t, c, "file://"+path, origin.Options{})
	if err := obj.Stream(t.Context(), func([]byte) error { return own }); !errors.Is(err, own) {
		t.Errorf("Stream: %v", err)
	}
	if err := fetch(within(t, 10*time.Millisecond), obj, context.Canceled, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Fetch: %v, want a deadline", err)
	}
	// Cut while it is read: the size does not match any more.
	if err := os.Truncate(path, 1000); err != nil {
		t.Fatal(err)
	}
	if _, err := streamAll(t, obj); !errors.Is(err, blob.ErrChanged) {
		t.Errorf("truncated: %v", err)
	}
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	obj = open(t, c, "file://"+path, origin.Options{})
	under := make(chan error, 1)
	go func() { under <- fetch(context.Background(), obj, context.Canceled, nil) }()
	c.Close()
	if err := <-under; !errors.Is(err, blob.ErrClosed) {
		t.Errorf("Close: %v", err)
	}
}

func TestLocalFileErrors(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, origin.Options{})
	for path, class := range map[string]error{dir: blob.ErrInvalid, fifo: blob.ErrInvalid, dir + "/none": blob.ErrNotFound, fifo + "/x": blob.ErrNotFound} {
		if _, err := c.Open(within(t, time.Second), "file://"+path, origin.Options{}); !errors.Is(err, class) {
			t.Errorf("%s: %v, want %v", path, err, class)
		}
	}
}
