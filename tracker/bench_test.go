package tracker

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
)

// benchStore starts a tracker and sessions for benchmarks.
func benchSessions(b *testing.B, g blob.Geometry, n int) (list []*participant) {
	s := NewServer(ServerOptions{})
	h := httptest.NewServer(s)
	b.Cleanup(func() {
		for _, p := range list {
			p.Close()
		}
		s.Close()
		h.Close()
	})
	for id := range n {
		p := &participant{store: newMemory(g), woken: make(chan struct{}, 1)}
		p.Session = NewSession(SessionOptions{
			Trackers: []string{h.URL}, Key: [20]byte{1}, PeerID: [20]byte{byte(id)}, Port: 1000 + id, Geometry: g, Store: p.store,
			OnPlan:  func() { signal(p.woken) },
			OnRoots: func() { signal(p.woken) },
		})
		if err := p.First(context.Background()); err != nil {
			b.Fatal(err)
		}
		list = append(list, p)
	}
	for _, p := range list {
		for p.State() != Shared {
			<-p.woken
		}
	}
	return list
}

// BenchmarkWantToLease is the time from an urgent wish to the lease, over loopback.
func BenchmarkWantToLease(b *testing.B) {
	g := blob.Geometry{Size: 64 << 30, PieceLength: 256 << 10}
	p := benchSessions(b, g, 2)[0]
	b.ResetTimer()
	var total time.Duration
	for i := range uint32(b.N) {
		b.StopTimer()
		time.Sleep(urgentGap) // what a burst is held to is not what is measured
		b.StartTimer()
		begin := time.Now()
		p.Want(nil, []blob.Run{{First: i, Count: 1}}, nil)
		for !p.Mine(i) {
			<-p.woken
		}
		total += time.Since(begin)
		b.StopTimer()
		p.store.put(i, rootOf(i), blob.Direct)
		b.StartTimer()
	}
	b.ReportMetric(float64(total.Microseconds())/float64(b.N), "µs/lease")
}

// BenchmarkPieceToRoot is the time from a piece completed at one node to its root in the store of another.
func BenchmarkPieceToRoot(b *testing.B) {
	g := blob.Geometry{Size: 64 << 30, PieceLength: 256 << 10}
	list := benchSessions(b, g, 2)
	from, to := list[0], list[1]
	b.ResetTimer()
	for i := range uint32(b.N) {
		from.store.put(i, rootOf(i), blob.Direct)
		for {
			if _, t := to.store.Root(i); t != blob.Unknown {
				break
			}
			<-to.woken
		}
	}
}

// BenchmarkAnnounce is one BEP 3 announce in a swarm of 1000, without the network.
func BenchmarkAnnounce(b *testing.B) {
	s := NewServer(ServerOptions{})
	b.Cleanup(s.Close)
	requests := make([]*http.Request, 1000)
	for i := range requests {
		requests[i] = httptest.NewRequest("GET", fmt.Sprintf("/announce?info_hash=%s&peer_id=-XX0000-%012d&port=6881&left=1&numwant=8&ip=10.0.%d.%d", "aaaaaaaaaaaaaaaaaaaa", i, i/250, i%250), nil)
		requests[i].RemoteAddr = "127.0.0.1:1"
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, requests[i%len(requests)])
		if w.Code != http.StatusOK {
			b.Fatal(w.Body)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "announces/s")
}

// BenchmarkPlan is one report with one piece by one of 100 nodes that want everything, without the network.
func BenchmarkPlan(b *testing.B) {
	s := NewServer(ServerOptions{LeaseFor: time.Hour})
	b.Cleanup(s.Close)
	g := blob.Geometry{Size: 16 << 30, PieceLength: 1 << 20}
	post := func(q *planRequest) *planReply {
		r := httptest.NewRequest("POST", "/plan", bytes.NewReader(q.append(nil)))
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		reply, err := parsePlanReply(w.Body.Bytes(), g.Pieces())
		if err != nil || w.Code != http.StatusOK {
			b.Fatal(w.Code, w.Body, err)
		}
		return reply
	}
	nodes := make([]*planRequest, 100)
	last := make([]*planReply, len(nodes))
	begin := func() {
		for i := range nodes {
			nodes[i] = &planRequest{
				key: key{1}, peer: peerID{byte(i)}, port: uint16(1000 + i), geometry: g, seq: time.Now().UnixNano(), full: true,
				want: true, wish: wish{ahead: []blob.Run{{First: 0, Count: g.Pieces()}}},
			}
			last[i] = post(nodes[i])
		}
	}
	begin()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		k := i % len(nodes)
		if len(last[k].lease) == 0 {
			b.StopTimer()
			begin()
			b.StartTimer()
		}
		q := nodes[k]
		q.full, q.seq = false, q.seq+1
		q.epoch, q.gen, q.log = last[k].epoch, last[k].gen, last[k].log
		q.have, q.roots = nil, nil
		if len(last[k].lease) > 0 {
			p := last[k].lease[0].First
			q.have, q.roots = []blob.Run{{First: p, Count: 1}}, []pieceRoot{{p, rootOf(p)}}
		}
		last[k] = post(q)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "plans/s")
}
