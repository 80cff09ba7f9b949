package blockio

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// Root is the root of piece p and who vouches for it; Unknown when it is not known.
func (b *Blob) Root(p uint32) (blob.Hash, blob.Trust) {
	b.rootsMu.RLock()
	defer b.rootsMu.RUnlock()
	r := b.roots[p]
	return r.hash, r.trust
}

// Roots iterates over the pieces whose roots are trusted at least min, in order, as they were at the start.
func (b *Blob) Roots(min blob.Trust) iter.Seq2[uint32, blob.Hash] {
	return func(yield func(uint32, blob.Hash) bool) {
		b.rootsMu.RLock()
		all := maps.Clone(b.roots)
		b.rootsMu.RUnlock()
		for _, p := range slices.Sorted(maps.Keys(all)) {
			if r := all[p]; r.trust >= min && !yield(p, r.hash) {
				return
			}
		}
	}
}

// Disputed lists, in order, the pieces for which a claim was dropped. They take no Claimed root again.
func (b *Blob) Disputed() []uint32 {
	b.rootsMu.RLock()
	defer b.rootsMu.RUnlock()
	return slices.Sorted(maps.Keys(b.disputed))
}

// SetRoot records that t vouches for h as the root of piece p, in the form of [blob.Geometry.PieceRoot]. The
// higher trust is kept. A root of higher trust replaces a lower one that differs, together with the blocks
// that hung on it; one of equal or lower trust that differs, and any Claimed root of a disputed piece, is
// refused with blob.ErrCorrupt.
func (b *Blob) SetRoot(p uint32, h blob.Hash, t blob.Trust) error {
	if p >= b.geo.Pieces() || t == blob.Unknown || t > blob.Built {
		return fmt.Errorf("%w: a root of trust %v for piece %d of %s, which has %d", blob.ErrInvalid, t, p, b.id, b.geo.Pieces())
	}
	if err := b.enter(); err != nil {
		return err
	}
	defer b.life.RUnlock()
	run := b.geo.PieceBlocks(p)
	b.claims.claim(run)
	defer b.claims.release(run)

	b.rootsMu.RLock()
	old, disputed := b.roots[p], b.disputed[p]
	b.rootsMu.RUnlock()
	switch {
	case old.trust != blob.Unknown && old.hash == h:
		if old.trust >= t {
			return nil
		}
	case old.trust >= t:
		return fmt.Errorf("%w: piece %d of %s has the %v root %s, this %v one says %s", blob.ErrCorrupt, p, b.id, old.trust, old.hash, t, h)
	case disputed && t == blob.Claimed:
		return fmt.Errorf("%w: the claims about piece %d of %s are disputed: read it from the origin", blob.ErrCorrupt, p, b.id)
	case old.trust != blob.Unknown:
		// Direct bytes under a claim may be right; under a root computed from them they are disproved.
		if err := b.dropPiece(p, old.trust > blob.Claimed, old.trust == blob.Claimed); err != nil {
			return err
		}
	}
	return b.vouch(p, run, root{h, t})
}

// vouch stores a root. If all leaves are known and it is their root, they are as good as it is. The piece is
// claimed.
func (b *Blob) vouch(p uint32, run blob.Run, r root) error {
	recs := appendRecord(nil, b.seed, record{kind: kindRoot, arg: uint8(r.trust), a: p, hash: r.hash})
	firm := r.trust > blob.Claimed && b.leaf.has(run) && !b.firm.has(run)
	if firm {
		leaves, err := b.leavesOf(run)
		if err != nil {
			return err
		}
		if firm = b.geo.PieceRoot(leaves) == r.hash; firm {
			recs = appendRecord(recs, b.seed, record{kind: kindFirm, a: run.First, b: run.Count})
		}
	}
	b.rootsMu.Lock()
	b.roots[p] = r
	b.rootsMu.Unlock()
	if firm {
		b.firm.set(run)
	}
	if err := b.append(recs); err != nil {
		// The root stays for this run of the program; after a restart it is asked for or computed again.
		b.store.log.Warn("cache: cannot log a root", "blob", b.id, "piece", p, "err", err)
	}
	return nil
}

// computeRoot gives a piece that has just become complete its root when all its bytes were read directly. It
// is false when somebody more trusted than direct bytes says that the root is another. At least one block of
// the piece is claimed.
func (b *Blob) computeRoot(p uint32) bool {
	run := b.geo.PieceBlocks(p)
	if !b.firm.has(run) {
		return true // the leaves were checked against a root that is known
	}
	b.rootsMu.RLock()
	old := b.roots[p]
	b.rootsMu.RUnlock()
	leaves, err := b.leavesOf(run)
	if err != nil {
		b.store.log.Warn("cache: cannot compute a root", "blob", b.id, "piece", p, "err", err)
		return old.trust <= blob.Direct
	}
	now := root{b.geo.PieceRoot(leaves), blob.Direct}
	if old.trust >= blob.Direct {
		return old.hash == now.hash
	}
	var recs []byte
	b.rootsMu.Lock()
	if old.trust == blob.Claimed && old.hash != now.hash {
		b.disputed[p] = true
		recs = appendRecord(recs, b.seed, record{kind: kindUnroot, arg: flagDisputed, a: p})
	}
	b.roots[p] = now
	b.rootsMu.Unlock()
	recs = appendRecord(recs, b.seed, record{kind: kindRoot, arg: uint8(now.trust), a: p, hash: now.hash})
	if err := b.append(recs); err != nil {
		b.store.log.Warn("cache: cannot log a root", "blob", b.id, "piece", p, "err", err) // computed again at the next open
	}
	return true
}

// dropWrong forgets all blocks of pieces that do not fold to a root more trusted than they are.
func (b *Blob) dropWrong(pieces []uint32) error {
	var err error
	for _, p := range pieces {
		run := b.geo.PieceBlocks(p)
		b.claims.claim(run)
		if b.left[p].Load() == 0 && !b.pieces.get(p) {
			var drop []blob.Run
			b.leaf.runs(run, true, func(r blob.Run) bool {
				drop = append(drop, r)
				return true
			})
			if e := b.dropBlocks(drop); e != nil {
				b.store.log.Error("cache: dropping a wrong piece", "blob", b.id, "piece", p, "err", e)
			}
			h, t := b.Root(p)
			err = fmt.Errorf("%w: piece %d of %s does not fold to its %v root %s", blob.ErrChanged, p, b.id, t, h)
		}
		b.claims.release(run)
	}
	return err
}

// leavesOf reads the leaves of a run.
func (b *Blob) leavesOf(r blob.Run) ([]blob.Hash, error) {
	out := make([]blob.Hash, r.Count)
	return out, b.readLeaves(r, out, make([]byte, int(r.Count)*32))
}

// Leaves returns the leaves of all blocks of piece p, false unless every one of them is known.
func (b *Blob) Leaves(p uint32) ([]blob.Hash, bool) {
	if p >= b.geo.Pieces() {
		return nil, false
	}
	if b.enter() != nil {
		return nil, false
	}
	defer b.life.RUnlock()
	run := b.geo.PieceBlocks(p)
	if !b.leaf.has(run) {
		return nil, false
	}
	leaves, err := b.leavesOf(run)
	return leaves, err == nil && b.leaf.has(run) // has again: they may just have been dropped
}

// SetLeaves records the leaves of piece p, so that blocks from peers can be checked. They must fold to its
// root: else blob.ErrCorrupt; blob.ErrAbsent when no root is known. There are as many as the piece has
// blocks, or BlocksPerPiece with zero hashes behind.
func (b *Blob) SetLeaves(p uint32, leaves []blob.Hash) error {
	if p >= b.geo.Pieces() {
		return fmt.Errorf("%w: leaves of piece %d of %s, which has %d", blob.ErrInvalid, p, b.id, b.geo.Pieces())
	}
	if err := b.enter(); err != nil {
		return err
	}
	defer b.life.RUnlock()
	run := b.geo.PieceBlocks(p)
	b.claims.claim(run)
	defer b.claims.release(run)
	b.rootsMu.RLock()
	r := b.roots[p]
	b.rootsMu.RUnlock()
	if r.trust == blob.Unknown {
		return fmt.Errorf("%w: the root of piece %d of %s, to check its leaves against", blob.ErrAbsent, p, b.id)
	}
	n := uint32(len(leaves))
	if n < run.Count || n > b.geo.BlocksPerPiece() || b.geo.PieceRoot(leaves) != r.hash {
		return fmt.Errorf("%w: %d leaves of piece %d of %s do not fold to its root %s", blob.ErrCorrupt, n, p, b.id, r.hash)
	}
	for _, pad := range leaves[run.Count:] {
		if !pad.IsZero() {
			return fmt.Errorf("%w: leaves of piece %d of %s beyond its end", blob.ErrCorrupt, p, b.id)
		}
	}
	return b.learn(p, run, leaves[:run.Count], r.trust)
}

// learn stores leaves that fold to the piece's root. Known ones that differ are either direct bytes, which
// disprove a claim, or claims and direct bytes that a better root disproves. The piece is claimed.
func (b *Blob) learn(p uint32, run blob.Run, leaves []blob.Hash, t blob.Trust) error {
	if b.leaf.any(run) {
		known, err := b.leavesOf(run)
		if err != nil {
			return err
		}
		var wrong []blob.Run
		if b.leaf.has(run) && slices.Equal(known, leaves) && (t == blob.Claimed || b.firm.has(run)) {
			return nil
		}
		for i := range known {
			block := blob.Run{First: run.First + uint32(i), Count: 1}
			if !b.leaf.has(block) || known[i] == leaves[i] {
				continue
			}
			if t == blob.Claimed {
				err := fmt.Errorf("%w: the claimed leaf of block %d of %s contradicts what was read from the origin", blob.ErrCorrupt, block.First, b.id)
				if e := b.dropPiece(p, false, true); e != nil {
					return e
				}
				return err
			}
			wrong = append(wrong, block)
		}
		if err := b.dropBlocks(wrong); err != nil {
			return err
		}
	}
	raw := make([]byte, 0, len(leaves)*32)
	for i := range leaves {
		raw = append(raw, leaves[i][:]...)
	}
	if _, err := b.leaves.WriteAt(raw, int64(run.First)*32); err != nil {
		return b.keepErr(run, err)
	}
	var arg uint8
	if t > blob.Claimed {
		arg = flagFirm
	}
	if err := b.append(appendRecord(nil, b.seed, record{kind: kindLeaves, arg: arg, a: run.First, b: run.Count})); err != nil {
		return b.keepErr(run, err)
	}
	b.leaf.set(run)
	if t > blob.Claimed {
		b.firm.set(run)
	}
	return nil
}

// DropClaim forgets the Claimed root of piece p, its leaves and the blocks that were believed because of it,
// and takes no Claimed root for the piece again. What was read directly stays. A piece that has no Claimed
// root is only marked.
func (b *Blob) DropClaim(p uint32) {
	if p >= b.geo.Pieces() || b.enter() != nil {
		return
	}
	defer b.life.RUnlock()
	if err := b.dispute(p); err != nil {
		b.store.log.Error("cache: dropping a disputed piece", "blob", b.id, "piece", p, "err", err)
	}
}

// dispute is DropClaim with b.life held.
func (b *Blob) dispute(p uint32) error {
	run := b.geo.PieceBlocks(p)
	b.claims.claim(run)
	defer b.claims.release(run)
	return b.dropPiece(p, false, true)
}

// dropPiece forgets a Claimed root and what hangs on it; with all, a root of any trust and every block.
// disputed says whether further claims are refused. The piece is claimed.
func (b *Blob) dropPiece(p uint32, all, disputed bool) error {
	b.rootsMu.Lock()
	if disputed {
		b.disputed[p] = true
	}
	forget := b.roots[p].trust == blob.Claimed || all
	if forget {
		delete(b.roots, p)
	}
	b.rootsMu.Unlock()
	var arg uint8
	if disputed {
		arg = flagDisputed
	}
	var recs []byte
	if forget {
		recs = appendRecord(recs, b.seed, record{kind: kindUnroot, arg: arg, a: p})
	} else if !disputed {
		return nil
	}
	var drop []blob.Run
	b.leaf.runs(b.geo.PieceBlocks(p), true, func(known blob.Run) bool {
		if all {
			drop = append(drop, known)
			return true
		}
		b.firm.runs(known, false, func(r blob.Run) bool {
			drop = append(drop, r)
			return true
		})
		return true
	})
	if recs != nil {
		if err := b.append(recs); err != nil {
			return fmt.Errorf("forget the claims about piece %d of %s: %w", p, b.id, err)
		}
	}
	return b.dropBlocks(drop)
}

// dropBlocks stops believing blocks: their bytes, where present, and their leaves. The leaves are wiped and
// everything is on stable storage on return, so that not even a power loss brings them back: old data beside
// its old leaf would look right. The bytes stay in the file until they are overwritten: a read in flight may
// still copy them. The blocks are claimed.
func (b *Blob) dropBlocks(drop []blob.Run) error {
	if len(drop) == 0 {
		return nil
	}
	var recs []byte
	for _, r := range drop {
		b.unpublish(r)
		recs = appendRecord(recs, b.seed, record{kind: kindDrop, a: r.First, b: r.Count})
	}
	err := b.append(recs)
	for _, r := range drop {
		if _, e := b.leaves.WriteAt(make([]byte, int(r.Count)*32), int64(r.First)*32); err == nil {
			err = e
		}
	}
	if e := unix.Fdatasync(int(b.leaves.Fd())); err == nil {
		err = e
	}
	if e := unix.Fdatasync(int(b.log.Fd())); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("%w: drop blocks of %s: %w: check the disk of %s", blob.ErrNoSpace, b.id, err, b.store.dir)
	}
	return nil
}

// unpublish clears the bits of claimed blocks.
func (b *Blob) unpublish(r blob.Run) {
	b.present.runs(r, true, func(run blob.Run) bool {
		b.present.clear(run)
		_, bytes := b.geo.Bytes(run)
		b.bytes.Add(-bytes)
		if b.imported == nil {
			b.store.used.Add(-bytes)
		}
		pieces := b.geo.PiecesOf(run)
		for p := pieces.First; p < pieces.End(); p++ {
			if b.left[p].Add(int32(b.geo.PieceBlocks(p).Intersect(run).Count)) > 0 && b.pieces.get(p) {
				b.pieces.clear(blob.Run{First: p, Count: 1})
				b.incomplete.Add(1)
			}
		}
		return true
	})
	b.leaf.clear(r)
	b.firm.clear(r)
}
