package tracker

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"

	"github.com/pantala/pantala/blob"
)

// record is the body of a reply.
func record(s *Server, r *http.Request) []byte {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Body.Bytes()
}

// FuzzAnnounce: whatever the query, the answer is bencoding that an independent decoder reads.
func FuzzAnnounce(f *testing.F) {
	f.Add("info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=1&left=0&event=started&compact=0")
	f.Add("info_hash=%00%zz&peer_id=&&&=&port=-1")
	f.Add("info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=1&ip=::1&numwant=-9&event=stopped")
	s := NewServer(ServerOptions{})
	f.Cleanup(s.Close)
	f.Fuzz(func(t *testing.T, query string) {
		for _, path := range []string{"/announce", "/scrape"} {
			q := httptest.NewRequest("GET", path, nil)
			q.URL.RawQuery, q.RemoteAddr = query, "[fe80::1%eth0]:1"
			w := record(s, q)
			var any map[string]bencode.Bytes
			if err := bencode.Unmarshal(w, &any); err != nil {
				t.Fatalf("%v: %q", err, w)
			}
		}
	})
}

// FuzzPlan: whatever the body, the server answers bencoding, and its swarms stay consistent.
func FuzzPlan(f *testing.F) {
	f.Add((&planRequest{key: key{1}, peer: peerID{1}, geometry: small, full: true, seq: 1, want: true, wish: wish{ahead: whole}}).append(nil))
	f.Add((&planRequest{key: key{1}, peer: peerID{3}, geometry: small, full: true, seq: 1, want: true, wish: wish{whole, whole, whole}}).append(nil))
	f.Add((&planRequest{key: key{1}, peer: peerID{2}, geometry: small, full: true, seq: 1, have: whole, roots: []pieceRoot{{1, rootOf(1)}}}).append(nil))
	f.Add((&planRequest{key: key{1}, peer: peerID{2}, geometry: small, stop: true}).append(nil))
	f.Add([]byte("d1:vi1e3:key20:aaaaaaaaaaaaaaaaaaaa4:peer20:aaaaaaaaaaaaaaaaaaaa5:piecei16384e4:sizei0e4:fulli1ee"))
	f.Add(bytes.Repeat([]byte("l"), 100))
	s := NewServer(ServerOptions{})
	f.Cleanup(s.Close)
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := parsePlanRequest(body)
		if err == nil {
			if q.wait = 0; q.geometry.Pieces() > 1<<12 {
				return // a check of every piece takes too long
			}
			body = q.append(nil) // without the wait
		}
		r := httptest.NewRequest("POST", "/plan", bytes.NewReader(body))
		r.RemoteAddr = "10.0.0.1:1"
		w := record(s, r)
		var any map[string]bencode.Bytes
		if err := bencode.Unmarshal(w, &any); err != nil {
			t.Fatalf("%v: %q", err, w)
		}
		if err != nil {
			return
		}
		if room := s.room(q.key, false); room != nil {
			defer room.mu.Unlock()
			if err := check(room.swarm); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzPlanReply: what is accepted can be written and read again with the same meaning.
func FuzzPlanReply(f *testing.F) {
	f.Add((&planReply{epoch: 1, gen: 2, lease: whole, roots: []pieceRoot{{1, rootOf(1)}}, peers: []planPeer{{address("A"), peerID{1}}}}).append(nil))
	f.Add((&planReply{epoch: 1, resync: true}).append(nil))
	f.Add([]byte("d5:epochi1e4:held8:\x00\x00\x00\x01\xff\xff\xff\xffe"))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parsePlanReply(body, 64)
		if err != nil {
			return
		}
		for i := range each(append(append(append([]blob.Run(nil), r.lease...), r.held...), r.disputed...)) {
			if i >= 64 {
				t.Fatalf("piece %d of 64", i)
			}
		}
		again, err := parsePlanReply(r.append(nil), 64)
		if err != nil || !bytes.Equal(again.append(nil), r.append(nil)) {
			t.Fatalf("%v: %q became %q", err, r.append(nil), again.append(nil))
		}
	})
}

// compact is a reply of a tracker.
func compact(interval time.Duration, peers ...planPeer) []byte {
	var f found
	for _, p := range peers {
		s := spot{ip: p.addr.Addr().As16(), port: max(1, p.addr.Port())}
		f.add(&s, is6(&s.ip))
	}
	return f.append(nil, interval)
}

// FuzzAnnounceReply: what is accepted can be written, compact, and has the same peers.
func FuzzAnnounceReply(f *testing.F) {
	f.Add(compact(time.Second, planPeer{addr: address("A")}))
	f.Add((&found{named: true, list: []planPeer{{addr: address("A")}}}).append(nil, time.Second))
	f.Add(appendFailure(nil, "no"))
	f.Add([]byte("d5:peersld2:ip3:::14:porti1eeee"))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseAnnounceReply(body)
		if err != nil {
			return
		}
		again, err := parseAnnounceReply(compact(time.Second, r.peers...))
		if err != nil || len(again.peers) != len(r.peers) {
			t.Fatalf("%v: %d peers became %v", err, len(r.peers), again)
		}
		for _, p := range r.peers {
			if !p.addr.IsValid() {
				t.Fatalf("invalid address %v", p.addr)
			}
		}
	})
}
