package tracker

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
)

// geometry of a blob of 64 pieces of 256 KiB.
var small = blob.Geometry{Size: 16 << 20, PieceLength: 256 << 10}

// awhile bounds every wait: far above what is needed, so that a loaded machine does not fail.
const awhile = 20 * time.Second

// serve starts a tracker on loopback.
func serve(t *testing.T, o ServerOptions) (*Server, string) {
	t.Helper()
	s := NewServer(o)
	h := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		h.Close()
	})
	return s, h.URL
}

// member is one session in a test, with conditions to wait for.
type participant struct {
	*Session
	store *memory
	peers map[netip.AddrPort]bool
	mu    sync.Mutex
	woken chan struct{}
}

func participate(t *testing.T, url string, id byte, change func(*SessionOptions)) *participant {
	t.Helper()
	p := &participant{store: newMemory(small), peers: map[netip.AddrPort]bool{}, woken: make(chan struct{}, 1)}
	o := SessionOptions{
		Trackers: []string{url}, Key: [20]byte{1}, PeerID: [20]byte{'-', id}, Port: 1000 + int(id), Geometry: small, Store: p.store,
		OnPlan:  func() { signal(p.woken) },
		OnRoots: func() { signal(p.woken) },
		OnPeers: func(a []netip.AddrPort) {
			p.mu.Lock()
			for _, x := range a {
				p.peers[x] = true
			}
			p.mu.Unlock()
			signal(p.woken)
		},
	}
	if change != nil {
		change(&o)
	}
	p.Session = NewSession(o)
	t.Cleanup(func() { p.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), awhile)
	defer cancel()
	if err := p.First(ctx); err != nil {
		t.Fatal(err)
	}
	return p
}

// until waits for a condition that changes with a callback.
func (p *participant) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.NewTimer(awhile)
	defer end.Stop()
	for !ok() {
		select {
		case <-p.woken:
		case <-end.C:
			t.Fatalf("waited in vain for: %s; status %+v", what, p.Status())
		}
	}
}

func (p *participant) knows(a netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.peers[a]
}

var whole = []blob.Run{{First: 0, Count: 64}}

func TestTwoSessionsSplitABlob(t *testing.T) {
	_, url := serve(t, ServerOptions{})
	a := participate(t, url, 1, nil)
	a.until(t, "solo", func() bool { return a.State() == Solo })
	b := participate(t, url, 2, nil)
	a.until(t, "shared", func() bool { return a.State() == Shared })
	if b.State() != Shared {
		t.Fatalf("the second session is %v", b.State())
	}
	a.until(t, "address of b", func() bool { return a.knows(netip.MustParseAddrPort("127.0.0.1:1002")) })
	b.until(t, "address of a", func() bool { return b.knows(netip.MustParseAddrPort("127.0.0.1:1001")) })

	read := make([]int, 64)
	a.Want(nil, nil, whole)
	b.Want(nil, nil, whole)
	for _, p := range []*participant{a, b} { // this origin takes no time: both must be there before it is read
		p.until(t, "a lease", func() bool { return p.Status().Leases > 0 })
	}
	done := func() bool {
		for i := range read {
			if read[i] == 0 {
				return false
			}
		}
		return true
	}
	end := time.Now().Add(awhile)
	for turn := 0; !done(); turn++ {
		if time.Now().After(end) {
			t.Fatalf("not read: %v", read)
		}
		progress := false
		for _, p := range []*participant{a, b} {
			for i := range uint32(64) {
				if p.Mine(i) && !p.store.PieceComplete(i) && read[i] == 0 {
					if p.Held(i) {
						t.Fatalf("piece %d is both mine and held", i)
					}
					read[i]++
					p.store.put(i, rootOf(i), blob.Direct)
					progress = true
				}
			}
		}
		if !progress {
			select {
			case <-a.woken:
			case <-b.woken:
			case <-time.After(time.Second):
			}
		}
	}
	for i := range uint32(64) {
		for name, p := range map[string]*participant{"a": a, "b": b} {
			p.until(t, "root in "+name, func() bool {
				root, tr := p.store.Root(i)
				return tr >= blob.Claimed && root == rootOf(i)
			})
		}
	}
	n := 0
	for i := range uint32(64) {
		if a.store.PieceComplete(i) {
			n++
		}
	}
	if n < 16 || n > 48 {
		t.Errorf("a read %d of 64 pieces from the origin, want about half", n)
	}
}

// TestKilledTracker: on a real network, a tracker that dies is noticed by the poll that it held, and one that
// comes back at the same address is found again.
func TestKilledTracker(t *testing.T) {
	s := NewServer(ServerOptions{})
	defer s.Close()
	h := httptest.NewServer(s)
	p := participate(t, h.URL, 1, nil)
	p.until(t, "solo", func() bool { return p.State() == Solo })
	addr := h.Listener.Addr().String()
	h.Listener.Close()
	h.CloseClientConnections()
	p.until(t, "dead", func() bool { return p.State() == Dead })
	h.Close()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	again := httptest.NewUnstartedServer(s)
	again.Listener.Close()
	again.Listener = l
	again.Start()
	defer again.Close()
	p.until(t, "solo again", func() bool { return p.State() == Solo })
	p.Close()
}

// TestVanishedNode: a node whose connections break frees its leases to others after the lease time.
func TestVanishedNode(t *testing.T) {
	_, url := serve(t, ServerOptions{LeaseFor: 100 * time.Millisecond})
	transport := &http.Transport{}
	a := participate(t, url, 1, func(o *SessionOptions) { o.Client = &http.Client{Transport: &cutter{next: transport}} })
	b := participate(t, url, 2, nil)
	a.Want(nil, []blob.Run{{First: 0, Count: 1}}, nil)
	a.until(t, "lease", func() bool { return a.Mine(0) })
	b.Want(nil, []blob.Run{{First: 0, Count: 1}}, nil)
	b.until(t, "held", func() bool { return b.Held(0) })
	a.client.Transport.(*cutter).cut.Store(true) // no goodbye either
	a.Close()
	transport.CloseIdleConnections()
	b.until(t, "lease", func() bool { return b.Mine(0) })
	b.until(t, "solo", func() bool { return b.State() == Solo })
}

// cutter is a connection to the tracker that can be cut for good.
type cutter struct {
	next http.RoundTripper
	cut  atomic.Bool
}

func (c *cutter) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.cut.Load() {
		return nil, errors.New("cut")
	}
	return c.next.RoundTrip(r)
}

// TestPollOutlivesWriteTimeout: a bound of the HTTP server on writing does not cut polls.
func TestPollOutlivesWriteTimeout(t *testing.T) {
	s := NewServer(ServerOptions{})
	h := httptest.NewUnstartedServer(s)
	h.Config.WriteTimeout = 50 * time.Millisecond
	h.Start()
	defer h.Close()
	defer s.Close()
	q := planRequest{key: key{1}, peer: peerID{1}, geometry: small, full: true, seq: 1}
	var epoch int64
	for _, wait := range []time.Duration{0, 300 * time.Millisecond} {
		q.wait, q.epoch = wait, epoch
		answer, err := http.Post(h.URL+"/plan", "", bytes.NewReader(q.append(nil)))
		if err != nil {
			t.Fatalf("wait %v: %v", wait, err)
		}
		body := new(bytes.Buffer)
		if _, err := body.ReadFrom(answer.Body); err != nil {
			t.Fatalf("wait %v: %v", wait, err)
		}
		answer.Body.Close()
		r, err := parsePlanReply(body.Bytes(), 64)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("wait %v: status %d, %v", wait, answer.StatusCode, err)
		}
		epoch, q.gen, q.full = r.epoch, r.gen, false
	}
	http.DefaultClient.CloseIdleConnections()
}
