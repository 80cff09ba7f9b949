package tracker

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// udpTracker is a UDP tracker that a test scripts: answer is given each packet and says what to send back; nil: nothing.
// mu is held while answer runs.
func udpTracker(t *testing.T, mu *sync.Mutex, answer func(q []byte) []byte) (addr string) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		b := make([]byte, 4096)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			mu.Lock()
			r := answer(bytes.Clone(b[:n]))
			mu.Unlock()
			if r == nil {
				continue
			}
			if _, err := c.WriteTo(r, from); err != nil {
				t.Error(err)
			}
		}
	})
	t.Cleanup(func() {
		c.Close()
		done.Wait()
	})
	return c.LocalAddr().String()
}

// announcer is a session that has not been started.
func announcer(t *testing.T, url string) (*Session, endpoint) {
	t.Helper()
	e, err := parseEndpoint(url)
	if err != nil {
		t.Fatal(err)
	}
	return &Session{
		o:      SessionOptions{Key: key{1}, PeerID: peerID{2}, Port: 7, Geometry: small, Store: newMemory(small)},
		pieces: small.Pieces(), secret: 0x01020304,
	}, e
}

func TestUDPClientURL(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"udp://h:1", ""}, {"udp://[::1]:6969/announce", ""}, {"udp://u:p@h:1/a?passkey=secret", ""},
		{"udp://h", "has a port"}, {"udp://h:0", "has a port"}, {"udp://:7", "udp://"}, {"ftp://h:1", "only http://, https:// and udp://"},
	} {
		err := CheckURL(c.url)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.url, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%v tells a secret", err)
		}
	}
}

// TestUDPClientBytes: what is sent, byte by byte; an id is used again; what is lost is sent again.
func TestUDPClientBytes(t *testing.T) {
	var mu sync.Mutex // guards what follows
	connects, lost := 0, 0
	var announces [][]byte
	addr := udpTracker(t, &mu, func(q []byte) []byte {
		switch {
		case len(q) == 16:
			if connects++; connects == 1 {
				lost++
				return nil
			}
			if !bytes.HasPrefix(q, unhex("0000041727101980 00000000")) {
				t.Errorf("connect %x", q)
			}
			return append(append(unhex("00000000"), q[12:]...), 1, 2, 3, 4, 5, 6, 7, 8)
		case !bytes.HasPrefix(q, []byte{1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1}):
			t.Errorf("announce %x", q)
			return nil
		}
		announces = append(announces, q)
		if len(announces) == 2 {
			lost++
			return append(unhex("00000001 ffffffff"), make([]byte, 12)...) // of somebody else's transaction
		}
		return append(append(unhex("00000001"), q[12:16]...), unhex("00000e10 00000005 00000006 0a000001 1ae1 0a000002 1ae2 ff")...)
	})
	s, e := announcer(t, "udp://"+addr+"/announce?passkey="+strings.Repeat("x", 300))
	for i, ev := range []event{started, none} {
		r, err := s.announce(context.Background(), e, ev)
		if err != nil {
			t.Fatal(err)
		}
		if r.interval != time.Hour || r.incomplete != 5 || r.complete != 6 || len(r.peers) != 2 || r.peers[1].addr != netip.MustParseAddrPort("10.0.0.2:6882") {
			t.Errorf("announce %d: %+v", i, r)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if connects != 2 || len(announces) != 3 || lost != 2 {
		t.Fatalf("%d connects, %d announces, %d lost", connects, len(announces), lost)
	}
	q := announces[0]
	want := fmt.Sprintf("%x%x%016x%016x%016x%08x%08x%08x%08x%04x", key{1}, peerID{2}, 0, small.Size, 0, 2, 0, 0x01020304, 50, 7)
	if got := fmt.Sprintf("%x", q[16:98]); got != want {
		t.Errorf("announce\n got %s\nwant %s", got, want)
	}
	var r announceRequest
	r.readOptions(q[98:])
	if q[98] != 2 || q[99] != 255 || !strings.Contains(string(q[100:355])+string(q[357:]), "/announce?passkey="+strings.Repeat("x", 300)) {
		t.Errorf("options %q", q[98:])
	}
	if announces[2][83] != 0 || bytes.Equal(announces[1][12:16], announces[2][12:16]) {
		t.Errorf("announces %x, %x", announces[1], announces[2])
	}
}

func TestUDPClientFailures(t *testing.T) {
	var mu sync.Mutex
	connected := func(q []byte) []byte { return append(append(unhex("00000000"), q[12:16]...), make([]byte, 8)...) }
	for _, c := range []struct {
		name   string
		answer func(q []byte) []byte
		want   string
	}{
		{"refusal", func(q []byte) []byte {
			if len(q) == 16 {
				return connected(q)
			}
			return append(append(unhex("00000003"), q[12:16]...), "not \x00 allowed"...)
		}, `the tracker refuses: "not \x00 allowed"`},
		{"short connect", func(q []byte) []byte { return append(unhex("00000000"), q[12:16]...) }, "answer of 8 bytes to a connect"},
		{"short announce", func(q []byte) []byte {
			if len(q) == 16 {
				return connected(q)
			}
			return append(unhex("00000001"), q[12:16]...)
		}, "answer of 8 bytes to an announce"},
		{"another action", func(q []byte) []byte { return append(append(unhex("00000002"), q[12:16]...), make([]byte, 8)...) }, "action 2 in answer to 0"},
	} {
		s, e := announcer(t, "udp://"+udpTracker(t, &mu, c.answer))
		if _, err := s.announce(context.Background(), e, started); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), e.shown) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	s, e := announcer(t, "udp://"+udpTracker(t, &mu, func([]byte) []byte { return nil }))
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.announce(ctx, e, started); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("silence: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the end of the context took %v to be noticed", took)
	}
}

// TestUDPClientForgetsAnOldID: a tracker that was started anew, and says nothing to an id that it has not given out, is
// asked for a new one.
func TestUDPClientForgetsAnOldID(t *testing.T) {
	var mu sync.Mutex // guards id
	id := byte(1)
	addr := udpTracker(t, &mu, func(q []byte) []byte {
		switch {
		case len(q) == 16:
			return append(append(unhex("00000000"), q[12:]...), 0, 0, 0, 0, 0, 0, 0, id)
		case q[7] != id:
			return nil
		}
		return append(append(unhex("00000001"), q[12:16]...), make([]byte, 12)...)
	})
	s, e := announcer(t, "udp://"+addr)
	for range 2 {
		if _, err := s.announce(context.Background(), e, none); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		id++
		mu.Unlock()
	}
}

// TestUDPBothEnds is our client with our tracker, over both families at once: a session finds the peers of both.
func TestUDPBothEnds(t *testing.T) {
	s := NewServer(ServerOptions{Interval: time.Minute})
	l, err := net.ListenPacket("udp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.ServeUDP(l.(*net.UDPConn)) }()
	port := l.LocalAddr().(*net.UDPAddr).Port
	for i, addr := range []string{"10.0.0.1:5", "[2001:db8::1]:6"} {
		r := &announceRequest{key: key{1}, peer: peerID{byte(i + 100)}, left: 1}
		if err := s.announce(time.Now(), r, netip.MustParseAddrPort(addr), new(found), anyFamily); err != nil {
			t.Fatal(err)
		}
	}
	peers := make(chan netip.AddrPort, 10)
	p := NewSession(SessionOptions{
		Trackers: []string{fmt.Sprintf("udp://localhost:%d", port)}, Key: key{1}, PeerID: peerID{2}, Port: 7, Geometry: small, Store: newMemory(small),
		OnPeers: func(list []netip.AddrPort) {
			for _, a := range list {
				peers <- a
			}
		},
	})
	ips, err := net.LookupIP("localhost")
	if err != nil {
		t.Fatal(err)
	}
	families := map[bool]bool{}
	for _, ip := range ips {
		families[ip.To4() == nil] = true
	}
	for range len(families) {
		select {
		case a := <-peers:
			if a.String() != "10.0.0.1:5" && a.String() != "[2001:db8::1]:6" {
				t.Errorf("peer %v", a)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no peers: %+v", p.Status())
		}
	}
	if st := p.Status(); st.State != "none" || st.URL != fmt.Sprintf("udp://localhost:%d/announce", port) {
		t.Errorf("status %+v", st)
	}
	if _, incomplete, _, _ := s.scrape(&key{1}); incomplete != 3 {
		t.Errorf("%d peers, want 3", incomplete)
	}
	p.Close()
	if _, incomplete, _, _ := s.scrape(&key{1}); incomplete != 2 {
		t.Errorf("%d peers after it has left, want 2", incomplete)
	}
	s.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// FuzzUDPReply: what is accepted has valid addresses, as many as there is room for.
func FuzzUDPReply(f *testing.F) {
	f.Add(unhex("00000001 00000000 00000e10 00000005 00000006 0a000001 1ae1"), false)
	f.Add(append(unhex("00000001 00000000 ffffffff 00000005 00000006"), make([]byte, 40)...), true)
	f.Fuzz(func(t *testing.T, b []byte, six bool) {
		r, err := parseUDPReply(b, six)
		if err != nil {
			return
		}
		size := 6
		if six {
			size = 18
		}
		if len(r.peers) != (len(b)-20)/size || r.interval < 0 || r.incomplete != int64(binary.BigEndian.Uint32(b[12:])) {
			t.Fatalf("%x: %+v", b, r)
		}
		for _, p := range r.peers {
			if !p.addr.IsValid() {
				t.Fatalf("address %v", p.addr)
			}
		}
	})
}

func TestPingUDP(t *testing.T) {
	d := door(t, ServerOptions{})
	var mu sync.Mutex
	addr := udpTracker(t, &mu, func(q []byte) []byte { return d.answer(nil, q, from16("127.0.0.1"), d.s.began) })
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := PingUDP(ctx, "udp://"+addr); err != nil {
		t.Error(err)
	}
	if err := PingUDP(ctx, "udp://127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "udp://127.0.0.1:1") {
		t.Errorf("nobody there: %v", err)
	}
}
