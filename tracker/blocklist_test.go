package tracker

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pantala/pantala/blob"
)

func blocklist(t testing.TB, text string) *Blocklist {
	t.Helper()
	b, err := ParseBlocklist(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBlocklist(t *testing.T) {
	torrent := strings.Repeat("ab", 20)
	b := blocklist(t, "# emergencies\n\n192.0.2.0/24 # a range\n198.51.100.7\n2001:db8::/32\n::ffff:203.0.113.0/120\npeer:-XX\npeer:-YY12\n"+torrent+"\n"+strings.Repeat("cd", 32)+"\n")
	if b.Len() != 8 {
		t.Errorf("%d entries", b.Len())
	}
	for ip, want := range map[string]bool{
		"192.0.2.9": true, "192.0.3.9": false, "198.51.100.7": true, "198.51.100.8": false, "2001:db8:1::1": true, "2001:db9::1": false,
		"::ffff:192.0.2.1": true, "203.0.113.5": true, "fe80::1%eth0": false,
	} {
		if got := b.addr(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: %v", ip, got)
		}
	}
	for id, want := range map[string]bool{"-XX0000-": true, "-YY1234-": true, "-YY1134-": false, "": false} {
		var p peerID
		copy(p[:], id)
		if got := b.peer(&p); got != want {
			t.Errorf("%q: %v", id, got)
		}
	}
	var k key
	for i := range k {
		k[i] = 0xab
	}
	err := b.refuses(&k, new(peerID))
	if !errors.Is(err, blob.ErrDenied) || !strings.Contains(err.Error(), "torrent") {
		t.Errorf("a blocked torrent: %v", err)
	}
	if err := (*Blocklist)(nil).refuses(&k, new(peerID)); err != nil {
		t.Errorf("without a list: %v", err)
	}
	for _, bad := range []string{"10.0.0.0/33", "peer:", "peer:" + strings.Repeat("x", 21), "abc", strings.Repeat("a", 41), "10.0.0.1-10.0.0.9", "fe80::1%eth0", strings.Repeat("1", 300), strings.Repeat("1", 5000)} {
		_, err := ParseBlocklist(strings.NewReader("10.0.0.1\n\n" + bad + "\n"))
		if !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), "line 3") {
			t.Errorf("%.50q: %v", bad, err)
		}
	}
}

// TestBlockedAnnounce: who is blocked is refused with a reason, and nobody is told of him any more.
func TestBlockedAnnounce(t *testing.T) {
	s := NewServer(ServerOptions{})
	defer s.Close()
	announceFor(t, s, "10.0.0.1:1", id(1), "&left=1")
	announceFor(t, s, "10.0.0.2:1", id(2), "&left=1")
	s.Block(blocklist(t, "10.0.0.1"))
	if r := announceFor(t, s, "10.0.0.1:1", id(1), "&left=1"); !strings.Contains(r.Failure, "blocked") {
		t.Errorf("failure %q", r.Failure)
	}
	if r := announceFor(t, s, "10.0.0.3:1", id(3), "&left=1"); strings.Contains(string(r.Peers), "\x0a\x00\x00\x01") || !strings.Contains(string(r.Peers), "\x0a\x00\x00\x02") {
		t.Errorf("peers %q", r.Peers)
	}
	s.Block(blocklist(t, "peer:"+id(2)[:12]))
	if r := announceFor(t, s, "10.0.0.2:1", id(2), "&left=1"); !strings.Contains(r.Failure, "client") {
		t.Errorf("failure %q", r.Failure)
	}
	s.Block(blocklist(t, fmt.Sprintf("%x", strings.Repeat("\x00h", 10))))
	if r := announceFor(t, s, "10.0.0.2:1", id(4), "&left=1"); !strings.Contains(r.Failure, "torrent") {
		t.Errorf("failure %q", r.Failure)
	}
	s.Block(nil)
	if r := announceFor(t, s, "10.0.0.1:1", id(1), "&left=1"); r.Failure != "" {
		t.Errorf("not blocked any more: %q", r.Failure)
	}
	if st := s.refused.Load(); st != 3 {
		t.Errorf("%d refused", st)
	}
}

// TestBlockedNode: a node that plans is forgotten, and its session says why.
func TestBlockedNode(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		a, b := attend(t, w, 1, nil), attend(t, w, 2, nil)
		a.Want(nil, nil, whole)
		synctest.Wait()
		s.Block(blocklist(t, "peer:-\x01"))
		time.Sleep(pollWait + lastRetry)
		if st := a.Status(); a.State() != Dead || !strings.Contains(st.LastError, "blocked") || !strings.Contains(st.LastError, fmt.Sprint(http.StatusForbidden)) {
			t.Errorf("the blocked node: %+v", st)
		}
		if b.State() != Solo {
			t.Errorf("the other one is %v", b.State())
		}
		close2(t, a, b)
	})
}

// FuzzBlocklist: any file is a list, or an error that names a line.
func FuzzBlocklist(f *testing.F) {
	f.Add("10.0.0.0/8\npeer:-XX\n" + strings.Repeat("ab", 20))
	f.Fuzz(func(t *testing.T, text string) {
		b, err := ParseBlocklist(strings.NewReader(text))
		if err != nil {
			if !strings.Contains(err.Error(), "line ") {
				t.Error(err)
			}
			return
		}
		b.addr(netip.MustParseAddr("10.1.2.3"))
		b.peer(&peerID{'-'})
	})
}
