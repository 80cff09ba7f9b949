package tracker

import (
	"math/bits"

	"github.com/pantala/pantala/blob"
)

// bitmap is a set of piece numbers: word i, bit j is piece i*64+j, as blockio's Pieces gives it.
type bitmap []uint64

func newBitmap(n uint32) bitmap { return make(bitmap, (uint64(n)+63)/64) }

func (m bitmap) has(i uint32) bool {
	return int(i/64) < len(m) && m[i/64]&(1<<(i%64)) != 0
}

// put sets or clears one bit that lies within the bitmap.
func (m bitmap) put(i uint32, on bool) {
	if on {
		m[i/64] |= 1 << (i % 64)
	} else {
		m[i/64] &^= 1 << (i % 64)
	}
}

// nextClear is the first piece of [from,end) that is not in the set, or end.
func (m bitmap) nextClear(from, end uint32) uint32 { return m.next(from, end, ^uint64(0)) }

// nextSet is the first piece of [from,end) that is in the set, or end.
func (m bitmap) nextSet(from, end uint32) uint32 { return m.next(from, end, 0) }

func (m bitmap) next(from, end uint32, invert uint64) uint32 {
	for from < end && int(from/64) < len(m) {
		if w := (m[from/64] ^ invert) >> (from % 64); w != 0 {
			return min(end, from+uint32(bits.TrailingZeros64(w)))
		}
		from = (from/64 + 1) * 64
	}
	return end
}

// runs lists the set as runs, at most limit of them, from piece from on. next is the piece to go on from;
// it is n when the list is complete.
func (m bitmap) runs(from, n uint32, limit int) (list []blob.Run, next uint32) {
	for from < n {
		first := m.nextSet(from, n)
		if first == n {
			break
		}
		if len(list) == limit {
			return list, first
		}
		from = m.nextClear(first, n)
		list = append(list, blob.Run{First: first, Count: from - first})
	}
	return list, n
}

// inRuns reports whether one of the runs, in any order, contains piece i.
func inRuns(runs []blob.Run, i uint32) bool {
	for _, r := range runs {
		if r.Contains(i) {
			return true
		}
	}
	return false
}

// meets reports whether some run of a and some run of b share a piece.
func meets(a, b []blob.Run) bool {
	for _, r := range a {
		for _, o := range b {
			if !r.Intersect(o).Empty() {
				return true
			}
		}
	}
	return false
}

// runsOf joins a sorted list of pieces into runs.
func runsOf(sorted []uint32) (list []blob.Run) {
	for _, i := range sorted {
		if k := len(list) - 1; k >= 0 && list[k].End() == i {
			list[k].Count++
		} else if k < 0 || !list[k].Contains(i) {
			list = append(list, blob.Run{First: i, Count: 1})
		}
	}
	return list
}
