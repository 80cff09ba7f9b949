package swarm

import (
	"net/netip"
	"time"

	"github.com/pantala/pantala/peerwire"
)

// Peer exchange (BEP 11): peers tell each other whom they are connected to, so that a swarm that one tracker
// has brought together goes on growing, and heals, without it.

const (
	// pexFirst is how long after its extended handshake a peer is told of the others for the first time. Those
	// that connect in the same moment have said by then where they listen.
	pexFirst = 500 * time.Millisecond
	// pexEvery is the pause between two messages to one peer. BEP 11 asks for a minute; libtorrent ends
	// connections on which they come faster, by its own clock.
	pexEvery = 62 * time.Second
	// pexLook is the pause before looking again when there was nothing to tell.
	pexLook = time.Second
	// pexHear is the shortest pause after which another message is read; earlier ones are ignored. It is half
	// of what BEP 11 asks for, because delays on the way move two messages together.
	pexHear = 30 * time.Second
	// pexHearAtOnce is how many may come before that: one at the start, and the first regular one.
	pexHearAtOnce = 2
)

// gossip is the loop's part of peer exchange.
type gossip struct {
	gen int // counts changes of who is connected, and where they listen
}

func (g *gossip) changed() { g.gen++ }

// pexTold is what one peer has been told. The loop owns it.
type pexTold struct {
	ext  uint8 // its id for peer exchange; 0: it does not want any
	told map[netip.AddrPort]struct{}
	gen  int       // what has changed up to this has been told
	next time.Time // not before
}

// pexRate bounds how often one peer is listened to. Its reader owns it.
type pexRate struct {
	n    int // messages read
	last time.Time
}

// hearsay are addresses that somebody who is not trusted has named.
type hearsay struct {
	src   netip.Addr
	addrs []netip.AddrPort
}

// gossips reports whether peers are exchanged at all.
func (t *Torrent) gossips() bool { return !t.cfg.Private && !t.node.opts.NoPEX }

// pexOffer is the entry of the extended handshake.
func (t *Torrent) pexOffer() map[string]uint8 {
	if !t.gossips() {
		return nil
	}
	return map[string]uint8{peerwire.PEXName: extPEX}
}

// pexSaid notes whether a peer wants to be told.
func (l *loop) pexSaid(p *peer, h peerwire.ExtendedHandshake) {
	l.gossip.changed() // it may have said where it listens
	if !l.t.gossips() {
		return
	}
	if p.pex.told == nil {
		p.pex.told = make(map[netip.AddrPort]struct{})
		p.pex.gen = -1
		p.pex.next = now().Add(pexFirst)
		l.rearm = true
	}
	p.pex.ext = h.Messages[peerwire.PEXName]
}

// tell sends to every peer that is due what has changed among the others since it was told last.
func (l *loop) tell(at time.Time) {
	var known map[netip.AddrPort]peerwire.PEXFlags // made when somebody is due
	for p := range l.peers {
		x := &p.pex
		if x.ext == 0 || x.gen == l.gossip.gen || at.Before(x.next) {
			continue
		}
		if known == nil {
			known = l.connected()
		}
		if l.tellPeer(p, known) {
			x.next = at.Add(pexEvery)
		} else {
			x.next = at.Add(pexLook)
		}
	}
}

// connected are the peers that others may be told of: those we have a connection to and know how to reach.
func (l *loop) connected() map[netip.AddrPort]peerwire.PEXFlags {
	known := make(map[netip.AddrPort]peerwire.PEXFlags, len(l.peers))
	for p := range l.peers {
		a := p.reachable()
		if !a.IsValid() || p.closing {
			continue
		}
		var flags peerwire.PEXFlags
		if p.have.count() == l.t.geo.Pieces() {
			flags |= peerwire.PEXSeed
		}
		if p.dialed.IsValid() {
			flags |= peerwire.PEXReachable
		}
		known[a] = flags
	}
	return known
}

// reachable is where others can connect to a peer; zero: it has not said so, and we did not dial it.
func (p *peer) reachable() netip.AddrPort {
	if p.dialed.IsValid() {
		return p.dialed
	}
	return p.listens
}

// tellPeer sends one message, if there is anything to tell.
func (l *loop) tellPeer(p *peer, known map[netip.AddrPort]peerwire.PEXFlags) bool {
	x := &p.pex
	self := p.reachable()
	var m peerwire.PEX
	more := false
	for a, flags := range known {
		if _, told := x.told[a]; told || a == self || peerwire.Scope(a.Addr()) > peerwire.Scope(p.addr.Addr()) {
			continue
		}
		if more = len(m.Added) == peerwire.MaxPEX; more {
			break
		}
		m.Added = append(m.Added, peerwire.PEXPeer{Addr: a, Flags: flags})
	}
	for a := range x.told {
		if _, still := known[a]; still {
			continue
		}
		if len(m.Dropped) == peerwire.MaxPEX {
			more = true
			break
		}
		m.Dropped = append(m.Dropped, a)
	}
	if !more {
		x.gen = l.gossip.gen
	}
	if len(m.Added) == 0 && len(m.Dropped) == 0 {
		return false
	}
	for _, a := range m.Added {
		x.told[a.Addr] = struct{}{}
	}
	for _, a := range m.Dropped {
		delete(x.told, a)
	}
	p.out.send(func(b []byte) []byte { return peerwire.AppendPEX(b, x.ext, m) })
	return true
}

// pexCame reads a message, on the reader's goroutine.
func (p *peer) pexCame(body []byte) error {
	r := &p.pexHeard
	at := now()
	if !p.t.gossips() || r.n >= pexHearAtOnce && at.Sub(r.last) < pexHear {
		return nil
	}
	r.n++
	r.last = at
	x, err := peerwire.ParsePEX(body)
	if err != nil {
		return err
	}
	from := p.addr.Addr()
	addrs := make([]netip.AddrPort, 0, len(x.Added))
	for _, a := range x.Added {
		if peerwire.Scope(a.Addr.Addr()) <= peerwire.Scope(from) {
			addrs = append(addrs, a.Addr)
		}
	}
	if len(addrs) > 0 {
		p.t.post(hearsay{from, addrs})
	}
	return nil
}

func (e hearsay) apply(l *loop) {
	at := now()
	for _, a := range e.addrs {
		l.book.hear(netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), e.src, at)
	}
	l.dial(at)
}
