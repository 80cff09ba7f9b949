package blockio

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"

	"github.com/pantala/pantala/blob"
)

// scratch is the memory of one Put.
type scratch struct {
	sums  [blob.MaxBuffer]blob.Hash // leaves of the bytes that were handed in
	known [blob.MaxBuffer]blob.Hash // leaves that were known before
	raw   [blob.MaxBuffer * 32]byte // leaves on their way to and from the file
	recs  []byte
	done  []uint32 // pieces that became complete
	fresh bool     // some block became present
	wrong []uint32 // pieces all of whose blocks are there, but do not fold to their root
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// blockSet is a set of blocks of one Put: bit i is the i-th block of its run.
type blockSet uint32

// runs calls f with every maximal run of members, from and n relative to the run of the Put.
func (s blockSet) runs(f func(from, n int) error) error {
	for at := 0; s>>at != 0; {
		at += bits.TrailingZeros32(uint32(s >> at))
		n := bits.TrailingZeros32(^uint32(s >> at))
		if err := f(at, n); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// errDisputed makes Put drop the claim that direct bytes contradict, and start again.
type errDisputed struct{ piece uint32 }

func (e errDisputed) Error() string {
	return fmt.Sprintf("the claimed root of piece %d is contradicted", e.piece)
}

// Put verifies the bytes of the blocks of r, at most blob.MaxBuffer of them, and keeps those that are absent.
// data is exactly their bytes, and is not used after the return.
//
// t says where the bytes come from. Direct or Built: from the origin, over our own connection; they define
// the leaves, and what was only Claimed gives way to them (see [Blob.Disputed]). Any other trust: from a
// peer; each block must match a leaf that is known already (see [Blob.SetLeaves]).
//
// Errors: blob.ErrCorrupt, a peer's block does not match, the first such block is named, the right ones of r
// are kept; blob.ErrChanged, direct bytes contradict direct bytes from earlier, nothing is kept;
// blob.ErrAbsent, no leaf is known to check a peer's block against; blob.ErrNoSpace, the bytes are right but
// could not be kept (quota, full or failing disk); blob.ErrInvalid, blob.ErrClosed.
func (b *Blob) Put(r blob.Run, data []byte, t blob.Trust) error {
	if r.Count == 0 || r.Count > blob.MaxBuffer || !b.inBlob(r) {
		return fmt.Errorf("%w: blocks %v of %s cannot be put at once: it has %d, at most %d fit", blob.ErrInvalid, r, b.id, b.geo.Blocks(), blob.MaxBuffer)
	}
	if _, n := b.geo.Bytes(r); int64(len(data)) != n {
		return fmt.Errorf("%w: %d bytes for blocks %v of %s, which are %d", blob.ErrInvalid, len(data), r, b.id, n)
	}
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	blob.Leaves(s.sums[:], data)
	if err := b.enter(); err != nil {
		return err
	}
	s.done, s.wrong, s.fresh = s.done[:0], s.wrong[:0], false
	err := b.put(r, data, t == blob.Direct || t == blob.Built, s)
	b.life.RUnlock()
	if s.fresh {
		b.arrived(r)
	}
	b.notify(s.done)
	return err
}

// put is Put after hashing, with b.life held. It starts again at most once per piece of r: a disputed piece
// takes no further claim.
func (b *Blob) put(r blob.Run, data []byte, direct bool, s *scratch) error {
	for {
		b.claims.claim(r)
		err := b.putClaimed(r, data, direct, s)
		b.claims.release(r)
		if err == nil && len(s.wrong) == 0 {
			return nil
		}
		if len(s.wrong) > 0 {
			return b.dropWrong(s.wrong)
		}
		var d errDisputed
		if !errors.As(err, &d) {
			return err
		}
		if err := b.dispute(d.piece); err != nil {
			return err
		}
	}
}

// putClaimed decides per block, writes data, leaves and log in this order, and publishes. The blocks of r are
// claimed.
func (b *Blob) putClaimed(r blob.Run, data []byte, direct bool, s *scratch) error {
	if b.leaf.any(r) {
		if err := b.readLeaves(r, s.known[:], s.raw[:]); err != nil {
			return err
		}
	}
	var write, learn, confirm blockSet // blocks to store; leaves to store; leaves that become firm
	var verdict error
	for i := range int(r.Count) {
		block, bit := r.First+uint32(i), blockSet(1)<<i
		known, firm := b.leaf.get(block), b.firm.get(block)
		switch {
		case known && s.known[i] == s.sums[i]:
			if direct && !firm {
				confirm |= bit
			}
		case known && !direct:
			if verdict == nil {
				verdict = fmt.Errorf("%w: block %d of %s has SHA-256 %s, expected %s", blob.ErrCorrupt, block, b.id, s.sums[i], s.known[i])
			}
			continue
		case known && firm:
			return fmt.Errorf("%w: block %d of %s has SHA-256 %s, it had %s before: open the source again",
				blob.ErrChanged, block, b.id, s.sums[i], s.known[i])
		case known:
			return errDisputed{b.geo.PieceOf(block)}
		case !direct:
			if verdict == nil {
				verdict = fmt.Errorf("%w: the leaf of block %d of %s, to check a peer's bytes against", blob.ErrAbsent, block, b.id)
			}
			continue
		default:
			learn |= bit
		}
		if !b.present.get(block) {
			write |= bit
		}
	}
	if write|confirm == 0 { // what is learnt is also written: a leaf is known wherever a block is present
		return verdict
	}
	if err := b.keep(r, data, write, learn, confirm, direct, s); err != nil && verdict == nil {
		verdict = err
	}
	return verdict
}

// keep stores verified blocks. Until present is set nobody looks at what was written, and until the log has
// the record a restart does not either.
func (b *Blob) keep(r blob.Run, data []byte, write, learn, confirm blockSet, direct bool, s *scratch) error {
	var size int64
	err := write.runs(func(from, n int) error {
		_, bytes := b.geo.Bytes(blob.Run{First: r.First + uint32(from), Count: uint32(n)})
		size += bytes
		return nil
	})
	if err == nil && size > 0 {
		err = b.store.reserve(size)
	}
	if err != nil {
		return err
	}
	err = b.writeBlocks(r, data, write)
	if size > 0 && noRoom(err) && b.store.makeRoom(size) {
		err = b.writeBlocks(r, data, write)
	}
	if err == nil {
		err = b.writeLeaves(r, learn, s)
	}
	if err == nil {
		err = b.append(b.putRecords(r, write, confirm, direct, s))
	}
	if err != nil {
		b.store.used.Add(-size)
		return b.keepErr(r, err)
	}
	b.publish(r, write, learn, confirm, direct, s)
	return nil
}

func (b *Blob) writeBlocks(r blob.Run, data []byte, write blockSet) error {
	return write.runs(func(from, n int) error {
		lo, hi := from*blob.BlockSize, min((from+n)*blob.BlockSize, len(data))
		_, err := b.data.WriteAt(data[lo:hi], int64(r.First)*blob.BlockSize+int64(lo))
		return err
	})
}

func (b *Blob) writeLeaves(r blob.Run, learn blockSet, s *scratch) error {
	return learn.runs(func(from, n int) error {
		raw := s.raw[from*32 : (from+n)*32]
		for i := range n {
			copy(raw[i*32:], s.sums[from+i][:])
		}
		_, err := b.leaves.WriteAt(raw, (int64(r.First)+int64(from))*32)
		return err
	})
}

// putRecords encodes the log records of one Put.
func (b *Blob) putRecords(r blob.Run, write, confirm blockSet, direct bool, s *scratch) []byte {
	s.recs = s.recs[:0]
	add := func(k kind, arg uint8) func(from, n int) error {
		return func(from, n int) error {
			s.recs = appendRecord(s.recs, b.seed, record{kind: k, arg: arg, a: r.First + uint32(from), b: uint32(n)})
			return nil
		}
	}
	var arg uint8
	if direct {
		arg = flagFirm
	}
	_ = write.runs(add(kindPresent, arg))           // add never fails
	_ = (confirm &^ write).runs(add(kindFirm, arg)) // nor here
	return s.recs
}

// publish makes stored blocks visible, completes pieces and collects them in s.done. The blocks of r are
// claimed.
func (b *Blob) publish(r blob.Run, write, learn, confirm blockSet, direct bool, s *scratch) {
	sub := func(from, n int) blob.Run { return blob.Run{First: r.First + uint32(from), Count: uint32(n)} }
	_ = learn.runs(func(from, n int) error { b.leaf.set(sub(from, n)); return nil })
	if direct {
		_ = (write | confirm).runs(func(from, n int) error { b.firm.set(sub(from, n)); return nil })
	}
	_ = write.runs(func(from, n int) error {
		run := sub(from, n)
		_, bytes := b.geo.Bytes(run)
		b.present.set(run)
		b.bytes.Add(bytes)
		s.fresh = true
		b.fill(run, s)
		return nil
	})
}

// fill counts newly present blocks in their pieces. The blocks are claimed, so no piece among them can lose
// blocks before its root is computed.
func (b *Blob) fill(run blob.Run, s *scratch) {
	pieces := b.geo.PiecesOf(run)
	for p := pieces.First; p < pieces.End(); p++ {
		n := b.geo.PieceBlocks(p).Intersect(run).Count
		if b.left[p].Add(-int32(n)) > 0 {
			continue
		}
		if !b.computeRoot(p) {
			s.wrong = append(s.wrong, p)
			continue
		}
		b.pieces.set(blob.Run{First: p, Count: 1})
		s.done = append(s.done, p)
		if b.incomplete.Add(-1) == 0 {
			b.complete.Do(func() { close(b.completed) })
		}
	}
}

// keepErr is the error for bytes that are right but were not kept.
func (b *Blob) keepErr(r blob.Run, err error) error {
	if errors.Is(err, os.ErrClosed) {
		return b.closedErr()
	}
	return fmt.Errorf("%w: blocks %v of %s: %w: free disk space or check the disk of %s", blob.ErrNoSpace, r, b.id, err, b.store.dir)
}

// readLeaves reads the leaves of a run through buf, 32 bytes for each.
func (b *Blob) readLeaves(r blob.Run, into []blob.Hash, buf []byte) error {
	raw := buf[:int(r.Count)*32]
	if _, err := b.leaves.ReadAt(raw, int64(r.First)*32); err != nil {
		if errors.Is(err, os.ErrClosed) {
			return b.closedErr()
		}
		return fmt.Errorf("%w: %s: %w: remove the blob from the cache", blob.ErrCorrupt, b.leaves.Name(), err)
	}
	for i := range int(r.Count) {
		into[i] = blob.Hash(raw[i*32 : (i+1)*32])
	}
	return nil
}
