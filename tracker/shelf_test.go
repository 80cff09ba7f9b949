package tracker

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

func claimOf(n byte) IndexClaim {
	return IndexClaim{Root: blob.Hash{1, n}, Digest: blob.Hash{2, n}, Size: 1000 + int64(n), Trust: blob.Built}
}

func hostAt(n int) (hostID, planPeer) {
	a := netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
	return hostOf(a), planPeer{netip.AddrPortFrom(a, 6881), peerID{byte(n)}}
}

// checkShelf says what is inconsistent.
func checkShelf(s *shelf) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := 0
	for e := s.layers.order.Front(); e != nil; e = e.Next() {
		one := e.Value.(*slot[*layerRecord])
		r := one.value
		hosts, used := map[hostID]bool{}, map[uint8]bool{}
		for _, v := range r.vouches {
			if hosts[v.host] || int(v.claim) >= len(r.claims) {
				return fmt.Errorf("a host has two words, or one about claim %d of %d", v.claim, len(r.claims))
			}
			hosts[v.host], used[v.claim] = true, true
		}
		if len(used) != len(r.claims) || len(r.claims) > maxClaims || len(r.vouches) > maxVouches {
			return fmt.Errorf("%d claims, %d of which somebody vouches for, by %d hosts", len(r.claims), len(used), len(r.vouches))
		}
		sum += one.cost
	}
	images := 0
	for e := s.images.order.Front(); e != nil; e = e.Next() {
		one := e.Value.(*slot[*imageRecord])
		n := 0
		for i, r := range one.value.reports {
			n += len(r.profile)
			if i > 0 && one.value.reports[i-1].at > r.at {
				return errors.New("reports out of order")
			}
		}
		if n != one.value.bytes || len(one.value.reports) > maxProfiles {
			return fmt.Errorf("%d reports of %d bytes are counted as %d", len(one.value.reports), n, one.value.bytes)
		}
		images += one.cost
	}
	if sum != s.layers.bytes || images != s.images.bytes || sum > s.layers.budget || images > s.images.budget {
		return fmt.Errorf("%d and %d bytes are counted as %d and %d", sum, images, s.layers.bytes, s.images.bytes)
	}
	return nil
}

// TestShelfProperties: whatever is said in whatever order, the shelf is consistent and within its bounds, and the last
// word of a host counts.
func TestShelfProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newShelf()
		s.layers.budget, s.images.budget = 40_000, 6_000
		now := time.Unix(1_700_000_000, 0)
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			layer, n := blob.Hash{byte(rapid.IntRange(0, 9).Draw(t, "layer"))}, rapid.IntRange(0, 40).Draw(t, "host")
			host, peer := hostAt(n)
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "seconds")) * time.Second)
				s.sweep(now)
			case 1:
				s.drop(layer, host, anyPort)
				for _, c := range s.claims(now, []blob.Hash{layer}, hostID{}, 0) {
					if slices.Contains(c.peers, peer) {
						t.Fatalf("host %d has taken its word back", n)
					}
				}
			case 2:
				s.report(now, layer, report{host, now.Unix() - int64(rapid.IntRange(0, 100).Draw(t, "ago")), make([]byte, rapid.IntRange(1, 500).Draw(t, "length"))})
				s.profile(now, layer, func(all [][]byte) []byte { return all[0] })
			default:
				c := claimOf(byte(rapid.IntRange(0, 6).Draw(t, "claim")))
				at := now.Unix() - int64(rapid.IntRange(0, 100).Draw(t, "ago"))
				took := s.vouch(now, layer, c, vouch{host: host, peer: peer, since: at, at: at})
				for _, o := range s.claims(now, []blob.Hash{layer}, hostID{}, 0) {
					if took && at == now.Unix() && slices.Contains(o.peers, peer) && !o.same(&c) {
						t.Fatalf("host %d has said %v, not %v", n, c, o)
					}
				}
			}
			if err := checkShelf(s); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestMostVouched: the claim that most hosts vouch for comes first, and of equals the oldest; one host counts once.
func TestMostVouched(t *testing.T) {
	s, now := newShelf(), time.Unix(1_700_000_000, 0)
	layer := blob.Hash{7}
	say := func(n int, c IndexClaim) bool {
		now = now.Add(time.Second)
		host, peer := hostAt(n)
		return s.vouch(now, layer, c, vouch{host: host, peer: peer, since: now.Unix(), at: now.Unix()})
	}
	order := func() (all []byte) {
		for _, c := range s.claims(now, []blob.Hash{{9}, layer}, hostID{}, 0) {
			all = append(all, c.Root[1], byte(c.Vouchers))
		}
		return all
	}
	for n := range 5 {
		if took := say(n, claimOf(byte(n))); took != (n < maxClaims) {
			t.Errorf("claim %d of 4 is taken: %v", n+1, took)
		}
	}
	if got := order(); !bytes.Equal(got, []byte{0, 1, 1, 1, 2, 1, 3, 1}) {
		t.Errorf("%v", got)
	}
	say(9, claimOf(2))
	say(9, claimOf(2))
	if got := order(); !bytes.Equal(got, []byte{2, 2, 0, 1, 1, 1, 3, 1}) {
		t.Errorf("%v", got)
	}
	say(0, claimOf(3)) // another word: the claim that nobody vouches for is gone
	if got := order(); !bytes.Equal(got, []byte{2, 2, 3, 2, 1, 1}) {
		t.Errorf("%v", got)
	}
	for n := range 100 {
		say(100+n, claimOf(1))
	}
	if got := order(); !bytes.Equal(got, []byte{1, maxVouches - 4, 2, 2, 3, 2}) {
		t.Errorf("%v", got)
	}
	believes := claimOf(2)
	believes.Trust = blob.Claimed
	say(300, believes)
	if got := order(); !bytes.Equal(got, []byte{1, maxVouches - 4, 2, 2, 3, 2}) {
		t.Errorf("one that only believes it: %v", got)
	}
	own, _ := hostAt(199)
	for _, c := range s.claims(now, []blob.Hash{layer}, own, 6881)[:1] {
		if len(c.peers) != maxClaimPeers || c.peers[0].id != (peerID{198}) {
			t.Errorf("peers of the first claim: %v", c.peers)
		}
	}
	now = now.Add(claimKept + time.Second)
	if got := order(); got != nil {
		t.Errorf("after %v: %v", claimKept, got)
	}
	if s.sweep(now); s.stats().Layers != 0 {
		t.Errorf("%+v", s.stats())
	}
}

// records sends a request to a tracker.
func (q *recordsRequest) to(t *testing.T, s *Server, from string) *recordsReply {
	t.Helper()
	w := ask(s, "POST", "/records", from, q.append(nil))
	r, err := parseRecordsReply(w.Body.Bytes())
	if w.Code != http.StatusOK || err != nil {
		t.Fatalf("status %d, %v: %q", w.Code, err, w.Body)
	}
	return r
}

// TestRecordsOverHTTP: what a node says others are told.
func TestRecordsOverHTTP(t *testing.T) {
	merges := 0
	s := NewServer(ServerOptions{Merge: func(all [][]byte) []byte {
		merges++
		if bytes.Equal(all[0], []byte("bad")) {
			return nil
		}
		return bytes.Join(all, []byte("+"))
	}})
	defer s.Close()
	a, b := blob.Hash{0xa}, blob.Hash{0xb}
	(&recordsRequest{peer: peerID{1}, port: 1000, claims: []layerClaim{{layer: a, IndexClaim: claimOf(1)}}}).to(t, s, "10.0.0.1:99")
	(&recordsRequest{peer: peerID{2}, port: 2000, ip: "10.9.9.9", claims: []layerClaim{{layer: a, IndexClaim: claimOf(1)}, {layer: b, IndexClaim: claimOf(2)}}}).to(t, s, "10.0.0.2:99")
	r := (&recordsRequest{peer: peerID{3}, ask: []blob.Hash{a, {0xc}, b}, image: blob.Hash{5}, want: true}).to(t, s, "[2001:db8::1]:99")
	if len(r.claims) != 2 || r.claims[0].layer != a || r.claims[0].Vouchers != 2 || r.claims[1].layer != b || r.claims[1].Vouchers != 1 ||
		!r.claims[0].same(new(claimOf(1))) || r.claims[0].Trust != blob.Built || len(r.profile) != 0 || r.epoch == 0 {
		t.Errorf("%+v", r)
	}
	if p := r.claims[1].peers; len(p) != 1 || p[0].addr != netip.MustParseAddrPort("10.9.9.9:2000") || p[0].id != (peerID{2}) {
		t.Errorf("peers: %v", p)
	}
	r = (&recordsRequest{peer: peerID{2}, port: 2000, ip: "10.9.9.9", drop: []blob.Hash{a, b}, ask: []blob.Hash{a, b}}).to(t, s, "10.0.0.2:99")
	if len(r.claims) != 1 || r.claims[0].Vouchers != 1 {
		t.Errorf("after one has left: %+v", r)
	}

	for i := range 20 {
		(&recordsRequest{peer: peerID{1}, image: blob.Hash{5}, report: fmt.Appendf(nil, "%c", 'a'+i)}).to(t, s, fmt.Sprintf("10.0.0.%d:99", i))
	}
	was := merges
	for range 3 {
		r = (&recordsRequest{peer: peerID{3}, image: blob.Hash{5}, want: true}).to(t, s, "10.0.0.1:99")
	}
	if got := strings.Split(string(r.profile), "+"); len(got) != maxProfiles || merges != was+1 {
		t.Errorf("%q, merged %d times", r.profile, merges-was)
	}

	for name, c := range map[string]struct {
		q      []byte
		from   string
		status int
	}{
		"a profile that cannot be read": {(&recordsRequest{image: blob.Hash{5}, report: []byte("bad")}).append(nil), "10.0.0.1:1", 400},
		"no image":                      {(&recordsRequest{report: []byte("x")}).append(nil), "10.0.0.1:1", 400},
		"too long":                      {(&recordsRequest{image: blob.Hash{5}, report: make([]byte, maxProfile+1)}).append(nil), "10.0.0.1:1", 400},
		"too many":                      {(&recordsRequest{ask: make([]blob.Hash, maxLayers+1)}).append(nil), "10.0.0.1:1", 400},
		"nothing vouches":               {(&recordsRequest{claims: []layerClaim{{IndexClaim: IndexClaim{Root: a, Digest: b, Size: 1}}}}).append(nil), "10.0.0.1:1", 400},
		"version":                       {[]byte("d4:peer20:aaaaaaaaaaaaaaaaaaaa1:vi2ee"), "10.0.0.1:1", 400},
		"nothing":                       {nil, "10.0.0.1:1", 400},
		"long body":                     {make([]byte, maxRecordsBody+1), "10.0.0.1:1", 400},
	} {
		if w := ask(s, "POST", "/records", c.from, c.q); w.Code != c.status || !strings.Contains(w.Body.String(), "failure reason") {
			t.Errorf("%s: status %d: %q", name, w.Code, w.Body)
		}
	}
	if w := ask(s, "GET", "/records", "10.0.0.1:1", nil); w.Code != 400 {
		t.Errorf("GET: status %d", w.Code)
	}
	if err := checkShelf(s.shelf); err != nil {
		t.Error(err)
	}
}

// TestRecordsAreMetered: an address that asks for too much is refused, others are not, and it is served again later.
func TestRecordsAreMetered(t *testing.T) {
	s := NewServer(ServerOptions{})
	defer s.Close()
	q := (&recordsRequest{ask: make([]blob.Hash, maxLayers)}).append(nil)
	n := 0
	for ; n < 1000 && ask(s, "POST", "/records", "10.0.0.1:1", q).Code == 200; n++ {
	}
	if n < unitBurst/(maxLayers+1) || n > 900 {
		t.Errorf("%d requests were answered", n)
	}
	if w := ask(s, "POST", "/records", "10.0.0.2:1", q); w.Code != 200 {
		t.Errorf("somebody else: status %d", w.Code)
	}
	m, now := newMeter(), time.Unix(1, 0)
	for i := range maxMetered + 10 {
		m.take(now, hostID{byte(i), byte(i >> 8), byte(i >> 16)}, 1)
	}
	if len(m.all) != maxMetered {
		t.Errorf("%d addresses", len(m.all))
	}
	me := hostID{15: 1}
	if !m.take(now, me, unitBurst) || m.take(now, me, 1) || !m.take(now.Add(time.Second), me, unitRate) || m.take(now.Add(time.Second), me, 1) {
		t.Error("the allowance is not what it should be")
	}
	if m.sweep(now.Add(time.Minute)); len(m.all) != 0 {
		t.Errorf("%d addresses after a minute", len(m.all))
	}
}

// TestBlockedRecords: who is blocked is told nothing.
func TestBlockedRecords(t *testing.T) {
	s := NewServer(ServerOptions{})
	defer s.Close()
	list, err := ParseBlocklist(strings.NewReader("10.0.0.0/24\n"))
	if err != nil {
		t.Fatal(err)
	}
	s.Block(list)
	if w := ask(s, "POST", "/records", "10.0.0.1:1", (&recordsRequest{}).append(nil)); w.Code != http.StatusForbidden {
		t.Errorf("status %d", w.Code)
	}
}

// TestRecordsGolden: the bytes on the wire.
func TestRecordsGolden(t *testing.T) {
	fill := func(c byte) (h blob.Hash) {
		for i := range h {
			h[i] = c
		}
		return h
	}
	c := IndexClaim{Root: fill('r'), Digest: fill('s'), Size: 0x41424344, Trust: blob.Built, Vouchers: 2}
	q := &recordsRequest{peer: peerID([]byte("-PT0100-abcdefghijkl")), port: 6881, ip: "10.0.0.1", ask: []blob.Hash{fill('a')}, claims: []layerClaim{{layer: fill('l'), IndexClaim: c}}, image: fill('i'), report: []byte("ptp"), want: true}
	r, s, l := strings.Repeat("r", 32), strings.Repeat("s", 32), strings.Repeat("l", 32)
	want := "d3:ask32:" + strings.Repeat("a", 32) + "6:claims105:" + l + r + s + "\x00\x00\x00\x00ABCD\x05" + "5:image32:" + strings.Repeat("i", 32) +
		"2:ip8:10.0.0.14:peer20:-PT0100-abcdefghijkl4:porti6881e6:report3:ptp1:vi1e4:wanti1ee"
	if got := string(q.append(nil)); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	reply := &recordsReply{epoch: 7, profile: []byte("ptp"), claims: []layerClaim{{layer: fill('l'), IndexClaim: c, peers: []planPeer{{netip.MustParseAddrPort("1.2.3.4:258"), peerID([]byte("-PT0100-abcdefghijkl"))}}}}}
	want = "d6:claims145:" + l + r + s + "\x00\x00\x00\x00ABCD\x05\x02\x01" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x01\x02\x03\x04\x01\x02-PT0100-abcdefghijkl" + "5:epochi7e7:profile3:ptpe"
	if got := string(reply.append(nil)); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// FuzzRecords: whatever the body, the server answers bencoding, and its shelf is consistent.
func FuzzRecords(f *testing.F) {
	one := []layerClaim{{layer: blob.Hash{1}, IndexClaim: claimOf(1)}}
	f.Add((&recordsRequest{ask: []blob.Hash{{1}}, claims: one, drop: []blob.Hash{{2}}, image: blob.Hash{3}, report: []byte("x"), want: true}).append(nil))
	f.Add([]byte("d6:claims1:xe"))
	s := NewServer(ServerOptions{})
	f.Cleanup(s.Close)
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := parseRecordsRequest(body)
		if err == nil {
			if again, err := parseRecordsRequest(q.append(nil)); err != nil || !bytes.Equal(again.append(nil), q.append(nil)) {
				t.Fatalf("%v: %q became %q", err, q.append(nil), again.append(nil))
			}
		}
		w := ask(s, "POST", "/records", "10.0.0.1:1", body)
		if w.Code == http.StatusOK {
			if _, err := parseRecordsReply(w.Body.Bytes()); err != nil {
				t.Fatal(err)
			}
		} else if err == nil && w.Code != http.StatusTooManyRequests {
			t.Fatalf("status %d", w.Code)
		}
		if err := checkShelf(s.shelf); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzRecordsReply: what is accepted can be written and read again with the same meaning.
func FuzzRecordsReply(f *testing.F) {
	f.Add((&recordsReply{epoch: 1, claims: []layerClaim{{layer: blob.Hash{1}, IndexClaim: claimOf(1), peers: []planPeer{{address("A"), peerID{1}}}}}, profile: []byte("x")}).append(nil))
	f.Add((&recordsReply{epoch: 1}).append(nil))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseRecordsReply(body)
		if err != nil {
			if !errors.Is(err, blob.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		found := Found{Indexes: map[blob.Hash][]IndexClaim{}}
		found.add(r, []blob.Hash{{1}, {2}})
		for _, all := range found.Indexes {
			if len(all) > maxClaims {
				t.Fatalf("%d claims", len(all))
			}
		}
		again, err := parseRecordsReply(r.append(nil))
		if err != nil || !bytes.Equal(again.append(nil), r.append(nil)) {
			t.Fatalf("%v: %q became %q", err, r.append(nil), again.append(nil))
		}
	})
}

// TestDropOfAnotherNode: a node that goes takes back its own word, and not that of another one on the same host.
func TestDropOfAnotherNode(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	host, layer := hostOf(netip.MustParseAddr("192.0.2.1")), blob.Hash{7}
	s := newShelf()
	for _, port := range []uint16{6881, 6882} {
		peer := planPeer{addr: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)}
		s.vouch(now, layer, claimOf(1), vouch{host: host, peer: peer, since: now.Unix(), at: now.Unix()})
	}
	if all := s.claims(now, []blob.Hash{layer}, hostID{}, 0); len(all) != 1 || all[0].Vouchers != 1 || len(all[0].peers) != 2 {
		t.Errorf("two nodes of a host are one voucher and two peers: %+v", all)
	}
	for _, port := range []uint16{6883, 6884, 6885} { // more than are kept: the first makes room
		peer := planPeer{addr: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)}
		s.vouch(now.Add(time.Second), layer, claimOf(1), vouch{host: host, peer: peer, since: now.Unix(), at: now.Unix() + 1})
	}
	for port := 6883; port <= 6885; port++ {
		if s.drop(layer, host, port) {
			t.Errorf("with %d the last word of the host is said to be gone", port)
		}
	}
	if s.drop(layer, host, 6881) || len(s.claims(now, []blob.Hash{layer}, hostID{}, 0)) != 1 {
		t.Error("the word of the node at 6882 went with that of 6881")
	}
	if !s.drop(layer, host, 6882) || len(s.claims(now, []blob.Hash{layer}, hostID{}, 0)) != 0 {
		t.Error("the word of the node at 6882 stayed")
	}
}
