package zstdspan

import (
	"encoding/binary"
	"math/bits"
)

// pad is how many bytes lie before and after what a decoder reads, so that eight may be loaded wherever it stands.
const pad = 32

// reverse reads a bit stream from its end to its start (RFC 8878 section 4.1). Every load brings 64 bits of which at
// least 57 are not yet read.
type reverse struct {
	buf   []byte // pad bytes lie before start
	start int
	at    int    // the word is buf[at:at+8]
	used  uint   // how many of its high bits are read
	word  uint64 // little endian, so the bits next to be read are the highest
}

// open begins to read buf[start:end]. The highest set bit of the last byte marks the end.
func (r *reverse) open(buf []byte, start, end int) error {
	if end <= start || buf[end-1] == 0 {
		return damage("bit stream without an end mark")
	}
	*r = reverse{buf: buf, start: start, at: end - 8, used: uint(bits.LeadingZeros8(buf[end-1])) + 1}
	r.word = binary.LittleEndian.Uint64(buf[r.at:])
	return nil
}

// load moves the word so that at least 57 unread bits are in it, and reports false once more bits than there are have
// been read.
func (r *reverse) load() bool {
	at := r.at - int(r.used>>3)
	if at < r.start-8 {
		return false
	}
	r.at = at
	r.used &= 7
	r.word = binary.LittleEndian.Uint64(r.buf[at:])
	return true
}

// read returns the next n bits, at most 57 after each load.
func (r *reverse) read(n uint8) uint64 {
	v := r.word << (r.used & 63) >> 1 >> ((63 - n) & 63)
	r.used += uint(n)
	return v
}

// left is how many bits remain; negative when more have been read.
func (r *reverse) left() int { return (r.at-r.start)*8 + 64 - int(r.used) }

// forward reads bits from the lowest of the first byte on, as table descriptions have them.
type forward struct {
	b   []byte
	pos int // in bits
}

// peek returns the next n bits, at most 25, with zeros behind the end.
func (f *forward) peek(n int) uint32 {
	var v uint64
	for i, j := f.pos>>3, 0; j < 5 && i < len(f.b); i, j = i+1, j+1 {
		v |= uint64(f.b[i]) << (8 * j)
	}
	return uint32(v>>(f.pos&7)) & (1<<n - 1)
}
