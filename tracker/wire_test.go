package tracker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pantala/pantala/blob"
)

// wire is a network of trackers inside one process, so that tests of intervals run on the clock of a synctest
// bubble. Hosts can be down (refuse) or hang.
type wire struct {
	mu    sync.Mutex
	hosts map[string]*host
	open  []*participant // closed at the end of the bubble, so that a failure does not look like a deadlock
}

type host struct {
	handler http.Handler
	mode    mode
	lag     func(*planRequest) time.Duration // how long a reply travels; nil: no time
	log     []logged
}

type mode int

const (
	up mode = iota
	down
	hung
)

// logged is one request that has reached a host.
type logged struct {
	at    time.Time
	path  string
	query string
	plan  *planRequest // nil: not one
}

func newWire() *wire { return &wire{hosts: map[string]*host{}} }

func (w *wire) close() {
	for _, p := range w.open {
		p.Close()
	}
}

func (w *wire) set(name string, h http.Handler, m mode) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hosts[name] == nil {
		w.hosts[name] = &host{}
	}
	w.hosts[name].handler, w.hosts[name].mode = h, m
}

// seen returns what a host was asked since the last call.
func (w *wire) seen(name string) []logged {
	w.mu.Lock()
	defer w.mu.Unlock()
	log := w.hosts[name].log
	w.hosts[name].log = nil
	return log
}

// RoundTrip implements [http.RoundTripper].
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
		r.Body.Close()
	}
	one := logged{at: time.Now(), path: r.URL.Path, query: r.URL.RawQuery}
	one.plan, _ = parsePlanRequest(body)
	w.mu.Lock()
	h := w.hosts[r.URL.Host]
	h.log = append(h.log, one)
	handler, mode, lag := h.handler, h.mode, h.lag
	w.mu.Unlock()
	switch mode {
	case down:
		return nil, errors.New("connection refused")
	case hung:
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	in := httptest.NewRequestWithContext(r.Context(), r.Method, r.URL.String(), bytes.NewReader(body))
	in.RemoteAddr = "10.0.0.1:40000"
	out := httptest.NewRecorder()
	handler.ServeHTTP(out, in)
	if lag != nil && one.plan != nil {
		time.Sleep(lag(one.plan))
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return out.Result(), nil
}

// bubble runs f on its own clock, with a network of one tracker at host "one".
func bubble(t *testing.T, f func(t *testing.T, w *wire, s *Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		s := NewServer(ServerOptions{})
		w.set("one", s, up)
		defer s.Close()
		defer w.close()
		f(t, w, s)
	})
}

// attend starts a session inside a bubble.
func attend(t *testing.T, w *wire, id byte, change func(*SessionOptions)) *participant {
	t.Helper()
	p := &participant{store: newMemory(small), peers: map[netip.AddrPort]bool{}, woken: make(chan struct{}, 1)}
	o := SessionOptions{
		Trackers: []string{"http://one"}, Key: [20]byte{1}, PeerID: [20]byte{'-', id}, Port: 1000 + int(id), Geometry: small,
		Client: &http.Client{Transport: w},
		OnPeers: func(a []netip.AddrPort) {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, x := range a {
				p.peers[x] = true
			}
		},
	}
	if change != nil {
		change(&o)
	}
	if o.Store == nil {
		o.Store = p.store
	}
	p.Session = NewSession(o)
	w.open = append(w.open, p)
	synctest.Wait()
	return p
}

func close2(t *testing.T, list ...*participant) {
	t.Helper()
	for _, p := range list {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestIdlePolling(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, _ *Server) {
		p := attend(t, w, 1, nil)
		if p.State() != Solo {
			t.Fatalf("state %v", p.State())
		}
		time.Sleep(65 * time.Second)
		log := w.seen("one")
		if len(log) != 8 { // the introduction, and polls at 0, 10, … 60 s
			t.Errorf("%d requests in 65 s", len(log))
		}
		for i, r := range log {
			if (r.plan.wait == 0) != (i == 0) || r.plan.full != (i == 0) {
				t.Errorf("request %d: wait %v, full %v", i, r.plan.wait, r.plan.full)
			}
		}
		close2(t, p)
		if log = w.seen("one"); len(log) != 1 || !log[0].plan.stop {
			t.Errorf("goodbye: %+v", log)
		}
	})
}

func TestWishTravels(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, _ *Server) {
		a, b := attend(t, w, 1, nil), attend(t, w, 2, nil)
		time.Sleep(time.Second)
		w.seen("one")
		begin := time.Now()
		a.Want(nil, []blob.Run{{First: 3, Count: 1}}, nil)
		synctest.Wait()
		if !a.Mine(3) || a.Held(3) || a.Mine(4) {
			t.Error("the lease of an urgent piece did not come at once")
		}
		if r := w.seen("one"); len(r) != 1 || !r[0].at.Equal(begin) {
			t.Errorf("requests %+v", r)
		}
		b.Want(nil, nil, []blob.Run{{First: 20, Count: 8}})
		synctest.Wait()
		if !b.Mine(20) {
			t.Error("the first wish for long was not sent at once")
		}
		b.Want(nil, nil, []blob.Run{{First: 0, Count: 8}})
		synctest.Wait()
		if b.Mine(0) {
			t.Error("the next wish that nobody waits for was sent at once")
		}
		time.Sleep(20 * time.Millisecond)
		synctest.Wait()
		if !b.Mine(0) || b.Mine(3) || !b.Held(3) || b.Held(0) {
			t.Errorf("after 20 ms: mine %v, held %v", b.view.Load().mine, b.view.Load().held)
		}
		// The same wish again is not sent; a burst of urgent wishes is held to one every two milliseconds.
		a.Want(nil, []blob.Run{{First: 3, Count: 1}}, nil)
		w.seen("one")
		for i := range uint32(100) {
			a.Want(nil, []blob.Run{{First: 10 + i%50, Count: 1}}, nil)
			time.Sleep(100 * time.Microsecond)
		}
		if n := len(w.seen("one")); n < 3 || n > 12 {
			t.Errorf("%d requests for 100 urgent wishes in 10 ms", n)
		}
		// While a wish stands the tracker is asked once a second, to notice when it hangs.
		time.Sleep(time.Second)
		w.seen("one")
		time.Sleep(10 * time.Second)
		if n := len(w.seen("one")); n < 18 || n > 28 {
			t.Errorf("%d requests of two nodes with wishes in 10 s", n)
		}
		close2(t, a, b)
	})
}

func TestPieceTravels(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, _ *Server) {
		a, b := attend(t, w, 1, nil), attend(t, w, 2, nil)
		time.Sleep(time.Second)
		for i := range uint32(10) {
			a.store.put(i, rootOf(i), blob.Direct)
			time.Sleep(15 * time.Millisecond)
			if root, tr := b.store.Root(i); root != rootOf(i) || tr != blob.Claimed {
				t.Errorf("root of piece %d after 15 ms: %v %v", i, root, tr)
			}
		}
		// Bursts travel together.
		w.seen("one")
		for i := uint32(10); i < 60; i++ {
			a.store.put(i, rootOf(i), blob.Direct)
			time.Sleep(100 * time.Microsecond)
		}
		time.Sleep(15 * time.Millisecond)
		if n := len(w.seen("one")); n > 10 {
			t.Errorf("%d requests for 50 pieces in 5 ms", n)
		}
		for i := range uint32(60) {
			if _, tr := b.store.Root(i); tr != blob.Claimed {
				t.Errorf("root of piece %d is missing", i)
			}
		}
		// What came from peers is told as had, not vouched for.
		b.store.put(0, rootOf(0), blob.Claimed)
		time.Sleep(15 * time.Millisecond)
		if log := w.seen("one"); len(log) != 1 || len(log[0].plan.have) != 1 || len(log[0].plan.roots) != 0 {
			t.Errorf("report of a piece from peers: %+v", log)
		}
		close2(t, a, b)
	})
}

func TestDeadTracker(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		w.set("one", s, down)
		p := attend(t, w, 1, nil)
		if err := p.First(context.Background()); err != nil || p.State() != Dead {
			t.Fatalf("First: %v, state %v", err, p.State())
		}
		time.Sleep(time.Minute)
		if n := len(w.seen("one")); n < 12 || n > 40 {
			t.Errorf("%d attempts in a minute", n)
		}
		if st := p.Status(); st.LastError == "" || st.State != "dead" || st.URL != "http://one/announce" {
			t.Errorf("status %+v", st)
		}
		p.store.put(7, rootOf(7), blob.Direct)
		w.set("one", s, up)
		time.Sleep(5 * time.Second)
		if p.State() != Solo || p.Status().LastError != "" {
			t.Fatalf("five seconds after it is back: %+v", p.Status())
		}
		q := attend(t, w, 2, nil)
		if root, _ := q.store.Root(7); root != rootOf(7) {
			t.Error("what happened while it was dead was not reported")
		}
		close2(t, p, q)
	})
}

func TestHungTracker(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		a, b := attend(t, w, 1, nil), attend(t, w, 2, nil)
		a.Want(nil, nil, whole)
		synctest.Wait()
		b.Want(nil, nil, whole)
		time.Sleep(time.Second)
		if !b.Held(0) || !a.Mine(0) {
			t.Fatal("no lease")
		}
		w.set("one", s, hung)
		time.Sleep(4100 * time.Millisecond) // a second until the next question, three for the answer
		if a.State() != Dead || b.State() != Dead || a.Mine(0) || b.Held(0) {
			t.Errorf("states %v and %v", a.State(), b.State())
		}
		begin := time.Now()
		close2(t, a, b)
		if d := time.Since(begin); d > 2*time.Second {
			t.Errorf("Close of two sessions took %v", d)
		}
	})
}

func TestCloseIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		a, b := attend(t, w, 1, nil), attend(t, w, 2, nil)
		if a.State() != Shared || b.State() != Shared {
			t.Fatal("not shared")
		}
		close2(t, b)
		synctest.Wait()
		if a.State() != Solo {
			t.Errorf("after the other left: %v", a.State())
		}
		w.set("one", s, hung)
		begin := time.Now()
		close2(t, a)
		if d := time.Since(begin); d > stopLimit {
			t.Errorf("Close took %v", d)
		}
		if a.State() != Dead {
			t.Errorf("closed: %v", a.State())
		}
	})
}

func TestRestartedTracker(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		a, b := attend(t, w, 1, nil), attend(t, w, 2, nil)
		a.store.put(3, rootOf(3), blob.Direct)
		time.Sleep(time.Second)
		b.store.put(3, rootOf(3), blob.Claimed) // verified against what a claimed
		time.Sleep(time.Second)
		close2(t, a)

		s.Close()
		fresh := NewServer(ServerOptions{})
		defer fresh.Close()
		w.set("one", fresh, up)
		time.Sleep(6 * time.Second)
		if b.State() != Solo {
			t.Fatalf("state %v", b.State())
		}
		c := attend(t, w, 3, nil)
		if root, _ := c.store.Root(3); root != rootOf(3) {
			t.Error("the root is lost with the node that computed it and the tracker")
		}
		close2(t, b, c)
	})
}

// TestForgottenByTracker: the swarm is made anew while the tracker goes on; the next exchange says so.
func TestForgottenByTracker(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		a := attend(t, w, 1, nil)
		a.store.put(3, rootOf(3), blob.Direct)
		time.Sleep(time.Second)
		s.mu.Lock()
		delete(s.rooms, key{1})
		s.mu.Unlock()
		a.Want(nil, []blob.Run{{First: 9, Count: 1}}, nil)
		time.Sleep(20 * time.Millisecond)
		if a.State() != Solo || !a.Mine(9) {
			t.Errorf("state %v, lease %v", a.State(), a.Mine(9))
		}
		b := attend(t, w, 2, nil)
		if root, _ := b.store.Root(3); root != rootOf(3) {
			t.Error("the root was not told again")
		}
		close2(t, a, b)
	})
}

// TestListOfTrackers: the tracker that is first for the swarm is used, whatever the order of the list; another one
// while it is down; and it again when it is back.
func TestListOfTrackers(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		second := NewServer(ServerOptions{})
		defer second.Close()
		urls := []string{"http://one/announce", "http://two/x/announce"}
		d, err := newDirectory(key{1}, urls, nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		order := d.order()
		home, away := order[0], order[1]
		w.set("one", s, up)
		w.set("two", second, up)
		w.set(home.announce.Host, nil, down)
		p := attend(t, w, 1, func(o *SessionOptions) { o.Trackers = urls })
		if st := p.Status(); st.State != "solo" || st.URL != away.shown {
			t.Fatalf("status %+v", st)
		}
		for _, r := range w.seen("two") {
			if r.path != "/x/plan" {
				t.Errorf("plan at %s", r.path)
			}
		}
		w.seen(away.announce.Host)
		w.set(home.announce.Host, map[string]*Server{"one": s, "two": second}[home.announce.Host], up)
		time.Sleep(2 * homeAfter)
		if st := p.Status(); st.State != "solo" || st.URL != home.shown {
			t.Errorf("after the first is back: %+v", st)
		}
		if log := w.seen(away.announce.Host); !log[len(log)-1].plan.stop {
			t.Error("the second was not told")
		}
		close2(t, p)
	})
}

func TestConflict(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, _ *Server) {
		a, b, c := attend(t, w, 1, nil), attend(t, w, 2, nil), attend(t, w, 3, nil)
		a.store.put(3, rootOf(3), blob.Direct)
		time.Sleep(time.Second)
		if root, _ := c.store.Root(3); root != rootOf(3) {
			t.Fatal("claim did not arrive")
		}
		b.store.DropClaim(3)
		b.store.put(3, rootOf(4), blob.Direct)
		time.Sleep(time.Second)
		synctest.Wait()
		if _, tr := c.store.Root(3); tr != blob.Unknown || c.store.dropped[3] != 1 {
			t.Errorf("the claim was not dropped once: %v, %d times", tr, c.store.dropped[3])
		}
		for _, p := range []*participant{a, b} {
			if _, tr := p.store.Root(3); tr != blob.Direct {
				t.Errorf("own bytes were forgotten: %v", tr)
			}
		}
		close2(t, a, b, c)
	})
}

// TestContradiction: a node that has read a piece itself learns of another claim, and says what it has.
func TestContradiction(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		mine := newMemory(small)
		mine.put(3, rootOf(3), blob.Direct)
		liar, c := attend(t, w, 1, nil), attend(t, w, 2, nil)
		liar.store.put(3, rootOf(4), blob.Direct)
		time.Sleep(time.Second)
		a := attend(t, w, 3, func(o *SessionOptions) { o.Store = mine })
		time.Sleep(time.Second)
		synctest.Wait()
		if _, tr := c.store.Root(3); tr != blob.Unknown || c.store.dropped[3] == 0 {
			t.Errorf("the false claim is still believed: %v", tr)
		}
		close2(t, liar, a, c)
	})
}

func TestStrict(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, _ *Server) {
		a := attend(t, w, 1, nil)
		b := attend(t, w, 2, func(o *SessionOptions) { o.Strict = true })
		a.Want(nil, nil, whole)
		a.store.put(3, rootOf(3), blob.Direct)
		time.Sleep(time.Second)
		if _, tr := b.store.Root(3); tr != blob.Unknown {
			t.Errorf("a strict session believed a claim: %v", tr)
		}
		if b.State() != Shared || !b.Mine(5) || b.Held(5) {
			t.Error("a strict session cannot use what others have: every piece is its own to read")
		}
		b.store.put(40, rootOf(40), blob.Direct) // not one that a has leased
		time.Sleep(time.Second)
		if root, _ := a.store.Root(40); root != rootOf(40) {
			t.Error("a strict session's own roots are good for others")
		}
		close2(t, a, b)
	})
}

// TestLargeReport: a full report that takes several requests, and claims that take several replies.
func TestLargeReport(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, _ *Server) {
		g := blob.Geometry{Size: 80000 << 14, PieceLength: 16 << 10}
		store := newMemory(g)
		for i := uint32(0); i < 80000; i++ {
			if i%2 == 0 || i > 78000 {
				store.put(i, rootOf(i), blob.Direct)
			}
		}
		a := attend(t, w, 1, func(o *SessionOptions) { o.Geometry, o.Store = g, store })
		for i := uint32(1); i < 78000; i += 2 {
			store.put(i, rootOf(i), blob.Direct)
		}
		time.Sleep(time.Second)
		other := newMemory(g)
		b := attend(t, w, 2, func(o *SessionOptions) { o.Geometry, o.Store = g, other })
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(other.roots); n != 80000 {
			t.Errorf("%d of 80000 roots arrived", n)
		}
		full := 0
		for _, r := range w.seen("one") {
			if r.plan == nil {
				t.Fatal("a request that the server refuses")
			}
			full += int(flag(r.plan.full))
		}
		if full != 2 {
			t.Errorf("%d full reports of 2 sessions", full)
		}
		close2(t, a, b)
	})
}

func TestForeignTracker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		defer w.close()
		peers := []planPeer{{addr: netip.MustParseAddrPort("10.1.1.1:7")}, {addr: netip.MustParseAddrPort("[2001:db8::7]:7")}}
		w.set("one", http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/announce" {
				http.NotFound(out, r)
				return
			}
			out.Write(compact(time.Minute, peers...))
		}), up)
		p := attend(t, w, 1, func(o *SessionOptions) { o.Trackers = []string{"http://one/announce?passkey=x"} })
		if p.State() != None || !p.knows(peers[0].addr) || !p.knows(peers[1].addr) {
			t.Fatalf("state %v, status %+v", p.State(), p.Status())
		}
		time.Sleep(150 * time.Second)
		for i := range uint32(64) {
			p.store.put(i, rootOf(i), blob.Direct)
		}
		time.Sleep(time.Minute)
		close2(t, p)
		var events []string
		for _, r := range w.seen("one") {
			if r.path != "/announce" {
				continue
			}
			var q announceRequest
			if err := parseAnnounce([]byte(r.query), nil, &q); err != nil {
				t.Fatal(err)
			}
			events = append(events, eventNames[q.event])
		}
		want := []string{"started", "", "", "completed", "stopped"}
		if len(events) != len(want) {
			t.Fatalf("events %q, want %q", events, want)
		}
		for i := range want {
			if events[i] != want[i] {
				t.Errorf("events %q, want %q", events, want)
			}
		}
	})
}

func TestNoTracker(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"ftp://t:1/announce", "only http"},
		{"http://user:secret@[bad/announce", "cannot be parsed"},
		{"t:7700", ""},
	} {
		s := NewSession(SessionOptions{Trackers: []string{c.url}, Geometry: small, Store: newMemory(small)})
		if err := s.First(context.Background()); err != nil || s.State() != None || s.Mine(0) || s.Held(0) {
			t.Errorf("%s: First %v, state %v", c.url, err, s.State())
		}
		s.Want(nil, whole, nil)
		if got := s.Status().LastError; got == "" || !bytes.Contains([]byte(got), []byte(c.want)) || bytes.Contains([]byte(got), []byte("secret")) {
			t.Errorf("%s: error %q", c.url, got)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	s := NewSession(SessionOptions{Geometry: small, Store: newMemory(small)})
	if s.State() != None || s.Status().LastError != "" {
		t.Errorf("without trackers: %+v", s.Status())
	}
	s.Close()
}

func TestFirstGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		defer w.close()
		w.set("one", nil, hung)
		p := attend(t, w, 1, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		defer cancel()
		if err := p.First(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("First: %v", err)
		}
		if p.State() != Dead {
			t.Errorf("state %v", p.State())
		}
		close2(t, p)
	})
}

// TestOvertakenReply: the replies of the two connections overtake one another, or get lost with one of them; no
// root is lost.
func TestOvertakenReply(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		w.hosts["one"].lag = func(q *planRequest) time.Duration {
			if q.peer[1] == 2 && q.wait == 0 {
				return 50 * time.Millisecond
			}
			return 0
		}
		a, b := attend(t, w, 1, nil), attend(t, w, 2, nil)
		time.Sleep(time.Second)
		for i := range uint32(64) {
			if i == 32 {
				w.set("one", s, down)
				time.Sleep(time.Second)
				w.set("one", s, up)
			}
			a.store.put(i, rootOf(i), blob.Direct)
			b.Want(nil, nil, []blob.Run{{First: 63 - i, Count: 1}})
			time.Sleep(7 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		for i := range uint32(64) {
			if root, _ := b.store.Root(i); root != rootOf(i) {
				t.Errorf("root of piece %d was lost", i)
			}
		}
		close2(t, a, b)
	})
}
