package swarm

import (
	"math/bits"
	"sync/atomic"

	"github.com/pantala/pantala/blob"
)

// set is a set of pieces: word i, bit j is piece i*64+j.
type set []uint64

func newSet(n uint32) set       { return make(set, (n+63)/64) }
func (s set) has(i uint32) bool { return s[i/64]>>(i%64)&1 != 0 }
func (s set) add(i uint32)      { s[i/64] |= 1 << (i % 64) }
func (s set) remove(i uint32)   { s[i/64] &^= 1 << (i % 64) }
func (s set) count() (n uint32) {
	for _, w := range s {
		n += uint32(bits.OnesCount64(w))
	}
	return n
}

// fill makes s hold all n pieces.
func (s set) fill(n uint32) {
	for i := range s {
		s[i] = ^uint64(0)
	}
	if n%64 != 0 {
		s[len(s)-1] = 1<<(n%64) - 1
	}
}

// lacks reports whether o holds a piece that s does not.
func (s set) lacks(o set) bool {
	for i := range s {
		if o[i]&^s[i] != 0 {
			return true
		}
	}
	return false
}

// availability answers Has without a lock: a piece can be asked for when a peer offers it and its root is
// trusted. The loop owns everything but bits, which only it writes.
type availability struct {
	n       uint32
	offers  []uint16 // by piece: peers that offer it now
	trusted set
	bits    []atomic.Uint64
	partial partial
	raised  bool // a bit went from 0 to 1 since the last look
}

func newAvailability(n uint32) *availability {
	return &availability{
		n: n, offers: make([]uint16, n), trusted: newSet(n), bits: make([]atomic.Uint64, (n+63)/64),
		partial: partial{blocks: make(holdings), trusted: newSet(n)},
	}
}

// has reports whether all pieces of the run are available.
func (a *availability) has(pieces blob.Run) bool {
	for p := pieces.First; p < pieces.End(); p++ {
		if a.bits[p/64].Load()>>(p%64)&1 == 0 {
			return false
		}
	}
	return true
}

// update replaces what a peer offered by what it offers now.
func (a *availability) update(old, offered set) {
	for i := range old {
		for d := old[i] ^ offered[i]; d != 0; d &= d - 1 {
			p := uint32(i*64 + bits.TrailingZeros64(d))
			if offered.has(p) {
				a.offers[p]++
			} else {
				a.offers[p]--
			}
			a.refresh(p)
		}
	}
}

// trust says whether the root of a piece is trusted.
func (a *availability) trust(p uint32, yes bool) {
	if yes == a.trusted.has(p) {
		return
	}
	if yes {
		a.trusted.add(p)
	} else {
		a.trusted.remove(p)
	}
	a.partial.trust(p, yes)
	a.refresh(p)
}

func (a *availability) refresh(p uint32) {
	w, mask := &a.bits[p/64], uint64(1)<<(p%64)
	old := w.Load()
	if a.offers[p] > 0 && a.trusted.has(p) {
		if old&mask == 0 {
			w.Store(old | mask)
			a.raised = true
		}
	} else if old&mask != 0 {
		w.Store(old &^ mask)
	}
}
