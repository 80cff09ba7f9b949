package tracker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pantala/pantala/blob"
)

var quiet = slog.New(slog.DiscardHandler)

// shownOf are the trackers of a list.
func shownOf(list []endpoint) (names []string) {
	for _, e := range list {
		names = append(names, e.shown)
	}
	return names
}

// TestRendezvous: every node puts the trackers in the same order, swarms spread over them, and one tracker less
// moves only the swarms that it had.
func TestRendezvous(t *testing.T) {
	urls := []string{"http://a/announce", "http://B:7700/announce", "http://c", "https://d/announce"}
	back := slices.Clone(urls)
	slices.Reverse(back)
	count := map[string]int{}
	const swarms = 4000
	for i := range swarms {
		k := key{byte(i), byte(i >> 8)}
		one, err := newDirectory(k, urls, nil, nil, quiet)
		if err != nil {
			t.Fatal(err)
		}
		two, _ := newDirectory(k, back, nil, nil, quiet)
		order := shownOf(one.order())
		if !slices.Equal(order, shownOf(two.order())) {
			t.Fatalf("two nodes differ: %v, %v", order, shownOf(two.order()))
		}
		count[order[0]]++
		less, _ := newDirectory(k, slices.DeleteFunc(slices.Clone(urls), func(u string) bool { return strings.HasPrefix(order[1], u) }), nil, nil, quiet)
		if got := shownOf(less.order()); got[0] != order[0] {
			t.Fatalf("without %s the swarm moves from %s to %s", order[1], order[0], got[0])
		}
	}
	for name, n := range count {
		if n < swarms/4*8/10 || n > swarms/4*12/10 { // 10 standard deviations of 27
			t.Errorf("%s is first for %d of %d swarms", name, n, swarms)
		}
	}
	d, err := newDirectory(key{1}, []string{"ftp://x"}, nil, nil, quiet)
	if !errors.Is(err, blob.ErrInvalid) || !d.empty() {
		t.Errorf("a bad URL: %v", err)
	}
	// What came along is asked after what the user named.
	for i := range 100 {
		d, _ := newDirectory(key{byte(i)}, []string{"http://mine"}, []string{"http://theirs", "http://mine"}, nil, quiet)
		if got := shownOf(d.order()); !slices.Equal(got, []string{"http://mine/announce", "http://theirs/announce"}) {
			t.Fatalf("order %v", got)
		}
	}
}

func TestSRVNames(t *testing.T) {
	for _, bad := range []string{"", "x", "_pantala.example.com", "_pantala._tcp.", "_pantala._tcp.exa mple.com", "_pantala._tcp..com", "_p._tcp." + strings.Repeat("a", 64), "_p._tcp." + strings.Repeat("abc.", 64)} {
		if err := CheckURL("srv:" + bad); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("srv:%s: %v", bad, err)
		}
	}
	for _, good := range []string{"srv:_pantala._tcp.example.com", "srv:_pantala._tcp.example.com.", "http://h:1", "https://h/announce"} {
		if err := CheckURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}

// TestSRVRecords: priorities before hashes, weights in proportion, and the last answer while there is none.
func TestSRVRecords(t *testing.T) {
	records := []*net.SRV{
		{Target: "spare.example.com.", Port: 1, Priority: 20, Weight: 1000}, {Target: "big.example.com.", Port: 2, Priority: 10, Weight: 30},
		{Target: "small.example.com.", Port: 3, Priority: 10, Weight: 10}, {Target: ".", Port: 4},
	}
	fail := errors.New("no such host")
	var err error
	asked := 0
	lookup := func(_ context.Context, name string) ([]*net.SRV, error) {
		if asked++; name != "_pantala._tcp.example.com" {
			t.Errorf("asked for %s", name)
		}
		return records, err
	}
	big := 0
	for i := range 2000 {
		d, bad := newDirectory(key{byte(i), byte(i >> 8)}, []string{"srv:_pantala._tcp.example.com"}, nil, lookup, quiet)
		if bad != nil || d.empty() {
			t.Fatal(bad)
		}
		d.refresh(t.Context(), time.Unix(1, 0))
		got := shownOf(d.order())
		if len(got) != 3 || got[2] != "http://spare.example.com:1/announce" {
			t.Fatalf("order %v", got)
		}
		if got[0] == "http://big.example.com:2/announce" {
			big++
		}
	}
	if big < 1400 || big > 1600 {
		t.Errorf("the tracker with three quarters of the weight is first for %d of 2000 swarms", big)
	}
	d, _ := newDirectory(key{1}, []string{"srv:_pantala._tcp.example.com"}, nil, lookup, quiet)
	err, asked = fail, 0
	d.refresh(t.Context(), time.Unix(1, 0))
	if len(d.order()) != 0 {
		t.Error("trackers out of nothing")
	}
	err = nil
	d.refresh(t.Context(), time.Unix(2, 0)) // nothing is known: at once
	if len(d.order()) != 3 || asked != 2 {
		t.Errorf("%d trackers after %d look-ups", len(d.order()), asked)
	}
	d.refresh(t.Context(), time.Unix(3, 0))
	if asked != 2 {
		t.Error("looked up again before a minute is over")
	}
	err = fail
	d.refresh(t.Context(), time.Unix(63, 0))
	if len(d.order()) != 3 || asked != 3 {
		t.Errorf("after a failure %d trackers, %d look-ups", len(d.order()), asked)
	}
	err, records = nil, records[:1]
	d.refresh(t.Context(), time.Unix(200, 0))
	if got := d.order(); len(got) != 1 {
		t.Errorf("what DNS no longer says is still used: %v", shownOf(got))
	}
}

// TestTrackerIsLostUnderLoad: the tracker of a swarm is partitioned for ten minutes. Its nodes do without it within a
// second of having something to say, meet at the other one, and are back together within ten seconds when it is.
func TestTrackerIsLostUnderLoad(t *testing.T) {
	for _, loss := range []mode{down, hung} {
		t.Run(fmt.Sprint(map[mode]string{down: "killed", hung: "partitioned"}[loss]), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *wire, s *Server) {
				second := NewServer(ServerOptions{})
				defer second.Close()
				w.set("two", second, up)
				urls := []string{"http://one/announce", "http://two/announce"}
				servers := map[string]*Server{"one": s, "two": second}
				d, _ := newDirectory(key{1}, urls, nil, nil, quiet)
				order := d.order()
				home, away := order[0], order[1]
				var nodes []*participant
				for i := range byte(8) {
					nodes = append(nodes, attend(t, w, i+1, func(o *SessionOptions) { o.Trackers = urls }))
				}
				piece := uint32(0)
				load := func(d time.Duration) { // somebody is blocked on something every 100 ms
					for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
						for i, p := range nodes {
							piece = (piece + 1) % 64
							p.Want(nil, []blob.Run{{First: piece, Count: 1}}, []blob.Run{{First: uint32(i), Count: 8}})
						}
					}
					synctest.Wait()
				}
				at := func(e endpoint, state State) {
					t.Helper()
					for i, p := range nodes {
						if st := p.Status(); st.URL != e.shown || st.State != state.String() || st.Nodes != len(nodes) {
							t.Fatalf("node %d: %+v, want %v at %s", i+1, st, state, e.shown)
						}
					}
				}
				load(time.Second)
				at(home, Shared)
				w.set(home.announce.Host, servers[home.announce.Host], loss)
				for _, p := range nodes { // until somebody has something to say nobody notices, and nobody needs to
					p.Want(nil, []blob.Run{{First: 63, Count: 1}}, nil)
				}
				time.Sleep(time.Second)
				for i, p := range nodes {
					if st := p.Status(); st.State == "shared" && st.URL == home.shown {
						t.Errorf("node %d counts on the dead tracker after a second: %+v", i+1, st)
					}
				}
				load(2 * time.Second)
				at(away, Shared)
				load(10 * time.Minute)
				at(away, Shared)
				w.set(home.announce.Host, servers[home.announce.Host], up)
				load(10 * time.Second)
				at(home, Shared)
				close2(t, nodes...)
			})
		})
	}
}

// TestOnlyTrackerIsLost: with one tracker, reads are told within a second not to count on it, and the swarm is there
// again within ten seconds after it is.
func TestOnlyTrackerIsLost(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		a, b := attend(t, w, 1, nil), attend(t, w, 2, nil)
		synctest.Wait()
		w.set("one", s, hung)
		a.Want(nil, []blob.Run{{First: 3, Count: 1}}, nil)
		b.Want(nil, []blob.Run{{First: 3, Count: 1}}, nil)
		time.Sleep(time.Second)
		if a.State() != Dead || b.State() != Dead {
			t.Errorf("after a second: %v, %v", a.State(), b.State())
		}
		time.Sleep(10 * time.Minute)
		w.set("one", s, up)
		time.Sleep(10 * time.Second)
		if a.State() != Shared || b.State() != Shared {
			t.Errorf("ten seconds after it is back: %+v, %+v", a.Status(), b.Status())
		}
		close2(t, a, b)
	})
}

// TestTrackerByName: a session finds its tracker by DNS, waits for a name that does not resolve yet, and follows the
// records when they change.
func TestTrackerByName(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		second := NewServer(ServerOptions{})
		defer second.Close()
		w.set("one.example.com:7700", s, up)
		w.set("two.example.com:7700", second, up)
		var host atomic.Pointer[string]
		p := attend(t, w, 1, func(o *SessionOptions) {
			o.Trackers = []string{"srv:_pantala._tcp.example.com"}
			o.Lookup = func(context.Context, string) ([]*net.SRV, error) {
				if h := host.Load(); h != nil {
					return []*net.SRV{{Target: *h, Port: 7700, Weight: 1}}, nil
				}
				return nil, errors.New("no such host")
			}
		})
		if st := p.Status(); st.State != "dead" || !strings.Contains(st.LastError, "SRV") {
			t.Errorf("without DNS: %+v", st)
		}
		one, two := "one.example.com.", "two.example.com."
		host.Store(&one)
		time.Sleep(lastRetry)
		if st := p.Status(); st.State != "solo" || st.URL != "http://one.example.com:7700/announce" {
			t.Errorf("with DNS: %+v", st)
		}
		host.Store(nil) // DNS is gone: the last answer stays
		time.Sleep(3 * srvEvery)
		if p.State() != Solo {
			t.Errorf("without DNS again: %+v", p.Status())
		}
		host.Store(&two)
		time.Sleep(srvEvery + 2*homeAfter)
		if st := p.Status(); st.State != "solo" || st.URL != "http://two.example.com:7700/announce" {
			t.Errorf("after a move: %+v", st)
		}
		close2(t, p)
	})
}

// TestFarTrackers: trackers that need more than a second for an answer are found in the end all the same.
func TestFarTrackers(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		second := NewServer(ServerOptions{})
		defer second.Close()
		w.set("two", second, up)
		for _, h := range w.hosts {
			h.lag = func(q *planRequest) time.Duration { return 1200 * time.Millisecond }
		}
		p := attend(t, w, 1, func(o *SessionOptions) { o.Trackers = []string{"http://one/announce", "http://two/announce"} })
		time.Sleep(time.Minute)
		w.seen("one")
		w.seen("two")
		if p.State() != Solo {
			t.Errorf("after a minute: %+v", p.Status())
		}
		at := p.Status().URL
		time.Sleep(time.Minute)
		if st := p.Status(); st.URL != at || st.State != "solo" {
			t.Errorf("it does not stay: %s, then %+v", at, st)
		}
		close2(t, p)
	})
}
