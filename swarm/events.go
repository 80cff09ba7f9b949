package swarm

import (
	"errors"
	"net/netip"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
	"github.com/pantala/pantala/swarm/choker"
)

// One type per thing that can happen. Those named peer… come from the reader of that peer, in order.
type (
	addAddrs      []netip.AddrPort
	dialFailed    struct{ addr netip.AddrPort }
	peerConnected struct{ p *peer }
	peerGone      struct{ p *peer }
	peerHas       struct {
		p    *peer
		have set
	}
	peerGot struct {
		p     *peer
		piece uint32
	}
	peerAllows struct {
		p     *peer
		piece uint32
	}
	peerChokes struct {
		p  *peer
		on bool
	}
	peerWants struct {
		p  *peer
		on bool
	}
	peerSays struct {
		p *peer
		h peerwire.ExtendedHandshake
	}
	peerRejected struct {
		p  *peer
		pt *part
	}
	submitted  struct{ pt *part }
	abandoned  struct{ parts []*part }
	peersQuery struct{ answer chan []PeerInfo }
	// verdict is what came of a part that was verified.
	verdict struct {
		part     *part
		err      error
		culprits []*peer // who sent what is wrong
		reopened bool    // the good blocks are kept, the part goes on
	}
	leavesCame struct {
		try    *leafTry
		folded blob.Hash
		err    error
	}
)

func (e addAddrs) apply(l *loop) {
	at := now()
	for _, a := range e {
		l.book.add(netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), at)
	}
	l.dial(at)
}

func (e dialFailed) apply(l *loop) {
	l.book.failed(e.addr, now())
	l.rearm = true
}

// apply lets a connection in, unless there is a better one to the same peer already.
func (e peerConnected) apply(l *loop) {
	p, t, at := e.p, l.t, now()
	switch {
	case p.id == t.node.opts.PeerID:
		// Our own address, named by a tracker or a neighbour. The accepting end of it sees the same id.
		l.book.ban(p.dialed)
		p.cancel()
		return
	case l.book.banned[p.id]:
		l.book.ban(p.dialed)
		p.cancel()
		return
	case l.fouls[p.addr.Addr()] >= maxFouls && !p.addr.Addr().IsLoopback():
		l.book.ban(p.dialed)
		p.cancel()
		return
	case l.ids[p.id] == nil && !l.makeRoom(p.addr.Addr(), at):
		l.book.rest(p.dialed, at)
		p.cancel()
		return
	}
	if old := l.ids[p.id]; old != nil {
		if !l.replaces(p, old) {
			l.book.alias(p.dialed, p.id, at)
			p.cancel()
			return
		}
		old.close("replaced by a connection that both sides prefer")
		old.replaced = true
		l.remove(old)
	}
	l.peers[p] = struct{}{}
	l.ids[p.id] = p
	p.moved.at = at
	l.gossip.changed()
	l.book.joined(p.dialed)
	l.greet(p)
	t.wg.Add(2)
	go p.read()
	go p.write()
}

// clientName is what we call ourselves (BEP 10 "v").
const clientName = "pantala"

// replaces decides between two connections to one peer so that both ends decide alike: the one that was
// opened by the smaller peer id stays. Of two opened by the same side the older one stays.
func (l *loop) replaces(p, old *peer) bool {
	us := l.t.node.opts.PeerID
	weOpen := string(us[:]) < string(p.id[:])
	return p.dialed.IsValid() != old.dialed.IsValid() && p.dialed.IsValid() == weOpen
}

// greet queues the first messages: abilities, what we have, and at once, if there is a slot, the unchoke.
func (l *loop) greet(p *peer) {
	t, n := l.t, l.t.geo.Pieces()
	served, foreign := 0, 0
	for q := range l.peers {
		if q.slot {
			served++
			if !q.ours() {
				foreign++
			}
		}
	}
	p.slotSince = now()
	p.out.send(func(b []byte) []byte {
		count := l.ours.count()
		switch {
		case p.fast && count == n:
			b = peerwire.AppendBare(b, peerwire.HaveAll)
		case p.fast && count == 0:
			b = peerwire.AppendBare(b, peerwire.HaveNone)
		case count > 0:
			b = peerwire.AppendBitfield(b, l.ours, n)
		}
		if d := t.node.dht.Load(); d != nil && p.dht && !t.cfg.Private {
			b = peerwire.AppendPort(b, d.port)
		}
		if p.ext {
			b = peerwire.AppendExtendedHandshake(b, peerwire.ExtendedHandshake{
				Messages: t.extensions(), Client: clientName, Port: t.node.Addr().Port(), Queue: maxRequests,
				MetadataSize: len(t.metadata()),
			})
		}
		return b
	})
	// Whether it is a peer of ours is not known before its extended handshake.
	if choker.Room(served, foreign, t.node.opts.UploadSlots) {
		l.serve(p, true, now())
	}
	if !p.ext {
		l.allow(p)
	}
}

func (e peerGone) apply(l *loop) {
	p := e.p
	p.mu.Lock()
	why := p.why
	p.mu.Unlock()
	l.t.log.Debug("peer gone", "addr", p.addr, "why", why)
	l.remove(p)
	if p.dialed.IsValid() {
		l.book.failed(p.dialed, now())
		l.rearm = true
	}
}

// remove takes a peer out of everything. It may be called again.
func (l *loop) remove(p *peer) {
	if p.closing {
		return
	}
	p.closing = true
	p.reoffer()
	delete(l.peers, p)
	l.gossip.changed()
	if l.ids[p.id] == p {
		delete(l.ids, p.id)
	}
	l.notOurs(p)
	p.dropRuns(true)
	l.t.lot.forget(p)
	for pt := range p.parts {
		l.notComing(pt, p)
		l.unask(pt, p)
	}
	l.abandonTries(p)
	l.dirty = true
	if p.slot {
		l.assignSlots(now())
	}
}

func (e peerHas) apply(l *loop) {
	if e.p.closing {
		return
	}
	e.p.have = e.have
	e.p.seed = e.have.count() == l.t.geo.Pieces()
	e.p.reoffer()
	l.haveWhole(e.p)
	l.seekLayers(now())
	l.wantFrom(e.p)
	l.dirty = true
}

func (e peerGot) apply(l *loop) {
	p := e.p
	if p.closing || p.have.has(e.piece) {
		return
	}
	p.have.add(e.piece)
	if !p.choking || p.ours() || p.fastSet != nil && p.fastSet.has(e.piece) {
		p.offered.add(e.piece)
		l.t.avail.offers[e.piece]++
		l.t.avail.refresh(e.piece)
		l.dirty = true
	}
	l.hasPiece(p, e.piece)
	if !p.wanting && !l.ours.has(e.piece) {
		l.wantFrom(p)
	}
}

func (e peerAllows) apply(l *loop) {
	p := e.p
	if p.fastSet == nil {
		p.fastSet = newSet(l.t.geo.Pieces())
	}
	p.fastSet.add(e.piece)
	p.reoffer()
	l.dirty = true
}

func (e peerChokes) apply(l *loop) {
	p := e.p
	if p.closing || p.choking == e.on {
		return
	}
	p.choking = e.on
	p.reoffer()
	l.dirty = true
	l.serves(p)
	if e.on && !p.fast {
		// BEP 3: a choke drops all requests. With BEP 6 each is rejected, or still answered.
		for pt := range p.parts {
			p.drop(pt)
			l.unask(pt, p)
		}
	}
}

func (e peerWants) apply(l *loop) {
	if e.p.interested == e.on {
		return
	}
	e.p.interested = e.on
	l.assignSlots(now())
}

func (e peerSays) apply(l *loop) {
	p := e.p
	p.prompt.off.Store(e.h.Client == clientName)
	if e.h.Client != "" {
		p.client = printable(e.h.Client)
	}
	if e.h.Queue > 0 {
		p.queue = max(e.h.Queue, 16)
	}
	l.pexSaid(p, e.h)
	l.indexMet(p, e.h)
	l.allow(p)
	if p.ours() && !p.closing && !p.known {
		l.meet(p)
	}
	if e.h.Port != 0 && !p.closing {
		p.listens = netip.AddrPortFrom(p.addr.Addr(), e.h.Port)
		// Should the connection be lost, this is where it can be opened again.
		l.book.alias(p.listens, p.id, now())
	}
}

func (e peerRejected) apply(l *loop) {
	e.p.drop(e.pt)
	e.pt.refused = append(e.pt.refused, e.p)
	l.unask(e.pt, e.p)
	l.dirty = true
}

func (e submitted) apply(l *loop) {
	if e.pt.f.class <= blob.Read {
		l.t.demanded.Store(now().UnixNano())
	}
	l.pending[e.pt.f.class] = append(l.pending[e.pt.f.class], e.pt)
	l.unsorted = true
	l.dirty = true
}

func (e abandoned) apply(l *loop) {
	for _, pt := range e.parts {
		l.finish(pt)
		l.t.board.forget(pt)
	}
}

func (e peersQuery) apply(l *loop) { e.answer <- l.infos() }

func (e verdict) apply(l *loop) {
	l.dirty = true
	pt := e.part
	if e.err == nil || !errors.Is(e.err, blob.ErrCorrupt) {
		l.finish(pt)
		return
	}
	if _, known := l.t.cfg.Store.Leaves(pt.piece); !known {
		// The store has forgotten what the block was compared with (a disputed claim): nobody is to blame.
		l.t.board.withdraw(pt.piece)
		l.finish(pt)
		pt.f.retry(pt)
		return
	}
	for _, p := range e.culprits {
		l.strike(p, pt.run)
	}
	if !e.reopened {
		l.finish(pt)
		pt.f.retry(pt)
		return
	}
	// The senders have answered; ask again for what is missing.
	for _, a := range pt.asks {
		delete(a.p.parts, pt)
	}
	pt.asks, pt.refused = nil, append(pt.refused, e.culprits...)
	l.requeue(pt)
}

// printable keeps what a stranger calls itself fit for a terminal.
func printable(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '.'
		}
	}
	return string(b)
}
