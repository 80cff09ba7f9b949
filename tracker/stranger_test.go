package tracker

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// planFor sends a report of a node and reads the reply.
func planFor(t *testing.T, s *Server, q *planRequest) *planReply {
	t.Helper()
	w := ask(s, "POST", "/plan", fmt.Sprintf("10.0.1.%d:1", q.peer[0]), q.append(nil))
	r, err := parsePlanReply(w.Body.Bytes(), q.geometry.Pieces())
	if err != nil || w.Code != http.StatusOK {
		t.Fatalf("status %d, %v: %q", w.Code, err, w.Body)
	}
	return r
}

func knows(peers []planPeer, addr string) bool {
	for _, p := range peers {
		if p.addr.String() == addr {
			return true
		}
	}
	return false
}

// TestBothKindsOfPeers: nodes and plain peers are told of each other, and are counted together.
func TestBothKindsOfPeers(t *testing.T) {
	s := NewServer(ServerOptions{})
	defer s.Close()
	k := key([]byte(strings.Repeat("\x00h", 10)))
	announceFor(t, s, "10.0.0.1:1", id(1), "&left=0")
	announceFor(t, s, "10.0.0.2:1", id(2), "&left=7")

	node := planRequest{key: k, peer: peerID{1}, port: 7, geometry: small, full: true, seq: 1}
	r := planFor(t, s, &node)
	if len(r.peers) != 2 || r.peers[0].addr.String() != "10.0.0.1:6881" || !knows(r.peers, "10.0.0.2:6881") {
		t.Errorf("a node that comes is told of %v, want the seed and the other", r.peers)
	}
	room := s.room(k, false)
	if len(room.swarm.sources) != 1 {
		t.Errorf("sources %v, want the seed", room.swarm.sources)
	}
	room.mu.Unlock()

	node.full, node.epoch, node.gen, node.seq = false, r.epoch, r.gen, 2
	announceFor(t, s, "10.0.0.2:1", id(2), "&left=6") // nothing new
	if r = planFor(t, s, &node); len(r.peers) != 0 {
		t.Errorf("told again: %v", r.peers)
	}
	node.gen = r.gen
	for i, left := range []int{0, 9} { // both kinds, new
		announceFor(t, s, fmt.Sprintf("10.0.0.%d:1", i+3), id(byte(i+3)), fmt.Sprintf("&left=%d", left))
	}
	if r = planFor(t, s, &node); len(r.peers) != 2 || r.peers[0].addr.String() != "10.0.0.3:6881" {
		t.Errorf("told of %v, want a new seed and another", r.peers)
	}

	a := announceFor(t, s, "10.0.0.5:1", id(5), "&left=1")
	if a.Complete != 2 || a.Incomplete != 4 || !strings.Contains(string(a.Peers), "\x0a\x00\x01\x01\x00\x07") {
		t.Errorf("a plain peer is told %+v", a)
	}
	if a = announceFor(t, s, "10.0.0.5:1", id(5), "&left=1&numwant=2"); len(a.Peers) != len("12:")+12 || !strings.Contains(string(a.Peers), "\x0a\x00\x01\x01\x00\x07") {
		t.Errorf("two peers, of which one plans: %q", a.Peers)
	}
	announceFor(t, s, "10.0.0.1:1", id(1), "&left=0&event=stopped")
	announceFor(t, s, "10.0.0.3:1", id(3), "&left=5") // lost something
	room = s.room(k, false)
	if len(room.swarm.sources) != 0 {
		t.Errorf("sources %v, want none", room.swarm.sources)
	}
	room.mu.Unlock()

	// A plain peer that begins to plan is one peer, and so is a node that announces.
	node = planRequest{key: k, peer: peerID([]byte(id(2))), port: 6881, geometry: small, full: true, seq: 1}
	planFor(t, s, &node)
	if a = announceFor(t, s, "10.0.0.2:1", id(2), "&left=7"); a.Complete+a.Incomplete != 5 {
		t.Errorf("%d peers, want 5", a.Complete+a.Incomplete)
	}
	if _, incomplete, _, _ := s.scrape(&k); incomplete != 5 {
		t.Errorf("scrape: %d peers, want 5", incomplete)
	}
}

// TestSourceExpires: a plain seed that is heard of no more is no source for long.
func TestSourceExpires(t *testing.T) {
	p := newPlay()
	if err := p.line("A joins"); err != nil {
		t.Fatal(err)
	}
	p.s.stranger(p.now, planPeer{address("foreign"), named("foreign")}, true, true)
	p.s.stranger(p.now, planPeer{address("B"), named("B")}, false, true)
	p.s.poll(p.now, p.node("A"), 1)
	p.s.tick(p.now.Add(2 * p.s.interval))
	if len(p.s.sources) != 1 || p.s.sources[named("foreign")] == nil {
		t.Fatalf("sources %v", p.s.sources)
	}
	p.s.tick(p.now.Add(2*p.s.interval + time.Second))
	if len(p.s.sources) != 0 {
		t.Errorf("sources %v", p.s.sources)
	}
}
