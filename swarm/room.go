package swarm

import (
	"net/netip"
	"time"

	"github.com/pantala/pantala/peerwire"
)

// A torrent has MaxPeers places. When they are taken, somebody who has moved nothing for a while makes room for
// somebody new, so that connections that are opened and left alone keep nobody out.

// uselessAfter is how long a peer may move nothing before its place can be given away. It is shorter than the
// rotation of slots (10 s) times two, within which a peer that waits for one is served.
const uselessAfter = 20 * time.Second

// lastMoved is when bytes moved between us and a peer. The loop owns it.
type lastMoved struct {
	bytes int64
	at    time.Time
}

// maxFrom is how many peers of one address may be connected: a quarter of the places, and 8 at least, for several
// nodes behind one translator. On one machine all nodes have the same address.
func maxFrom(places int) int { return max(8, places/4) }

// noteMoves looks who has moved something since the last time.
func (l *loop) noteMoves(at time.Time) {
	for p := range l.peers {
		if n := p.down.Load() + p.up.Load(); n != p.moved.bytes {
			p.moved = lastMoved{n, at}
		}
	}
}

// makeRoom reports whether there is a place for somebody at an address, after closing a useless connection when
// that is what it takes.
func (l *loop) makeRoom(a netip.Addr, at time.Time) bool {
	places := l.t.node.opts.MaxPeers
	from := make(map[netip.Addr]int)
	for p := range l.peers {
		from[p.addr.Addr()]++
	}
	crowded := peerwire.Scope(a) < 2 && from[a] >= maxFrom(places)
	if len(l.peers) < places && !crowded {
		return true
	}
	l.noteMoves(at)
	var worst *peer
	for p := range l.peers {
		if crowded && p.addr.Addr() != a || !l.useless(p, at) {
			continue
		}
		if worst == nil || from[p.addr.Addr()] > from[worst.addr.Addr()] ||
			from[p.addr.Addr()] == from[worst.addr.Addr()] && p.moved.at.Before(worst.moved.at) {
			worst = p
		}
	}
	if worst == nil {
		return false
	}
	worst.close("it has moved nothing for %s and others want its place", at.Sub(worst.moved.at).Round(time.Second))
	l.remove(worst)
	return true
}

// useless reports whether nobody would miss a peer.
func (l *loop) useless(p *peer, at time.Time) bool {
	return len(p.parts) == 0 && at.Sub(p.moved.at) > uselessAfter && at.Sub(time.Unix(0, p.lastReq.Load())) > uselessAfter
}
