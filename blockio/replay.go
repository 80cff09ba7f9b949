package blockio

import (
	"time"

	"github.com/pantala/pantala/blob"
)

// root is what is known about a piece's root.
type root struct {
	hash  blob.Hash
	trust blob.Trust
}

// use is how a blob has been used, for eviction.
type use struct {
	at   time.Time // last open
	freq uint8     // opens since it entered its queue, at most maxFreq
	main bool      // in the main queue of S3-FIFO, else in the small one
}

// state is what a log says.
type state struct {
	present, leaf, firm bitmap
	doubt               bitmap // blocks whose record may not have reached stable storage with its data
	roots               map[uint32]root
	disputed            map[uint32]bool
	use                 use

	last    session // of the last boot record
	records int
	end     int64 // end of the last whole record
	synced  int64 // everything before was on stable storage once
	damaged bool  // something unreadable stands between whole records
}

// replay reads a log. It never fails: what is torn off at the end is ignored, and when something unreadable
// stands in the middle, where a lost record could have been a drop, every block is doubtful.
func replay(raw []byte, id blob.ID, g blob.Geometry, now session) *state {
	s := &state{
		present: newBitmap(g.Blocks()), leaf: newBitmap(g.Blocks()), firm: newBitmap(g.Blocks()), doubt: newBitmap(g.Blocks()),
		roots: map[uint32]root{}, disputed: map[uint32]bool{},
	}
	seed := logSeed(id, g)
	// First the offset up to which the log was made durable, since a record before it needs no doubt.
	scan(raw, seed, g, func(at int64, r record) {
		if n := r.number(); r.kind == kindSynced && n <= at {
			s.synced = max(s.synced, n)
		}
		s.damaged = s.damaged || at != s.end
		s.end = at + recordSize
		s.records++
	})
	trusted := false
	scan(raw, seed, g, func(at int64, r record) {
		if r.kind == kindBoot {
			s.last = r.session()
			trusted = s.last == now && now.boot != [16]byte{}
		}
		s.apply(r, !trusted && at >= s.synced)
	})
	if s.damaged || s.last.ino != now.ino {
		s.doubt.set(g.Blob())
	}
	return s
}

// scan calls f with every whole record and its offset, skipping bytes that are none.
func scan(raw []byte, seed uint32, g blob.Geometry, f func(at int64, r record)) {
	for at := 0; at+recordSize <= len(raw); {
		r, ok := decodeRecord(raw[at:], seed, g)
		if !ok {
			at++
			continue
		}
		f(int64(at), r)
		at += recordSize
	}
}

func (s *state) apply(r record, doubtful bool) {
	switch r.kind {
	case kindPresent, kindLeaves:
		run := r.run()
		if r.kind == kindPresent {
			s.present.set(run)
		}
		s.leaf.set(run)
		if r.arg&flagFirm != 0 {
			s.firm.set(run)
		}
		if doubtful {
			s.doubt.set(run)
		} else {
			s.doubt.clear(run)
		}
	case kindFirm:
		s.firm.set(r.run())
	case kindDrop:
		s.present.clear(r.run())
		s.leaf.clear(r.run())
		s.firm.clear(r.run())
		s.doubt.clear(r.run())
	case kindRoot:
		s.roots[r.a] = root{r.hash, blob.Trust(r.arg)}
	case kindUnroot:
		delete(s.roots, r.a)
		if r.arg&flagDisputed != 0 {
			s.disputed[r.a] = true
		}
	case kindUsed:
		s.use = use{at: time.Unix(0, r.number()), freq: min(uint8(r.a), maxFreq), main: r.arg != 0}
	}
}

// compact is the shortest log that replays to the same state under session now, everything in it durable.
func (s *state) compact(id blob.ID, g blob.Geometry, now session) []byte {
	seed := logSeed(id, g)
	p := appendRecord(nil, seed, now.record())
	add := func(r record) { p = appendRecord(p, seed, r) }
	for piece := range s.disputed {
		add(record{kind: kindUnroot, arg: flagDisputed, a: piece})
	}
	for piece, r := range s.roots {
		add(record{kind: kindRoot, arg: uint8(r.trust), a: piece, hash: r.hash})
	}
	s.leaf.runs(g.Blob(), true, func(r blob.Run) bool {
		add(record{kind: kindLeaves, a: r.First, b: r.Count})
		return true
	})
	s.present.runs(g.Blob(), true, func(r blob.Run) bool {
		add(record{kind: kindPresent, a: r.First, b: r.Count})
		return true
	})
	s.firm.runs(g.Blob(), true, func(r blob.Run) bool {
		add(record{kind: kindFirm, a: r.First, b: r.Count})
		return true
	})
	add(s.use.record())
	add(numbered(kindSynced, int64(len(p))))
	return p
}

func (u use) record() record {
	r := numbered(kindUsed, u.at.UnixNano())
	r.a = uint32(u.freq)
	if u.main {
		r.arg = 1
	}
	return r
}

// bytes is the length of the blocks that are present.
func (s *state) bytes(g blob.Geometry) int64 { return bytesOf(s.present, g) }

// bytesOf is the length in bytes of the members of a bitmap of blocks.
func bytesOf(set bitmap, g blob.Geometry) int64 {
	blocks := g.Blocks()
	if blocks == 0 {
		return 0
	}
	n := int64(set.count(g.Blob())) * blob.BlockSize
	if set.get(blocks - 1) {
		n -= blob.BlockSize - int64(g.BlockLen(blocks-1))
	}
	return n
}
