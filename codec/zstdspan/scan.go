package zstdspan

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"

	"github.com/pantala/pantala/codec"
)

var _ codec.Scan = Scan

// Scan decodes a stream and finds its points; see [codec.Scan]. It takes memory for a window and what is decoded until
// it is moved (8 MiB, 32 for the longest windows), or for what a frame holds if that is less, and for the used parts of
// one window.
func Scan(r io.Reader, s codec.Spacing, emit func(p []byte) error, mark func(codec.Point) error) error {
	if err := mark(codec.Point{}); err != nil {
		return err
	}
	c := scanner{stream: bufio.NewReaderSize(r, 64<<10), spacing: s, emit: emit, mark: mark}
	for {
		more, err := c.frame()
		if err != nil || !more {
			return err
		}
	}
}

// scanner is a Scan under way.
type scanner struct {
	decoder
	stream  *bufio.Reader
	spacing codec.Spacing
	emit    func([]byte) error
	mark    func(codec.Point) error

	stored, decoded int64 // bytes so far
	last            place // of the last point, marked or pending

	// Decoded bytes of the frame, of which at least a window is kept: buf[:n].
	buf []byte
	n   int

	// A point inside of the frame is pending until the next one, or the end of the frame, shows what it needs.
	pending bool
	at      point
	kept    pages
	packer  packer

	sum checksum
}

// place is a position in both streams.
type place struct{ stored, decoded int64 }

// full reads exactly len(p) bytes of the stream.
func (c *scanner) full(p []byte) error {
	n, err := io.ReadFull(c.stream, p)
	c.stored += int64(n)
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return damage("stream cut short")
	}
	return err
}

// passed reports whether a share of the spacing has passed from the last point to p.
func (c *scanner) passed(p place, share int64) bool {
	stored, decoded := p.stored-c.last.stored, p.decoded-c.last.decoded
	return decoded > 0 && (stored >= c.spacing.Stored/share || decoded >= c.spacing.Decoded/share)
}

// early is how much sooner the start of a frame becomes a point, because it costs nothing: after half of the spacing.
// Sooner, frames of a third of it would make spans of that size.
const early = 2

// frame decodes one frame, or skips one, and reports false at the end of the stream.
func (c *scanner) frame() (bool, error) {
	start := place{c.stored, c.decoded}
	isStart := c.passed(start, early)
	var head [maxHeader]byte
	if _, err := c.stream.Peek(1); err == io.EOF {
		return false, nil
	}
	if err := c.full(head[:5]); err != nil {
		return false, err
	}
	m := binary.LittleEndian.Uint32(head[:])
	if m&^0xf == skipMagic {
		if err := c.full(head[5:8]); err != nil {
			return false, err
		}
		size := int64(binary.LittleEndian.Uint32(head[4:]))
		n, err := io.CopyN(io.Discard, c.stream, size)
		c.stored += n
		if err == io.EOF {
			err = damage("stream cut short")
		}
		return true, err
	}
	if m != magic {
		return false, damage("no frame where one should begin")
	}
	size := headerSize(head[4])
	if err := c.full(head[5:size]); err != nil {
		return false, err
	}
	f, err := parseFrame(head[:size])
	if err != nil {
		return false, err
	}
	c.begin(f)
	c.n, c.floor, c.edge = 0, 0, 0
	c.sum.reset()
	if err := c.allBlocks(start, isStart); err != nil {
		return false, err
	}
	if got := c.decoded - start.decoded; f.content >= 0 && got != f.content {
		return false, damage("frame that is longer or shorter than its header says")
	}
	if f.checksum {
		if err := c.full(head[:4]); err != nil {
			return false, err
		}
		if binary.LittleEndian.Uint32(head[:]) != c.sum.sum() {
			return false, damage("checksum of a frame")
		}
	}
	return true, nil
}

// allBlocks decodes the blocks of a frame that begins there, which is a point if isPoint and if there is anything in it.
func (c *scanner) allBlocks(start place, isPoint bool) error {
	for {
		here := place{c.stored, c.decoded}
		var head [3]byte
		if err := c.full(head[:]); err != nil {
			return err
		}
		h := parseBlock(head[:])
		if err := h.check(&c.decoder.frame); err != nil {
			return err
		}
		if c.decoded > start.decoded && c.passed(here, 1) {
			if err := c.settle(); err != nil {
				return err
			}
			c.last = here
			c.pending = true
			c.snapshot(&c.at)
			c.edge = c.n
			c.brought, c.inherited = [len(c.brought)]bool{}, [len(c.inherited)]bool{}
		}
		if err := c.full(c.in[pad : pad+h.stored()]); err != nil {
			return err
		}
		c.room()
		n, err := c.block(h, c.buf, c.n, len(c.buf))
		if err != nil {
			return err
		}
		c.keep()
		fresh := c.buf[c.n:n]
		c.n = n
		c.decoded += int64(len(fresh))
		if f := &c.decoder.frame; f.content >= 0 && c.decoded-start.decoded > f.content {
			return damage("frame that is longer than its header says")
		}
		if c.decoder.frame.checksum {
			c.sum.write(fresh)
		}
		if isPoint && len(fresh) > 0 {
			isPoint = false
			c.last = start
			if err := c.mark(codec.Point{Out: start.decoded, In: start.stored}); err != nil {
				return err
			}
		}
		if len(fresh) > 0 {
			if err := c.emit(fresh); err != nil {
				return err
			}
		}
		if h.last {
			return c.settle()
		}
	}
}

// settle marks the pending point, about which everything is known now. One behind which nothing was decoded is no
// point.
func (c *scanner) settle() error {
	if !c.pending {
		return nil
	}
	c.pending = false
	c.edge = 0
	defer c.kept.reset()
	if c.decoded == c.last.decoded {
		return nil
	}
	return c.mark(codec.Point{Out: c.last.decoded, In: c.last.stored, Window: c.packer.pack(&c.at, c.inherited, &c.kept)})
}

// keep puts aside what the last block used of the window of the pending point, before it can slide away.
func (c *scanner) keep() {
	for _, u := range c.uses {
		c.kept.write(c.buf[u.at:u.at+u.length], c.edge-u.at)
	}
	c.uses = c.uses[:0]
}

// room makes room for one more block behind c.n. It lets the buffer grow to a window and a share of one, and then
// forgets what lies more than a window back. The share says how often each byte is moved: once for windows up to 8 MiB,
// which is what encoders use unless told otherwise, up to four times for longer ones.
func (c *scanner) room() {
	const slack = maxBlock + pad
	if c.n+slack <= len(c.buf) {
		return
	}
	window := int(c.decoder.frame.window)
	if most := window + max(min(window, 8<<20), window/4) + slack; len(c.buf) < most {
		grown := make([]byte, min(most, max(1<<20, 2*len(c.buf))))
		copy(grown, c.buf[:c.n])
		c.buf = grown
		if c.n+slack <= len(c.buf) {
			return
		}
	}
	gone := c.n - window
	copy(c.buf, c.buf[gone:c.n])
	c.n -= gone
	c.edge = max(0, c.edge-gone)
}
