package inflate

// careful decodes symbol by symbol up to out[end] at least, or to the last bit of d.in. Only the last match may go
// beyond end; what does not fit into out of it is cut.
func (d *decoder) careful(out []byte, o, end int) (int, status) {
	for o < end {
		d.fill(48) // as far as there are so many: what is missing reads as zeros, and is noticed below
		e, ok := d.symbol(d.lit[:], litBits)
		if !ok {
			return o, broken
		}
		switch {
		case e&literal != 0:
			out[o] = uint8(e >> 16)
			o++
			continue
		case e&special != 0:
			return o, blockEnd
		}
		n := int(e >> 16)
		e, ok = d.symbol(d.dist[:], distBits)
		if !ok {
			return o, broken
		}
		back := int(e >> 16)
		n = min(n, len(out)-o)
		if o-back < d.floor {
			copied, ok := d.reach(out, o, back, n)
			if !ok {
				return o, broken
			}
			if copied {
				o += n
				continue
			}
		}
		for range n {
			out[o] = out[o-back]
			o++
		}
	}
	return o, full
}

// symbol reads one symbol with its extra bits, and adds them to the value of the entry it returns: a literal, the end
// of the block, or a length or distance.
func (d *decoder) symbol(table []entry, tableBits uint) (entry, bool) {
	e := table[d.buf&(1<<tableBits-1)]
	if e&second != 0 {
		if d.bits < tableBits {
			d.fail(endsEarly)
			return 0, false
		}
		d.drop(tableBits)
		e = table[e>>16+entry(d.buf)&(1<<(e>>8&31)-1)]
	}
	n := uint(e & 0xff)
	switch {
	case n > d.bits || d.bits == 0:
		d.fail(endsEarly)
		return 0, false
	case e&special != 0 && e>>16 != 0:
		d.fail("a code that must not occur")
		return 0, false
	}
	more := entry(d.buf & (1<<n - 1) >> (e >> 8 & 31))
	d.drop(n)
	if e&(literal|special) == 0 {
		e += more << 16
	}
	return e, true
}
