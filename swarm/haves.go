package swarm

import (
	"fmt"
	"math/bits"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// HAVE of BEP 3 tells of whole pieces. Peers of ours also tell each other which blocks they hold of pieces that
// are not whole yet: a snapshot when they meet, and then, every so often, what has come since.

// holdings are blocks by piece: bit i of the words is the i-th block of the piece.
type holdings map[uint32][]uint64

// add notes the blocks of a run, which lies in one piece.
func (h holdings) add(piece, bpp uint32, r blob.Run) (fresh bool) {
	words := h[piece]
	if words == nil {
		words = make([]uint64, (bpp+63)/64)
		h[piece] = words
	}
	for i := r.First - piece*bpp; i < r.End()-piece*bpp; i++ {
		if words[i/64]>>(i%64)&1 == 0 {
			words[i/64] |= 1 << (i % 64)
			fresh = true
		}
	}
	return fresh
}

// has reports whether all blocks of a run, which lies in one piece, are there.
func (h holdings) has(piece, bpp uint32, r blob.Run) bool {
	words := h[piece]
	if words == nil {
		return false
	}
	for i := r.First - piece*bpp; i < r.End()-piece*bpp; i++ {
		if words[i/64]>>(i%64)&1 == 0 {
			return false
		}
	}
	return true
}

// runs appends the blocks of a piece as runs.
func (h holdings) runs(dst []blob.Run, piece, bpp uint32) []blob.Run {
	for w, word := range h[piece] {
		for word != 0 {
			from := uint32(bits.TrailingZeros64(word))
			n := uint32(bits.TrailingZeros64(^(word >> from)))
			dst = appendRun(dst, blob.Run{First: piece*bpp + uint32(w)*64 + from, Count: n})
			if from+n == 64 {
				break
			}
			word &^= 1<<(from+n) - 1
		}
	}
	return dst
}

// appendRun appends a run, or makes the last one longer.
func appendRun(dst []blob.Run, r blob.Run) []blob.Run {
	if n := len(dst); n > 0 && dst[n-1].End() == r.First {
		dst[n-1].Count += r.Count
		return dst
	}
	return append(dst, r)
}

// tellEvery is how often peers of ours are told of blocks. At 40 Mbit/s it is the time of 15 blocks, so a message
// of 15 bytes speaks of some; a reader that is blocked on a block hears of it soon enough to ask for it.
const tellEvery = 50 * time.Millisecond

// To more than tellPeers peers of ours news go less often, but every tellSlowest at least: who tells a hundred peers of
// each block has no time for anything else. 160 messages per second, each of which wakes somebody up, cost both
// ends together less than one per cent of a processor.
const (
	tellPeers   = 8
	tellSlowest = time.Second
)

// tellPause is the time between two messages with news to the same peer.
func (l *loop) tellPause() time.Duration {
	return min(tellSlowest, tellEvery*time.Duration(max(tellPeers, l.t.own.Load()))/tellPeers)
}

// maxFresh bounds the runs of blocks that peers of ours were not told of; what is beyond it they learn with the
// piece.
const maxFresh = 4096

// telling is what the loop knows of it.
type telling struct {
	held   holdings  // what this node holds of pieces that are not whole; nil: not looked up yet
	due    bool      // blocks have come that were not told
	pieces []uint32  // complete ones that peers of ours were not told
	last   time.Time // when peers were told last
}

// blocksFound is Store.OnBlocks. It runs on whatever goroutine stored them.
func (t *Torrent) blocksFound(r blob.Run) {
	t.lot.arrived(r)
	if t.own.Load() == 0 {
		return
	}
	t.mu.Lock()
	first := len(t.fresh) == 0
	if len(t.fresh) < maxFresh {
		t.fresh = appendRun(t.fresh, r)
	}
	t.mu.Unlock()
	if first {
		t.nudge()
	}
}

// heardBlocks makes the loop tell of blocks soon.
func (l *loop) heardBlocks() {
	l.t.mu.Lock()
	due := len(l.t.fresh) > 0
	l.t.mu.Unlock()
	if due {
		l.tellSoon()
	}
}

func (l *loop) tellSoon() {
	if !l.haves.due {
		l.haves.due, l.rearm = true, true
	}
}

// tellBlocks tells peers of ours which pieces have become complete, and which blocks have come of others.
func (l *loop) tellBlocks(at time.Time) {
	if !l.haves.due || at.Sub(l.haves.last) < l.tellPause() {
		return
	}
	l.haves.due, l.haves.last = false, at
	t, pieces := l.t, l.haves.pieces
	l.haves.pieces = nil
	t.mu.Lock()
	fresh := t.fresh
	t.fresh = nil
	t.mu.Unlock()
	if l.haves.held == nil {
		return // nobody was told anything yet
	}
	var told []blob.Run
	for _, r := range fresh {
		l.perPiece(r, func(piece uint32, part blob.Run) {
			if l.ours.has(piece) || t.cfg.Store.PieceComplete(piece) {
				delete(l.haves.held, piece) // HAVE says it
				return
			}
			for ; !part.Empty(); part = (blob.Run{First: part.First + 1, Count: part.Count - 1}) {
				one := blob.Run{First: part.First, Count: 1}
				if t.cfg.Store.Has(one) && l.haves.held.add(piece, t.geo.bpp, one) {
					told = appendRun(told, one)
				}
			}
		})
	}
	for p := range l.peers {
		if p.known {
			p.tellPieces(pieces)
			p.tellRuns(false, told)
		}
	}
}

// perPiece splits a run at pieces.
func (l *loop) perPiece(r blob.Run, f func(piece uint32, part blob.Run)) {
	for !r.Empty() {
		piece := l.t.geo.PieceOf(r.First)
		n := min(r.Count, (piece+1)*l.t.geo.bpp-r.First)
		f(piece, blob.Run{First: r.First, Count: n})
		r = blob.Run{First: r.First + n, Count: r.Count - n}
	}
}

// tellRuns sends runs of blocks, in as many messages as they need.
func (p *peer) tellRuns(whole bool, runs []blob.Run) {
	for first := true; len(runs) > 0; first = false {
		n := min(len(runs), peerwire.MaxRanges)
		some := runs[:n]
		runs = runs[n:]
		p.out.send(func(b []byte) []byte { return peerwire.AppendRanges(b, p.runsExt(), whole && first, some) })
	}
}

// meet tells a peer that turned out to be one of ours which blocks we hold, and takes it into the plan.
func (l *loop) meet(p *peer) {
	t := l.t
	p.known = true
	t.own.Add(1)
	p.reoffer()
	if l.haves.held == nil {
		l.haves.held = make(holdings)
		for piece := range t.geo.Pieces() {
			if l.ours.has(piece) {
				continue
			}
			run := t.geo.PieceBlocks(piece)
			for b := run.First; b < run.End(); b++ {
				if one := (blob.Run{First: b, Count: 1}); t.cfg.Store.Has(one) {
					l.haves.held.add(piece, t.geo.bpp, one)
				}
			}
		}
	}
	var runs []blob.Run
	for piece := range l.haves.held {
		runs = l.haves.held.runs(runs, piece, t.geo.bpp)
	}
	p.tellRuns(true, runs)
	l.assignSlots(now())
	l.serves(p)
	l.dirty = true
}

// notOurs takes a peer that is gone out of what meet has done.
func (l *loop) notOurs(p *peer) {
	if p.known {
		l.t.own.Add(-1)
	}
	l.unrelated(p)
	l.dropHoldings(p)
}

// holdsCame takes a have message of our extension.
func (p *peer) holdsCame(m peerwire.Message) error {
	if p.chatter++; p.chatter > chatterLimit+2*int(p.t.geo.Pieces()) {
		return p.told(m) // which counts, too
	}
	runs := make([]blob.Run, peerwire.Ranges(m.Data))
	for i := range runs {
		r := peerwire.Range(m.Data, i)
		if r.Empty() || r.End() < r.First || r.End() > p.t.geo.Blocks() {
			return fmt.Errorf("%w: have of blocks %s of %d", blob.ErrInvalid, r, p.t.geo.Blocks())
		}
		runs[i] = r
	}
	p.t.post(peerHolds{p, m.Run.Whole, runs})
	return nil
}

// peerHolds is what a peer of ours tells about blocks.
type peerHolds struct {
	p     *peer
	whole bool
	runs  []blob.Run
}

func (e peerHolds) apply(l *loop) {
	p := e.p
	if p.closing {
		return
	}
	if e.whole {
		l.dropHoldings(p)
	}
	for _, r := range e.runs {
		l.perPiece(r, func(piece uint32, part blob.Run) {
			if p.have.has(piece) || l.ours.has(piece) {
				return
			}
			p.holds.add(piece, l.t.geo.bpp, part)
			if l.t.avail.partial.add(piece, l.t.geo.bpp, part) {
				l.relay.offered = true
			}
		})
	}
	l.dirty = true
}

// dropHoldings forgets what a peer has told about blocks.
func (l *loop) dropHoldings(p *peer) {
	for piece := range p.holds {
		delete(p.holds, piece)
		l.reunite(piece)
	}
}

// reunite works out again which blocks of a piece peers hold.
func (l *loop) reunite(piece uint32) {
	var all []uint64
	for q := range l.peers {
		for i, w := range q.holds[piece] {
			if all == nil {
				all = make([]uint64, len(q.holds[piece]))
			}
			all[i] |= w
		}
	}
	l.t.avail.partial.set(piece, all)
}

// hasPiece notes that a peer has a whole piece.
func (l *loop) hasPiece(p *peer, piece uint32) {
	if _, ok := p.holds[piece]; ok {
		delete(p.holds, piece)
		l.reunite(piece)
	}
	l.progress(p)
}

// haveWhole notes that a peer has told all its pieces.
func (l *loop) haveWhole(p *peer) {
	for piece := range p.holds {
		if p.have.has(piece) {
			delete(p.holds, piece)
			l.reunite(piece)
		}
	}
	p.marks = nil
	l.progress(p)
}

// offersPart reports whether the peer would answer a request for the blocks of a part.
func (p *peer) offersPart(pt *part) bool {
	return p.offers(pt.piece) || p.ours() && p.holds.has(pt.piece, p.t.geo.bpp, pt.run)
}

// chokesBulk reports whether the peer, which is one of ours, would refuse a piece when nobody is blocked on it.
func (p *peer) chokesBulk(piece uint32) bool {
	return p.choking && (p.fastSet == nil || !p.fastSet.has(piece))
}

// choked reports whether somebody has a part nobody is blocked on, but does not serve us at the moment.
func (l *loop) choked(pt *part) bool {
	if pt.f.class <= blob.Read || !l.t.avail.trusted.has(pt.piece) {
		return false
	}
	for p := range l.peers {
		if p.offersPart(pt) && p.chokesBulk(pt.piece) {
			return true
		}
	}
	return false
}

// partial knows which blocks some peer of ours holds of pieces that no peer needs to have. The loop writes it,
// anybody reads it.
type partial struct {
	mu      sync.RWMutex // guards what follows
	blocks  holdings
	trusted set
}

func (a *partial) add(piece, bpp uint32, r blob.Run) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.blocks.add(piece, bpp, r)
}

func (a *partial) set(piece uint32, words []uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if words == nil {
		delete(a.blocks, piece)
	} else {
		a.blocks[piece] = words
	}
}

func (a *partial) trust(piece uint32, yes bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if yes {
		a.trusted.add(piece)
	} else {
		a.trusted.remove(piece)
	}
}

// hasBlocks is has for blocks of pieces that no peer has whole.
func (a *availability) hasBlocks(g *space, r blob.Run) bool {
	a.partial.mu.RLock()
	defer a.partial.mu.RUnlock()
	if len(a.partial.blocks) == 0 {
		return false
	}
	pieces := g.PiecesOf(r)
	for p := pieces.First; p < pieces.End(); p++ {
		part := r.Intersect(blob.Run{First: p * g.bpp, Count: g.bpp})
		if !a.has(blob.Run{First: p, Count: 1}) && !(a.partial.trusted.has(p) && a.partial.blocks.has(p, g.bpp, part)) {
			return false
		}
	}
	return true
}
