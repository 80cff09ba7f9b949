package e2etest

import (
	"io"
	"net/http"
	"testing"
	"time"
)

// What one host serves reaches another one at the rate of its cap, and not at all while its link is down; the
// counters of the interface see it.
func TestNetCarries(t *testing.T) {
	w := New(t)
	lan := w.Net()
	a, b := lan.Host(), lan.Host()
	const size = 2 << 20
	a.Cap("40mbit")
	l, err := a.Listen(8000)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.Write(make([]byte, size)) })}
	ended := make(chan struct{})
	go func() { defer close(ended); srv.Serve(l) }()
	defer func() { srv.Close(); <-ended }()
	if !a.Listening(8000) || b.Listening(8000) {
		t.Errorf("listening: %v on the host, %v on the other", a.Listening(8000), b.Listening(8000))
	}
	client := b.HTTP()
	defer client.CloseIdleConnections()
	start := time.Now()
	res, err := client.Get("http://" + a.IP + ":8000/")
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, res.Body)
	res.Body.Close()
	took := time.Since(start)
	sent, _ := a.Wire()
	_, got := b.Wire()
	if err != nil || n != size || sent < size || sent > size*11/10 || got < size {
		t.Errorf("%d bytes of %d, %v; %d on the wire, %d seen by the other", n, size, err, sent, got)
	}
	if least := 380 * time.Millisecond; took < least { // 2 MiB less a bucket of 32 KiB at 5 MB/s take 413 ms
		t.Errorf("%v for %d bytes at 40 Mbit/s", took, n)
	}
	a.Link(false)
	client.Timeout = 300 * time.Millisecond
	if res, err := client.Get("http://" + a.IP + ":8000/"); err == nil {
		res.Body.Close()
		t.Error("the host answers without a link")
	}
	a.Link(true)
	client.Timeout = 30 * time.Second
	if res, err := client.Get("http://" + a.IP + ":8000/"); err != nil {
		t.Errorf("with its link again: %v", err)
	} else {
		res.Body.Close()
	}
}
