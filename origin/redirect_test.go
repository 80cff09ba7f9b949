package origin_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin"
	"github.com/pantala/pantala/origin/origintest"
)

// secrets are headers that must not leave the host they were given for.
func secrets() http.Header {
	return http.Header{"Authorization": {"Bearer hunter2"}, "Cookie": {"hunter2"}, "x-api-key": {"hunter2"}, "Host": {"hub.invalid"}, "User-Agent": {"hunter2"}}
}

// leaks reports whether a request carries any of them.
func leaks(r origintest.Request) bool {
	for _, vs := range r.Header {
		if strings.Contains(strings.Join(vs, " "), "hunter2") {
			return true
		}
	}
	return r.Host == "hub.invalid"
}

// TestRedirectSigned: a hub redirects to a signed URL at another host. Where it leads to is remembered; when
// the signature expires the hub is asked again, once; the hub's credentials stay with the hub.
func TestRedirectSigned(t *testing.T) {
	want := origintest.Bytes(20, size)
	hub, store := origintest.New(t, origintest.Of(nil)), origintest.New(t, origintest.Of(want))
	sign := func(token string) {
		store.Sign("X-Amz-Signature=" + token)
		hub.Set(origintest.Faults{RedirectTo: store.At("/blobs/77?X-Amz-Signature=" + token)})
	}
	sign("one")
	c := newClient(t, impatient)
	obj := open(t, c, hub.At("/org/model.bin"), origin.Options{Header: secrets()})
	if obj.Name() != "model.bin" || obj.URL() != hub.At("/org/model.bin") {
		t.Errorf("name %q, URL %s", obj.Name(), obj.URL())
	}
	fetchAll(t, obj, want)
	if hub.Requests() != 1 || store.Requests() != 2 {
		t.Errorf("%d requests to the hub and %d to the store, want 1 and 2", hub.Requests(), store.Requests())
	}
	sign("two")
	fetchAll(t, obj, want)
	if hub.Requests() != 2 || store.Requests() != 4 {
		t.Errorf("after expiry %d requests to the hub and %d to the store, want 2 and 4", hub.Requests(), store.Requests())
	}
	for _, r := range hub.Log() {
		if r.Header.Get("Authorization") != "Bearer hunter2" || r.Header.Get("X-Api-Key") != "hunter2" || r.Host != "hub.invalid" || r.Header.Get("User-Agent") != "hunter2" {
			t.Errorf("the hub did not get the headers: %v", r)
		}
	}
	for _, r := range store.Log() {
		if leaks(r) {
			t.Errorf("the store got the hub's secrets: %v", r)
		}
	}

	// Now the hub itself signs what the store refuses: no loop, and a clear error.
	store.Sign("never")
	sink := origintest.NewSink(t, size)
	before := hub.Requests()
	err := obj.Fetch(within(t, 10*time.Second), sink.All(), sink)
	if !errors.Is(err, blob.ErrDenied) || !strings.Contains(err.Error(), "pass that URL instead") || strings.Contains(err.Error(), "Signature") {
		t.Errorf("refused: %v", err)
	}
	if n := hub.Requests() - before; n != 1 {
		t.Errorf("the hub was asked %d times, want once", n)
	}
	// The store vanishes; the hub knows another place.
	other := origintest.New(t, origintest.Of(want))
	sign("three")
	fetchAll(t, obj, want)
	store.Close()
	hub.Set(origintest.Faults{RedirectTo: other.At("/elsewhere")})
	fetchAll(t, obj, want)
}

// TestRedirectHome: within one host the headers go along, and a relative Location works.
func TestRedirectHome(t *testing.T) {
	want := origintest.Bytes(21, size)
	s := origintest.New(t, origintest.Of(want))
	s.Set(origintest.Faults{RedirectTo: "../there", Times: 1})
	obj := open(t, newClient(t, impatient), strings.Replace(s.At("/a/b"), "http://", "http://me:hunter2@", 1), origin.Options{})
	if strings.Contains(obj.URL(), "hunter2") {
		t.Errorf("URL %s", obj.URL())
	}
	fetchAll(t, obj, want)
	log := s.Log()
	if len(log) != 3 || log[1].Path != "/there" || log[2].Path != "/there" {
		t.Errorf("%d requests: %v", len(log), log)
	}
	for _, r := range log {
		if r.Header.Get("Authorization") != "Basic bWU6aHVudGVyMg==" { // me:hunter2
			t.Errorf("Authorization %q", r.Header.Get("Authorization"))
		}
	}
}

func TestTLS(t *testing.T) {
	want := origintest.Bytes(22, size)
	s := origintest.NewTLS(t, origintest.Of(want), true)
	c := newClient(t, impatient)
	_, err := c.Open(within(t, 10*time.Second), s.At("/x"), origin.Options{})
	if !errors.Is(err, blob.ErrUnavailable) || !strings.Contains(err.Error(), "--cacert") {
		t.Errorf("unknown CA: %v", err)
	}
	obj := open(t, c, s.At("/x"), origin.Options{CACert: s.CertPEM()})
	fetchAll(t, obj, want)
	if s.Conns() != 2 {
		t.Errorf("%d connections, want 2: the refused one, and one for all", s.Conns())
	}
	if _, err := c.Open(within(t, 10*time.Second), strings.Replace(s.At("/x"), "https", "http", 1), origin.Options{}); err == nil {
		t.Error("HTTP to a TLS port gave no error")
	}
	plain := origintest.New(t, origintest.Of(want))
	if _, err := c.Open(within(t, 10*time.Second), strings.Replace(plain.At("/x"), "http", "https", 1), origin.Options{}); !errors.Is(err, blob.ErrUnavailable) || !strings.Contains(err.Error(), "http://") {
		t.Errorf("HTTPS to a plain port: %v", err)
	}
	// From TLS to a network that nobody vouches for.
	s.Set(origintest.Faults{RedirectTo: plain.At("/x")})
	if _, err := c.Open(within(t, 10*time.Second), s.At("/x"), origin.Options{CACert: s.CertPEM()}); !errors.Is(err, blob.ErrUnavailable) || !strings.Contains(err.Error(), "from https to http://") {
		t.Errorf("downgrade: %v", err)
	}
	bad := filepath.Join(t.TempDir(), "bad.pem")
	if err := os.WriteFile(bad, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := origin.NewClient(origin.Options{CACert: bad}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("bad CA file: %v", err)
	}
}

// TestHTTP2Only: a server that refuses HTTP/1.1 in ALPN.
func TestHTTP2Only(t *testing.T) {
	want := origintest.Bytes(23, size)
	s := origintest.NewTLSOnly2(t, origintest.Of(want))
	obj := open(t, newClient(t, origin.Options{CACert: s.CertPEM()}), s.At("/x"), origin.Options{})
	fetchAll(t, obj, want)
	for _, r := range s.Log() {
		if r.Proto != "HTTP/2.0" {
			t.Errorf("asked over %s", r.Proto)
		}
	}
	sink := origintest.NewSink(t, size)
	s.Set(origintest.Faults{Stall: 100_000, Times: 1})
	if err := obj.Fetch(within(t, 300*time.Millisecond), sink.All(), sink); err == nil {
		t.Error("a stalled server gave no error")
	}
	fetchAll(t, obj, want)
}

func TestMirrors(t *testing.T) {
	want := origintest.Bytes(24, size)
	a, b := origintest.New(t, origintest.Of(want)), origintest.New(t, origintest.Of(want))
	other := origintest.New(t, origintest.Of(origintest.Bytes(25, size)))
	other.Version(`"other"`, time.Now().Add(-time.Hour))
	o := origin.Options{Mirrors: []string{other.At("/x"), b.At("/dir/")}, Header: secrets()}
	c := newClient(t, impatient)
	obj := open(t, c, a.At("/x.bin"), o)
	fetchAll(t, obj, want)
	if b.Requests()+other.Requests() > 0 {
		t.Error("a mirror was asked while the first was well")
	}
	// The first fails in the middle: the rest comes from the mirror that has the same version.
	a.Set(origintest.Faults{Reset: 400_000, Times: 1})
	fetchAll(t, obj, want)
	if b.Requests() != 1 || b.Log()[0].Path != "/dir/x.bin" {
		t.Errorf("the mirror was asked %v", b.Log())
	}
	for _, f := range []origintest.Faults{{Status: 503}, {Status: 404}, {Status: 403}, {Stall: -1}, {NoRangeLine: true}} {
		a.Set(f)
		fetchAll(t, obj, want)
	}
	if obj.Changed() {
		t.Error("a mirror with another version counts as a change")
	}
	a.Close()
	fetchAll(t, obj, want)
	// A mirror of something that has no version cannot be trusted.
	plain := origintest.New(t, origintest.Of(want))
	nothing := origintest.Faults{NoETag: true, NoLastModified: true}
	plain.Set(nothing)
	b.Set(nothing)
	anon := open(t, c, plain.At("/x.bin"), origin.Options{Mirrors: []string{b.At("/x.bin")}})
	fetchAll(t, anon, want)
	plain.Close()
	if err := anon.Fetch(within(t, 10*time.Second), blob.Run{Count: 1}, origintest.NewSink(t, size)); !errors.Is(err, blob.ErrUnavailable) || anon.Changed() {
		t.Errorf("mirror without validator: %v", err)
	}
	// All of them are bad: the first one's error is told.
	b.Set(origintest.Faults{Status: 404})
	other.Set(origintest.Faults{Status: 404})
	sink := origintest.NewSink(t, size)
	if err := obj.Fetch(within(t, 10*time.Second), sink.All(), sink); !errors.Is(err, blob.ErrUnavailable) || !strings.Contains(err.Error(), a.URL) {
		t.Errorf("all bad: %v", err)
	}
	// Opening while the first is down.
	b.Set(origintest.Faults{})
	obj = open(t, c, a.At("/x.bin"), o)
	if obj.URL() != a.At("/x.bin") {
		t.Errorf("URL %s is not the one that was opened", obj.URL())
	}
	fetchAll(t, obj, want)
}
