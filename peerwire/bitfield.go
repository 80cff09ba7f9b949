package peerwire

import "math/bits"

// A set of pieces is held as words: word i, bit j says whether piece i*64+j is in it. On the wire (BEP 3)
// the high bit of the first byte is piece 0 and spare bits at the end are zero.

// AppendBitfield appends bitfield (BEP 3) for n pieces.
func AppendBitfield(b []byte, words []uint64, n uint32) []byte {
	size := int(n+7) / 8
	b = frame(b, Bitfield, size)
	for i := range size {
		b = append(b, bits.Reverse8(byte(words[i/8]>>(i%8*8))))
	}
	return b
}

// ParseBitfield sets words, which has room for n pieces, to what the body of a bitfield message says. It
// refuses a body of the wrong length and spare bits that are set.
func ParseBitfield(words []uint64, n uint32, body []byte) error {
	if want := (int(n) + 7) / 8; len(body) != want {
		return malformed(Bitfield, "%d bytes for %d pieces instead of %d", len(body), n, want)
	}
	clear(words)
	for i, c := range body {
		words[i/8] |= uint64(bits.Reverse8(c)) << (i % 8 * 8)
	}
	if n%8 != 0 && bits.Reverse8(body[len(body)-1])>>(n%8) != 0 {
		return malformed(Bitfield, "a bit beyond piece %d is set", n-1)
	}
	return nil
}
