package origin_test

import (
	"bytes"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin"
	"github.com/pantala/pantala/origin/origintest"
)

// TestNginx: what a real server does, as against what we think that it does.
func TestNginx(t *testing.T) {
	n := origintest.StartNginx(t, `
		location /noranges/ { alias DIR/root/; max_ranges 0; }
		location /slow/     { alias DIR/root/; limit_rate 2m; }
		location /ssi/      { alias DIR/root/; ssi on; ssi_types *; }
		location /noetag/   { alias DIR/root/; etag off; }
		location /moved/    { rewrite ^/moved/(.*)$ /$1 redirect; }
		location /secret/   { alias DIR/root/; if ($http_authorization != "Bearer hunter2") { return 401; } }
		location /forbidden { return 403; }
		location /busy      { return 503; }`)
	want := origintest.Bytes(40, 3<<20+17)
	n.Write("x.bin", want)
	n.Write("empty", nil)
	c := newClient(t, impatient)

	for _, path := range []string{"/x.bin", "/moved/x.bin", "/slow/x.bin", "/noetag/x.bin"} {
		obj := open(t, c, n.URL+path, origin.Options{})
		if obj.Size() != int64(len(want)) || !obj.Ranges() || obj.Name() != "x.bin" || obj.Validator() == "" {
			t.Errorf("%s: size %d, ranges %v, name %q, validator %q", path, obj.Size(), obj.Ranges(), obj.Name(), obj.Validator())
		}
		if path != "/slow/x.bin" {
			fetchAll(t, obj, want)
			continue
		}
		sink := origintest.NewSink(t, obj.Size())
		r := blob.Run{First: 50, Count: 20}
		if err := obj.Fetch(within(t, 10*time.Second), r, sink); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		sink.Check(r, want)
	}
	for _, path := range []string{"/noranges/x.bin", "/ssi/x.bin"} {
		obj := open(t, c, n.URL+path, origin.Options{})
		if obj.Ranges() {
			t.Errorf("%s: ranges", path)
		}
		if got, err := streamAll(t, obj); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
	}
	if obj := open(t, c, n.URL+"/empty", origin.Options{}); obj.Size() != 0 {
		t.Errorf("empty: size %d", obj.Size())
	}
	fetchAll(t, open(t, c, n.URL+"/secret/x.bin", origin.Options{Header: http.Header{"Authorization": {"Bearer hunter2"}}}), want)
	fetchAll(t, open(t, c, n.TLSURL+"/moved/x.bin", origin.Options{CACert: n.CACert}), want)

	for path, class := range map[string]error{
		"/none": blob.ErrNotFound, "/forbidden": blob.ErrDenied, "/secret/x.bin": blob.ErrDenied, "/busy": blob.ErrUnavailable,
	} {
		if _, err := c.Open(within(t, 10*time.Second), n.URL+path, origin.Options{}); !errors.Is(err, class) {
			t.Errorf("%s: %v, want %v", path, err, class)
		}
	}
	if _, err := c.Open(within(t, 10*time.Second), n.TLSURL+"/x.bin", origin.Options{}); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("unknown CA: %v", err)
	}

	// The file is replaced by another one of the same size while it is open.
	for _, path := range []string{"/x.bin", "/noranges/x.bin"} {
		n.Write("x.bin", want)
		obj := open(t, c, n.URL+path, origin.Options{})
		other := origintest.Bytes(41, len(want)+1)
		n.Write("x.bin", other)
		sink := origintest.NewSink(t, obj.Size())
		if err := obj.Fetch(within(t, 10*time.Second), sink.All(), sink); !errors.Is(err, blob.ErrChanged) {
			t.Errorf("%s: replaced: %v", path, err)
		}
		if err := sink.Wrong(want); err != nil {
			t.Error(err)
		}
	}
}
