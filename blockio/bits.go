package blockio

import (
	"math/bits"
	"sync/atomic"

	"github.com/pantala/pantala/blob"
)

// bitmap is a set of numbers that is read without a lock: one bit per block or piece, 64 to a word.
type bitmap []atomic.Uint64

func newBitmap(n uint32) bitmap { return make(bitmap, (uint64(n)+63)/64) }

// maskOf is the part of a run that lies in word w.
func maskOf(w, first, end uint64) uint64 {
	m := ^uint64(0)
	if first > w*64 {
		m &= ^uint64(0) << (first - w*64)
	}
	if end < (w+1)*64 {
		m &= ^uint64(0) >> ((w+1)*64 - end)
	}
	return m
}

// has reports whether every number of the run is in the set. The run must be in range.
func (s bitmap) has(r blob.Run) bool {
	first, end := uint64(r.First), uint64(r.First)+uint64(r.Count)
	if r.Count == 0 {
		return true
	}
	for w := first / 64; w*64 < end; w++ {
		if m := maskOf(w, first, end); s[w].Load()&m != m {
			return false
		}
	}
	return true
}

// any reports whether some number of the run is in the set.
func (s bitmap) any(r blob.Run) bool {
	first, end := uint64(r.First), uint64(r.First)+uint64(r.Count)
	for w := first / 64; w*64 < end; w++ {
		if s[w].Load()&maskOf(w, first, end) != 0 {
			return true
		}
	}
	return false
}

func (s bitmap) get(i uint32) bool { return s[i/64].Load()>>(i%64)&1 != 0 }

func (s bitmap) set(r blob.Run) {
	first, end := uint64(r.First), uint64(r.First)+uint64(r.Count)
	for w := first / 64; w*64 < end; w++ {
		s[w].Or(maskOf(w, first, end))
	}
}

func (s bitmap) clear(r blob.Run) {
	first, end := uint64(r.First), uint64(r.First)+uint64(r.Count)
	for w := first / 64; w*64 < end; w++ {
		s[w].And(^maskOf(w, first, end))
	}
}

// count is how many numbers of the run are in the set.
func (s bitmap) count(r blob.Run) (n uint32) {
	first, end := uint64(r.First), uint64(r.First)+uint64(r.Count)
	for w := first / 64; w*64 < end; w++ {
		n += uint32(bits.OnesCount64(s[w].Load() & maskOf(w, first, end)))
	}
	return n
}

// find is the first number in [from,limit) whose membership is want; limit when there is none.
func (s bitmap) find(from, limit uint32, want bool) uint32 {
	first, end := uint64(from), uint64(limit)
	for w := first / 64; w*64 < end; w++ {
		word := s[w].Load()
		if !want {
			word = ^word
		}
		if word &= maskOf(w, first, end); word != 0 {
			return uint32(w*64) + uint32(bits.TrailingZeros64(word))
		}
	}
	return limit
}

// next is the first maximal run in [from,limit) whose members are all in the set (want) or all outside it.
func (s bitmap) next(from, limit uint32, want bool) (blob.Run, bool) {
	if from >= limit {
		return blob.Run{}, false
	}
	first := s.find(from, limit, want)
	if first == limit {
		return blob.Run{}, false
	}
	return blob.Run{First: first, Count: s.find(first, limit, !want) - first}, true
}

// runs calls f for every maximal run of members within r, until f returns false.
func (s bitmap) runs(r blob.Run, want bool, f func(blob.Run) bool) {
	for at := r.First; ; {
		run, ok := s.next(at, r.End(), want)
		if !ok || !f(run) {
			return
		}
		at = run.End()
	}
}

// snapshot is a plain copy of the words.
func (s bitmap) snapshot() []uint64 {
	out := make([]uint64, len(s))
	for i := range s {
		out[i] = s[i].Load()
	}
	return out
}
