package zstdspan

import (
	"encoding/binary"
	"sync"

	"github.com/pantala/pantala/codec"
)

var _ codec.Span = Span

// reader is what a span is decoded with: about 300 KiB, and as many pages as the window of the last span had.
type reader struct {
	decoder
	kept    pages
	scratch []byte // an unpacked window
}

var readers = sync.Pool{New: func() any { return newReader() }}

func newReader() *reader {
	r := new(reader)
	r.clip = true
	return r
}

// Span decodes a stretch of a stream; see [codec.Span]. It may end anywhere, even inside of a block. Content checksums are not looked at: a span rarely has all that
// they are of.
func Span(dst, src []byte, bit uint8, window []byte) error {
	if bit != 0 {
		return damage("a point between two bits")
	}
	if len(dst) == 0 {
		return nil
	}
	r := readers.Get().(*reader)
	defer readers.Put(r)
	return r.span(dst, src, window)
}

func (r *reader) span(dst, src, window []byte) error {
	if window == nil {
		return r.frames(dst, src)
	}
	defer r.kept.reset()
	var err error
	if r.scratch, err = r.unpack(window, len(dst), &r.kept, r.scratch); err != nil {
		return err
	}
	n, rest, err := r.resume(dst, src)
	if err != nil || n == len(dst) {
		return err
	}
	return r.frames(dst[n:], rest)
}

// resume decodes the rest of the frame that a point lies in.
func (r *reader) resume(dst, src []byte) (int, []byte, error) {
	r.floor, r.edge = 0, 0
	r.source = &r.kept
	defer func() { r.source = nil }()
	return r.blocks(dst, 0, src)
}

// frames fills dst with what the frames at the start of src hold.
func (d *decoder) frames(dst, src []byte) error {
	for n := 0; n < len(dst); {
		if len(src) < 8 {
			return damage("frame cut short")
		}
		m := binary.LittleEndian.Uint32(src)
		if m&^0xf == skipMagic {
			size := int64(binary.LittleEndian.Uint32(src[4:]))
			if size > int64(len(src)-8) {
				return damage("skippable frame cut short")
			}
			src = src[8+size:]
			continue
		}
		if m != magic {
			return damage("no frame where one should begin")
		}
		size := headerSize(src[4])
		if len(src) < size {
			return damage("frame cut short")
		}
		f, err := parseFrame(src[:size])
		if err != nil {
			return err
		}
		d.begin(f)
		d.floor, d.edge = n, n
		if n, src, err = d.blocks(dst, n, src[size:]); err != nil {
			return err
		}
	}
	return nil
}

// blocks decodes to dst[n:] until that is full or the frame ends. It returns the new n and what follows the frame.
func (d *decoder) blocks(dst []byte, n int, src []byte) (int, []byte, error) {
	for n < len(dst) {
		if len(src) < 3 {
			return n, nil, damage("block cut short")
		}
		h := parseBlock(src)
		if err := h.check(&d.frame); err != nil {
			return n, nil, err
		}
		if len(src) < 3+h.stored() {
			return n, nil, damage("block cut short")
		}
		copy(d.in[pad:], src[3:3+h.stored()])
		src = src[3+h.stored():]
		var err error
		if n, err = d.block(h, dst, n, len(dst)); err != nil {
			return n, nil, err
		}
		if !h.last {
			continue
		}
		if d.frame.checksum {
			if len(src) < 4 && n < len(dst) {
				return n, nil, damage("checksum cut short")
			}
			src = src[min(4, len(src)):]
		}
		return n, src, nil
	}
	return n, src, nil
}
