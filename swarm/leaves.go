package swarm

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// board knows for which pieces the store has leaf hashes, and keeps the parts that wait for them.
type board struct {
	known []atomic.Uint64 // bit of a piece: the store has its leaves. A hint: the store may forget.

	mu      sync.Mutex // guards what follows
	waiting map[uint32][]*part
}

func newBoard(pieces uint32) *board {
	return &board{known: make([]atomic.Uint64, (pieces+63)/64), waiting: make(map[uint32][]*part)}
}

func (b *board) has(piece uint32) bool { return b.known[piece/64].Load()>>(piece%64)&1 != 0 }

// await keeps a full part until the leaves of its piece are published; false: they are known.
func (b *board) await(pt *part) bool {
	if b.has(pt.piece) {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.has(pt.piece) {
		return false
	}
	b.waiting[pt.piece] = append(b.waiting[pt.piece], pt)
	return true
}

// awaited reports whether a full part waits for the leaves of a piece.
func (b *board) awaited(piece uint32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting[piece]) > 0
}

// forget takes a part that was given up out of those that wait.
func (b *board) forget(pt *part) {
	b.mu.Lock()
	defer b.mu.Unlock()
	parts := slices.DeleteFunc(b.waiting[pt.piece], func(o *part) bool { return o == pt })
	if len(parts) == 0 {
		delete(b.waiting, pt.piece)
	} else {
		b.waiting[pt.piece] = parts
	}
}

// publish says that the store has the leaves of a piece and returns the parts that waited for them, which
// the caller submits.
func (b *board) publish(piece uint32) []*part {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known[piece/64].Or(1 << (piece % 64))
	parts := b.waiting[piece]
	delete(b.waiting, piece)
	return parts
}

// withdraw says that the store no longer has the leaves of a piece.
func (b *board) withdraw(piece uint32) { b.known[piece/64].And(^(uint64(1) << (piece % 64))) }

// drop takes the parts that wait for a piece whose leaves cannot be had.
func (b *board) drop(piece uint32) []*part {
	b.mu.Lock()
	defer b.mu.Unlock()
	parts := b.waiting[piece]
	delete(b.waiting, piece)
	return parts
}

// leafTry is the attempt to get the leaves of one piece from one peer. The loop makes it, the peer's reader
// fills it; nobody else looks inside.
type leafTry struct {
	p      *peer
	piece  uint32
	at     time.Time
	ranges []peerwire.HashRange
	hashes []blob.Hash // of all ranges, in order
	uncles []blob.Hash // of the first range
	left   int         // ranges that have not come
	layer  *layerJob   // it asks for a piece layer; nil: for leaves
}

// newTry decides which hashes to ask for. A piece is a subtree of BlocksPerPiece leaves; the tree of a blob
// of one piece is only as wide as its blocks; BEP 52 asks for at least 2 and at most 512 hashes at a time.
// When the root of the piece is not known a proof up to the root of the blob comes along: 32 bytes per layer.
func (t *Torrent) newTry(p *peer, piece uint32, proof bool) *leafTry {
	f := t.fileOf(piece)
	bpp := f.geo.BlocksPerPiece()
	width := bpp
	if f.geo.Pieces() == 1 {
		width = min(bpp, blob.Width(f.geo.Blocks()))
	}
	width = max(2, width)
	first := (piece - f.first) * bpp &^ (width - 1)
	try := &leafTry{p: p, piece: piece, at: now(), hashes: make([]blob.Hash, width)}
	for at := uint32(0); at < width; at += peerwire.MaxHashes {
		r := peerwire.HashRange{Root: f.name, Index: first + at, Length: min(width-at, peerwire.MaxHashes)}
		if height := f.height(); proof && at == 0 && height > blob.Layer(r.Length) {
			r.Proof = uint32(height - 1)
		}
		try.ranges = append(try.ranges, r)
	}
	try.left = len(try.ranges)
	return try
}

// height is the number of layers above the leaves in the tree of BEP 52.
func (f *file) height() int { return blob.Layer(blob.Width(f.geo.Blocks())) }

// appendTry appends the hash requests of a try, and makes their answers known to the reader.
func (p *peer) appendTry(out []byte, try *leafTry) []byte {
	for _, r := range try.ranges {
		out = peerwire.AppendHashRequest(out, r)
	}
	return out
}

// expectTry makes the answers to a try known to the reader of its peer. It is called before the try is sent.
func (p *peer) expectTry(try *leafTry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range try.ranges {
		p.hashes[r] = append(p.hashes[r], try)
	}
}

// takeTry is the oldest try that waits for an answer about a range; nil: none was asked. Pieces shorter than
// the two blocks that a request covers at least share a range.
func (p *peer) takeTry(r peerwire.HashRange) *leafTry {
	p.mu.Lock()
	defer p.mu.Unlock()
	tries := p.hashes[r]
	if len(tries) == 0 {
		return nil
	}
	if p.hashes[r] = tries[1:]; len(tries) == 1 {
		delete(p.hashes, r)
	}
	return tries[0]
}

// hashesCame takes an answer to a hash request.
func (p *peer) hashesCame(m peerwire.Message) error {
	try := p.takeTry(m.Range)
	if try == nil {
		return fmt.Errorf("%w: hashes that were not asked for", blob.ErrInvalid)
	}
	off := m.Range.Index - try.ranges[0].Index
	n := int(m.Range.Length)
	peerwire.CopyHashes(try.hashes[off:off+m.Range.Length], m.Data[:32*n])
	if rest := m.Data[32*n:]; len(rest) > 0 {
		try.uncles = make([]blob.Hash, len(rest)/32)
		peerwire.CopyHashes(try.uncles, rest)
	}
	if try.left--; try.left > 0 {
		return nil
	}
	if try.layer != nil {
		err := try.layer.f.acceptLayer(try)
		if err == nil {
			p.t.lot.leavesKnown(p.t.layerKey(try.layer.f))
		}
		p.t.post(layerCame{try, err})
		return nil
	}
	folded, err := p.t.acceptLeaves(try)
	if err == nil {
		for _, pt := range p.t.board.publish(try.piece) {
			pt.submit()
		}
		p.t.lot.leavesKnown(try.piece)
	}
	p.t.post(leavesCame{try, folded, err})
	return nil
}

// hashesRejected takes a refusal of a hash request.
func (p *peer) hashesRejected(r peerwire.HashRange) error {
	try := p.takeTry(r)
	if try == nil {
		return fmt.Errorf("%w: reject of hashes that were not asked for", blob.ErrInvalid)
	}
	if try.layer != nil {
		p.t.post(layerCame{try, errRejected})
		return nil
	}
	p.t.post(leavesCame{try, blob.Hash{}, errRejected})
	return nil
}

// errRejected: the peer does not have, or does not give, the hashes.
var errRejected = errors.New("hash request rejected")

// acceptLeaves checks the hashes of a complete try and stores them. It returns what they fold to, for the
// log and the jury. ErrCorrupt: they do not lead to the root.
func (t *Torrent) acceptLeaves(try *leafTry) (blob.Hash, error) {
	f := t.fileOf(try.piece)
	run := f.geo.PieceBlocks(try.piece - f.first)
	first := run.First - try.ranges[0].Index
	leaves := try.hashes[first : first+run.Count]
	folded := f.geo.PieceRoot(leaves)
	if t.proving(try.piece) || try.ranges[0].Proof > 0 {
		if err := f.prove(try, folded); err != nil {
			return folded, err
		}
	}
	if err := f.store.SetLeaves(try.piece-f.first, leaves); err != nil {
		return folded, fmt.Errorf("leaves of piece %d: %w", try.piece, err)
	}
	return folded, nil
}

// proving reports whether the root of a piece must be proven, because only the root of the blob is known.
func (t *Torrent) proving(piece uint32) bool {
	if t.fileOf(piece).root.IsZero() {
		return false
	}
	_, trust := t.cfg.Store.Root(piece)
	return trust < blob.Direct
}

// prove climbs from the hashes of a try through its uncles to the root of the blob, and pins the root of the
// piece.
func (f *file) prove(try *leafTry, folded blob.Hash) error {
	uncles := try.uncles
	if len(try.ranges) > 1 {
		// The uncles start beside the first range; the other ranges make up the lowest of them.
		below := blob.Layer(uint32(len(try.ranges)))
		uncles = uncles[min(below, len(uncles)):]
	}
	root, err := blob.ProofRoot(try.hashes, try.ranges[0].Index, uncles)
	if err != nil {
		return err
	}
	if root != f.root {
		return fmt.Errorf("%w: hashes of piece %d lead to root %s instead of %s", blob.ErrCorrupt, try.piece, root, f.root)
	}
	if err := f.store.SetRoot(try.piece-f.first, folded, blob.Pinned); err != nil {
		return fmt.Errorf("root of piece %d is proven and contradicts this machine: %w", try.piece, errors.Join(blob.ErrChanged, err))
	}
	return nil
}

// adoptTrivialLeaves stores the leaves that follow from roots alone: a blob of one block is its own tree.
func (f *file) adoptTrivialLeaves() {
	if f.geo.Blocks() != 1 || f.root.IsZero() {
		return
	}
	leaf := []blob.Hash{f.root}
	if err := f.store.SetRoot(0, f.geo.PieceRoot(leaf), blob.Pinned); err != nil {
		f.t.log.Warn("root of the torrent contradicts this machine", "err", err)
		return
	}
	if err := f.store.SetLeaves(0, leaf); err != nil {
		f.t.log.Warn("leaf of the torrent", "err", err)
	}
}
