package discovery

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"
)

func newDHT(t *testing.T, o DHTOptions) *DHT {
	t.Helper()
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	d, err := NewDHT(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come true", what)
		}
	}
}

// TestThreeNodes: A and C know B only. A announces, C finds A's peer, and nobody finds one of another key.
func TestThreeNodes(t *testing.T) {
	for _, host := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(host, func(t *testing.T) {
			b := newDHT(t, DHTOptions{Listen: host})
			boot := []string{b.Addr().String()}
			found := make(chan met, 100)
			on := func(key [20]byte, from netip.Addr, peers []netip.AddrPort) {
				for _, p := range peers {
					found <- met{key, p}
				}
			}
			a := newDHT(t, DHTOptions{Listen: host, Bootstrap: boot})
			c := newDHT(t, DHTOptions{Listen: host, Bootstrap: boot, OnPeers: on})
			key := [20]byte{7}
			defer a.Announce(key, 6881)()
			defer a.Announce([20]byte{8}, 6882)()
			until(t, "A's announce is stored", func() bool {
				for _, d := range []*DHT{b, c} {
					d.mu.Lock()
					n := len(d.store.peers[nodeID(key)])
					d.mu.Unlock()
					if n > 0 {
						return true
					}
				}
				return false
			})
			defer c.Announce(key, 6883)()
			want := met{key, netip.AddrPortFrom(a.Addr().Addr(), 6881)}
			for deadline := time.After(30 * time.Second); ; {
				select {
				case got := <-found:
					if got == want {
						return
					}
					if got.key != key || got.peer.Port() != 6883 { // what C has announced itself may come back
						t.Fatalf("C found %v", got)
					}
				case <-deadline:
					t.Fatal("C found nobody")
				}
			}
		})
	}
}

// TestHostsOfTorrents: a node that knows nobody joins by the nodes that a torrent names, among which some are not
// there.
func TestHostsOfTorrents(t *testing.T) {
	a, b := newDHT(t, DHTOptions{}), newDHT(t, DHTOptions{})
	b.AddHosts([]string{"no such host:1", "x", "127.0.0.1:1", a.Addr().String()})
	until(t, "they know each other", func() bool { return len(a.Nodes()) == 1 && len(b.Nodes()) == 1 })
}

// TestThirtyNodes: all know the first only; an announce of one is found by another, though none asks all.
func TestThirtyNodes(t *testing.T) {
	nodes := make([]*DHT, 30)
	found := make(chan netip.AddrPort, 1000)
	for i := range nodes {
		o := DHTOptions{}
		if i > 0 {
			o.Bootstrap = []string{nodes[0].Addr().String()}
		}
		if i == 29 {
			o.OnPeers = func(_ [20]byte, _ netip.Addr, peers []netip.AddrPort) {
				for _, p := range peers {
					found <- p
				}
			}
		}
		nodes[i] = newDHT(t, o)
	}
	for _, d := range nodes {
		until(t, "a node knows others", func() bool { return len(d.Nodes()) >= 8 })
	}
	key := randomID()
	defer nodes[17].Announce(key, 4242)()
	holders := func() (n int) {
		for _, d := range nodes {
			d.mu.Lock()
			n += len(d.store.peers[key])
			d.mu.Unlock()
		}
		return n
	}
	until(t, "the announce is stored", func() bool { return holders() > 0 })
	defer nodes[29].Announce(key, 4243)()
	for deadline := time.After(30 * time.Second); ; {
		select {
		case p := <-found:
			if p.Port() == 4242 {
				if n := holders(); n > 2*2*bucketSize {
					t.Errorf("%d nodes of 30 hold two announces: each goes to the 8 nearest", n)
				}
				return
			}
		case <-deadline:
			t.Fatal("not found")
		}
	}
}

// TestTokens: an announce without the token of that very address is refused.
func TestTokens(t *testing.T) {
	at := time.Unix(1000, 0)
	s := newStore(at)
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	tok := s.token(a, at)
	if !s.valid(tok, a, at) || s.valid(tok, b, at) || s.valid(nil, a, at) {
		t.Error("whose token it is does not count")
	}
	if !s.valid(tok, a, at.Add(tokenFor+time.Second)) {
		t.Error("a token of the secret before is refused")
	}
	if s.valid(tok, a, at.Add(3*tokenFor)) {
		t.Error("an old token is accepted")
	}
	d := newDHT(t, DHTOptions{})
	from := netip.MustParseAddrPort("127.0.0.1:9")
	m := krpc{kind: 'q', method: qAnnounce, tx: "x", id: idA, target: idM, port: 1, token: []byte("guess")}
	if r := d.answer(m, from, time.Now()); r.kind != 'e' || d.store.count != 0 {
		t.Errorf("%+v", r)
	}
	m.token = d.answer(krpc{kind: 'q', method: qGet, tx: "x", id: idA, target: idM}, from, time.Now()).token
	if r := d.answer(m, from, time.Now()); r.kind != 'r' || d.store.count != 1 {
		t.Errorf("%+v", r)
	}
}

// TestStoreIsBounded: keys, peers of a key, and all of them; what is old makes room.
func TestStoreIsBounded(t *testing.T) {
	at := time.Unix(1000, 0)
	s := newStore(at)
	addr := func(i int) netip.AddrPort {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(0x0a000000+i))
		return netip.AddrPortFrom(netip.AddrFrom4(b), 1)
	}
	for i := range 2 * maxStoreEach {
		s.put(idA, addr(i), at)
	}
	if len(s.peers[idA]) != maxStoreEach || len(s.get(idA, at)) != maxReply {
		t.Errorf("%d peers of a key, %d in a reply", len(s.peers[idA]), len(s.get(idA, at)))
	}
	for k := range 2 * maxStoreKeys {
		var id nodeID
		binary.BigEndian.PutUint32(id[:], uint32(k))
		for i := range 20 {
			s.put(id, addr(i), at)
		}
	}
	if len(s.peers) > maxStoreKeys || s.count > maxStorePeers {
		t.Errorf("%d keys, %d peers", len(s.peers), s.count)
	}
	s.sweep(at.Add(storeFor + time.Second))
	if len(s.peers) != 0 || s.count != 0 {
		t.Errorf("%d keys, %d peers are left", len(s.peers), s.count)
	}
}

// TestTable: buckets hold 8; who does not answer makes room, and only then.
func TestTable(t *testing.T) {
	at := time.Unix(1000, 0)
	tb := table{}
	c := func(i int) contact { // all in the bucket of ids that share no bit with ours
		id := randomID()
		id[0] |= 0x80
		return contact{id, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), uint16(i+1))}
	}
	var in []contact
	for i := range 8 {
		in = append(in, c(i))
		tb.answered(in[i], at)
	}
	late := c(100)
	if tb.wants(late, at) {
		t.Error("a full bucket wants another")
	}
	tb.answered(late, at)
	if tb.count() != 8 {
		t.Errorf("%d nodes", tb.count())
	}
	for range maxMisses {
		tb.missed(in[3])
	}
	if tb.count() != 7 || !tb.wants(late, at) {
		t.Error("a bad node does not make room")
	}
	tb.answered(late, at)
	if got := tb.nearest(late.id, 1); len(got) != 1 || got[0] != late {
		t.Errorf("nearest to a node is %v", got)
	}
	// One host of the internet has one place in a bucket.
	world := table{}
	for i := range 8 {
		n := c(i)
		n.addr = netip.AddrPortFrom(netip.MustParseAddr("203.0.113.5"), uint16(i+1))
		world.answered(n, at)
	}
	if world.count() != 1 {
		t.Errorf("one address has %d places", world.count())
	}
	if n := len(world.stale(at.Add(freshFor + 1))); n != 1 {
		t.Errorf("%d are stale", n)
	}
}

// TestNodesThatDoNotAnswer: a lookup among dead nodes ends, and Close does not wait for it.
func TestNodesThatDoNotAnswer(t *testing.T) {
	silent, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	d := newDHT(t, DHTOptions{Bootstrap: []string{silent.LocalAddr().String()}})
	d.Announce([20]byte{1}, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if got := d.lookup(ctx, randomID(), qGet, nil); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if n := len(d.Nodes()); n != 0 {
		t.Errorf("%d nodes", n)
	}
}

// TestSearchIsBounded: a search asks a bounded number of nodes and remembers a bounded number, whatever it is told.
func TestSearchIsBounded(t *testing.T) {
	s := newSearch(idA, []contact{{idM, netip.MustParseAddrPort("127.0.0.1:1")}})
	n, port := 0, uint16(1)
	for {
		c, ok := s.next()
		if !ok {
			break
		}
		n++
		var m krpc
		for range maxKRPCNodes {
			port++
			id := idA // ever nearer
			binary.BigEndian.PutUint16(id[18:], ^uint16(n)+port%8)
			m.nodes = append(m.nodes, contact{id, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)})
		}
		s.done(c, m, errNoAnswer)
		s.add(m.nodes)
	}
	if n > maxLookup || len(s.near) > maxCandidates {
		t.Errorf("%d asked, %d remembered", n, len(s.near))
	}
}
