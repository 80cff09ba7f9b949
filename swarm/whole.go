package swarm

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
)

// A piece whose leaf hashes nobody gives (v1 peers have none, and some v2 peers reject hash requests) can be
// verified as a whole only, by its SHA-1 sum (BEP 3) or its root in the piece layer (BEP 52). It is collected in
// memory of the torrent's own, so that parts with memory of a sink never wait for others of their kind to get
// some. When it verifies its leaves are known, and trusted, for good: it is handed to the store, and whatever
// else is asked of it is an ordinary part again.

const (
	// maxWhole bounds the memory of all assemblies of a torrent. It is that of the largest pieces that are made
	// in earnest (16 MiB), twice, so that one can be received while another is hashed and written.
	maxWhole = 32 << 20
	// wholeAhead is how far a call's next pieces are collected at the same time, so that no round trip passes
	// between one and the next: what 1 Gbit/s brings in 64 ms.
	wholeAhead = 8 << 20
	// keepWhole is how long a verified piece stays in memory for the rest of the call that wanted it, and
	// storeWhole when that has come, so that what is left is for the store.
	keepWhole  = 5 * time.Second
	storeWhole = 200 * time.Millisecond
)

// assembly is one piece that is collected whole. The loop owns it, but for what a try fills in.
type assembly struct {
	t     *Torrent
	piece uint32
	run   blob.Run
	class blob.Class

	waiting []*part // to be filled from it
	state   wholeState
	at      time.Time // when it verified, or was of use last
	stored  bool      // the store has all of it, or cannot keep it
	refused []*peer   // sent it wrong, or could not send it alone
	only    *peer     // the one peer that this try asks; nil: all
	suspect *attempt  // the first try that did not verify and had several senders

	// Of the current try. Parts write to places of their own.
	buf []byte
	attempt
}

// attempt is what one try received: the leaf of each block, and who sent it.
type attempt struct {
	sums []blob.Hash
	from []*peer
}

type wholeState uint8

const (
	waitsForMemory wholeState = iota
	gathering
	verified
)

var _ blob.Sink = (*assembly)(nil)

// bytes is where the blocks of a run lie in buf.
func (a *assembly) bytes(r blob.Run) []byte {
	off := int(r.First-a.run.First) * blockSize
	return a.buf[off:min(off+int(r.Count)*blockSize, len(a.buf))]
}

// Buffer never waits.
func (a *assembly) Buffer(_ context.Context, r blob.Run) ([]byte, error) { return a.bytes(r), nil }

// Done takes the leaves; what they are worth is seen when all are there.
func (a *assembly) Done(r blob.Run) error {
	blob.Leaves(a.sums[r.First-a.run.First:], a.bytes(r))
	return nil
}

// Drop has nothing to give back.
func (a *assembly) Drop(blob.Run) {}

// sent notes who sent the blocks of a part.
func (a *assembly) sent(pt *part) {
	for i := range pt.run.Count {
		a.from[pt.run.First-a.run.First+i] = pt.blocks[i].from
	}
}

// wholesome reports whether a piece can be verified once all of it is there.
func (t *Torrent) wholesome(piece uint32) bool {
	if t.geo.PieceBlocks(piece).Count*blockSize > maxWhole {
		return false
	}
	f := t.fileOf(piece)
	_, trust := t.cfg.Store.Root(piece)
	return trust > blob.Claimed || t.cfg.V1 != nil || !f.root.IsZero() && f.geo.Pieces() == 1
}

// mustGather reports whether a part can only be had by collecting its whole piece.
func (l *loop) mustGather(pt *part) bool {
	if pt.f.whole != nil {
		return false
	}
	if len(l.wholes) > 0 && l.wholes[pt.piece] != nil {
		return true
	}
	if l.t.cfg.V1 == nil && !l.stingy {
		return false // hashes are asked for first: see failJob
	}
	if l.t.board.has(pt.piece) || l.jobs[pt.piece] != nil || l.knownLeaves(pt.piece) {
		return false
	}
	for p := range l.peers {
		if p.v2 && !p.closing && p.rejects < maxDeaf && p.have.has(pt.piece) {
			return false
		}
	}
	return l.t.wholesome(pt.piece)
}

// gather lets a part wait for its whole piece, and begins with it and with those that its call wants next.
func (l *loop) gather(pt *part) {
	pt.state = parked
	delete(l.active, pt)
	a := l.whole(pt.piece, pt.f.class)
	if a.state == verified {
		a.at = now()
		l.fill(a, pt)
		return
	}
	a.waiting = append(a.waiting, pt)
	a.class = min(a.class, pt.f.class)
	last := l.t.geo.PieceOf(pt.f.run.End() - 1)
	ahead := uint32(max(1, wholeAhead/l.t.geo.PieceLength))
	for p := pt.piece + 1; p <= min(last, pt.piece+ahead); p++ {
		if l.wholes[p] == nil && !l.t.board.has(p) && !l.knownLeaves(p) && l.t.wholesome(p) {
			l.whole(p, pt.f.class)
		}
	}
	l.startWholes()
}

// whole is the assembly of a piece; it is begun by startWholes.
func (l *loop) whole(piece uint32, c blob.Class) *assembly {
	a := l.wholes[piece]
	if a == nil {
		a = &assembly{t: l.t, piece: piece, run: l.t.geo.PieceBlocks(piece), class: c}
		l.wholes[piece] = a
		l.wholeQueue = append(l.wholeQueue, a)
	}
	return a
}

// startWholes begins assemblies, most urgent class first, as far as memory goes; verified ones make room.
func (l *loop) startWholes() {
	slices.SortStableFunc(l.wholeQueue, func(a, b *assembly) int { return int(a.class) - int(b.class) })
	for len(l.wholeQueue) > 0 {
		a := l.wholeQueue[0]
		n := l.t.geo.pieceLen(a.piece)
		for l.wholeBytes+n > maxWhole {
			if !l.dropOldest() {
				return
			}
		}
		l.wholeQueue = l.wholeQueue[1:]
		l.wholeBytes += n
		a.buf = make([]byte, n)
		l.try1(a)
	}
}

// dropWholes gives verified pieces that are of no more use to the store, and frees their memory.
func (l *loop) dropWholes(at time.Time) {
	for _, a := range l.wholes {
		idle := at.Sub(a.at)
		if a.state == verified && idle > storeWhole {
			a.store()
		}
		if a.state == verified && idle > keepWhole {
			l.dropWhole(a)
		}
	}
}

// dropOldest drops the verified piece that has not been of use for longest. false: there is none.
func (l *loop) dropOldest() bool {
	var oldest *assembly
	for _, a := range l.wholes {
		if a.state == verified && (oldest == nil || a.at.Before(oldest.at)) {
			oldest = a
		}
	}
	if oldest == nil {
		return false
	}
	l.dropWhole(oldest)
	return true
}

func (l *loop) dropWhole(a *assembly) {
	a.store()
	l.wholeBytes -= int64(len(a.buf))
	delete(l.wholes, a.piece)
}

// store lets the store keep what nobody has asked for of a verified piece. Writing is not the loop's work.
func (a *assembly) store() {
	if a.stored {
		return
	}
	a.stored = true
	a.t.wg.Go(a.keep)
}

func (a *assembly) keep() {
	f := a.t.fileOf(a.piece)
	if err := f.keep(a.piece-f.first, a.buf); err != nil {
		a.t.log.Debug("verified piece not kept", "piece", a.piece, "err", err)
	}
}

// try1 asks for all blocks of a piece, of a.only or of anybody.
func (l *loop) try1(a *assembly) {
	a.state = gathering
	a.attempt = attempt{make([]blob.Hash, a.run.Count), make([]*peer, a.run.Count)}
	t, class := l.t, a.class
	t.wg.Go(func() {
		err := t.fly(&flight{
			t: t, ctx: blob.WithClass(t.ctx, class), sink: a, class: class, run: a.run, whole: a,
			only: a.only, refused: slices.Clone(a.refused),
		})
		if err == nil {
			err = a.verify()
		}
		t.post(gathered{a, err})
	})
}

// verify compares a piece that is there with what vouches for it, and lets the store know its leaves.
func (a *assembly) verify() error {
	t := a.t
	f := t.fileOf(a.piece)
	root, trust := t.cfg.Store.Root(a.piece)
	var fits bool
	switch v1 := t.cfg.V1; {
	case trust > blob.Claimed:
		fits = f.geo.PieceRoot(a.sums) == root
	case !f.root.IsZero() && f.geo.Pieces() == 1:
		fits = f.geo.RootOfLeaves(a.sums) == f.root
	case v1 != nil:
		sum := sha1.New()
		sum.Write(a.buf)
		for pad := t.geo.wireLen(a.piece) - int64(len(a.buf)); pad > 0; pad -= blockSize {
			sum.Write(zeros[:min(pad, blockSize)])
		}
		fits = [20]byte(sum.Sum(nil)) == v1.Sums[a.piece]
	}
	if !fits {
		return fmt.Errorf("%w: piece %d does not match its hash", blob.ErrCorrupt, a.piece)
	}
	if err := f.vouch(a.piece-f.first, a.sums); err != nil {
		// The two halves of a hybrid torrent contradict each other, or a restart found another root.
		return fmt.Errorf("piece %d matches its hash and contradicts this machine: %w", a.piece, errors.Join(blob.ErrChanged, err))
	}
	return nil
}

// vouch tells the store that the leaves of a piece are right.
func (f *file) vouch(p uint32, leaves []blob.Hash) error {
	parts := f.parts(p)
	for i := parts.First; i < parts.End(); i++ {
		n := f.geo.PieceBlocks(i).Count
		if err := f.store.SetRoot(i, f.geo.PieceRoot(leaves[:n]), blob.Pinned); err != nil {
			return err
		}
		if err := f.store.SetLeaves(i, leaves[:n]); err != nil && !errors.Is(err, blob.ErrNoSpace) {
			return err
		}
		leaves = leaves[n:]
	}
	return nil
}

// keep stores what is absent of a verified piece, where the store takes what it is not waiting for.
func (f *file) keep(p uint32, data []byte) error {
	store, ok := f.store.(interface {
		Put(r blob.Run, data []byte, t blob.Trust) error
	})
	if !ok {
		return nil
	}
	first := p * f.ratio * f.geo.BlocksPerPiece()
	for at := 0; at < len(data); at += blob.MaxBuffer * blockSize {
		part := data[at:min(at+blob.MaxBuffer*blockSize, len(data))]
		r := blob.Run{First: first + uint32(at/blockSize), Count: uint32((len(part) + blockSize - 1) / blockSize)}
		if f.store.Has(r) {
			continue
		}
		if err := store.Put(r, part, blob.Pinned); err != nil {
			return err
		}
	}
	return nil
}

// gathered is the end of one try.
type gathered struct {
	a   *assembly
	err error
}

func (e gathered) apply(l *loop) {
	a := e.a
	l.dirty = true
	switch {
	case e.err == nil:
		a.state, a.at = verified, now()
		l.convict(a)
		l.publish(a.piece)
		for _, pt := range a.waiting {
			l.fill(a, pt)
		}
		a.waiting = nil
		l.startWholes()
		return
	case errors.Is(e.err, blob.ErrCorrupt):
		senders := a.senders()
		if len(senders) == 1 {
			l.strike(senders[0], a.run)
			a.refused = append(a.refused, senders[0])
		} else if a.suspect == nil {
			first := a.attempt
			a.suspect = &first
		}
	case a.only != nil && errors.Is(e.err, blob.ErrUnavailable):
		a.refused = append(a.refused, a.only)
	default:
		l.giveUp(a, e.err)
		return
	}
	// Once more, from one peer alone: either the piece is right then, and shows what was wrong before, or it is
	// clear who sent it.
	if a.only = l.bestForWhole(a); a.only == nil {
		l.giveUp(a, unavailable(a.run, "no connected peer has right bytes"))
		return
	}
	l.try1(a)
}

func (at *attempt) senders() (ps []*peer) {
	for _, p := range at.from {
		if p != nil && !slices.Contains(ps, p) {
			ps = append(ps, p)
		}
	}
	return ps
}

// convict counts it against those who sent a wrong block in the first try of a piece.
func (l *loop) convict(a *assembly) {
	if a.suspect == nil {
		return
	}
	var liars []*peer
	for i, p := range a.suspect.from {
		if a.suspect.sums[i] != a.sums[i] && !slices.Contains(liars, p) {
			liars = append(liars, p)
			l.strike(p, a.run)
		}
	}
	a.suspect = nil
}

// bestForWhole is the peer that would have a piece first, of those that offer it and were not refused.
func (l *loop) bestForWhole(a *assembly) (best *peer) {
	var first time.Duration
	for p := range l.peers {
		if p.closing || !p.offers(a.piece) || slices.Contains(a.refused, p) {
			continue
		}
		if d := p.expect(int(a.run.Count), a.class); best == nil || d < first {
			best, first = p, d
		}
	}
	return best
}

// giveUp fails the calls that need a piece.
func (l *loop) giveUp(a *assembly, err error) {
	l.wholeBytes -= int64(len(a.buf))
	delete(l.wholes, a.piece)
	l.t.board.drop(a.piece)
	for pt := range l.active {
		if pt.piece == a.piece && pt.f.whole == nil {
			a.waiting = append(a.waiting, pt)
		}
	}
	for _, pt := range a.waiting {
		if pt.state != gone {
			l.finish(pt)
			pt.f.fail(err)
		}
	}
	l.startWholes()
}

// fill gives a part its blocks out of a verified piece.
func (l *loop) fill(a *assembly, pt *part) {
	if pt.state == gone {
		return
	}
	if !pt.counted {
		pt.counted = true
		pt.f.placed()
	}
	pt.state = asked
	// Copying, hashing and writing is not the loop's work.
	l.t.wg.Go(func() {
		if pt.take(a.bytes(pt.run)) {
			pt.verify()
		}
	})
}

// take fills the buffer of a part at once. false: it is no longer wanted, or has come in another way.
func (pt *part) take(data []byte) bool {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	if pt.phase != filling {
		return false
	}
	for i := range pt.run.Count {
		pt.revoke(i)
	}
	if pt.phase != filling {
		return false
	}
	copy(pt.buf, data)
	for i := range pt.run.Count {
		pt.blocks[i].state, pt.blocks[i].from = received, nil
	}
	pt.missing, pt.phase = 0, full
	return true
}

// gatherInstead collects a piece whole whose leaves nobody gives. false: it cannot be verified so.
func (l *loop) gatherInstead(piece uint32) bool {
	if !l.t.wholesome(piece) {
		return false
	}
	for pt := range l.active {
		if pt.piece != piece || pt.f.whole != nil || !pt.waits() {
			continue // one that is complete waits on the board
		}
		for _, a := range pt.asks {
			delete(a.p.parts, pt)
			a.p.forget(pt)
		}
		pt.asks = nil
		l.gather(pt)
	}
	l.whole(piece, blob.Read)
	l.startWholes()
	return true
}
