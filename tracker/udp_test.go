package tracker

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// door is a UDP door without sockets.
func door(t testing.TB, o ServerOptions) *udpDoor {
	s := NewServer(o)
	t.Cleanup(s.Close)
	s.connKey = [16]byte{1, 2, 3}
	return &udpDoor{s: s, ids: newConnIDs(&s.connKey, s.began)}
}

// from16 is an address as the door is given it.
func from16(text string) *[16]byte {
	ip := netip.MustParseAddr(text).As16()
	return &ip
}

// connect asks for a connection id.
func (d *udpDoor) connect(t testing.TB, ip string, now time.Time) []byte {
	t.Helper()
	r := d.answer(nil, unhex("0000041727101980 00000000 01020304"), from16(ip), now)
	if len(r) != 16 || !bytes.HasPrefix(r, unhex("00000000 01020304")) {
		t.Fatalf("connect: %x", r)
	}
	return r[8:]
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// The bytes of BEP 15, by hand.
const (
	hashHex = "000102030405060708090a0b0c0d0e0f10111213"
	peerHex = "2d4c5432303930 2d 616263646566676869303132"
)

// announceBytes is an announce of a peer named by the last byte of its id.
func announceBytes(id []byte, last byte, left, event, key, numwant, port string) []byte {
	q := append(bytes.Clone(id), unhex("00000001 0a0b0c0d"+hashHex+peerHex+"0000000000000001"+left+"0000000000000003"+event+"00000000"+key+numwant+port)...)
	q[55] = last
	return q
}

const leeching, whole8, everybody = "0000000000000400", "0000000000000000", "ffffffff"

func TestUDPBytes(t *testing.T) {
	d := door(t, ServerOptions{Interval: 1800 * time.Second})
	now := d.s.began
	id := d.connect(t, "8.8.8.8", now)
	for _, c := range []struct {
		name    string
		from    string
		q       []byte
		want    string
		unknown bool // the id is of another address
	}{
		{"first", "8.8.8.8", announceBytes(id, 1, leeching, "00000002", "00000007", everybody, "1ae1"),
			"00000001 0a0b0c0d 00000708 00000001 00000000", false},
		{"seed", "8.8.8.8", announceBytes(id, 2, whole8, "00000001", "00000008", everybody, "1ae2"),
			"00000001 0a0b0c0d 00000708 00000001 00000001 08080808 1ae1", false},
		{"again", "8.8.8.8", announceBytes(id, 1, leeching, "00000000", "00000007", "00000005", "1ae1"),
			"00000001 0a0b0c0d 00000708 00000001 00000001 08080808 1ae2", false},
		{"none wanted", "8.8.8.8", announceBytes(id, 1, leeching, "00000000", "00000007", "00000000", "1ae1"),
			"00000001 0a0b0c0d 00000708 00000001 00000001", false},
		{"scrape", "8.8.8.8", append(bytes.Clone(id), unhex("00000002 0a0b0c0d"+hashHex+strings.Repeat("ff", 20))...),
			"00000002 0a0b0c0d 00000001 00000001 00000001 00000000 00000000 00000000", false},
		{"over IPv6", "2001:db8::1", announceBytes(id, 3, leeching, "00000002", "00000009", everybody, "1ae3"),
			"00000001 0a0b0c0d 00000708 00000002 00000001", true},
		{"over IPv6 too", "2001:db8::2", announceBytes(id, 4, leeching, "00000002", "0000000a", everybody, "1ae4"),
			"00000001 0a0b0c0d 00000708 00000003 00000001 20010db8000000000000000000000001 1ae3", true},
		{"stopped", "8.8.8.8", announceBytes(id, 1, leeching, "00000003", "00000007", everybody, "1ae1"),
			"00000001 0a0b0c0d 00000708 00000002 00000001", false},
		{"too short", "8.8.8.8", announceBytes(id, 1, leeching, "00000000", "00000007", everybody, "1ae1")[:97],
			"00000003 0a0b0c0d " + hex.EncodeToString([]byte("announce is shorter than 98 bytes")), false},
		{"nothing to scrape", "8.8.8.8", append(bytes.Clone(id), unhex("00000002 0a0b0c0d")...),
			"00000003 0a0b0c0d " + hex.EncodeToString([]byte("scrape wants 1 to 74 info hashes of 20 bytes")), false},
		{"uneven scrape", "8.8.8.8", append(bytes.Clone(id), unhex("00000002 0a0b0c0d"+hashHex+"00")...),
			"00000003 0a0b0c0d " + hex.EncodeToString([]byte("scrape wants 1 to 74 info hashes of 20 bytes")), false},
		{"unknown action", "8.8.8.8", append(bytes.Clone(id), unhex("00000009 0a0b0c0d")...),
			"00000003 0a0b0c0d " + hex.EncodeToString([]byte("unknown action")), false},
		{"another's id", "8.8.4.4", announceBytes(id, 1, leeching, "00000000", "00000007", everybody, "1ae1"),
			"00000003 0a0b0c0d " + hex.EncodeToString([]byte("connection id is not valid: connect again")), false},
	} {
		if c.unknown {
			copy(c.q, d.connect(t, c.from, now))
		}
		if got := d.answer(nil, c.q, from16(c.from), now); !bytes.Equal(got, unhex(c.want)) {
			t.Errorf("%s:\n got %x\nwant %s", c.name, got, c.want)
		}
	}
}

func TestConnectionIDs(t *testing.T) {
	began := time.Unix(1000, 0)
	key := [16]byte{9}
	ids, others := newConnIDs(&key, began), newConnIDs(&[16]byte{8}, began)
	mine, yours := from16("10.0.0.1"), from16("10.0.0.2")
	for _, at := range []time.Duration{0, 3 * time.Second, time.Hour, 1000 * time.Hour} {
		now := began.Add(at)
		id := ids.make(mine, now)
		for _, c := range []struct {
			after time.Duration
			want  bool
		}{{0, true}, {time.Minute, true}, {2 * time.Minute, true}, {129 * time.Second, false}, {17 * time.Minute, false}, {17*time.Minute + 8*time.Second, false}, {24 * time.Hour, false}} {
			if got := ids.check(id, mine, now.Add(c.after)); got != c.want {
				t.Errorf("%v later: %v", c.after, got)
			}
		}
		if ids.check(id, yours, now) || others.check(id, mine, now) || ids.check(id+1, mine, now) || ids.check(id^1<<60, mine, now) {
			t.Error("an id is good for another address, key or time")
		}
	}
}

// TestNoAmplification: who has not proved an address gets no more bytes than it has sent.
func TestNoAmplification(t *testing.T) {
	d := door(t, ServerOptions{})
	for n := range 200 {
		for action := range byte(5) {
			q := make([]byte, n)
			for i := range q {
				q[i] = 0xee
			}
			if n >= 12 {
				copy(q[8:], []byte{0, 0, 0, action})
			}
			if n >= 8 && action == 0 {
				binary.BigEndian.PutUint64(q, udpMagic)
			}
			if got := d.answer(nil, q, from16("8.8.8.8"), d.s.began); len(got) > n {
				t.Errorf("action %d: %d bytes for %d", action, len(got), n)
			}
		}
	}
}

func TestUDPReplyFitsAPacket(t *testing.T) {
	d := door(t, ServerOptions{MaxPeersPerReply: 1000})
	for _, base := range []string{"9.0.0.0", "2001:db8::"} {
		ip := netip.MustParseAddr(base)
		var r []byte
		for i := range 400 {
			ip = ip.Next()
			at := ip.As16()
			q := announceBytes(d.connect(t, ip.String(), d.s.began), byte(i), leeching, "00000002", "00000007", "00000fff", "1ae1")
			q[54] = byte(i >> 8)
			r = d.answer(nil, q, &at, d.s.began)
		}
		if len(r) > maxReplyUDP || len(r) < maxReplyUDP-18 {
			t.Errorf("%s: a reply of %d bytes", base, len(r))
		}
	}
}

func TestUDPWhence(t *testing.T) {
	d := door(t, ServerOptions{})
	long := strings.Repeat("x", 240)
	option := func(parts ...string) (b []byte) {
		for _, p := range parts {
			b = append(append(b, 2, byte(len(p))), p...)
		}
		return b
	}
	for _, c := range []struct {
		name, from, said string
		options          []byte
		want             string
	}{
		{"seen", "9.9.9.9", "00000000", nil, "9.9.9.9"},
		{"said from outside", "9.9.9.9", "01020304", nil, "9.9.9.9"},
		{"said from inside", "192.168.1.1", "01020304", nil, "1.2.3.4"},
		{"said in the URL", "127.0.0.1", "00000000", option("/announce?a=b&ip=4.3.2.1"), "4.3.2.1"},
		{"in parts, with filler and an unknown option", "127.0.0.1", "00000000", append([]byte{1, 1, 77, 2, 9, 9}, append(option("/announce?"+long, "&ip=4.3.", "2.1"), 0, 2, 4, 'j', 'u', 'n', 'k')...), "4.3.2.1"},
		{"said in the URL from outside", "9.9.9.9", "00000000", option("/announce?ip=4.3.2.1"), "9.9.9.9"},
		{"cut option", "127.0.0.1", "05060708", []byte{2, 200, '?', 'i', 'p'}, "5.6.7.8"},
	} {
		q := append(announceBytes(d.connect(t, c.from, d.s.began), 1, leeching, "00000002", "00000007", everybody, "1ae1"), c.options...)
		copy(q[84:], unhex(c.said))
		copy(q[16:36], c.name) // a swarm of its own
		d.answer(nil, q, from16(c.from), d.s.began)
		other := announceBytes(d.connect(t, "8.8.8.8", d.s.began), 2, leeching, "00000002", "00000007", everybody, "1ae1")
		copy(other[16:36], c.name)
		r := d.answer(nil, other, from16("8.8.8.8"), d.s.began)
		if got := netip.AddrFrom4([4]byte(r[20:])); got.String() != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
}

func TestUDPNoAllocations(t *testing.T) {
	d := door(t, ServerOptions{})
	now := d.s.began
	var q []byte
	for i := range 200 {
		q = announceBytes(d.connect(t, "8.8.8.8", now), byte(i), leeching, "00000002", "00000007", everybody, "1ae1")
		d.answer(nil, q, from16("8.8.8.8"), now)
	}
	room, ip := make([]byte, 0, maxReplyUDP), from16("8.8.8.8")
	if n := testing.AllocsPerRun(200, func() {
		if len(d.answer(room, q, ip, now)) != 20+50*6 {
			t.Fatal("no peers")
		}
	}); n != 0 {
		t.Errorf("%v allocations for an announce", n)
	}
}

// TestServeUDP: on one address of either family, and on all of them, where the answer comes from the address that was asked.
func TestServeUDP(t *testing.T) {
	for _, c := range []struct{ listen, ask string }{
		{"127.0.0.1:0", "127.0.0.1"}, {"0.0.0.0:0", "127.0.0.7"}, {"[::1]:0", "::1"}, {"[::]:0", "::1"}, {"[::]:0", "127.0.0.9"},
	} {
		t.Run(c.listen+" "+c.ask, func(t *testing.T) {
			s := NewServer(ServerOptions{Interval: time.Minute})
			l, err := net.ListenPacket("udp", c.listen)
			if err != nil {
				t.Fatal(err)
			}
			port := l.LocalAddr().(*net.UDPAddr).Port
			ended := make(chan error, 1)
			go func() { ended <- s.ServeUDP(l.(*net.UDPConn)) }()
			// Connected: an answer from another address than the one that was asked would not be heard.
			conn, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.ParseIP(c.ask), Port: port})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ask := func(q []byte) []byte {
				t.Helper()
				if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write(q); err != nil {
					t.Fatal(err)
				}
				r := make([]byte, 2000)
				n, err := conn.Read(r)
				if err != nil {
					t.Fatal(err)
				}
				return r[:n]
			}
			id := ask(unhex("0000041727101980 00000000 01020304"))[8:]
			for i := range 3 {
				ask(announceBytes(id, byte(i), leeching, "00000002", "00000007", everybody, "1ae1"))
			}
			r := ask(announceBytes(id, 9, leeching, "00000002", "00000007", everybody, "1ae1"))
			size := 18
			if net.ParseIP(c.ask).To4() != nil {
				size = 6
			}
			if len(r) != 20+3*size {
				t.Errorf("announce: %x", r)
			}
			s.Close()
			select {
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("Close does not end ServeUDP")
			}
		})
	}
}

// FuzzUDPPacket: whatever comes, the answer is short, and bounded by the question until the address is proved.
func FuzzUDPPacket(f *testing.F) {
	d := door(f, ServerOptions{})
	now := d.s.began
	id := d.connect(f, "8.8.8.8", now)
	f.Add([]byte(nil), false)
	f.Add(unhex("0000041727101980 00000000 01020304"), true)
	f.Add(append(announceBytes(id, 1, leeching, "00000002", "00000007", everybody, "1ae1"), 1, 2, 5, '?', 'i', 'p', '=', ':'), true)
	f.Add(append(bytes.Clone(id), unhex("00000002 0a0b0c0d"+hashHex)...), true)
	f.Fuzz(func(t *testing.T, q []byte, proved bool) {
		ip := from16("8.8.8.8")
		if proved && len(q) >= 8 && binary.BigEndian.Uint64(q) != udpMagic {
			binary.BigEndian.PutUint64(q, d.ids.make(ip, now))
		}
		known := len(q) >= 8 && d.ids.check(binary.BigEndian.Uint64(q), ip, now)
		r := d.answer(nil, q, ip, now)
		if len(r) > maxReplyUDP || !known && len(r) > len(q) {
			t.Fatalf("%d bytes for %d", len(r), len(q))
		}
		if len(r) > 0 && !bytes.Equal(r[4:8], q[12:16]) {
			t.Fatalf("another transaction: %x for %x", r, q)
		}
	})
}

// addrOf is the address that the door is given as 16 bytes.
func addrOf(ip *[16]byte) netip.Addr { return netip.AddrFrom16(*ip).Unmap() }
