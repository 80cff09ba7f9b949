package tracker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"
	"github.com/google/go-cmp/cmp"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
)

// ask performs one request without a network.
func ask(s *Server, method, target, remote string, body []byte) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, bytes.NewReader(body))
	r.RemoteAddr = remote
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// peerDict is a peer of a list as BEP 3 says it, read by an independent decoder.
type peerDict struct {
	IP   string `bencode:"ip"`
	ID   string `bencode:"peer id"`
	Port int    `bencode:"port"`
}

type reply struct {
	Failure    string        `bencode:"failure reason"`
	Interval   int           `bencode:"interval"`
	Complete   int           `bencode:"complete"`
	Incomplete int           `bencode:"incomplete"`
	Peers      bencode.Bytes `bencode:"peers"`
	Peers6     string        `bencode:"peers6"`
}

func announceFor(t *testing.T, s *Server, remote, id, more string) (r reply) {
	t.Helper()
	w := ask(s, "GET", "/announce?info_hash="+url.QueryEscape(strings.Repeat("\x00h", 10))+"&peer_id="+id+"&port=6881"+more, remote, nil)
	if err := bencode.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code != http.StatusOK {
		t.Fatalf("status %d, %v: %q", w.Code, err, w.Body)
	}
	if got := w.Header().Get("Content-Length"); got != fmt.Sprint(w.Body.Len()) {
		t.Errorf("Content-Length %s of %d bytes", got, w.Body.Len())
	}
	return r
}

func id(n byte) string { return fmt.Sprintf("-XX0000-%012d", n) }

func TestAnnounce(t *testing.T) {
	s := NewServer(ServerOptions{Interval: 7 * time.Second})
	defer s.Close()
	four, six := "10.0.0.1:555", "[2001:db8::1]:555"
	r := announceFor(t, s, four, id(1), "&left=0&event=started")
	if diff := cmp.Diff(reply{Interval: 7, Complete: 1, Peers: bencode.Bytes("0:")}, r); diff != "" {
		t.Errorf("first of the swarm (-want +got):\n%s", diff)
	}
	r = announceFor(t, s, six, id(2), "&left=10&event=started&compact=1")
	want := reply{Interval: 7, Complete: 1, Incomplete: 1, Peers: bencode.Bytes("6:\x0a\x00\x00\x01\x1a\xe1")}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("compact (-want +got):\n%s", diff)
	}
	r = announceFor(t, s, "10.0.0.3:1", id(3), "&left=10")
	if r.Peers6 != "\x20\x01\x0d\xb8"+strings.Repeat("\x00", 11)+"\x01\x1a\xe1" || string(r.Peers) != "6:\x0a\x00\x00\x01\x1a\xe1" {
		t.Errorf("IPv6 peer: peers %q, peers6 %q", r.Peers, r.Peers6)
	}
	r = announceFor(t, s, "10.0.0.3:1", id(3), "&left=10&compact=0")
	var list []peerDict
	if err := bencode.Unmarshal(r.Peers, &list); err != nil {
		t.Fatalf("%v: %q", err, r.Peers)
	}
	if len(list) != 2 || list[0].Port != 6881 || list[0].ID == list[1].ID {
		t.Errorf("list of peers: %+v", list)
	}
	if r = announceFor(t, s, four, id(1), "&left=0"); string(r.Peers) == "0:" || r.Complete != 1 {
		t.Errorf("a seed is told of the others: %+v", r)
	}
	if r = announceFor(t, s, "10.0.0.9:1", id(9), "&left=0&event=completed"); string(r.Peers) != "6:\x0a\x00\x00\x03\x1a\xe1" {
		t.Errorf("a seed is not told of seeds: %q", r.Peers)
	}
	if r = announceFor(t, s, "10.0.0.3:1", id(3), "&left=10&numwant=1"); len(r.Peers)+len(r.Peers6) > 20 {
		t.Errorf("numwant=1: %q, %q", r.Peers, r.Peers6)
	}
	if r = announceFor(t, s, "10.0.0.3:1", id(3), "&left=10&numwant=0"); len(r.Peers)+len(r.Peers6) != 2 {
		t.Errorf("numwant=0: %q, %q", r.Peers, r.Peers6)
	}
	if r = announceFor(t, s, "10.0.0.9:1", id(9), "&left=0&event=stopped"); r.Complete != 1 || r.Incomplete != 2 || string(r.Peers) != "0:" {
		t.Errorf("stopped: %+v", r)
	}
	// The address that a peer says is believed from a private network only.
	announceFor(t, s, "192.168.7.7:1", id(4), "&left=1&ip=10.9.9.9")
	announceFor(t, s, "8.8.8.8:1", id(5), "&left=1&ip=10.9.9.8")
	r = announceFor(t, s, four, id(1), "&left=0&numwant=50")
	if p := string(r.Peers); !strings.Contains(p, "\x0a\x09\x09\x09") || strings.Contains(p, "\x0a\x09\x09\x08") || !strings.Contains(p, "\x08\x08\x08\x08") {
		t.Errorf("peers %q", p)
	}
}

func TestAnnounceRefusals(t *testing.T) {
	s := NewServer(ServerOptions{})
	defer s.Close()
	hash, peer := "info_hash="+strings.Repeat("h", 20), "&peer_id="+strings.Repeat("p", 20)
	for _, c := range []struct{ query, want string }{
		{"", "needs info_hash"},
		{hash, "needs info_hash, peer_id and port"},
		{hash + peer, "needs info_hash, peer_id and port"},
		{"info_hash=short" + peer + "&port=1", "info_hash has 5 bytes, not 20"},
		{hash + "&peer_id=x&port=1", "peer_id has 1 bytes, not 20"},
		{hash + peer + "&port=70000", "port \"70000\""},
		{hash + peer + "&port=1&left=-1", "left \"-1\""},
		{hash + peer + "&port=1&left=x", "left \"x\""},
		{hash + peer + "&port=1&numwant=x", "numwant"},
		{hash + peer + "&port=1&event=paniced", "event \"paniced\""},
		{"info_hash=%zz", "not percent-encoded"},
	} {
		w := ask(s, "GET", "/announce?"+c.query, "127.0.0.1:1", nil)
		var r reply
		if err := bencode.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code != http.StatusOK || !strings.Contains(r.Failure, c.want) {
			t.Errorf("%q: status %d, %v, failure %q, want %q", c.query, w.Code, err, r.Failure, c.want)
		}
	}
	if n := len(s.rooms) + int(s.plain.peers.Load()); n != 0 {
		t.Errorf("refused announces made %d swarms", n)
	}
}

func TestScrape(t *testing.T) {
	s := NewServer(ServerOptions{})
	defer s.Close()
	announceFor(t, s, "10.0.0.1:1", id(1), "&left=0&event=completed")
	announceFor(t, s, "10.0.0.2:1", id(2), "&left=5")
	known, unknown := strings.Repeat("\x00h", 10), strings.Repeat("u", 20)
	q := url.Values{"info_hash": {known, unknown, known}}
	w := ask(s, "GET", "/scrape?"+q.Encode(), "127.0.0.1:1", nil)
	var r struct {
		Files map[string]map[string]int `bencode:"files"`
	}
	if err := bencode.Unmarshal(w.Body.Bytes(), &r); err != nil {
		t.Fatalf("%v: %q", err, w.Body)
	}
	want := map[string]map[string]int{known: {"complete": 1, "downloaded": 1, "incomplete": 1}}
	if diff := cmp.Diff(want, r.Files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	for _, query := range []string{"", "info_hash=x", strings.Repeat("info_hash="+unknown+"&", maxScrape+1)} {
		w := ask(s, "GET", "/scrape?"+query, "127.0.0.1:1", nil)
		if !strings.HasPrefix(w.Body.String(), "d14:failure reason") {
			t.Errorf("scrape of %.40q: %q", query, w.Body)
		}
	}
}

func TestPlanRefusals(t *testing.T) {
	s := NewServer(ServerOptions{})
	defer s.Close()
	good := planRequest{key: key{1}, peer: peerID{1}, port: 1, geometry: small, full: true, seq: 1}
	with := func(change func(*planRequest)) []byte {
		q := good
		change(&q)
		return q.append(nil)
	}
	if w := ask(s, "POST", "/plan", "127.0.0.1:1", good.append(nil)); w.Code != http.StatusOK {
		t.Fatalf("a good request: %d %q", w.Code, w.Body)
	}
	for _, c := range []struct {
		name   string
		status int
		body   []byte
		want   string
	}{
		{"nothing", 400, nil, "value missing"},
		{"no dictionary", 400, []byte("i1e"), "dictionary expected"},
		{"more behind it", 400, append(good.append(nil), 'x'), "one dictionary expected"},
		{"endless", 400, bytes.Repeat([]byte{'l'}, 1<<20), "nested too deep"},
		{"string beyond the end", 400, []byte("d3:key99999999999:x"), "longer than the message"},
		{"too long", 400, bytes.Repeat([]byte{'x'}, maxBody+1), "too large"},
		{"no version", 400, []byte("de"), "version 0"},
		{"no key", 400, []byte("d1:vi1ee"), "without key"},
		{"short key", 400, []byte("d3:key3:abc1:vi1ee"), "20 bytes expected"},
		{"piece length", 400, with(func(q *planRequest) { q.geometry.PieceLength = 1000 }), "not a power of two"},
		{"no size", 200, with(func(q *planRequest) { q.geometry.Size = 0; q.key = key{2} }), ""},
		{"too many pieces", 400, with(func(q *planRequest) { q.geometry = blob.Geometry{Size: 1 << 40, PieceLength: 16 << 10} }), "more than"},
		{"run beyond the end", 400, with(func(q *planRequest) { q.have = []blob.Run{{First: 63, Count: 2}} }), "run of 2 at 63"},
		{"run that overflows", 400, with(func(q *planRequest) { q.ahead = []blob.Run{{First: 2, Count: 1<<32 - 1}} }), "run of"},
		{"empty run", 400, with(func(q *planRequest) { q.urgent = []blob.Run{{First: 2}} }), "run of 0"},
		{"too many runs", 400, with(func(q *planRequest) { q.urgent = make([]blob.Run, maxUrgent+1) }), "at most 64 runs"},
		{"root of no piece", 400, with(func(q *planRequest) { q.roots = []pieceRoot{{64, rootOf(0)}} }), "piece 64"},
		{"zero root", 400, with(func(q *planRequest) { q.roots = []pieceRoot{{1, blob.Hash{}}} }), "root"},
		{"other geometry", 409, with(func(q *planRequest) { q.geometry.Size++ }), "another size"},
		{"long poll too long", 400, with(func(q *planRequest) { q.wait = time.Hour }), "integer outside"},
	} {
		w := ask(s, "POST", "/plan", "127.0.0.1:1", c.body)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s: status %d %.200q, want %d with %q", c.name, w.Code, w.Body, c.status, c.want)
		}
	}
	if w := ask(s, "GET", "/plan", "127.0.0.1:1", nil); w.Code != 400 {
		t.Errorf("GET /plan: %d", w.Code)
	}
	if w := ask(s, "GET", "/nothing", "127.0.0.1:1", nil); w.Code != 404 {
		t.Errorf("GET /nothing: %d", w.Code)
	}
}

func TestStatsAndHealth(t *testing.T) {
	s := NewServer(ServerOptions{})
	announceFor(t, s, "10.0.0.1:1", id(1), "&left=0")
	q := planRequest{key: key{1}, peer: peerID{1}, port: 1, geometry: small, full: true, want: true, wish: wish{ahead: whole}}
	ask(s, "POST", "/x/plan", "127.0.0.1:1", q.append(nil))
	var got serverStats
	w := ask(s, "GET", "/stats", "127.0.0.1:1", nil)
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	if got.Swarms != 2 || got.Members != 2 || got.Nodes != 1 || got.Announces != 1 || got.Plans != 1 || len(got.Listed) != 2 {
		t.Errorf("stats %+v", got)
	}
	if w := ask(s, "GET", "/healthz", "127.0.0.1:1", nil); w.Body.String() != "ok\n" {
		t.Errorf("healthz: %q", w.Body)
	}
	s.Close()
	s.Close()
	if w := ask(s, "GET", "/healthz", "127.0.0.1:1", nil); w.Code != http.StatusServiceUnavailable {
		t.Errorf("after Close: %d", w.Code)
	}
}

// TestPlanIsBencoding has an independent decoder read what we write, and ours read it back.
func TestPlanIsBencoding(t *testing.T) {
	q := planRequest{
		key: key{1}, peer: peerID{2}, port: 3, ip: "10.0.0.1", geometry: small, epoch: 4, seq: 5, gen: 6, log: 7, full: true, stop: true, tree: 9, read: 10,
		about: about{bulk: true, origin: true, prefer: true, up: 12, zone: "eu/a"},
		blame: []relay.Complaint{{Parent: relay.NodeID{3}, Stripe: 1, Reason: relay.Slow, Rate: 5}},
		want:  true, wait: 8 * time.Millisecond, wish: wish{[]blob.Run{{First: 7, Count: 8}}, []blob.Run{{First: 1, Count: 2}}, []blob.Run{{First: 3, Count: 4}}},
		have: []blob.Run{{First: 5, Count: 6}}, roots: []pieceRoot{{7, rootOf(7)}},
	}
	var any map[string]any
	if err := bencode.Unmarshal(q.append(nil), &any); err != nil {
		t.Fatal(err)
	}
	again, err := bencode.Marshal(any) // sorts its keys
	if err != nil || !bytes.Equal(again, q.append(nil)) {
		t.Errorf("request is not canonical: %v\n%q\n%q", err, again, q.append(nil))
	}
	got, err := parsePlanRequest(q.append(nil))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&q, got, unexported); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	r := planReply{
		epoch: 1, gen: 2, log: 3, interval: 4 * time.Millisecond, ttl: 5 * time.Millisecond, nodes: 6, pace: 7 * time.Millisecond, alone: true, solo: true, resync: true,
		place: &place{
			number:     3,
			Assignment: relay.Assignment{Gen: 4, Stripes: 2, Head: 2, Parents: [][]relay.Parent{{{ID: relay.NodeID{5}, Rate: 6}, {ID: relay.NodeID{7}}}, {}}},
			addrs:      []netip.AddrPort{address("A"), address("B")},
		},
		lease: []blob.Run{{First: 1, Count: 2}}, held: []blob.Run{{First: 3, Count: 4}}, disputed: []blob.Run{{First: 5, Count: 6}},
		roots: []pieceRoot{{7, rootOf(7)}}, peers: []planPeer{{address("A"), peerID{9}}},
	}
	any = nil
	if err := bencode.Unmarshal(r.append(nil), &any); err != nil {
		t.Fatal(err)
	}
	if again, err = bencode.Marshal(any); err != nil || !bytes.Equal(again, r.append(nil)) {
		t.Errorf("reply is not canonical: %v\n%q\n%q", err, again, r.append(nil))
	}
	back, err := parsePlanReply(r.append(nil), 64)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&r, back, unexported); diff != "" {
		t.Errorf("reply (-want +got):\n%s", diff)
	}
}

var unexported = cmp.Options{
	cmp.AllowUnexported(planRequest{}, wish{}, planReply{}, pieceRoot{}, planPeer{}, about{}, place{}),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b planPeer) bool { return a == b }),
}
