package swarm

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxHandshakes bounds inbound connections that have not said yet what they want: each is a goroutine and a socket,
// about 10 KiB with what the kernel holds.
const maxHandshakes = 128

// lobby holds the inbound connections that are shaking hands. When it is full, who has been there longest has to
// go, of the address that has most: an honest client is through in a round trip, and so never is the one, while
// whoever opens connections and says nothing pushes out only himself.
type lobby struct {
	mu     sync.Mutex // guards what follows
	guests map[*net.TCPConn]guest
	from   map[netip.Addr]int
}

type guest struct {
	addr netip.Addr
	at   time.Time
}

func newLobby() *lobby {
	return &lobby{guests: make(map[*net.TCPConn]guest), from: make(map[netip.Addr]int)}
}

// enter takes a connection in. When the lobby is full it closes another one, whose goroutine then leaves.
func (l *lobby) enter(c *net.TCPConn, at time.Time) {
	l.mu.Lock()
	var out *net.TCPConn
	if len(l.guests) >= maxHandshakes {
		out = l.longest()
		l.remove(out)
	}
	a := addrOf(c.RemoteAddr()).Addr()
	l.guests[c] = guest{a, at}
	l.from[a]++
	l.mu.Unlock()
	if out != nil {
		out.Close()
	}
}

// longest is the connection to close. Needs mu.
func (l *lobby) longest() (c *net.TCPConn) {
	var found guest
	for g, at := range l.guests {
		if n, most := l.from[at.addr], l.from[found.addr]; c == nil || n > most || n == most && at.at.Before(found.at) {
			c, found = g, at
		}
	}
	return c
}

// leave notes that a connection is through, or gone.
func (l *lobby) leave(c *net.TCPConn) {
	l.mu.Lock()
	l.remove(c)
	l.mu.Unlock()
}

func (l *lobby) remove(c *net.TCPConn) {
	g, ok := l.guests[c]
	if !ok {
		return
	}
	delete(l.guests, c)
	if l.from[g.addr]--; l.from[g.addr] == 0 {
		delete(l.from, g.addr)
	}
}
