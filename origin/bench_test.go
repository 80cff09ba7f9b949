package origin_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin"
	"github.com/pantala/pantala/origin/origintest"
)

// cpu is the CPU time that this process has used, user and system.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perGiB reports CPU seconds of this process per GiB.
func perGiB(b *testing.B, before time.Duration, n int64) {
	b.ReportMetric((cpu()-before).Seconds()/float64(n)*(1<<30), "cpu-s/GiB")
}

// nullSink lends memory and keeps nothing: what is measured is the way into it.
type nullSink struct {
	g    blob.Geometry
	free sync.Pool
	mu   sync.Mutex
	lent map[uint32][]byte
}

func newNullSink(size int64) *nullSink {
	return &nullSink{
		g: blob.GeometryFor(size), lent: map[uint32][]byte{},
		free: sync.Pool{New: func() any { p := make([]byte, blob.MaxBuffer*blob.BlockSize); return &p }},
	}
}

func (s *nullSink) Buffer(_ context.Context, r blob.Run) ([]byte, error) {
	p := *s.free.Get().(*[]byte)
	s.mu.Lock()
	s.lent[r.First] = p
	s.mu.Unlock()
	_, n := s.g.Bytes(r)
	return p[:n], nil
}

func (s *nullSink) Done(r blob.Run) error {
	s.mu.Lock()
	p := s.lent[r.First]
	delete(s.lent, r.First)
	s.mu.Unlock()
	s.free.Put(&p)
	return nil
}

func (s *nullSink) Drop(r blob.Run) { s.Done(r) }

// benchFetch fetches the object at url from a server in another process in runs of count blocks.
func benchFetch(b *testing.B, url string, count uint32, o origin.Options) {
	c := newClient(b, o)
	obj := open(b, c, url, origin.Options{})
	sink := newNullSink(obj.Size())
	ctx := blob.WithClass(context.Background(), blob.Background)
	blocks := blob.GeometryFor(obj.Size()).Blocks()
	b.SetBytes(int64(count) * blob.BlockSize)
	b.ReportAllocs()
	b.ResetTimer()
	before, at := cpu(), uint32(0)
	for b.Loop() {
		if at+count > blocks {
			at = 0
		}
		if err := obj.Fetch(ctx, blob.Run{First: at, Count: count}, sink); err != nil {
			b.Fatal(err)
		}
		at += count
	}
	perGiB(b, before, int64(b.N)*int64(count)*blob.BlockSize)
}

// BenchmarkFetch: nginx in its own process, so that the CPU time is ours alone. "plain" is the floor: the
// standard client, one request, read with one buffer of 256 KiB.
func BenchmarkFetch(b *testing.B) {
	n := origintest.StartNginx(b, "")
	const size = 64 << 20
	path := filepath.Join(n.Root, "x")
	if err := os.WriteFile(path, origintest.Bytes(50, size), 0o600); err != nil {
		b.Fatal(err)
	}
	b.Run("64MiB", func(b *testing.B) { benchFetch(b, n.URL+"/x", size/blob.BlockSize, origin.Options{}) })
	b.Run("4MiB", func(b *testing.B) { benchFetch(b, n.URL+"/x", 256, origin.Options{}) })
	b.Run("1MiB", func(b *testing.B) { benchFetch(b, n.URL+"/x", 64, origin.Options{}) })
	b.Run("16KiB", func(b *testing.B) { benchFetch(b, n.URL+"/x", 1, origin.Options{}) })
	b.Run("64MiB-tls", func(b *testing.B) {
		benchFetch(b, n.TLSURL+"/x", size/blob.BlockSize, origin.Options{CACert: n.CACert})
	})
	b.Run("64MiB-plain", func(b *testing.B) { benchPlain(b, n.URL+"/x", size, size) })
	b.Run("1MiB-plain", func(b *testing.B) { benchPlain(b, n.URL+"/x", size, 1<<20) })
	b.Run("16KiB-plain", func(b *testing.B) { benchPlain(b, n.URL+"/x", size, 16<<10) })
}

// BenchmarkFetchHTTPTest: the same against net/http's server in this process.
func BenchmarkFetchHTTPTest(b *testing.B) {
	const size = 64 << 20
	s := origintest.New(b, origintest.Of(origintest.Bytes(51, size)))
	b.Run("fetch", func(b *testing.B) { benchFetch(b, s.At("/x"), size/blob.BlockSize, origin.Options{}) })
	b.Run("plain", func(b *testing.B) { benchPlain(b, s.At("/x"), size, size) })
}

// benchPlain asks for n bytes after n bytes of the size bytes at url.
func benchPlain(b *testing.B, url string, size, n int64) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	buf := make([]byte, min(n, 256<<10))
	b.SetBytes(n)
	b.ReportAllocs()
	before, at := cpu(), int64(0)
	for b.Loop() {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			b.Fatal(err)
		}
		if n < size {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, at+n-1))
			at = (at + n) % size
		}
		resp, err := client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		for got := int64(0); got < n; {
			k, err := io.ReadFull(resp.Body, buf)
			if got += int64(k); err != nil {
				b.Fatal(err)
			}
		}
		resp.Body.Close()
	}
	perGiB(b, before, int64(b.N)*n)
}
