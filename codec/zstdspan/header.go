package zstdspan

import (
	"encoding/binary"
)

const (
	magic     = 0xFD2FB528 // of a frame (RFC 8878 section 3.1.1)
	skipMagic = 0x184D2A50 // of a skippable frame, but for its low four bits (section 3.1.2)
	maxHeader = 18         // bytes of a frame header with its magic number

	maxBlock = 128 << 10 // bytes of a block, stored and decoded (section 3.1.1.2.4)

	// MaxWindow is the longest window that is decoded, in bytes: what `zstd --long` asks for, and the most that the
	// zstd command line accepts without being told to.
	MaxWindow = 128 << 20
)

// frame is what a frame header says.
type frame struct {
	window   int64 // how far back matches may reach, in bytes
	content  int64 // decoded length; -1: not said
	checksum bool  // four bytes follow the last block
}

// block is how long a block of this frame may be, decoded, in bytes.
func (f *frame) block() int { return int(min(max(f.window, 1<<10), maxBlock)) }

// headerSize is how long a frame header with its magic number is, by its fifth byte.
func headerSize(descriptor byte) int {
	n := 5 + [4]int{0, 1, 2, 4}[descriptor&3] + [4]int{0, 2, 4, 8}[descriptor>>6]
	if single := descriptor&0x20 != 0; !single || descriptor>>6 == 0 {
		n++ // a window descriptor, or a content size of one byte
	}
	return n
}

// parseFrame reads a whole frame header (RFC 8878 section 3.1.1.1), magic number included.
func parseFrame(b []byte) (frame, error) {
	d := b[4]
	single := d&0x20 != 0
	f := frame{content: -1, checksum: d&4 != 0}
	if d&8 != 0 {
		return f, damage("reserved bit of a frame header")
	}
	p := b[5:]
	if !single {
		log := 10 + p[0]>>3
		f.window = 1<<log + 1<<log/8*int64(p[0]&7)
		p = p[1:]
	}
	var id uint32
	for i := range [4]int{0, 1, 2, 4}[d&3] {
		id |= uint32(p[0]) << (8 * i)
		p = p[1:]
	}
	if id != 0 {
		return f, refusal("a frame that needs a dictionary")
	}
	switch {
	case d>>6 == 0 && single:
		f.content = int64(p[0])
	case d>>6 == 1:
		f.content = int64(binary.LittleEndian.Uint16(p)) + 256
	case d>>6 == 2:
		f.content = int64(binary.LittleEndian.Uint32(p))
	case d>>6 == 3:
		if f.content = int64(binary.LittleEndian.Uint64(p)); f.content < 0 {
			return f, damage("content size of a frame")
		}
	}
	if single {
		f.window = f.content
	}
	if f.window > MaxWindow {
		return f, refusal("a frame with a window of more than 128 MiB")
	}
	return f, nil
}

// kind of a block (RFC 8878 section 3.1.1.2.2).
const (
	kindRaw = iota
	kindRun
	kindCompressed
)

// blockHeader is the three bytes before a block.
type blockHeader struct {
	last bool
	kind uint8
	size int // as the header says it: decoded bytes of a run, stored ones of all others
}

func parseBlock(b []byte) blockHeader {
	v := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
	return blockHeader{last: v&1 != 0, kind: uint8(v >> 1 & 3), size: int(v >> 3)}
}

// stored is how many bytes follow the header.
func (h blockHeader) stored() int {
	if h.kind == kindRun {
		return 1
	}
	return h.size
}

// check holds the header against the limits of its frame.
func (h blockHeader) check(f *frame) error {
	if h.kind > kindCompressed {
		return damage("reserved type of a block")
	}
	if h.size > f.block() {
		return damage("block that is longer than its frame allows")
	}
	return nil
}
