package swarm

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
)

// part is a run of up to 16 blocks of one piece: what is lent as one buffer, asked of one peer (or of more,
// when that one is slow) and verified by one Sink.Done. Blocks are received by readers directly into the
// buffer; mu decides which reader may write where, so that a buffer is never written by two, nor after it
// has been given back.
type part struct {
	// Constant.
	f     *flight
	run   blob.Run
	piece uint32

	// Owned by the loop.
	asks    []ask
	state   partState
	counted bool      // the flight knows that it was placed
	refused []*peer   // rejected it, or sent wrong bytes for it: not to be asked again
	after   time.Time // it is not asked before

	last atomic.Int64 // when a block came last, unix ns

	mu      sync.Mutex // guards what follows
	settled sync.Cond  // a reader let go of a block, or Done returned
	phase   phase
	buf     []byte
	blocks  [blob.MaxBuffer]struct {
		state blockState
		from  *peer // who sends, or sent it
		since time.Time
	}
	revoked uint32 // bit i: the reader that receives block i must let go of it
	missing int    // blocks that have not been received
}

// ask is one peer that was asked for what was missing then.
type ask struct {
	p       *peer
	at      time.Time
	planned bool // as the plan says: it may wait at the peer
	spare   bool // of a helper, besides the parent: see help.go
}

// partState says where the loop keeps a part.
type partState uint8

const (
	queued partState = iota // in loop.pending
	asked                   // asked of somebody, or on its way to be verified
	parked                  // waits for its whole piece
	gone                    // verified, or given up
)

type blockState uint8

const (
	absent blockState = iota
	receiving
	received
)

// phase is the life of a part's buffer.
type phase uint8

const (
	filling   phase = iota // blocks are missing
	full                   // waits for leaf hashes or a verifier
	verifying              // Done is running
	returned               // Done has given the buffer back
	closed                 // given up: the flight drops the buffer
)

// stealAfter is how long a block may take from its first byte before another peer's copy takes over.
const stealAfter = 50 * time.Millisecond

func newPart(f *flight, run blob.Run, buf []byte) *part {
	pt := &part{f: f, run: run, piece: f.t.geo.PieceOf(run.First), buf: buf, missing: int(run.Count), refused: f.refused}
	pt.settled.L = &pt.mu
	return pt
}

// wasRefused reports whether a peer is not to be asked for the part again.
func (pt *part) wasRefused(p *peer) bool { return slices.Contains(pt.refused, p) }

// waits reports whether blocks are missing.
func (pt *part) waits() bool {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	return pt.phase == filling
}

// absentBlocks appends the blocks that nobody has sent completely.
func (pt *part) absentBlocks(dst []uint32) []uint32 {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	if pt.phase != filling {
		return dst
	}
	for i := range pt.run.Count {
		if pt.blocks[i].state != received {
			dst = append(dst, pt.run.First+i)
		}
	}
	return dst
}

// silent is how long ago a block came last; very long when none has come.
func (pt *part) silent(at time.Time) time.Duration { return at.Sub(time.Unix(0, pt.last.Load())) }

// stuckAfter is how long receiving a block may take before it counts as stuck: 16 KiB/s.
const stuckAfter = time.Second

// arriving reports whether a block has come since it was seen missing, or is being received.
func (pt *part) arriving(block uint32, at time.Time) bool {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	b := &pt.blocks[block-pt.run.First]
	return pt.phase != filling || b.state == received || b.state == receiving && at.Sub(b.since) < stuckAfter
}

// begin gives the reader of p the memory of a block to receive into. nil: the block is not wanted (any
// more), its payload is to be discarded.
func (pt *part) begin(block uint32, p *peer) []byte {
	i := block - pt.run.First
	pt.mu.Lock()
	defer pt.mu.Unlock()
	b := &pt.blocks[i]
	if pt.phase == filling && b.state == receiving && now().Sub(b.since) > stealAfter {
		pt.revoke(i)
	}
	if pt.phase != filling || b.state != absent {
		return nil
	}
	b.state, b.from, b.since = receiving, p, now()
	off := int(i) * blockSize
	return pt.buf[off:min(off+blockSize, len(pt.buf))]
}

// revoke takes a block away from the reader that receives it and waits until it has let go, which takes it
// no longer than a wake-up. mu is held.
func (pt *part) revoke(i uint32) {
	for pt.blocks[i].state == receiving {
		pt.revoked |= 1 << i
		pt.blocks[i].from.interrupt()
		pt.settled.Wait()
	}
}

// release is called by the reader of a block when receiving was interrupted: it reports whether the block
// is still its own. When the block was revoked, or with give because the connection failed, the reader has
// let go of it and must not write to it again.
func (pt *part) release(block uint32, give bool) (mine bool) {
	i := block - pt.run.First
	pt.mu.Lock()
	defer pt.mu.Unlock()
	if !give && pt.revoked>>i&1 == 0 {
		return true
	}
	pt.revoked &^= 1 << i
	pt.blocks[i].state = absent
	pt.settled.Broadcast()
	return false
}

// finish is called by the reader when a block is complete. It reports whether that was the last one.
func (pt *part) finish(block uint32) (last bool) {
	i := block - pt.run.First
	pt.mu.Lock()
	defer pt.mu.Unlock()
	pt.blocks[i].state = received
	pt.revoked &^= 1 << i
	pt.missing--
	pt.last.Store(now().UnixNano())
	pt.settled.Broadcast()
	if pt.missing > 0 || pt.phase != filling {
		return false
	}
	pt.phase = full
	return true
}

// close gives the part up. When it returns no reader writes to the buffer any more; lent says that the
// buffer is still out and must be dropped.
func (pt *part) close() (lent bool) {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	for pt.phase == verifying {
		pt.settled.Wait()
	}
	if pt.phase == returned || pt.phase == closed {
		return false
	}
	pt.phase = closed
	for i := range pt.run.Count {
		pt.revoke(i)
	}
	pt.buf = nil
	return true
}

// complete is called by whoever received the last block: the part is verified here, or by a verifier, or
// when the leaf hashes of its piece have come.
func (pt *part) complete() {
	if pt.f.whole == nil && pt.f.t.board.await(pt) {
		return
	}
	pt.submit()
}

// submit verifies a full part whose leaves are known: at once when that is cheap or somebody waits.
func (pt *part) submit() {
	if pt.run.Count <= 2 || pt.f.class <= blob.Read {
		pt.verify()
		return
	}
	pt.f.t.node.verifier.queue <- pt
}

// verify gives the full buffer to the sink and reports what came of it.
func (pt *part) verify() {
	pt.mu.Lock()
	if pt.phase != full {
		pt.mu.Unlock()
		return
	}
	pt.phase = verifying
	senders := pt.senders()
	if pt.f.whole != nil {
		pt.f.whole.sent(pt)
	}
	pt.mu.Unlock()

	if len(senders) > 1 && pt.f.whole == nil {
		if bad := pt.compare(); len(bad) > 0 {
			pt.reopen(bad)
			return
		}
	}
	err := pt.f.sink.Done(pt.run)

	pt.mu.Lock()
	pt.phase, pt.buf = returned, nil
	pt.settled.Broadcast()
	pt.mu.Unlock()

	v := verdict{part: pt, err: err}
	if errors.Is(err, blob.ErrCorrupt) {
		v.culprits = senders
	} else {
		pt.f.settle(pt, err)
	}
	pt.f.t.post(v)
}

// senders are the peers that sent blocks of the part. mu is held.
func (pt *part) senders() (ps []*peer) {
	for i := range pt.run.Count {
		if p := pt.blocks[i].from; p != nil && !slices.Contains(ps, p) {
			ps = append(ps, p)
		}
	}
	return ps
}

// compare finds the blocks of a part from several senders that do not match their leaf, so that the right
// one is blamed: Done only says that something in the run is wrong.
func (pt *part) compare() (bad []uint32) {
	leaves, ok := pt.f.t.cfg.Store.Leaves(pt.piece)
	if !ok {
		return nil
	}
	first := pt.f.t.geo.PieceBlocks(pt.piece).First
	var sums [blob.MaxBuffer]blob.Hash
	blob.Leaves(sums[:], pt.buf)
	for i := range pt.run.Count {
		if sums[i] != leaves[pt.run.First+i-first] {
			bad = append(bad, i)
		}
	}
	return bad
}

// reopen makes blocks absent again and blames who sent them.
func (pt *part) reopen(bad []uint32) {
	v := verdict{part: pt, err: blob.ErrCorrupt, reopened: true}
	pt.mu.Lock()
	for _, i := range bad {
		v.culprits = append(v.culprits, pt.blocks[i].from)
		pt.blocks[i].state, pt.blocks[i].from = absent, nil
	}
	pt.missing = len(bad)
	pt.phase = filling
	pt.settled.Broadcast()
	pt.mu.Unlock()
	pt.f.t.post(v)
}
