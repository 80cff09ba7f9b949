package zstdspan

import (
	"encoding/binary"
	"math/bits"
)

// checksum is XXH64 with seed 0, whose low four bytes follow a frame (RFC 8878 section 3.1.1; the algorithm:
// https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md).
type checksum struct {
	acc   [4]uint64
	rest  [32]byte
	n     int // bytes in rest
	total uint64
}

const (
	prime1 uint64 = 0x9E3779B185EBCA87
	prime2 uint64 = 0xC2B2AE3D27D4EB4F
	prime3 uint64 = 0x165667B19E3779F9
	prime4 uint64 = 0x85EBCA77C2B2AE63
	prime5 uint64 = 0x27D4EB2F165667C5
)

func (c *checksum) reset() {
	p1, p2 := prime1, prime2 // variables: the sums wrap
	*c = checksum{acc: [4]uint64{p1 + p2, p2, 0, -p1}}
}

func mix(acc, lane uint64) uint64 {
	return bits.RotateLeft64(acc+lane*prime2, 31) * prime1
}

func (c *checksum) write(b []byte) {
	c.total += uint64(len(b))
	if c.n > 0 {
		n := copy(c.rest[c.n:], b)
		c.n += n
		b = b[n:]
		if c.n < len(c.rest) {
			return
		}
		c.lanes(c.rest[:])
		c.n = 0
	}
	if n := len(b) &^ 31; n > 0 {
		c.lanes(b[:n])
		b = b[n:]
	}
	c.n = copy(c.rest[:], b)
}

// lanes takes in b, whose length is a multiple of 32.
func (c *checksum) lanes(b []byte) {
	a0, a1, a2, a3 := c.acc[0], c.acc[1], c.acc[2], c.acc[3]
	for len(b) >= 32 {
		a0 = mix(a0, binary.LittleEndian.Uint64(b))
		a1 = mix(a1, binary.LittleEndian.Uint64(b[8:]))
		a2 = mix(a2, binary.LittleEndian.Uint64(b[16:]))
		a3 = mix(a3, binary.LittleEndian.Uint64(b[24:]))
		b = b[32:]
	}
	c.acc = [4]uint64{a0, a1, a2, a3}
}

// sum is the low half of the hash of everything written.
func (c *checksum) sum() uint32 {
	h := prime5
	if c.total >= 32 {
		h = bits.RotateLeft64(c.acc[0], 1) + bits.RotateLeft64(c.acc[1], 7) + bits.RotateLeft64(c.acc[2], 12) + bits.RotateLeft64(c.acc[3], 18)
		for _, a := range c.acc {
			h = (h^mix(0, a))*prime1 + prime4
		}
	}
	h += c.total
	b := c.rest[:c.n]
	for ; len(b) >= 8; b = b[8:] {
		h = bits.RotateLeft64(h^mix(0, binary.LittleEndian.Uint64(b)), 27)*prime1 + prime4
	}
	if len(b) >= 4 {
		h = bits.RotateLeft64(h^uint64(binary.LittleEndian.Uint32(b))*prime1, 23)*prime2 + prime3
		b = b[4:]
	}
	for _, x := range b {
		h = bits.RotateLeft64(h^uint64(x)*prime5, 11) * prime1
	}
	h = (h ^ h>>33) * prime2
	h = (h ^ h>>29) * prime3
	return uint32(h ^ h>>32)
}
