package profile

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/pantala/pantala/blob"
)

/*
A profile in bytes (docs/wire.md):

	magic    "ptp" and the version, 1
	starts   uvarint: of how many starts it is made, 1 to MaxStarts
	blind    uvarint: how many layers follow, ascending, each as uvarint of its number − that of the one before − 1 (the
	         first: its number)
	touches  uvarint: how many follow, at most MaxTouches
	then for each touch, in order:
	step     uvarint: zigzag(span - next) << 1 | other, where next is the span after the last one of the same layer, 0 at
	         first, and other says that a layer follows; without it the layer is that of the touch before, 0 at first
	layer    uvarint, when other
	sum      CRC-32C of all before, big endian

uvarint is that of encoding/binary (LEB128), in its shortest form. What is read in sequence costs a byte, a jump within
4096 spans two, a change of layer one more.
*/

// Bounds of a profile.
const (
	MaxLayers  = 1 << 12 // far above the 127 that overlayfs, and most builders, end at
	MaxSpans   = 1 << 24 // of one layer: 1 TiB in spans of 64 KiB
	MaxTouches = 1 << 13 // 2 GiB in spans of 256 KiB: more than any start reads
	MaxStarts  = 1 << 8
	// MaxBytes is as long as a profile gets: a step has at most 26 bits, four bytes, and a layer 12, two bytes.
	// Blind layers take a byte each, and one more for each gap of 128.
	MaxBytes = 4 + 2 + 2 + MaxLayers + MaxLayers/128 + 2 + MaxTouches*(4+2) + 4
)

const magic = "ptp\x01"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Touch names a span of an image: the number of its layer, bottom first, and its own.
type Touch struct {
	Layer uint16
	Span  uint32
}

// Profile is the order in which the spans of an image are read first, each once.
type Profile struct {
	Starts int // of how many starts it is made
	// Blind are layers, ascending, whose reads were not all seen, because the kernel read a complete file without asking:
	// that a span of theirs is not in Touches means nothing.
	Blind   []uint16
	Touches []Touch
}

// Append writes p in the format of this package. It panics when p is beyond the bounds: only Parse, a Recorder and
// Merge make profiles, and they are within.
func (p *Profile) Append(b []byte) []byte {
	if err := p.check(); err != nil {
		panic("BUG: " + err.Error())
	}
	from := len(b)
	b = append(b, magic...)
	b = binary.AppendUvarint(b, uint64(p.Starts))
	b = binary.AppendUvarint(b, uint64(len(p.Blind)))
	after := uint16(0)
	for _, l := range p.Blind {
		b = binary.AppendUvarint(b, uint64(l-after))
		after = l + 1
	}
	b = binary.AppendUvarint(b, uint64(len(p.Touches)))
	next, layer := map[uint16]uint32{}, uint16(0)
	for _, t := range p.Touches {
		d := int64(t.Span) - int64(next[t.Layer])
		step := uint64(d<<1^d>>63) << 1
		next[t.Layer] = t.Span + 1
		if t.Layer == layer {
			b = binary.AppendUvarint(b, step)
			continue
		}
		layer = t.Layer
		b = binary.AppendUvarint(b, step|1)
		b = binary.AppendUvarint(b, uint64(layer))
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[from:], castagnoli))
}

// check says what is out of bounds.
func (p *Profile) check() error {
	if p.Starts < 1 || p.Starts > MaxStarts || len(p.Touches) > MaxTouches {
		return fmt.Errorf("%w: profile: %d starts and %d spans: at most %d and %d", blob.ErrInvalid, p.Starts, len(p.Touches), MaxStarts, MaxTouches)
	}
	for i, l := range p.Blind {
		if l >= MaxLayers || i > 0 && l <= p.Blind[i-1] {
			return fmt.Errorf("%w: profile: layer %d is out of order, or not below %d", blob.ErrInvalid, l, MaxLayers)
		}
	}
	seen := make(map[Touch]bool, len(p.Touches))
	for _, t := range p.Touches {
		switch {
		case t.Layer >= MaxLayers || t.Span >= MaxSpans:
			return fmt.Errorf("%w: profile: span %d of layer %d: at most %d of %d", blob.ErrInvalid, t.Span, t.Layer, MaxSpans, MaxLayers)
		case seen[t]:
			return fmt.Errorf("%w: profile: span %d of layer %d is named twice", blob.ErrInvalid, t.Span, t.Layer)
		}
		seen[t] = true
	}
	return nil
}

// Parse reads a profile, of which b is all. What it accepts, Append writes in the same bytes.
func Parse(b []byte) (*Profile, error) {
	bad := func(what string) (*Profile, error) {
		return nil, fmt.Errorf("%w: profile: %s: record it anew", blob.ErrInvalid, what)
	}
	switch {
	case len(b) > MaxBytes:
		return bad(fmt.Sprintf("%d bytes, at most %d", len(b), MaxBytes))
	case len(b) < len(magic)+4 || string(b[:3]) != magic[:3]:
		return bad("not a profile")
	case b[3] != magic[3]:
		return bad(fmt.Sprintf("version %d, only %d is known", b[3], magic[3]))
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return bad("damaged")
	}
	body = body[len(magic):]
	ok := true
	number := func(limit uint64) uint64 {
		v, n := binary.Uvarint(body)
		if n <= 0 || v >= limit || n > 1 && body[n-1] == 0 {
			ok = false
			return 0
		}
		body = body[n:]
		return v
	}
	p := &Profile{Starts: int(number(MaxStarts + 1))}
	blind := number(MaxLayers + 1)
	for after := uint64(0); ok && uint64(len(p.Blind)) < blind; {
		l := after + number(MaxLayers)
		ok = ok && l < MaxLayers
		p.Blind = append(p.Blind, uint16(l))
		after = l + 1
	}
	n := number(MaxTouches + 1)
	if !ok || n > uint64(len(body)) {
		return bad("malformed")
	}
	p.Touches = make([]Touch, 0, n)
	next, layer := map[uint16]uint32{}, uint16(0)
	for range n {
		step := number(4 * MaxSpans)
		if step&1 != 0 {
			other := uint16(number(MaxLayers))
			ok = ok && other != layer
			layer = other
		}
		step >>= 1
		span := int64(next[layer]) + (int64(step>>1) ^ -int64(step&1))
		if !ok || span < 0 || span >= MaxSpans {
			return bad("malformed")
		}
		next[layer] = uint32(span) + 1
		p.Touches = append(p.Touches, Touch{layer, uint32(span)})
	}
	if len(body) > 0 {
		return bad("bytes follow it")
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	return p, nil
}
