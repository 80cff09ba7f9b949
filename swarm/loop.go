package swarm

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
	"github.com/pantala/pantala/swarm/choker"
)

// loop owns the state of a torrent. Nothing outside its goroutine touches it; others post events.
type loop struct {
	t     *Torrent
	ours  set // complete pieces, as told to peers
	peers map[*peer]struct{}
	ids   map[[20]byte]*peer
	book  *book
	jail  []PeerInfo         // banned peers, for Peers
	fouls map[netip.Addr]int // banned peer ids by address

	gossip gossip
	// asksIndex: peers are asked which index the layer has.
	asksIndex bool

	pending [blob.Background + 1][]*part // queued parts by class
	active  map[*part]struct{}           // asked parts
	jobs    map[uint32]*leafJob

	wholes     map[uint32]*assembly // by piece
	wholeQueue []*assembly          // those that wait for memory
	wholeBytes int64                // memory of the others
	stingy     bool                 // there is, or was, a peer that rejects hash requests

	layers   []*layerJob // of what is missing of the piece layers
	layersBy time.Time   // until then the plan waits for them; zero: nobody was there to ask

	round  round
	relay  relaying
	upload uplink
	haves  telling

	ticked   time.Time // last tick
	rechoke  time.Time // last look at the slots
	unsorted bool      // parts have been added to pending
	dirty    bool      // schedule may find something to do
	rearm    bool      // the next tick may be due earlier
}

// event is something that happened. While it is applied it is the only accessor of the loop.
type event interface{ apply(l *loop) }

// The loop looks at slow peers every tickBusy while something was asked, and at the rest every tickIdle.
// Parts are hedged after 200 ms at the earliest, so 25 ms are an eighth of that.
const (
	tickBusy = 25 * time.Millisecond
	tickIdle = time.Second
)

func newLoop(t *Torrent) *loop {
	l := &loop{
		t: t, ours: newSet(t.geo.Pieces()), peers: make(map[*peer]struct{}), ids: make(map[[20]byte]*peer),
		book: newBook(), fouls: make(map[netip.Addr]int),
		active: make(map[*part]struct{}), jobs: make(map[uint32]*leafJob), wholes: make(map[uint32]*assembly), ticked: now(),
	}
	copy(l.ours, t.cfg.Store.Pieces())
	l.measureLeftover(l.ticked)
	l.trust()
	l.findLayers()
	if t.cfg.AwaitPlan > 0 {
		l.relay.until = now().Add(t.cfg.AwaitPlan)
	}
	return l
}

// run applies events until the torrent is closed.
func (l *loop) run() {
	timer := time.NewTimer(tickIdle)
	defer timer.Stop()
	for {
		select {
		case e := <-l.t.events:
			e.apply(l)
			// What else has come meanwhile is applied before anything is scheduled.
			for n := len(l.t.events); n > 0; n-- {
				(<-l.t.events).apply(l)
			}
		case <-l.t.wake:
			l.announce()
			l.heardBlocks()
			if l.t.roots.Swap(false) {
				l.trust()
			}
		case <-timer.C:
			l.tick()
			timer.Reset(l.pause())
		case <-l.t.stop:
			for p := range l.peers {
				p.close("torrent closed")
			}
			for l.dropOldest() {
			}
			return
		}
		if l.dirty {
			l.dirty = false
			busy := len(l.active) > 0
			l.schedule()
			if !busy && len(l.active) > 0 {
				timer.Reset(tickBusy)
			}
		}
		if l.rearm {
			l.rearm = false
			timer.Reset(l.pause())
		}
		if l.t.avail.raised {
			l.t.avail.raised = false
			l.t.notify()
		}
	}
}

// pause is how long until the next tick.
func (l *loop) pause() time.Duration {
	if len(l.active) > 0 || len(l.jobs) > 0 || l.queued() || l.haves.due || len(l.layers) > 0 && len(l.peers) > 0 || len(l.relay.leaving) > 0 || l.t.lot.waiting.Load() > 0 {
		return tickBusy
	}
	if next := l.book.next(); !next.IsZero() {
		return max(tickBusy, min(tickIdle, time.Until(next)))
	}
	return tickIdle
}

// trust looks again which pieces have a root that somebody we trust vouches for.
func (l *loop) trust() {
	t := l.t
	for piece := range t.geo.Pieces() {
		_, trust := t.cfg.Store.Root(piece)
		yes := trust > blob.Unknown || t.cfg.V1 != nil || !t.fileOf(piece).root.IsZero()
		t.avail.trust(piece, yes)
		if !yes {
			t.board.withdraw(piece)
		}
	}
	l.dirty = true
}

// announce tells peers which pieces became complete since the last time (HAVE, batched). While there is a plan peers
// of ours hear of it in [loop.tellBlocks].
func (l *loop) announce() {
	t := l.t
	t.mu.Lock()
	found := t.found
	t.found = nil
	t.mu.Unlock()
	fresh := found[:0]
	for _, piece := range found {
		if piece < t.geo.Pieces() && !l.ours.has(piece) {
			l.ours.add(piece)
			fresh = append(fresh, piece)
		}
	}
	if len(fresh) == 0 {
		return
	}
	// Who has everything is asked for what others lack: that is news for all, at once.
	later := t.relaying.Load() && l.ours.count() < t.geo.Pieces()
	l.haves.pieces = append(l.haves.pieces, fresh...)
	if later {
		l.tellSoon()
	} else {
		fresh, l.haves.pieces = l.haves.pieces, nil
	}
	for p := range l.peers {
		if !later || !p.known {
			p.tellPieces(fresh)
		}
	}
}

// tellPieces sends a HAVE for each piece that the peer does not have.
func (p *peer) tellPieces(pieces []uint32) {
	if !slices.ContainsFunc(pieces, func(piece uint32) bool { return !p.have.has(piece) }) {
		return
	}
	p.out.send(func(b []byte) []byte {
		for _, piece := range pieces {
			if !p.have.has(piece) {
				b = peerwire.AppendHave(b, piece)
			}
		}
		return b
	})
}

// tick does what depends on time.
func (l *loop) tick() {
	at := now()
	elapsed := at.Sub(l.ticked)
	l.ticked = at
	for p := range l.peers {
		l.keepAlive(p, at)
		if len(p.parts) > 0 && elapsed > 0 {
			p.mu.Lock()
			p.meter.tick(p.down.Load(), elapsed, int(p.inflight.Load()-p.waiting.Load()))
			p.mu.Unlock()
		}
	}
	l.relayTick(at)
	l.seekLayers(at)
	l.hedge(at)
	l.measureLeftover(at)
	l.seekHelp(at)
	l.hedgeJobs(at)
	l.dropWholes(at)
	l.tellBlocks(at)
	l.expire(at)
	l.measureUplink(at)
	l.dial(at)
	l.tell(at)
	if at.Sub(l.rechoke) >= tickIdle {
		l.rechoke = at
		l.noteMoves(at)
		l.assignSlots(at)
		for p := range l.peers {
			l.wantFrom(p)
		}
	}
	if len(l.active) > 0 || l.queued() {
		l.dirty = true
	}
}

// queued reports whether parts wait to be asked for.
func (l *loop) queued() bool {
	for _, q := range l.pending {
		if len(q) > 0 {
			return true
		}
	}
	return false
}

const (
	// BEP 3: a keep-alive every two minutes, and a connection that says nothing for longer is dead.
	keepAliveEvery = 2 * time.Minute
	deadAfter      = 4 * time.Minute
	// requestTimeout is how long a peer that was asked may send nothing at all.
	requestTimeout = 30 * time.Second
)

func (l *loop) keepAlive(p *peer, at time.Time) {
	quiet := at.Sub(time.Unix(0, p.heard.Load()))
	if quiet > deadAfter {
		p.close("nothing heard for %s", quiet.Round(time.Second))
		return
	}
	if len(p.parts) > 0 && quiet > requestTimeout && l.oldestAsk(p, at) > requestTimeout {
		p.close("no answer to requests for %s", quiet.Round(time.Second))
		return
	}
	if at.Sub(time.Unix(0, p.spoke.Load())) > keepAliveEvery {
		p.spoke.Store(at.UnixNano())
		p.out.send(peerwire.AppendKeepAlive)
	}
}

func (l *loop) oldestAsk(p *peer, at time.Time) (d time.Duration) {
	for pt := range p.parts {
		for _, a := range pt.asks {
			if a.p == p {
				d = max(d, at.Sub(a.at))
			}
		}
	}
	return d
}

// dial opens connections to addresses that are due.
func (l *loop) dial(at time.Time) {
	t := l.t
	n := min(maxDials-l.book.count(dialing), t.node.opts.MaxPeers-len(l.peers))
	if n <= 0 {
		return
	}
	self := t.node.Addr()
	for _, a := range l.book.due(at, n) {
		e := l.book.entries[a]
		switch {
		case a == self:
			l.book.ban(a)
			continue
		case e.known && l.ids[e.peer] != nil:
			l.book.rest(a, at)
			continue
		}
		// A peer that knows the blob under another of its keys closes the connection: the next attempt
		// tries the next key.
		key := t.cfg.Keys[e.tries%len(t.cfg.Keys)]
		e.tries++
		t.wg.Add(1)
		go t.dialPeer(a, key)
	}
}

// assignSlots decides whom we serve.
func (l *loop) assignSlots(at time.Time) {
	ps := make([]*peer, 0, len(l.peers))
	seats := make([]choker.Seat, 0, len(l.peers))
	for p := range l.peers {
		if p.closing {
			continue
		}
		ps = append(ps, p)
		seats = append(seats, choker.Seat{Served: p.slot, Interested: p.interested, Foreign: !p.ours(), Since: p.slotSince, Asked: time.Unix(0, p.lastReq.Load())})
	}
	choke, unchoke := choker.Choose(seats, l.t.node.opts.UploadSlots, at)
	for _, i := range choke {
		l.serve(ps[i], false, at)
	}
	for _, i := range unchoke {
		l.serve(ps[i], true, at)
	}
}

// serve gives a peer a slot, or takes it. A choke drops what was queued; with BEP 6 it is rejected one by
// one.
func (l *loop) serve(p *peer, on bool, at time.Time) {
	p.slot, p.slotSince = on, at
	p.serving.Store(on)
	if on {
		p.out.send(func(b []byte) []byte { return peerwire.AppendBare(b, peerwire.Unchoke) })
		return
	}
	p.out.send(func(b []byte) []byte { return peerwire.AppendBare(b, peerwire.Choke) })
	if dropped := p.out.dropRequests(); p.fast {
		p.out.reject(dropped...)
	}
	p.dropRuns(false)
}

// wantFrom tells a peer whether it has anything we lack.
func (l *loop) wantFrom(p *peer) {
	if want := l.ours.lacks(p.have); want != p.wanting && !p.closing {
		p.wanting = want
		id := peerwire.NotInterested
		if want {
			id = peerwire.Interested
		}
		p.out.send(func(b []byte) []byte { return peerwire.AppendBare(b, id) })
	}
}

// infos describes all peers.
func (l *loop) infos() []PeerInfo {
	infos := make([]PeerInfo, 0, len(l.peers)+len(l.jail))
	for p := range l.peers {
		if !p.closing {
			infos = append(infos, p.info())
		}
	}
	return append(infos, l.jail...)
}

// unavailable is the error when nobody is left to ask.
func unavailable(run blob.Run, why string) error {
	return fmt.Errorf("%w: %s of blocks %s: ask the origin, or wait for a peer that has them", blob.ErrUnavailable, why, run)
}

// over reports whether the call that wanted a part has ended.
func (pt *part) over() bool { return pt.f.ctx.Err() != nil }
