package swarm

import (
	"sync/atomic"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// answerHashes answers a hash request (BEP 52): leaves of pieces whose leaves the store has, or the piece
// layer; with uncles as far as they are known. Everything else is rejected.
func (t *Torrent) answerHashes(p *peer, r peerwire.HashRange) {
	base, uncles, ok := t.lookup(r)
	p.out.send(func(b []byte) []byte {
		if !ok {
			return peerwire.AppendHashReject(b, r)
		}
		return peerwire.AppendHashes(b, r, base, uncles)
	})
}

// hashesAsked answers a hash request of the peer, or, when it is a peer of ours and the leaves may still come,
// lets it wait until they do: blocks that it waits for bring the need of their leaves along, and a reject would
// only be followed by the next request.
func (p *peer) hashesAsked(r peerwire.HashRange) {
	t := p.t
	if piece, ok := t.comingHashes(r); ok && p.ours() {
		if _, _, known := t.lookup(r); !known && t.lot.parkHashes(piece, hashWait{p, r, now().Add(errandDeadline)}) {
			if _, _, known := t.lookup(r); known { // they came in between
				t.lot.leavesKnown(piece)
			}
			return
		}
	}
	t.answerHashes(p, r)
}

// comingHashes says for what a hash request may wait, under which number: the leaves of one piece that is not
// complete, or the piece layer of a file whose root is known.
func (t *Torrent) comingHashes(r peerwire.HashRange) (key uint32, ok bool) {
	f := t.named[r.Root]
	if f == nil || f.ratio > 1 {
		return 0, false
	}
	bpp := f.geo.BlocksPerPiece()
	switch {
	case r.Base == 0 && r.Index < f.geo.Blocks() && r.Length <= max(2, bpp):
		piece := f.first + r.Index/bpp
		return piece, !t.cfg.Store.PieceComplete(piece)
	case r.Base > 0 && r.Base == uint32(blob.Layer(bpp)) && !f.root.IsZero() && !f.store.Complete():
		return t.layerKey(f), true
	}
	return 0, false
}

// lookup finds the hashes of a range, and the uncles above them.
func (t *Torrent) lookup(r peerwire.HashRange) (base, uncles []blob.Hash, ok bool) {
	f := t.named[r.Root]
	if f == nil || f.ratio > 1 {
		return nil, nil, false
	}
	return f.lookup(r)
}

func (f *file) lookup(r peerwire.HashRange) (base, uncles []blob.Hash, ok bool) {
	// Uncles above the root do not exist; libtorrent rejects such a proof too.
	if r.Proof > 0 && int(r.Base+r.Proof) >= max(f.height(), 1) {
		return nil, nil, false
	}
	switch layer := uint32(blob.Layer(f.geo.BlocksPerPiece())); {
	case r.Base == 0:
		return f.lookupLeaves(r)
	case r.Base == layer && f.geo.Pieces() > 1:
		return f.lookupRoots(r)
	}
	return nil, nil, false
}

// lookupLeaves answers from the leaves of one piece, or of the pieces that a range covers entirely.
func (f *file) lookupLeaves(r peerwire.HashRange) (base, uncles []blob.Hash, ok bool) {
	bpp := f.geo.BlocksPerPiece()
	if r.Index >= f.geo.Blocks() {
		return nil, nil, false
	}
	first := r.Index / bpp
	end := min((r.Index+r.Length+bpp-1)/bpp, f.geo.Pieces())
	var row []blob.Hash
	for piece := first; piece < end; piece++ {
		leaves, ok := f.store.Leaves(piece)
		if !ok {
			return nil, nil, false
		}
		row = append(row, leaves...)
	}
	at := r.Index - first*bpp
	base = make([]blob.Hash, r.Length)
	if int(at) < len(row) {
		copy(base, row[at:])
	}
	if r.Uncles() == 0 {
		return base, nil, true
	}
	// Within the piece the uncles follow from its leaves, above it from the piece layer.
	width := max(bpp, r.Length)
	if f.geo.Pieces() == 1 {
		width = max(2, blob.Width(f.geo.Blocks()))
	}
	if r.Length > width {
		return nil, nil, false
	}
	inside := min(r.Uncles(), blob.Layer(width)-blob.Layer(r.Length))
	uncles, err := blob.Prove(row, 0, width, at, r.Length, inside)
	if err != nil {
		return nil, nil, false
	}
	if rest := r.Uncles() - inside; rest > 0 {
		above, ok := f.tree.prove(f, first, width/bpp, rest)
		if !ok {
			return nil, nil, false
		}
		uncles = append(uncles, above...)
	}
	return base, uncles, true
}

// lookupRoots answers from the piece layer.
func (f *file) lookupRoots(r peerwire.HashRange) (base, uncles []blob.Hash, ok bool) {
	n := f.geo.Pieces()
	if r.Index >= n || r.Length > blob.Width(n) {
		return nil, nil, false
	}
	layer := blob.Layer(f.geo.BlocksPerPiece())
	base = make([]blob.Hash, r.Length)
	for i := range base {
		piece := r.Index + uint32(i)
		if piece >= n {
			base[i] = blob.Pad(layer)
			continue
		}
		root, trust := f.store.Root(piece)
		if trust == blob.Unknown {
			return nil, nil, false
		}
		base[i] = root
	}
	if r.Uncles() > 0 {
		if uncles, ok = f.tree.prove(f, r.Index, r.Length, r.Uncles()); !ok {
			return nil, nil, false
		}
	}
	return base, uncles, true
}

// upperTree is the hash tree above the piece layer, built once when all piece roots are known and lead to
// the root under which the torrent is known: 64 bytes per piece.
type upperTree struct {
	rows atomic.Pointer[[][]blob.Hash]
}

// prove returns count uncles above the aligned n nodes at index of the piece layer.
func (u *upperTree) prove(f *file, index, n uint32, count int) ([]blob.Hash, bool) {
	rows := u.rows.Load()
	if rows == nil {
		if rows = buildUpper(f); rows == nil {
			return nil, false
		}
		u.rows.Store(rows)
	}
	layer := blob.Layer(f.geo.BlocksPerPiece())
	k := blob.Layer(n)
	var uncles []blob.Hash
	for at := index / n; count > 0; at, k, count = at/2, k+1, count-1 {
		if k >= len(*rows)-1 {
			return nil, false
		}
		row := (*rows)[k]
		if sibling := at ^ 1; int(sibling) < len(row) {
			uncles = append(uncles, row[sibling])
		} else {
			uncles = append(uncles, blob.Pad(layer+k))
		}
	}
	return uncles, true
}

// buildUpper returns the rows from the piece layer to the root; nil when they are not all known, or lead
// elsewhere.
func buildUpper(f *file) *[][]blob.Hash {
	n := f.geo.Pieces()
	row := make([]blob.Hash, n)
	for i := range row {
		root, trust := f.store.Root(uint32(i))
		if trust == blob.Unknown {
			return nil
		}
		row[i] = root
	}
	rows := [][]blob.Hash{row}
	for layer := blob.Layer(f.geo.BlocksPerPiece()); len(row) > 1; layer++ {
		up := make([]blob.Hash, (len(row)+1)/2)
		for i := range up {
			up[i] = blob.Fold(row[2*i:min(2*i+2, len(row))], layer, 2)
		}
		rows = append(rows, up)
		row = up
	}
	root := row[0]
	if root != f.root && root != f.name {
		return nil
	}
	return &rows
}
