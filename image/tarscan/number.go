package tarscan

import "math"

// number reads a numeric field: octal digits, or the binary form of GNU and star, a big endian two's complement number
// whose first bit is set. ok is false when it is malformed or longer than 64 bits.
func number(b []byte) (v int64, ok bool) {
	if len(b) == 0 || b[0]&0x80 == 0 {
		return octal(b)
	}
	var flip byte // complements a negative number
	if b[0]&0x40 != 0 {
		flip = 0xff
	}
	x := uint64(b[0]^flip) & 0x7f
	for _, c := range b[1:] {
		if x>>56 != 0 {
			return 0, false
		}
		x = x<<8 | uint64(c^flip)
	}
	if x > math.MaxInt64 {
		return 0, false
	}
	if flip != 0 {
		return ^int64(x), true
	}
	return int64(x), true
}

// octal reads digits between any number of blanks and NULs; none at all are 0.
func octal(b []byte) (v int64, ok bool) {
	for len(b) > 0 && (b[0] == ' ' || b[0] == 0) {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == 0) {
		b = b[:len(b)-1]
	}
	var x uint64
	for i, c := range b {
		if c == 0 && i > 0 {
			break
		}
		if c < '0' || c > '7' || x>>61 != 0 {
			return 0, false
		}
		x = x<<3 | uint64(c-'0')
	}
	return int64(x), true
}
