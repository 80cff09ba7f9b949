package inflate

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
)

// bitmap has a bit for each byte of a window.
type bitmap [winSize / 64]uint64

// word returns the mask of the bits of word i that are in [from, to).
func word(i, from, to int) uint64 {
	m := ^uint64(0)
	if d := from - i*64; d > 0 {
		m <<= d
	}
	if d := (i+1)*64 - to; d > 0 {
		m &= ^uint64(0) >> d
	}
	return m
}

func (b *bitmap) set(from, to int) {
	for i := from / 64; i*64 < to; i++ {
		b[i] |= word(i, from, to)
	}
}

func (b *bitmap) all(from, to int) bool {
	for i := from / 64; i*64 < to; i++ {
		if m := word(i, from, to); b[i]&m != m {
			return false
		}
	}
	return true
}

// next is the first bit from at on that is want, or winSize.
func (b *bitmap) next(at int, want bool) int {
	for i := at / 64; i < len(b); i++ {
		w := b[i]
		if !want {
			w = ^w
		}
		if w &= word(i, at, winSize); w != 0 {
			return i*64 + bits.TrailingZeros64(w)
		}
	}
	return winSize
}

// window is what lies before a point, as far as it is known.
type window struct {
	bytes [winSize]byte // the last one is next to the point
	have  bitmap
}

// A packed window is a byte that says how, and the rest:
//
//	bare    nothing: no byte before the point is needed
//	plain   a body
//	zipped  its length in bytes (uvarint), the body as a frame of Zstandard
//
// A body is runs or, where that byte has the bit inside, the block that the point is inside of, and then runs. Runs
// are, for each, the bytes to skip since the last one and its length (uvarints), then a length of 0, then all their
// bytes. A block is one byte (bit 0: final, bit 1: fixed) and, unless it is fixed, one each for the number of literal
// codes less 257 and of distance codes less 1, and one for the length of each.
const (
	bare   = 0
	plain  = 1
	zipped = 2
	inside = 4

	isFinal = 1
	isFixed = 2

	// nearby is how far apart runs must be to count as two: one more costs two bytes.
	nearby = 3
	// maxBody is more than a body takes: all bytes of a window, two or four for each run, of which no more than
	// winSize/(nearby+2) are short, and a block.
	maxBody = 2*winSize + 512
)

// pack returns w in its packed form, with the block that the point is in, if any. scratch is memory to use, and to
// use again.
func (w *window) pack(in *block, scratch *[]byte) []byte {
	body, last, how := (*scratch)[:0], 0, byte(0)
	if in != nil {
		how = inside
		body = in.pack(body)
	}
	head := len(body)
	for from, to := w.run(0); from < winSize; from, to = w.run(to) {
		body = binary.AppendUvarint(body, uint64(from-last))
		body = binary.AppendUvarint(body, uint64(to-from))
		last = to
	}
	if len(body) == head && in == nil {
		return []byte{bare}
	}
	body = append(body, 0, 0)
	for from, to := w.run(0); from < winSize; from, to = w.run(to) {
		body = append(body, w.bytes[from:to]...)
	}
	both := codec.Shrink(binary.AppendUvarint(append(body, zipped|how), uint64(len(body))), body)
	*scratch = both
	if small := both[len(body):]; len(small) <= len(body) {
		return append([]byte(nil), small...)
	}
	return append([]byte{plain | how}, body...)
}

func (b *block) pack(dst []byte) []byte {
	if b.fixed {
		return append(dst, isFixed|b2i(b.final)*isFinal)
	}
	dst = append(dst, b2i(b.final)*isFinal, byte(b.lits-257), byte(b.dists-1))
	return append(dst, b.lengths[:b.lits+b.dists]...)
}

func b2i(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// unpack makes b the block that p begins with, and returns the rest.
func (b *block) unpack(p []byte) (rest []byte, ok bool) {
	if len(p) == 0 || p[0]&^(isFinal|isFixed) != 0 {
		return nil, false
	}
	b.final, b.fixed = p[0]&isFinal != 0, p[0]&isFixed != 0
	if p = p[1:]; b.fixed {
		return p, true
	}
	if len(p) < 2 {
		return nil, false
	}
	b.lits, b.dists = int(p[0])+257, int(p[1])+1
	p = p[2:]
	if b.lits > maxLits || b.dists > maxDists || len(p) < b.lits+b.dists {
		return nil, false
	}
	for _, n := range p[:copy(b.lengths[:b.lits+b.dists], p)] {
		if n > maxCodeBits {
			return nil, false
		}
	}
	return p[b.lits+b.dists:], true
}

// run is the first run from at on. Its gaps of no more than nearby bytes count as parts of it.
func (w *window) run(at int) (from, to int) {
	from = w.have.next(at, true)
	for to = from; to < winSize; {
		to = w.have.next(to, false)
		next := w.have.next(to, true)
		if next-to > nearby || next == winSize {
			break
		}
		to = next
	}
	return from, to
}

// unpack makes w what packed says, and, if the point is inside of a block, in what that is. scratch is memory to use,
// and to use again.
func (w *window) unpack(packed []byte, in *block, scratch *[]byte) (isInside bool, err error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: a packed window of %d bytes: %s", blob.ErrCorrupt, len(packed), fmt.Sprintf(format, args...))
	}
	w.have = bitmap{}
	if len(packed) == 0 {
		return false, bad("it is empty")
	}
	body := packed[1:]
	switch packed[0] &^ inside {
	case bare:
		if len(packed) != 1 || packed[0] != bare {
			return false, bad("it goes on where nothing is needed")
		}
		return false, nil
	case plain:
	case zipped:
		size, n := binary.Uvarint(body)
		if n <= 0 || size > maxBody {
			return false, bad("its body claims to be longer than %d bytes", maxBody)
		}
		if uint64(cap(*scratch)) < size {
			*scratch = make([]byte, maxBody)
		}
		whole := (*scratch)[:size]
		if err := codec.Expand(whole, body[n:]); err != nil {
			return false, bad("%v", err)
		}
		body = whole
	default:
		return false, bad("it is packed in a way that this version does not know: %d", packed[0])
	}
	if isInside = packed[0]&inside != 0; isInside {
		var ok bool
		if body, ok = in.unpack(body); !ok {
			return false, bad("not a block")
		}
	}
	total, at := 0, 0
	for {
		skip, n := binary.Uvarint(body)
		length, m := binary.Uvarint(body[max(n, 0):])
		if n <= 0 || m <= 0 || skip > winSize || length > winSize || at+int(skip)+int(length) > winSize {
			return false, bad("a run goes beyond it")
		}
		body = body[n+m:]
		if length == 0 {
			break
		}
		at += int(skip)
		w.have.set(at, at+int(length))
		at += int(length)
		total += int(length)
	}
	if total != len(body) {
		return false, bad("%d bytes of %d", len(body), total)
	}
	for from := w.have.next(0, true); from < winSize; {
		to := w.have.next(from, false)
		body = body[copy(w.bytes[from:to], body):]
		from = w.have.next(to, true)
	}
	return isInside, nil
}
