package inflate

import (
	"encoding/binary"
	"unsafe"
)

const (
	// inSlack is how far fast may read beyond where a round of its loop begins: it refills four times at most, by at
	// most 7 bytes, and looks at 8.
	inSlack = 4*7 + 8
	// outSlack is how far it may write: three literals, a match, and what the last stride of 32 bytes writes beyond it.
	outSlack = 3 + maxMatch + 32
)

// fast decodes as long as input and output are far from their ends. All it reads and writes through pointers lies
// within inSlack of d.in[d.pos], outSlack of out[o], and between out[floor] and out[o], as the conditions of the loop
// and the check of the distance ensure; tables are indexed under masks.
//
// It costs what its dependencies cost: an entry is known a load after the bits before it are dropped, and the next one
// a load after that. So each is looked up as early as may be: before the input is refilled, where enough bits are left,
// and before the bytes of a match are copied. Decision 0014 has figures.
func (d *decoder) fast(out []byte, o int) (int, status) {
	pos, buf, bits := d.pos, d.buf, d.bits
	inEnd, outEnd := len(d.in)-inSlack, len(out)-outSlack
	if pos > inEnd {
		return o, hungry
	}
	if o > outEnd {
		return o, full
	}
	in, op := unsafe.Pointer(unsafe.SliceData(d.in)), unsafe.Pointer(unsafe.SliceData(out))
	lit, dist, floor := &d.lit, &d.dist, d.floor
	st := hungry

	// A refill leaves 56 bits or more: it adds whole bytes, and what it reads beyond them it reads again.
	buf |= load64(in, pos) << (bits & 63)
	pos += int((63 - bits) >> 3)
	bits |= 56
	e := lit[buf&(1<<litBits-1)]
	for {
		// Literals that a first lookup finds take 11 bits at most: after four of them there are 12 left, enough for
		// one more lookup.
		if e&literal != 0 {
			buf >>= e & 63
			bits -= uint(e & 63)
			*(*uint8)(unsafe.Add(op, o)) = uint8(e >> 16)
			o++
			e = lit[buf&(1<<litBits-1)]
			if e&literal != 0 {
				buf >>= e & 63
				bits -= uint(e & 63)
				*(*uint8)(unsafe.Add(op, o)) = uint8(e >> 16)
				o++
				e = lit[buf&(1<<litBits-1)]
				if e&literal != 0 {
					buf >>= e & 63
					bits -= uint(e & 63)
					*(*uint8)(unsafe.Add(op, o)) = uint8(e >> 16)
					o++
					e = lit[buf&(1<<litBits-1)]
					if e&literal != 0 {
						buf >>= e & 63
						bits -= uint(e & 63)
						*(*uint8)(unsafe.Add(op, o)) = uint8(e >> 16)
						o++
						e = lit[buf&(1<<litBits-1)]
						buf |= load64(in, pos) << (bits & 63)
						pos += int((63 - bits) >> 3)
						bits |= 56
						if pos > inEnd || o > outEnd {
							break
						}
						continue
					}
				}
			}
			buf |= load64(in, pos) << (bits & 63)
			pos += int((63 - bits) >> 3)
			bits |= 56
		}
		if e&special != 0 {
			if e&second != 0 {
				buf >>= litBits
				bits -= litBits
				e = lit[(e>>16+uint32(buf)&(1<<(e>>8&31)-1))&(litSize-1)]
				if e&literal != 0 {
					buf >>= e & 63
					bits -= uint(e & 63)
					*(*uint8)(unsafe.Add(op, o)) = uint8(e >> 16)
					o++
					buf |= load64(in, pos) << (bits & 63)
					pos += int((63 - bits) >> 3)
					bits |= 56
					e = lit[buf&(1<<litBits-1)]
					if pos > inEnd || o > outEnd {
						break
					}
					continue
				}
			}
			if e&special != 0 {
				if e&^0x1fff == endOfBlock {
					buf >>= e & 63
					bits -= uint(e & 63)
					st = blockEnd
				} else {
					st = d.fail("a code that must not occur")
				}
				break
			}
		}

		// A length takes 20 bits, a distance 28: a refill is enough for both. The lookups come first, since all that
		// follows waits for them.
		length, held := e, buf
		buf >>= e & 63
		bits -= uint(e & 63)
		e = dist[buf&(1<<distBits-1)]
		n := int(length>>16) + int(held&(1<<(length&63)-1)>>(length>>8&31))
		if e&special != 0 {
			if e&second == 0 {
				st = d.fail("a distance that must not occur")
				break
			}
			buf >>= distBits
			bits -= distBits
			e = dist[(e>>16+uint32(buf)&(1<<(e>>8&31)-1))&(distSize-1)]
			if e&special != 0 {
				st = d.fail("a distance that must not occur")
				break
			}
		}
		distance, held := e, buf
		buf >>= e & 63
		bits -= uint(e & 63)
		e = lit[buf&(1<<litBits-1)]
		if bits < litBits {
			buf |= load64(in, pos) << (bits & 63)
			pos += int((63 - bits) >> 3)
			bits |= 56
			e = lit[buf&(1<<litBits-1)]
		}
		back := int(distance>>16) + int(held&(1<<(distance&63)-1)>>(distance>>8&31))
		buf |= load64(in, pos) << (bits & 63)
		pos += int((63 - bits) >> 3)
		bits |= 56

		if o-back < floor {
			copied, ok := d.reach(out, o, back, n)
			if !ok {
				st = broken
				break
			}
			if copied {
				o += n
				if pos > inEnd || o > outEnd {
					break
				}
				continue
			}
		}
		to, from, end := unsafe.Add(op, o), unsafe.Add(op, o-back), o+n
		switch {
		case back >= 16:
			*(*[16]byte)(to) = *(*[16]byte)(from)
			*(*[16]byte)(unsafe.Add(to, 16)) = *(*[16]byte)(unsafe.Add(from, 16))
			for n > 32 {
				n -= 32
				to, from = unsafe.Add(to, 32), unsafe.Add(from, 32)
				*(*[16]byte)(to) = *(*[16]byte)(from)
				*(*[16]byte)(unsafe.Add(to, 16)) = *(*[16]byte)(unsafe.Add(from, 16))
			}
		case back == 1:
			v := uint64(*(*uint8)(from)) * 0x0101010101010101
			store64(to, v)
			for n > 8 {
				n -= 8
				to = unsafe.Add(to, 8)
				store64(to, v)
			}
		default:
			// What repeats every back bytes repeats every 2*back: the source stays, until it is 8 bytes away.
			for back < 8 && n > 0 {
				store64(to, load64(from, 0))
				to = unsafe.Add(to, back)
				n -= back
				back *= 2
			}
			for n > 0 {
				store64(to, load64(from, 0))
				n -= 8
				to, from = unsafe.Add(to, 8), unsafe.Add(from, 8)
			}
		}
		o = end
		if pos > inEnd || o > outEnd {
			break
		}
	}
	if st == hungry && o > outEnd {
		st = full
	}
	pos -= int(bits >> 3)
	bits &= 7
	d.pos, d.buf, d.bits = pos, buf&(1<<bits-1), bits
	return o, st
}

func load64(p unsafe.Pointer, at int) uint64 {
	return binary.LittleEndian.Uint64((*[8]byte)(unsafe.Add(p, at))[:])
}

func store64(p unsafe.Pointer, v uint64) { binary.LittleEndian.PutUint64((*[8]byte)(p)[:], v) }
