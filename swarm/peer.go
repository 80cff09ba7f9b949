package swarm

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// peer is one connection. Its fields are split by who may touch them.
type peer struct {
	// Constant.
	t      *Torrent
	conn   *net.TCPConn
	id     [20]byte
	addr   netip.AddrPort // where the connection leads
	dialed netip.AddrPort // what we dialled; zero: inbound
	fast   bool           // both sides speak BEP 6
	ext    bool           // both sides speak BEP 10
	dht    bool           // it is a node of the DHT (BEP 5)
	v2     bool           // met under a key of v2, so that it can be asked for hashes
	joined time.Time
	out    *outbox
	flow   *outflow
	rd     *peerwire.Reader // used by the reader only
	wr     *peerwire.Writer // used by the writer only
	prompt *promptReader
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc

	// Used by the writer only.
	squeezer squeezer

	// Used by the reader only.
	strays   int       // blocks that came although nobody asked (any more)
	chatter  int       // messages without payload since quietAt
	quietAt  time.Time // start of the minute in which chatter is counted
	pexHeard pexRate
	alms     int // blocks that it had while it was choked
	metadata metadataPeer
	// indexHeard counts what it said about the index of the layer.
	indexHeard indexPeer

	// Owned by the loop.
	have       set  // what it has
	seed       bool // it had everything when we met
	offered    set  // what of it is counted in availability
	fastSet    set  // allowed while it chokes us; nil: none
	choking    bool // it does not serve us
	interested bool // it wants something of ours
	wanting    bool // we told it that we are interested
	slot       bool // we serve it
	slotSince  time.Time
	client     string
	listens    netip.AddrPort // where it says it listens
	queue      int            // how many requests it takes
	holds      holdings       // blocks of pieces that it does not have whole
	marks      []uint32       // by stripe, how far it has the pieces of the plan
	parts      map[*part]struct{}
	strikes    int // runs that did not verify
	lies       int // pieces for which its leaves did not fold to a claimed root
	rejects    int // hash requests that it rejected since it last answered one
	deaf       int // times that it left hashes to others to deliver
	closing    bool
	replaced   bool // by another connection to the same peer
	known      bool // as a peer of ours
	pex        pexTold
	index      indexTold
	moved      lastMoved
	helps      time.Time // it is not asked for help before

	// Read by any goroutine.
	serving   atomic.Bool              // slot, for the reader
	allowed   atomic.Pointer[[]uint32] // pieces it may have while it is choked (BEP 6)
	runsID    atomic.Uint32            // see runsExt
	inflight  atomic.Int32             // blocks asked and neither received nor cancelled
	urgent    atomic.Int32             // of these, what somebody waits for
	waiting   atomic.Int32             // of these, what may not be there yet
	hashWaits atomic.Int32             // its hash requests that are parked
	down, up  atomic.Int64             // bytes of payload
	heard     atomic.Int64             // when it said something last, unix ns
	spoke     atomic.Int64             // when we wrote last, unix ns
	lastReq   atomic.Int64             // when it asked for a block last, unix ns

	mu      sync.Mutex // guards what follows
	wanted  map[uint32]want
	errands map[uint32]*errand // by tag
	lastTag uint32
	hashes  map[peerwire.HashRange][]*leafTry
	meter   meter
	why     string // it was closed, for the log
}

// want is a block that was requested from a peer: until its answer has come it stays in peer.wanted, so that
// an answer that crosses a cancel is known from one that nobody asked for.
type want struct {
	part    *part // nil: cancelled
	answers int   // how often it was requested and not answered
	at      time.Time
}

func newPeer(t *Torrent, c *net.TCPConn, h peerwire.Handshake, dialed netip.AddrPort) (*peer, error) {
	wr, err := peerwire.NewWriter(c)
	if err != nil {
		return nil, err
	}
	n := t.geo.Pieces()
	p := &peer{
		t: t, conn: c, id: h.PeerID, addr: addrOf(c.RemoteAddr()), dialed: dialed,
		v2:     t.cfg.V1 == nil || h.InfoHash != t.cfg.V1.InfoHash,
		joined: now(), fast: h.Reserved.Fast(), ext: h.Reserved.Extended(), dht: h.Reserved.DHT(),
		out: newOutbox(), wr: wr,
		have: newSet(n), offered: newSet(n), choking: true,
		// 250 is what clients without "reqq" take, see BEP 10.
		queue: 250, parts: make(map[*part]struct{}), quietAt: now(),
		errands: make(map[uint32]*errand), holds: make(holdings),
		wanted: make(map[uint32]want), hashes: make(map[peerwire.HashRange][]*leafTry),
	}
	if p.prompt, err = newPromptReader(c, &p.inflight); err != nil {
		return nil, err
	}
	if p.flow, err = newOutflow(c); err != nil {
		return nil, err
	}
	p.rd = peerwire.NewReader(p.prompt, int(n+7)/8)
	p.ctx, p.cancel = context.WithCancel(t.ctx)
	context.AfterFunc(p.ctx, func() { c.Close() })
	p.heard.Store(now().UnixNano())
	p.spoke.Store(now().UnixNano())
	return p, nil
}

// close ends the connection; its goroutines follow, and the reader tells the loop.
func (p *peer) close(format string, args ...any) {
	p.mu.Lock()
	if p.why == "" {
		p.why = fmt.Sprintf(format, args...)
	}
	p.mu.Unlock()
	p.cancel()
}

// interrupt makes a reader that waits for payload look at whether it is still wanted.
func (p *peer) interrupt() { p.conn.SetReadDeadline(time.Unix(1, 0)) }

// ask requests the blocks of a part, and the leaf hashes after the first of them when try is not nil: BEP 52
// forbids to reject hashes that directly follow a request of a block they cover. All goes out in one write.
//
// A peer of ours is asked for runs; wait says that it may take its time for blocks it does not have yet.
func (p *peer) ask(pt *part, blocks []uint32, try *leafTry, wait bool) {
	if p.ours() {
		p.askRuns(pt, blocks, try, wait, false)
		return
	}
	geo := p.t.geo
	at := now()
	p.mu.Lock()
	for _, b := range blocks {
		w := p.wanted[b]
		if w.part == nil {
			p.inflight.Add(1)
		}
		p.wanted[b] = want{part: pt, answers: w.answers + 1, at: at}
	}
	p.mu.Unlock()
	p.out.send(func(out []byte) []byte {
		for i, b := range blocks {
			r := blockRequest(geo, b)
			out = peerwire.AppendRequest(out, r.piece, r.begin, r.length)
			if i == 0 && try != nil {
				out = p.appendTry(out, try)
			}
		}
		return out
	})
}

// forget takes back what was asked of the peer for a part and sends cancels.
func (p *peer) forget(pt *part) {
	var cancels []request
	tags := p.forgetRuns(pt)
	p.mu.Lock()
	for i := range pt.run.Count {
		b := pt.run.First + i
		if w, ok := p.wanted[b]; ok && w.part == pt {
			w.part = nil
			p.wanted[b] = w
			p.inflight.Add(-1)
			cancels = append(cancels, blockRequest(p.t.geo, b))
		}
	}
	p.mu.Unlock()
	if len(cancels)+len(tags) == 0 {
		return
	}
	p.out.send(func(out []byte) []byte {
		for _, tag := range tags {
			out = peerwire.AppendRunCancel(out, p.runsExt(), tag)
		}
		for _, r := range cancels {
			out = peerwire.AppendCancel(out, r.piece, r.begin, r.length)
		}
		return out
	})
}

// owes reports whether a block was asked of the peer for a part, and not answered yet.
func (p *peer) owes(block uint32, pt *part) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, ok := p.wanted[block]
	return ok && w.part == pt || p.owesRun(block, pt)
}

// drop forgets what was asked of the peer for a part, which it will not answer.
func (p *peer) drop(pt *part) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range pt.run.Count {
		b := pt.run.First + i
		if w, ok := p.wanted[b]; ok && w.part == pt {
			p.inflight.Add(-1)
			w.part = nil
			p.wanted[b] = w
			if !p.fast {
				delete(p.wanted, b)
			}
		}
	}
}

// answered notes that a requested block has come, or was rejected. known is false when nobody asked.
func (p *peer) answered(block uint32, came bool) (pt *part, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, ok := p.wanted[block]
	if !ok {
		return nil, false
	}
	pt = w.part
	w.answers--
	if came {
		p.meter.received(now().Sub(w.at))
	} else if w.answers > 0 {
		pt = nil // the reject of a request that was cancelled and made again
	}
	if pt != nil {
		w.part = nil
		p.inflight.Add(-1)
	}
	if w.answers <= 0 {
		delete(p.wanted, block)
	} else {
		p.wanted[block] = w
	}
	return pt, true
}

// depth is how many blocks may be asked of the peer at a time.
func (p *peer) depth() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(p.meter.depth(), p.queue)
}

// expect estimates when n more blocks asked now would have come. A peer that was not measured yet counts as
// a good one, or it would never be measured. Peers of ours let urgent blocks overtake.
func (p *peer) expect(n int, c blob.Class) time.Duration {
	const assumed = 100e6 // bytes per second
	p.mu.Lock()
	defer p.mu.Unlock()
	rate := p.meter.rate
	if rate == 0 {
		rate = assumed
	}
	ahead := p.inflight.Load()
	if c <= blob.Read && p.ours() {
		ahead = p.urgent.Load()
	}
	blocks := float64(int(ahead) + n)
	return p.meter.rtt + time.Duration(blocks*blockSize/max(rate, 1000)*float64(time.Second))
}

// offers reports whether the peer would answer a request for a block of the piece.
func (p *peer) offers(piece uint32) bool { return p.offered.has(piece) }

// reoffer computes offered from what the peer has and whether it serves us.
func (p *peer) reoffer() {
	offered := newSet(p.t.geo.Pieces())
	for i := range offered {
		switch {
		case p.closing:
		case !p.choking || p.ours(): // peers of ours serve what somebody is blocked on in any case
			offered[i] = p.have[i]
		case p.fastSet != nil:
			offered[i] = p.have[i] & p.fastSet[i]
		}
	}
	p.t.avail.update(p.offered, offered)
	p.offered = offered
}

func (p *peer) info() PeerInfo {
	p.mu.Lock()
	rate := int64(p.meter.rate)
	p.mu.Unlock()
	return PeerInfo{
		Addr: p.addr, Listens: p.reachable(), ID: p.id, Client: p.client, Downloaded: p.down.Load(), Uploaded: p.up.Load(), Rate: rate,
		Pieces: p.have.count(), Choking: p.choking, Interested: p.interested, Inbound: !p.dialed.IsValid(),
	}
}

// blockRequest is the request of one block.
func blockRequest(g *space, block uint32) request {
	bpp := g.BlocksPerPiece()
	return request{block / bpp, block % bpp * blockSize, uint32(g.BlockLen(block))}
}
