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

// A packed window is one byte that says how, and the rest:
//
//	bare    nothing: no byte before the point is needed
//	plain   runs
//	zipped  length of the runs in bytes (uvarint), runs as a frame of Zstandard
//
// Runs are, for each, the bytes to skip since the last one and its length (uvarints), then a length of 0, then all
// their bytes.
const (
	bare   = 0
	plain  = 1
	zipped = 2

	// nearby is how far apart runs must be to count as two: one more costs two bytes.
	nearby = 3
	// maxRuns is more than the runs of a window take: all its bytes, and two or four for each run, of which no more
	// than winSize/(nearby+2) are short.
	maxRuns = 2 * winSize
)

// pack returns w in its packed form. scratch is memory to use, and to use again.
func (w *window) pack(scratch *[]byte) []byte {
	runs, last := (*scratch)[:0], 0
	for from, to := w.run(0); from < winSize; from, to = w.run(to) {
		runs = binary.AppendUvarint(runs, uint64(from-last))
		runs = binary.AppendUvarint(runs, uint64(to-from))
		last = to
	}
	if len(runs) == 0 {
		return []byte{bare}
	}
	runs = append(runs, 0, 0)
	for from, to := w.run(0); from < winSize; from, to = w.run(to) {
		runs = append(runs, w.bytes[from:to]...)
	}
	packed := codec.Shrink(binary.AppendUvarint(append(runs, zipped), uint64(len(runs))), runs)
	*scratch = packed
	if packed = packed[len(runs):]; len(packed) <= len(runs) {
		return append([]byte(nil), packed...)
	}
	return append([]byte{plain}, runs...)
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

// unpack makes w what packed says. scratch is memory to use, and to use again.
func (w *window) unpack(packed []byte, scratch *[]byte) error {
	w.have = bitmap{}
	if len(packed) == 0 {
		return fmt.Errorf("%w: a packed window of no bytes", blob.ErrCorrupt)
	}
	runs := packed[1:]
	switch packed[0] {
	case bare:
		if len(runs) != 0 {
			return fmt.Errorf("%w: %d bytes behind a window that needs none", blob.ErrCorrupt, len(runs))
		}
		return nil
	case plain:
	case zipped:
		size, n := binary.Uvarint(runs)
		if n <= 0 || size > maxRuns {
			return fmt.Errorf("%w: a packed window of %d bytes claims to be of more than %d", blob.ErrCorrupt, len(packed), maxRuns)
		}
		if uint64(cap(*scratch)) < size {
			*scratch = make([]byte, maxRuns)
		}
		whole := (*scratch)[:size]
		if err := codec.Expand(whole, runs[n:]); err != nil {
			return fmt.Errorf("%w: a packed window: %v", blob.ErrCorrupt, err)
		}
		runs = whole
	default:
		return fmt.Errorf("%w: a window packed in way %d, which this version does not know", blob.ErrCorrupt, packed[0])
	}
	total := 0
	at := 0
	head := runs
	for {
		skip, n := binary.Uvarint(head)
		length, m := binary.Uvarint(head[max(n, 0):])
		if n <= 0 || m <= 0 || skip > winSize || length > winSize || at+int(skip)+int(length) > winSize {
			return fmt.Errorf("%w: runs of a window that go beyond it", blob.ErrCorrupt)
		}
		head = head[n+m:]
		if length == 0 {
			break
		}
		at += int(skip)
		w.have.set(at, at+int(length))
		at += int(length)
		total += int(length)
	}
	if total != len(head) {
		return fmt.Errorf("%w: runs of a window with %d bytes of %d", blob.ErrCorrupt, len(head), total)
	}
	for from := w.have.next(0, true); from < winSize; {
		to := w.have.next(from, false)
		head = head[copy(w.bytes[from:to], head):]
		from = w.have.next(to, true)
	}
	return nil
}
