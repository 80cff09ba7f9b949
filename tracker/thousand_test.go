package tracker

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
)

// march is many nodes that want the same blob at once: real sessions, a real server, and a network between the
// nodes that is only bookkeeping: a piece reaches a node a hop after its parent has it, at most as fast as its
// downlink.
type march struct {
	g     blob.Geometry
	nodes []*walker
	index map[relay.NodeID]*walker
	reads atomic.Int64 // pieces read from the origin
	asked atomic.Int64 // requests that reached the tracker
}

// walker is one node of a march.
type walker struct {
	*Session
	store *memory
	mu    sync.Mutex
	place relay.Assignment
	peers []*walker // that it was told of
}

const (
	walkRate = 5 << 20 // bytes per second of a downlink
	walkStep = 50 * time.Millisecond
)

// RoundTrip implements [http.RoundTripper]: straight into the server.
func (c *march) through(s *Server) roundTripper {
	return func(r *http.Request) (*http.Response, error) {
		c.asked.Add(1)
		body, _ := io.ReadAll(r.Body)
		r.Body.Close()
		in := httptest.NewRequestWithContext(r.Context(), r.Method, "/plan", bytes.NewReader(body))
		in.RemoteAddr = "10.0.0.1:40000"
		out := httptest.NewRecorder()
		s.ServeHTTP(out, in)
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
		return out.Result(), nil
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// walk moves one node on by one step: it takes the next pieces of each stripe that its parent, or the origin,
// has for it.
func (c *march) walk(w *walker, budget int) {
	w.mu.Lock()
	a, peers := w.place, w.peers
	w.mu.Unlock()
	for k := 0; k < max(1, a.Stripes); k++ {
		var parent *walker
		if k < len(a.Parents) && len(a.Parents[k]) > 0 {
			parent = c.index[a.Parents[k][0].ID]
		}
		for i, left := uint32(0), budget/max(1, a.Stripes); i < c.g.Pieces() && left > 0; i++ {
			if a.Stripes > 0 && relay.Stripe(c.g, i, a.Stripes) != k || w.store.PieceComplete(i) {
				continue
			}
			from := parent
			if parent == nil { // then, as without a plan, from anybody
				if at := slices.IndexFunc(peers, func(o *walker) bool { return o.store.PieceComplete(i) }); at >= 0 {
					from = peers[at]
				}
			}
			switch {
			case from != nil && from.store.PieceComplete(i):
				if root, t := w.store.Root(i); t == blob.Unknown {
					continue // its root has not come yet
				} else {
					w.store.put(i, root, blob.Claimed)
				}
			case w.Mine(i) || w.State() == Solo:
				c.reads.Add(1)
				w.store.put(i, rootOf(i), blob.Direct)
			default:
				if parent != nil {
					left = 0 // in order
				}
				continue
			}
			left--
		}
	}
}

// wish asks for what is missing, as fetch does: 64 MiB ahead.
func (c *march) wish(w *walker) {
	have := bitmap(w.store.Pieces())
	first := have.nextClear(0, c.g.Pieces())
	if first == c.g.Pieces() {
		w.Want(nil, nil, nil)
		return
	}
	end := min(first+uint32(64<<20/c.g.PieceLength), c.g.Pieces())
	var ahead []blob.Run
	for i := first; i < end; {
		j := have.nextSet(i, end)
		if ahead = append(ahead, blob.Run{First: i, Count: j - i}); len(ahead) == maxAhead {
			break
		}
		i = have.nextClear(j, end)
	}
	w.Want(nil, nil, ahead)
}

// run lets n cold nodes fetch a blob at once, on the clock of a bubble, and returns how long that took there.
func (c *march) run(t testing.TB, s *Server, n int, limit time.Duration) time.Duration {
	c.index = map[relay.NodeID]*walker{}
	client := &http.Client{Transport: c.through(s)}
	for range n {
		c.nodes = append(c.nodes, &walker{store: newMemory(c.g)})
	}
	for i, w := range c.nodes {
		id := relay.NodeID{'-', byte(i), byte(i >> 8)}
		c.index[id] = w
		w.Session = NewSession(SessionOptions{
			Trackers: []string{"http://one"}, Key: [20]byte{1}, PeerID: id, Port: 1000 + i, Geometry: c.g, Store: w.store, Client: client,
			Bulk: true, Origin: true, OnPeers: func(list []netip.AddrPort) {
				w.mu.Lock()
				defer w.mu.Unlock()
				for _, a := range list {
					if o := c.nodes[a.Port()-1000]; !slices.Contains(w.peers, o) {
						w.peers = append(w.peers, o)
					}
				}
			},
			OnAssignment: func(a relay.Assignment) {
				w.mu.Lock()
				w.place = a
				w.mu.Unlock()
			},
		})
	}
	begin := time.Now()
	per := int(walkRate*walkStep.Seconds()/float64(c.g.PieceLength)) + 1
	for done := 0; done < n; time.Sleep(walkStep) {
		if time.Since(begin) > limit {
			t.Errorf("%d of %d nodes have everything after %v", done, n, limit)
			break
		}
		done = 0
		for _, w := range c.nodes {
			if bitmap(w.store.Pieces()).nextClear(0, c.g.Pieces()) == c.g.Pieces() {
				done++
				continue
			}
			c.walk(w, per)
			c.wish(w)
		}
	}
	took := time.Since(begin)
	for _, w := range c.nodes {
		w.Close()
	}
	return took
}

// cpu is the processor time of this process so far.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestCrowd: 100 cold nodes that want everything cost the origin one download, and plans arrive.
func TestCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(ServerOptions{})
		defer s.Close()
		c := &march{g: blob.Geometry{Size: 64 << 20, PieceLength: 256 << 10}}
		took := c.run(t, s, 100, 5*time.Minute)
		if reads := c.reads.Load(); reads != int64(c.g.Pieces()) {
			t.Errorf("%d pieces were read from the origin %d times", c.g.Pieces(), reads)
		}
		t.Logf("100 nodes in %v of their time, %d requests", took, c.asked.Load())
	})
}

// TestThousand: 1 000 nodes that fetch 64 MiB at once cost the origin one download. It logs what the plans cost:
// processor time of tracker and sessions together per second of the swarm's time, and the heap of both.
func TestThousand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, s := cpu(), NewServer(ServerOptions{})
		defer s.Close()
		c := &march{g: blob.Geometry{Size: 64 << 20, PieceLength: 256 << 10}}
		took := c.run(t, s, 1000, 30*time.Minute)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if reads := c.reads.Load(); reads != int64(c.g.Pieces()) {
			t.Errorf("%d pieces were read from the origin %d times", c.g.Pieces(), reads)
		}
		if m.HeapInuse > 256<<20 {
			t.Errorf("heap of %d MiB", m.HeapInuse>>20)
		}
		t.Logf("1 000 nodes in %v of their time: %.2f CPU-s and %.0f requests per second of it, heap %d MiB",
			took, (cpu()-begin).Seconds()/took.Seconds(), float64(c.asked.Load())/took.Seconds(), m.HeapInuse>>20)
	})
}
