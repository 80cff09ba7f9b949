package node

import (
	"context"
	"errors"
	"github.com/pantala/pantala/metainfo"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/origin/origintest"
)

// TestMalformedSource: a URL of a scheme that is known is told what is wrong with it, and no secrets of it.
func TestMalformedSource(t *testing.T) {
	n := start(t, conf(t))
	for source, want := range map[string]string{
		"http:///x":                     "host is missing: write http://HOST/PATH",
		"HTTPS:///x":                    "host is missing: write https://HOST/PATH",
		"http:/x":                       "host is missing",
		"http:x":                        "host is missing",
		"http://%zz/":                   "malformed URL: write http://HOST[:PORT]/PATH",
		"http://h:port/x":               "malformed URL",
		"http://u:secret/x@h/y":         "malformed URL",
		"http://h/%zz?Signature=secret": "malformed URL",
		"file://host/x":                 "file:///PATH, with three slashes",
		"file:x":                        "not absolute",
		"gopher://h/x":                  "unknown scheme",
		"h/x":                           "no scheme",
	} {
		_, err := n.Download(patient(t), source, control.Options{}, 0, noProgress)
		if !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, which does not say %q", source, err, want)
		}
	}
}

func TestStallLimit(t *testing.T) {
	for _, c := range []struct{ timeout, want time.Duration }{
		{time.Millisecond, time.Second}, {3 * time.Second, time.Second}, {6 * time.Second, 2 * time.Second},
		{30 * time.Second, 10 * time.Second}, {time.Hour, 10 * time.Second},
	} {
		if got := stall(patience{timeout: c.timeout}); got != c.want {
			t.Errorf("%v: %v, not %v", c.timeout, got, c.want)
		}
	}
	if got := stall(patience{timeout: time.Second, hard: true}); got != 10*time.Second {
		t.Errorf("hard: %v", got)
	}
}

// TestStalledBody: a connection that falls silent is given up, and the bytes are asked for again, before a read
// with a short timeout ends.
func TestStalledBody(t *testing.T) {
	want := origintest.Bytes(50, 2<<20)
	s := origintest.New(t, origintest.Of(want))
	n := start(t, conf(t))
	f, err := n.find(patient(t), s.At("/m"), control.Options{Timeout: 3 * time.Second}, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	s.Set(origintest.Faults{Stall: 100, Times: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second) // less than the 10 s that origin would wait by itself
	defer cancel()
	into := origintest.NewSink(t, int64(len(want)))
	r := blob.Run{First: 64, Count: 1}
	if err := f.object.Fetch(ctx, r, into); err != nil {
		t.Fatalf("not asked again in time: %v", err)
	}
	into.Check(r, want)
}

// TestRefusedWithCache: when nobody listens at the origin any more, the cached version is used after the first
// refused connection.
func TestRefusedWithCache(t *testing.T) {
	want := origintest.Bytes(51, 200<<10)
	s := origintest.New(t, origintest.Of(want))
	n := start(t, conf(t))
	fetchAll(t, n, s.At("/m"), control.Options{})
	s.Close()
	begun := time.Now()
	d, err := n.Download(patient(t), s.At("/m"), control.Options{}, 0, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0], "refuses connections") || !strings.Contains(d.Warnings[0], "newest cached version") {
		t.Errorf("%q", d.Warnings)
	}
	t.Logf("after %v", time.Since(begun))
}

func TestDirectHost(t *testing.T) {
	for source, want := range map[string]string{
		"http://127.0.0.1:81/x": "127.0.0.1:81", "HTTPS://LOCALHOST/x": "LOCALHOST:443", "http://[::1]/": "[::1]:80",
		"file:///x": "", "magnet:?x": "", "http://%zz/": "",
	} {
		if got := directHost(source); got != want {
			t.Errorf("%s: %q, not %q", source, got, want)
		}
	}
}

// TestMagnetTracker: the tracker that a magnet link names (tr) is asked when no --tracker is given.
func TestMagnetTracker(t *testing.T) {
	want := origintest.Bytes(52, 600<<10)
	s := origintest.New(t, origintest.Of(want))
	announce := startTracker(t)
	seeder, leecher := start(t, conf(t, announce)), start(t, conf(t))
	reply, err := seeder.Share(patient(t), control.ShareRequest{URL: s.At("/m")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	m, err := metainfo.ParseMagnet(reply.Magnet)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Trackers) != 1 || m.Trackers[0] != announce {
		t.Fatalf("the link names the trackers %q", m.Trackers)
	}
	m.Peers = nil // so that only the tracker leads to the seeder
	got, st := fetchAll(t, leecher, m.String(), control.Options{})
	if string(got) != string(want) || st.FromPeers != int64(len(want)) {
		t.Errorf("%d bytes, %+v", len(got), st)
	}
	m.Trackers = nil
	d, err := start(t, conf(t)).Download(patient(t), m.String(), control.Options{}, 0, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if len(d.live.trackers) != 0 {
		t.Errorf("asks %q without being told to", d.live.trackers)
	}
}
