package swarmtest

import (
	"encoding/binary"
	"iter"

	"github.com/pantala/pantala/blob"
)

// local is a node's blob as its tracker session sees it: a [tracker.Store] of pieces without bytes. With a peer as the
// source all nodes know the roots of the pieces, as those of a torrent are known; with an origin they learn them from
// what they read there, and from each other through the tracker.
type local struct {
	n       *node
	pinned  bool // all roots are known
	pieces  []uint64
	direct  []uint64 // was read from the origin
	claimed []uint64 // another node's claim
	told    []func(piece uint32)
}

func (l *local) init(n *node) {
	l.n, l.pinned = n, !n.s.Origin
	words := (n.s.geo.Pieces() + 63) / 64
	l.pieces = make([]uint64, words)
	if !l.pinned {
		l.direct, l.claimed = make([]uint64, words), make([]uint64, words)
	}
}

func bit(b []uint64, i uint32) bool { return b[i/64]>>(i%64)&1 != 0 }

// add notes a piece that is complete.
func (l *local) add(piece uint32) {
	l.pieces[piece/64] |= 1 << (piece % 64)
	for _, f := range l.told {
		f(piece)
	}
}

// Pieces implements [tracker.Store], like all that follows.
func (l *local) Pieces() []uint64 { return l.pieces }

// PieceComplete reports whether a piece is here.
func (l *local) PieceComplete(piece uint32) bool { return bit(l.pieces, piece) }

// OnPiece calls f for every piece; nobody cancels it.
func (l *local) OnPiece(f func(piece uint32)) (cancel func()) {
	l.told = append(l.told, f)
	return func() {}
}

// Root is made up, the same for all nodes.
func (l *local) Root(piece uint32) (h blob.Hash, t blob.Trust) {
	switch {
	case l.pinned:
		t = blob.Pinned
	case bit(l.direct, piece):
		t = blob.Direct
	case bit(l.claimed, piece):
		t = blob.Claimed
	default:
		return h, blob.Unknown
	}
	binary.BigEndian.PutUint32(h[:], piece+1)
	return h, t
}

// Roots yields those of at least a trust.
func (l *local) Roots(least blob.Trust) iter.Seq2[uint32, blob.Hash] {
	return func(yield func(uint32, blob.Hash) bool) {
		for i := range l.n.s.geo.Pieces() {
			if h, t := l.Root(i); t >= max(least, blob.Claimed) && !yield(i, h) {
				return
			}
		}
	}
}

// SetRoot notes a claim.
func (l *local) SetRoot(piece uint32, root blob.Hash, _ blob.Trust) error {
	if !l.pinned {
		l.claimed[piece/64] |= 1 << (piece % 64)
	}
	return nil
}

// DropClaim forgets one.
func (l *local) DropClaim(piece uint32) {
	if !l.pinned {
		l.claimed[piece/64] &^= 1 << (piece % 64)
	}
}
