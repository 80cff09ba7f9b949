package swarm

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// pair is an accepted connection and its other end.
func pair(t *testing.T, ln net.Listener, from string) *net.TCPConn {
	t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from + ":0"))}
	c, err := d.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	a, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a.(*net.TCPConn)
}

func isClosed(c *net.TCPConn) bool { return c.SetDeadline(time.Time{}) != nil }

// TestLobby: when it is full the longest guest of the most crowded address goes, and others stay.
func TestLobby(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	l := newLobby()
	at := time.Unix(1000, 0)
	honest := pair(t, ln, "127.0.0.2")
	l.enter(honest, at) // the longest of all, but alone
	var rude []*net.TCPConn
	for i := range maxHandshakes + 9 {
		c := pair(t, ln, "127.0.0.3")
		rude = append(rude, c)
		l.enter(c, at.Add(time.Duration(i+1)*time.Second))
	}
	if len(l.guests) != maxHandshakes {
		t.Errorf("%d guests", len(l.guests))
	}
	if isClosed(honest) {
		t.Error("the honest guest had to go")
	}
	for i, c := range rude {
		if isClosed(c) != (i < 10) {
			t.Errorf("rude guest %d: closed %v", i, isClosed(c))
		}
		l.leave(c)
	}
	l.leave(honest)
	l.leave(honest)
	if len(l.guests) != 0 || len(l.from) != 0 {
		t.Errorf("%d guests of %d addresses are left", len(l.guests), len(l.from))
	}
}
