package inflate

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"sync"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
)

var _ codec.Scan = Scan

const (
	// Output of 256 KiB and the window before it, and input for as much, stay in a second-level cache of 1 MiB.
	inSize  = 256 << 10
	outSize = winSize + 256<<10 + outSlack + maxMatch
)

// scanner is the state of a Scan: some 700 KiB.
type scanner struct {
	decoder
	r     io.Reader
	emit  func([]byte) error
	mark  func(codec.Point) error
	space codec.Spacing

	stored  [inSize]byte
	base    int64 // stored bytes before stored[0]
	decoded [outSize]byte
	o, sent int   // decoded[sent:o] is not emitted yet
	before  int64 // decoded bytes before decoded[0]

	sum  uint32 // CRC-32 of the member up to sent
	size uint32 // its length so far, modulo 2^32

	lastIn, lastOut int64 // where the last point is

	// A point waits here for what follows it: for one byte, since no point lies at the end, and, if it needs a window,
	// for all that may refer to it.
	waiting  bool
	point    codec.Point
	windowed bool // it needs a window
	window   window
	within   bool // it is inside of a block
	around   block
	scratch  []byte // to pack both
}

var scanners = sync.Pool{New: func() any { return new(scanner) }}

// Scan decodes a gzip file: see codec.Scan. All its members are decoded, what is between and behind them must be
// zeros, and their checksums and lengths must be right.
//
// Points are starts of members and ends of blocks or, where neither comes for twice the spacing, places inside of a
// block; see the package comment. Those with windows are at least 32 KiB of decoded bytes apart. A spacing of 0 or less
// counts as none. No point but the first is at the end of the file.
func Scan(r io.Reader, space codec.Spacing, emit func(p []byte) error, mark func(codec.Point) error) error {
	s := scanners.Get().(*scanner)
	if space.Stored <= 0 {
		space.Stored = math.MaxInt64
	}
	if space.Decoded <= 0 {
		space.Decoded = math.MaxInt64
	}
	s.r, s.space, s.emit, s.mark = r, space, emit, mark
	s.base, s.o, s.sent, s.before, s.lastIn, s.lastOut, s.waiting = 0, 0, 0, 0, 0, 0, false
	s.in, s.pos, s.buf, s.bits, s.last, s.past, s.used = s.stored[:0], 0, 0, 0, false, nil, nil
	err := s.file()
	s.r, s.emit, s.mark, s.point = nil, nil, nil, codec.Point{}
	scanners.Put(s)
	return err
}

func (s *scanner) wrong(what string) error {
	return fmt.Errorf("%w: a gzip file, near its stored byte %d and decoded byte %d: %s", blob.ErrCorrupt,
		s.base+int64(s.pos), s.before+int64(s.o), what)
}

// more makes at least n bytes of input unread, unless it ends before; n is at most half of inSize.
func (s *scanner) more(n int) error {
	for empty := 0; len(s.in)-s.pos < n && !s.last; {
		if s.pos > 0 {
			k := copy(s.stored[:], s.in[s.pos:])
			s.base += int64(s.pos)
			s.in, s.pos = s.stored[:k], 0
		}
		k, err := s.r.Read(s.stored[len(s.in):])
		s.in = s.stored[:len(s.in)+k]
		switch {
		case err == io.EOF:
			s.last = true
		case err != nil:
			return err
		case k == 0:
			if empty++; empty == 100 { // as bufio does
				return io.ErrNoProgress
			}
		}
	}
	return nil
}

func (s *scanner) file() error {
	if err := s.mark(codec.Point{}); err != nil {
		return err
	}
	for first := true; ; first = false {
		more, err := s.header(first)
		if err != nil {
			return err
		}
		if !more {
			return s.flush()
		}
		if err := s.body(); err != nil {
			return err
		}
		if err := s.trailer(); err != nil {
			return err
		}
	}
}

// header reads the header of the next member. It reports whether there is one.
func (s *scanner) header(first bool) (bool, error) {
	for {
		if err := s.more(1); err != nil {
			return false, err
		}
		if s.pos == len(s.in) {
			if first {
				return false, s.wrong("it is empty")
			}
			return false, nil
		}
		if first || s.in[s.pos] != 0 {
			break
		}
		for s.pos < len(s.in) && s.in[s.pos] == 0 {
			s.pos++
		}
	}
	for want := 512; ; want *= 2 {
		if err := s.more(want); err != nil {
			return false, err
		}
		n, fault := memberHeader(s.in[s.pos:], true)
		if n == 0 && fault == "" && (s.last || want >= maxMember) {
			fault = "the header of a gzip member is cut short or longer than 128 KiB"
		}
		if fault != "" {
			return false, s.wrong(fault)
		}
		if n > 0 {
			s.start(s.base + int64(s.pos))
			s.begin(s.in, s.pos+n, 0)
			return true, nil
		}
	}
}

// start begins a member at the stored byte in: a place for a point that costs nothing.
func (s *scanner) start(in int64) {
	s.sum, s.size, s.member, s.floor = 0, 0, s.o, s.o
	if s.due(in, 1) {
		s.waiting, s.windowed = true, false
		s.point = codec.Point{Out: s.before + int64(s.o), In: in}
	}
}

// due reports whether there shall be a point here, at the stored byte in, so many times the spacing behind the last.
func (s *scanner) due(in, times int64) bool {
	out := s.before + int64(s.o)
	return !s.waiting && out > s.lastOut &&
		((in-s.lastIn)/times >= s.space.Stored || (out-s.lastOut)/times >= s.space.Decoded)
}

// body decodes a member up to its trailer.
func (s *scanner) body() error {
	for {
		var st status
		s.o, st = s.run(s.decoded[:], s.o, false)
		var err error
		switch st {
		case broken:
			return s.wrong(s.fault)
		case hungry:
			err = s.more(max(maxHeader, nearEnd))
		case full:
			if err = s.settle(false); err == nil {
				if s.phase == inHuffman { // a stored block ends soon enough
					s.cut(2)
				}
				err = s.flush()
				s.slide()
			}
		case blockEnd:
			err = s.settle(false)
			s.cut(1)
		case streamEnd:
			s.rest()
			return s.settle(true)
		}
		if err != nil {
			return err
		}
	}
}

// cut makes a point with a window here if one is due.
func (s *scanner) cut(times int64) {
	bit := (s.base+int64(s.pos))*8 - int64(s.bits)
	if !s.due(bit>>3, times) {
		return
	}
	s.waiting, s.windowed, s.within = true, true, s.phase == inHuffman
	if s.within {
		s.around = s.block
	}
	s.point = codec.Point{Out: s.before + int64(s.o), In: bit >> 3, Bit: uint8(bit & 7)}
	n := min(s.o, winSize)
	copy(s.window.bytes[winSize-n:], s.decoded[s.o-n:s.o])
	s.window.have = bitmap{}
	s.used, s.floor = &s.window.have, s.o
}

// settle marks the point that waits once all that may refer to its window is decoded: winSize bytes, or the rest of
// its member, if that ends here. What has nothing behind it in its member is no point after all.
func (s *scanner) settle(end bool) error {
	if !s.waiting {
		return nil
	}
	behind := s.before + int64(s.o) - s.point.Out
	switch {
	case behind == 0:
		s.waiting = !end
	case !s.windowed || end || behind >= winSize:
		s.waiting, s.lastIn, s.lastOut = false, s.point.In, s.point.Out
		if s.windowed {
			around := &s.around
			if !s.within {
				around = nil
			}
			s.point.Window = s.window.pack(around, &s.scratch)
		}
		if err := s.mark(s.point); err != nil {
			return err
		}
	}
	if !s.waiting {
		s.used, s.floor = nil, s.member
	}
	return nil
}

// flush emits what has not been.
func (s *scanner) flush() error {
	p := s.decoded[s.sent:s.o]
	if len(p) == 0 {
		return nil
	}
	s.sent = s.o
	s.sum = crc32.Update(s.sum, crc32.IEEETable, p)
	s.size += uint32(len(p))
	return s.emit(p)
}

// slide makes room for more output, all of which has been emitted, and keeps the last winSize bytes.
func (s *scanner) slide() {
	k := s.o - winSize
	copy(s.decoded[:winSize], s.decoded[k:s.o])
	s.before += int64(k)
	s.o, s.sent = winSize, winSize
	s.floor, s.member = max(0, s.floor-k), max(0, s.member-k)
}

// trailer checks what a member says of itself.
func (s *scanner) trailer() error {
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.more(trailer); err != nil {
		return err
	}
	t := s.in[s.pos:]
	switch {
	case len(t) < trailer:
		return s.wrong(endsEarly)
	case binary.LittleEndian.Uint32(t) != s.sum:
		return s.wrong("a member does not match its checksum")
	case binary.LittleEndian.Uint32(t[4:]) != s.size:
		return s.wrong("a member is not as long as it says")
	}
	s.pos += trailer
	return nil
}
