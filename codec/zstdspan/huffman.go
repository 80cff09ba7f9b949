package zstdspan

import (
	"encoding/binary"
	"math/bits"
)

// maxCode is the length of the longest Huffman code, in bits (RFC 8878 section 4.2.1).
const maxCode = 11

// huffman decodes literals: the next bits of a stream are an index, the low byte of an entry is the symbol, the high
// one the length of its code.
type huffman struct {
	log     uint8 // 0: there is none
	entries [1 << maxCode]uint16
}

// parse reads a tree description (RFC 8878 section 4.2.1) at buf[start:end] and returns how many bytes it takes.
func (h *huffman) parse(buf []byte, start, end int, t *table) (int, error) {
	h.log = 0
	if start >= end {
		return 0, damage("no Huffman tree")
	}
	var weights [maxSymbols]uint8
	head, n, size := int(buf[start]), 0, 0
	if head >= 128 {
		n = head - 127
		size = 1 + (n+1)/2
		if start+size > end {
			return 0, damage("Huffman tree cut short")
		}
		for i := range n {
			weights[i] = buf[start+1+i/2] >> (4 * (1 - i&1)) & 15
		}
	} else {
		size = 1 + head
		if start+size > end {
			return 0, damage("Huffman tree cut short")
		}
		var err error
		if n, err = parseWeights(buf, start+1, start+size, weights[:maxSymbols-1], t); err != nil {
			return 0, err
		}
	}
	// The last weight is not written: it makes the sum a power of two.
	sum := 0
	for _, w := range weights[:n] {
		if w > maxCode {
			return 0, damage("Huffman code too long")
		}
		sum += 1 << w >> 1
	}
	if sum == 0 {
		return 0, damage("empty Huffman tree")
	}
	log := uint8(bits.Len(uint(sum)))
	rest := 1<<log - sum
	if log > maxCode || rest&(rest-1) != 0 {
		return 0, damage("Huffman tree that does not add up")
	}
	weights[n] = uint8(bits.Len(uint(rest)))
	h.fill(log, weights[:n+1])
	return size, nil
}

// parseWeights reads weights that are entropy coded themselves (RFC 8878 section 4.2.1.2), with two states by turns.
func parseWeights(buf []byte, start, end int, weights []uint8, t *table) (int, error) {
	var norm [maxCode + 1]int16
	log, symbols, used, err := counts(buf[start:end], 6, norm[:])
	if err != nil {
		return 0, err
	}
	t.build(log, norm[:symbols], func(s int) (uint32, uint8) { return uint32(s), 0 })
	var r reverse
	if err := r.open(buf, start+used, end); err != nil {
		return 0, err
	}
	a := r.read(t.log)
	b := r.read(t.log)
	if r.left() < 0 {
		return 0, damage("weights of a Huffman tree")
	}
	for n := 0; n+1 < len(weights); n++ {
		c := t.states[a&(maxStates-1)]
		weights[n] = uint8(c.value())
		if !r.load() {
			return 0, damage("weights of a Huffman tree")
		}
		a = uint64(c.next()) + r.read(c.nbits())
		if r.left() < 0 {
			weights[n+1] = uint8(t.states[b&(maxStates-1)].value())
			return n + 2, nil
		}
		a, b = b, a
	}
	return 0, damage("too many weights of a Huffman tree")
}

// fill makes the entries: longest codes first, each in the order of symbols (RFC 8878 section 4.2.1.3).
func (h *huffman) fill(log uint8, weights []uint8) {
	var rank [maxCode + 2]int
	for _, w := range weights {
		rank[w]++
	}
	at := 0
	for w := 1; w <= maxCode; w++ {
		n := rank[w] << (w - 1)
		rank[w] = at
		at += n
	}
	for s, w := range weights {
		if w == 0 {
			continue
		}
		n := 1 << (w - 1)
		e := uint16(s) | uint16(log+1-w)<<8
		for i := rank[w]; i < rank[w]+n; i++ {
			h.entries[i] = e
		}
		rank[w] += n
	}
	h.log = log
}

// one decodes the stream buf[start:end] into dst, which it must fill exactly.
func (h *huffman) one(dst, buf []byte, start, end int) error {
	var r reverse
	if err := r.open(buf, start, end); err != nil {
		return err
	}
	return h.rest(dst, &r)
}

// rest decodes what remains of a stream into dst.
func (h *huffman) rest(dst []byte, r *reverse) error {
	shift := 64 - uint(h.log)
	for len(dst) >= 5 && r.load() {
		word, used := r.word, r.used
		for i := range 5 { // five codes of eleven bits are in every word
			e := h.entries[word<<(used&63)>>(shift&63)&(1<<maxCode-1)]
			dst[i] = uint8(e)
			used += uint(e >> 8)
		}
		r.used = used
		dst = dst[5:]
	}
	for i := range dst {
		if !r.load() {
			return damage("literals cut short")
		}
		e := h.entries[r.word<<(r.used&63)>>(shift&63)&(1<<maxCode-1)]
		dst[i] = uint8(e)
		r.used += uint(e >> 8)
	}
	if r.left() != 0 {
		return damage("literals that do not end where their stream does")
	}
	return nil
}

// two decodes two streams by turns, so that the processor has two chains of dependent loads to work on.
func (h *huffman) two(dst1, dst2, buf []byte, start, mid, end int) error {
	var r1, r2 reverse
	if err := r1.open(buf, start, mid); err != nil {
		return err
	}
	if err := r2.open(buf, mid, end); err != nil {
		return err
	}
	shift := (64 - uint(h.log)) & 63
	w1, u1, w2, u2 := r1.word, r1.used, r2.word, r2.used
	a1, a2 := r1.at, r2.at
	for len(dst1) >= 5 && len(dst2) >= 5 {
		a1 -= int(u1 >> 3)
		a2 -= int(u2 >> 3)
		if a1 < start || a2 < mid {
			a1 += int(u1 >> 3)
			a2 += int(u2 >> 3)
			break
		}
		w1, w2 = binary.LittleEndian.Uint64(buf[a1:]), binary.LittleEndian.Uint64(buf[a2:])
		u1 &= 7
		u2 &= 7
		d1, d2 := dst1[:5:5], dst2[:5:5]
		e1 := h.entries[w1<<(u1&63)>>shift&(1<<maxCode-1)]
		e2 := h.entries[w2<<(u2&63)>>shift&(1<<maxCode-1)]
		u1 += uint(e1 >> 8)
		u2 += uint(e2 >> 8)
		d1[0], d2[0] = uint8(e1), uint8(e2)
		e1 = h.entries[w1<<(u1&63)>>shift&(1<<maxCode-1)]
		e2 = h.entries[w2<<(u2&63)>>shift&(1<<maxCode-1)]
		u1 += uint(e1 >> 8)
		u2 += uint(e2 >> 8)
		d1[1], d2[1] = uint8(e1), uint8(e2)
		e1 = h.entries[w1<<(u1&63)>>shift&(1<<maxCode-1)]
		e2 = h.entries[w2<<(u2&63)>>shift&(1<<maxCode-1)]
		u1 += uint(e1 >> 8)
		u2 += uint(e2 >> 8)
		d1[2], d2[2] = uint8(e1), uint8(e2)
		e1 = h.entries[w1<<(u1&63)>>shift&(1<<maxCode-1)]
		e2 = h.entries[w2<<(u2&63)>>shift&(1<<maxCode-1)]
		u1 += uint(e1 >> 8)
		u2 += uint(e2 >> 8)
		d1[3], d2[3] = uint8(e1), uint8(e2)
		e1 = h.entries[w1<<(u1&63)>>shift&(1<<maxCode-1)]
		e2 = h.entries[w2<<(u2&63)>>shift&(1<<maxCode-1)]
		u1 += uint(e1 >> 8)
		u2 += uint(e2 >> 8)
		d1[4], d2[4] = uint8(e1), uint8(e2)
		dst1, dst2 = dst1[5:], dst2[5:]
	}
	r1.word, r1.used, r1.at = w1, u1, a1
	r2.word, r2.used, r2.at = w2, u2, a2
	if err := h.rest(dst1, &r1); err != nil {
		return err
	}
	return h.rest(dst2, &r2)
}
