package discovery

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAnnounceBytes(t *testing.T) {
	a := announce{port: 6881, keys: [][20]byte{{1}, {2}}, cookie: "c"}
	got := appendAnnounce(nil, group4, a)
	want := "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\n" +
		"Infohash: 0100000000000000000000000000000000000000\r\nInfohash: 0200000000000000000000000000000000000000\r\n" +
		"cookie: c\r\n\r\n\r\n"
	if string(got) != want {
		t.Fatalf("%q", got)
	}
	back, err := parseAnnounce(got)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(a, back, cmp.AllowUnexported(announce{})); d != "" {
		t.Error(d)
	}
	full := announce{port: 65535, keys: make([][20]byte, maxKeys), cookie: strings.Repeat("f", 16)}
	if n := len(appendAnnounce(nil, "["+group6+"]", full)); n > maxAnnounce {
		t.Errorf("a full announce has %d bytes", n)
	}
}

// TestAnnounceOfOthers: libtorrent writes names in other cases, and what we do not know is skipped.
func TestAnnounceOfOthers(t *testing.T) {
	key := strings.Repeat("ab", 20)
	for text, want := range map[string]bool{
		"BT-SEARCH * HTTP/1.1\r\nHOST: x\r\nPORT: 1\r\nINFOHASH: " + key + "\r\nX: y\r\n\r\n\r\n": true,
		"BT-SEARCH * HTTP/1.1\r\nPort:1\r\nInfohash:" + strings.ToUpper(key) + "\r\n\r\n":         true,
		"BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: " + key:                                     true,
		"BT-SEARCH * HTTP/1.1\r\nPort: 1\r\n\r\n\r\n":                                             false,
		"BT-SEARCH * HTTP/1.1\r\nInfohash: " + key + "\r\n\r\n":                                   false,
		"BT-SEARCH * HTTP/1.1\r\nPort: 0\r\nInfohash: " + key + "\r\n\r\n":                        false,
		"BT-SEARCH * HTTP/1.1\r\nPort: 70000\r\nInfohash: " + key + "\r\n\r\n":                    false,
		"BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: " + strings.Repeat("zz", 20) + "\r\n\r\n":   false,
		"M-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: " + key + "\r\n\r\n":                         false,
		"": false,
	} {
		a, err := parseAnnounce([]byte(text))
		if (err == nil) != want || want && (len(a.keys) != 1 || a.keys[0][0] != 0xab) {
			t.Errorf("%q: %+v, %v", text, a, err)
		}
		if err != nil && !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("class of %v", err)
		}
	}
}

// FuzzAnnounce: a packet never panics, errors are of class ErrInvalid, and what is accepted is bounded and means
// the same when it is sent again.
func FuzzAnnounce(f *testing.F) {
	f.Add(appendAnnounce(nil, group4, announce{port: 1, keys: [][20]byte{{1}}, cookie: "c"}))
	f.Add([]byte("BT-SEARCH * HTTP/1.1\r\n:\r\nPort: 1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAnnounce(b)
		if err != nil {
			if !errors.Is(err, blob.ErrInvalid) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		if a.port == 0 || len(a.keys) == 0 || len(a.keys) > maxKeys {
			t.Fatalf("%+v", a)
		}
		a.cookie = ""
		again, err := parseAnnounce(appendAnnounce(nil, group4, a))
		if err != nil || again.port != a.port || len(again.keys) != len(a.keys) {
			t.Fatalf("%+v became %+v, %v", a, again, err)
		}
	})
}

func TestQuota(t *testing.T) {
	q := newQuota(2, 3)
	a, b, c := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	at := time.Unix(7, 0)
	var got []bool
	for _, from := range []netip.Addr{a, a, a, b, c} {
		got = append(got, q.take(from, at))
	}
	if want := []bool{true, true, false, true, false}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	if !q.take(c, at.Add(time.Second)) || len(q.from) != 1 {
		t.Error("a new second is not a new start")
	}
}

// met is one call of OnPeer.
type met struct {
	key  [20]byte
	peer netip.AddrPort
}

func newLSD(t *testing.T, listen string, port uint16, on chan met) *LSD {
	t.Helper()
	l, err := NewLSD(LSDOptions{Listen: netip.MustParseAddrPort(listen), Port: port, OnPeer: func(k [20]byte, p netip.AddrPort) { on <- met{k, p} }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// TestLocalDiscovery: two nodes on loopback find each other, for the key that both have, and not themselves.
func TestLocalDiscovery(t *testing.T) {
	const port = 16771
	a, b := make(chan met, 99), make(chan met, 99)
	la, lb := newLSD(t, "127.0.0.1:1001", port, a), newLSD(t, "127.0.0.1:1002", port, b)
	both, only := [20]byte{1}, [20]byte{2}
	defer la.Announce(both)()
	defer la.Announce(only)()
	// A has spoken before B listened for the key; B speaks, A hears it.
	time.Sleep(3 * lsdGather)
	defer lb.Announce(both)()
	select {
	case got := <-a:
		if want := (met{both, netip.MustParseAddrPort("127.0.0.1:1002")}); got != want {
			t.Errorf("A met %v", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("A met nobody")
	}
	select {
	case got := <-a:
		t.Errorf("A met %v besides", got)
	case <-time.After(3 * lsdGather):
	}
}

// TestLocalDiscoveryIsNotFlooded: one host is listened to for so many packets a second.
func TestLocalDiscoveryIsNotFlooded(t *testing.T) {
	on := make(chan met, 10000)
	l := newLSD(t, "127.0.0.1:1001", 16772, on)
	defer l.Announce([20]byte{1})()
	packet := appendAnnounce(nil, group4, announce{port: 9, keys: [][20]byte{{1}}, cookie: "other"})
	for range 5000 {
		l.heard(bytes.Clone(packet), netip.MustParseAddr("127.0.0.1"))
	}
	if n := len(on); n == 0 || n > 10*lsdEach { // the loop may have taken some seconds
		t.Errorf("%d of 5000 packets were looked at", n)
	}
}
