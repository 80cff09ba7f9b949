package registry_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin/origintest"
	"github.com/pantala/pantala/origin/registry"
	"github.com/pantala/pantala/origin/registry/registrytest"
)

// behind is a registry that sends readers of one blob to a storage on another port, by URLs that are signed.
type behind struct {
	t       *testing.T
	s       *registrytest.Server
	storage *origintest.Server
	want    []byte
	b       *registry.Blob

	mu   sync.Mutex
	sign string
}

func newBehind(t *testing.T, o registry.Options, script registrytest.Script) *behind {
	x := &behind{t: t, want: origintest.Bytes(20, 700_001), sign: "sig=1"}
	x.storage = origintest.New(t, origintest.Of(x.want))
	x.storage.Sign(x.sign)
	script.Redirect = func(string) string {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.storage.At("/bucket/data") + "?" + x.sign
	}
	x.s = registrytest.New(t, script)
	x.s.Put("a/b", "v1", registrytest.MakeImage(linux, x.want))
	x.s.Set(func() registrytest.Script { s := script; s.Redirect = nil; return s }())
	o.ConfigDirs = []string{registrytest.LogIn(t, registrytest.User, registrytest.Password, x.s.Host())}
	c := client(t, o)
	im := resolve(t, c, x.s.Host()+"/a/b:v1")
	x.s.Set(script)
	x.b = c.Layer(t.Context(), im.Ref, im.Layers[0])
	return x
}

// resign makes the old signature bad, and the registry give another.
func (x *behind) resign(sign string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sign = sign
	x.storage.Sign(sign)
}

// asked is how often the registry was asked for the blob.
func (x *behind) asked() int { return x.s.Count(http.MethodGet, "/blobs/"+registrytest.Digest(x.want)) }

// closing checks that no credentials have come to the storage.
func (x *behind) closing() {
	x.t.Helper()
	if x.storage.Requests() == 0 {
		x.t.Error("the storage was never asked")
	}
	for _, r := range x.storage.Log() {
		for _, h := range []string{"Authorization", "X-Secret", "Cookie"} {
			if r.Header.Get(h) != "" {
				x.t.Errorf("%s came to the storage: %v", h, r.Header)
			}
		}
	}
}

// TestRedirect: the registry is asked once, the signed URL is used until it is refused, and credentials stay at home.
func TestRedirect(t *testing.T) {
	tokens := registrytest.NewTokens(t)
	for name, script := range map[string]registrytest.Script{"tokens": {Tokens: tokens}, "password": {Basic: registrytest.User + ":" + registrytest.Password}, "open": {}} {
		t.Run(name, func(t *testing.T) {
			x := newBehind(t, registry.Options{Header: http.Header{"X-Secret": {"yes"}}}, script)
			for range 4 {
				fetchLayer(t, x.b, x.want)
			}
			if n := x.asked(); n != 1 {
				t.Errorf("the registry was asked %d times for 4 reads, want 1", n)
			}
			x.resign("sig=2")
			for range 4 {
				fetchLayer(t, x.b, x.want)
			}
			if n := x.asked(); n != 2 {
				t.Errorf("the registry was asked %d times after one expiry, want 2", n)
			}
			streamLayer(t, x.b, x.want)
			x.closing()
		})
	}
}

// TestRedirectExpires: a URL that says when it expires is not used beyond that: nobody has to refuse it.
func TestRedirectExpires(t *testing.T) {
	now := time.Now().UTC()
	amz := func(at time.Time, seconds int) string {
		return fmt.Sprintf("X-Amz-Date=%s&X-Amz-Expires=%d&X-Amz-Signature=x", at.Format("20060102T150405Z"), seconds)
	}
	for name, test := range map[string]struct {
		sign string
		kept bool
	}{
		"S3, over":         {amz(now.Add(-time.Hour), 60), false},
		"S3, good":         {amz(now, 3600), true},
		"GCS, over":        {fmt.Sprintf("X-Goog-Date=%s&X-Goog-Expires=60&X-Goog-Signature=x", now.Add(-time.Hour).Format("20060102T150405Z")), false},
		"CloudFront, over": {fmt.Sprintf("Expires=%d&Signature=x", now.Add(-time.Minute).Unix()), false},
		"CloudFront, good": {fmt.Sprintf("Expires=%d&Signature=x", now.Add(time.Hour).Unix()), true},
		"Azure, over":      {"se=" + now.Add(-time.Minute).Format(time.RFC3339) + "&sig=x", false},
		"Azure, good":      {"se=" + now.Add(time.Hour).Format(time.RFC3339) + "&sig=x", true},
		"says nothing":     {"token=x", true},
	} {
		t.Run(name, func(t *testing.T) {
			x := newBehind(t, registry.Options{}, registrytest.Script{})
			x.resign(test.sign)
			fetchLayer(t, x.b, x.want)
			fetchLayer(t, x.b, x.want)
			want := 2
			if test.kept {
				want = 1
			}
			if n := x.asked(); n != want {
				t.Errorf("the registry was asked %d times for 2 reads, want %d", n, want)
			}
			for _, r := range x.storage.Log() {
				if r.Status == http.StatusForbidden {
					t.Error("the storage had to refuse")
				}
			}
			x.closing()
		})
	}
}

// TestRedirectNowhere: redirects that are not followed.
func TestRedirectNowhere(t *testing.T) {
	for to, says := range map[string]string{"ftp://x/y": "not an http", "file:///etc/passwd": "not an http"} {
		s := registrytest.New(t, registrytest.Script{})
		s.Put("a", "v1", sample(21))
		c := client(t, registry.Options{Retries: -1})
		im := resolve(t, c, s.Host()+"/a:v1")
		s.Set(registrytest.Script{Redirect: func(string) string { return to }})
		b := c.Layer(t.Context(), im.Ref, im.Layers[0])
		sink := origintest.NewSink(t, b.Size())
		checkError(t, b.Fetch(within(t, time.Minute), sink.All(), sink), blob.ErrUnavailable, says)
	}
}

// TestFaults: a storage that fails in every way that origin knows, behind a registry. No wrong byte arrives, and what
// can be had is had.
func TestFaults(t *testing.T) {
	for _, test := range []struct {
		name  string
		f     origintest.Faults
		class error  // of what Fetch returns; nil: nothing
		says  string // what the error tells
	}{
		{name: "good", f: origintest.Faults{}},
		{name: "no ranges", f: origintest.Faults{IgnoreRange: true}},
		{name: "other range", f: origintest.Faults{ShiftRange: 5}, class: blob.ErrUnavailable, says: "asked for"},
		{name: "other range once", f: origintest.Faults{ShiftRange: 5, Times: 1}},
		{name: "wrong total", f: origintest.Faults{WrongTotal: 1}, class: blob.ErrCorrupt, says: "were announced"},
		{name: "star total", f: origintest.Faults{StarTotal: true}},
		{name: "no Content-Range", f: origintest.Faults{NoRangeLine: true}, class: blob.ErrUnavailable, says: "Content-Range"},
		{name: "shorter ranges", f: origintest.Faults{Shorten: 100_000}},
		{name: "crumbs", f: origintest.Faults{Shorten: 10}, class: blob.ErrUnavailable, says: "less than a block"},
		{name: "short bodies", f: origintest.Faults{ShortBody: 100_000}},
		{name: "tiny bodies", f: origintest.Faults{ShortBody: 5}, class: blob.ErrUnavailable, says: "ended early"},
		{name: "resets", f: origintest.Faults{Reset: 100_000}},
		{name: "stall once", f: origintest.Faults{Stall: 100_000, Times: 1}},
		{name: "stall", f: origintest.Faults{Stall: 5}, class: blob.ErrUnavailable, says: "nothing arrived"},
		{name: "no answer once", f: origintest.Faults{Stall: -1, Times: 1}},
		{name: "500 once", f: origintest.Faults{Status: 500, Times: 1}},
		{name: "502", f: origintest.Faults{Status: 502}, class: blob.ErrUnavailable, says: "502"},
		{name: "429 once", f: origintest.Faults{Status: 429, RetryAfter: "0", Times: 1}},
		{name: "503 for long", f: origintest.Faults{Status: 503, RetryAfter: "3000"}, class: blob.ErrUnavailable, says: "in 50m0s"},
		{name: "403", f: origintest.Faults{Status: 403}, class: blob.ErrDenied, says: "403"},
		{name: "404", f: origintest.Faults{Status: 404}, class: blob.ErrNotFound, says: "404"},
		{name: "416", f: origintest.Faults{Status: 416}, class: blob.ErrUnavailable, says: "416"},
		{name: "no validator", f: origintest.Faults{NoETag: true, NoLastModified: true}},
		{name: "validators of now", f: origintest.Faults{Fresh: true, WeakETag: true}},
		{name: "chunked whole", f: origintest.Faults{Chunked: true}},
		{name: "flipped", f: origintest.Faults{Corrupt: []int64{200_000}}, class: blob.ErrCorrupt, says: "blocks"},
		{name: "flipped once", f: origintest.Faults{Corrupt: []int64{200_000}, Times: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			x := newBehind(t, registry.Options{Retries: 1, Stall: 200 * time.Millisecond}, registrytest.Script{})
			x.storage.Set(test.f)
			sink := origintest.NewSink(t, x.b.Size())
			sink.OnDone = func(r blob.Run, p []byte) error {
				if off := int(r.First) * blob.BlockSize; string(p) != string(x.want[off:off+len(p)]) {
					return blob.ErrCorrupt
				}
				return nil
			}
			r := blob.Run{First: 2, Count: sink.All().Count - 2}
			err := x.b.Fetch(within(t, 20*time.Second), r, sink)
			if !errors.Is(err, test.class) || err != nil && (!strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "sig=1")) {
				t.Errorf("Fetch: %v, want %v saying %q", err, test.class, test.says)
			}
			if err == nil {
				sink.Check(r, x.want)
			}
			if err := sink.Wrong(x.want); err != nil {
				t.Error(err)
			}
			// No verdict is final: the bytes are named by their digest.
			x.storage.Set(origintest.Faults{})
			fetchLayer(t, x.b, x.want)
			x.closing()
		})
	}
}

// TestNoRanges: a registry that answers ranges with whole blobs is streamed.
func TestNoRanges(t *testing.T) {
	want := registrytest.MakeImage(linux, origintest.Bytes(22, 20<<20))
	s := registrytest.New(t, registrytest.Script{NoRange: true})
	s.Put("a", "v1", want)
	c := client(t, registry.Options{})
	im := resolve(t, c, s.Host()+"/a:v1")
	b := c.Layer(t.Context(), im.Ref, im.Layers[0])
	sink := origintest.NewSink(t, b.Size())
	far := blob.Run{First: 1000, Count: 12}
	if err := b.Fetch(within(t, time.Minute), far, sink); !errors.Is(err, blob.ErrUnavailable) || b.Ranges() || b.Has(far) {
		t.Errorf("%v, ranges %v", err, b.Ranges())
	}
	streamLayer(t, b, want.Layers[0])
}

// TestRedirectUnencrypted: an https registry that sends to an http storage is refused, and how that is said; unless the
// storage's host is listed.
func TestRedirectUnencrypted(t *testing.T) {
	want := origintest.Bytes(23, 100_000)
	storage := origintest.New(t, origintest.Of(want))
	s := registrytest.NewTLS(t, registrytest.Script{Redirect: func(digest string) string {
		if digest == registrytest.Digest(want) {
			return storage.At("/x")
		}
		return ""
	}})
	s.Put("a", "v1", registrytest.MakeImage(linux, want))
	certs := t.TempDir()
	writeHosts(t, certs, s.Host(), "server = \"https://"+s.Host()+"\"\nskip_verify = true")
	read := func(insecure ...string) error {
		c := client(t, registry.Options{CertsDir: certs, Insecure: insecure, Retries: -1})
		im, err := c.Resolve(within(t, time.Minute), parse(t, s.Host()+"/a:v1"), amd64)
		if err != nil {
			return err
		}
		b := c.Layer(t.Context(), im.Ref, im.Layers[0])
		sink := origintest.NewSink(t, b.Size())
		return b.Fetch(within(t, time.Minute), sink.All(), sink)
	}
	checkError(t, read(), blob.ErrUnavailable, "redirected from https", "--plain-http")
	if storage.Requests() != 0 {
		t.Error("the storage was asked")
	}
	if err := read("127.0.0.0/8"); err != nil {
		t.Error(err)
	}
}
