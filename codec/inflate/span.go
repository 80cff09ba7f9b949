package inflate

import (
	"fmt"
	"sync"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
)

var _ codec.Span = Span

// spanner is what a call of Span needs: some 130 KiB, most of which is not touched.
type spanner struct {
	decoder
	before  window
	scratch []byte
}

var spanners = sync.Pool{New: func() any { return new(spanner) }}

// Span decodes a stretch of a gzip file: see codec.Span. Without a window, src begins with the header of a member, and
// bit is 0. It goes on through the ends of members; their checksums, which cover more than dst, are not looked at.
func Span(dst, src []byte, bit uint8, window []byte) error {
	if len(dst) == 0 {
		return nil
	}
	s := spanners.Get().(*spanner)
	err := s.decode(dst, src, bit, window)
	s.in, s.past = nil, nil
	spanners.Put(s)
	return err
}

func (s *spanner) decode(dst, src []byte, bit uint8, window []byte) error {
	if bit > 7 || bit > 0 && len(window) == 0 {
		return fmt.Errorf("%w: no point is at bit %d", blob.ErrCorrupt, bit)
	}
	s.last, s.floor, s.member, s.past, s.used = true, 0, 0, nil, nil
	if len(window) == 0 {
		if err := s.next(src, 0, 0); err != nil {
			return err
		}
	} else {
		if !s.begin(src, 0, bit) {
			return s.wrong(0, endsEarly)
		}
		inside, err := s.before.unpack(window, &s.block, &s.scratch)
		if err != nil {
			return err
		}
		s.past = &s.before
		if inside && !s.enter() {
			return s.wrong(0, s.fault)
		}
	}
	return s.fillUp(dst, src)
}

// fillUp goes on until dst is full, through the ends of members.
func (s *spanner) fillUp(dst, src []byte) error {
	for o := 0; o < len(dst); {
		var st status
		switch o, st = s.run(dst, o, true); st {
		case broken:
			return s.wrong(o, s.fault)
		case streamEnd:
			s.rest()
			if o == len(dst) {
				return nil
			}
			if err := s.next(src, s.pos+trailer, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// next begins with the member at src[pos:], behind padding, whose first byte will be dst[o].
func (s *spanner) next(src []byte, pos, o int) error {
	for o > 0 && pos < len(src) && src[pos] == 0 {
		pos++
	}
	if pos >= len(src) {
		s.pos = len(src)
		return s.wrong(o, endsEarly)
	}
	n, fault := memberHeader(src[pos:], false)
	if n == 0 {
		if fault == "" {
			fault = endsEarly
		}
		s.pos = pos
		return s.wrong(o, fault)
	}
	s.floor, s.member, s.past = o, o, nil
	s.begin(src, pos+n, 0)
	return nil
}

func (s *spanner) wrong(o int, what string) error {
	return fmt.Errorf("%w: a span of a gzip file, near its stored byte %d and decoded byte %d: %s", blob.ErrCorrupt, s.pos, o, what)
}
