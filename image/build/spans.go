package build

import (
	"bytes"
	"fmt"
	"io"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/tarscan"
)

// MaxEntries bounds the members of a layer: each takes a hundred bytes of memory and more while trees are merged. The
// largest images have half a million files.
const MaxEntries = 8 << 20

// spans cuts the decoded bytes at the points and hashes each stretch; on the way it scans the archive and writes it.
// A point may become known only when bytes behind it have come, so the last of them are kept back: late bytes at most,
// unless a point is known behind them.
type spans struct {
	late int64
	out  io.WriterAt
	scan *tarscan.Scanner // nil: what comes is no archive

	size    int64 // of what has come
	tail    []byte
	from    int           // where in tail the bytes that are not hashed yet begin
	at      int64         // offset of tail[from] in the address space
	leaves  []blob.Hash   // of the present span
	pending []codec.Point // behind at
	points  []codec.Point // whose spans have begun: the last of them is the present one's, the others have no window here
	ended   []ended       // the spans before it
	windows windows

	entries index.Entries
}

// ended is what is kept of a span besides its point.
type ended struct {
	digest blob.Hash
	window index.Window // among the windows
}

func (s *spans) init(late int64, o Options) {
	s.late, s.out, s.windows.file = late, o.Decoded, o.Scratch
	s.tail = make([]byte, 0, 2*(int(late)+buffer)) // so that bytes are moved to its beginning once in a while only
	if !o.Image {
		s.scan = tarscan.New(s.enter)
	}
}

// enter takes an entry.
func (s *spans) enter(e index.Entry) error {
	if s.entries.Len() == MaxEntries {
		return fmt.Errorf("%w layer: it has more than %d entries", blob.ErrInvalid, MaxEntries)
	}
	return s.entries.Add(e)
}

// mark takes a point.
func (s *spans) mark(p codec.Point) {
	p.Window = bytes.Clone(p.Window)
	s.pending = append(s.pending, p)
}

// add takes the next bytes, which are not kept.
func (s *spans) add(p []byte) error {
	if s.scan != nil {
		if _, err := s.scan.Write(p); err != nil {
			return err
		}
	}
	if s.out != nil {
		if _, err := s.out.WriteAt(p, s.size); err != nil {
			return err
		}
	}
	s.size += int64(len(p))
	if cap(s.tail)-len(s.tail) < len(p) {
		s.tail = s.tail[:copy(s.tail, s.tail[s.from:])]
		s.from = 0
	}
	s.tail = append(s.tail, p...)
	return s.settle(false)
}

// settle hashes what can no longer be cut: whole spans, and buffers of the present one.
func (s *spans) settle(all bool) error {
	for len(s.pending) > 0 && s.pending[0].Out <= s.size {
		p := s.pending[0]
		if p.Out < s.at {
			return fmt.Errorf("BUG: a point at %d was marked when %d bytes were decoded, later than %d bytes behind it", p.Out, s.size, s.late)
		}
		s.hash(p.Out)
		if err := s.close(); err != nil {
			return err
		}
		s.points = append(s.points, p)
		s.pending = s.pending[1:]
	}
	switch {
	case all:
		s.hash(s.size)
	case s.size-s.at >= s.late+buffer:
		s.hash(s.at + (s.size-s.late-s.at)/buffer*buffer)
	}
	return nil
}

// hash makes leaves of the bytes up to end. Between spans it hashes whole buffers only.
func (s *spans) hash(end int64) {
	n := int(end - s.at)
	first := len(s.leaves)
	k := (n + blob.BlockSize - 1) / blob.BlockSize
	s.leaves = append(s.leaves, make([]blob.Hash, k)...)
	blob.Leaves(s.leaves[first:], s.tail[s.from:s.from+n])
	s.from += n
	s.at = end
}

// close ends the present span, if there is one. One without bytes is forgotten.
func (s *spans) close() error {
	if len(s.points) == 0 {
		return nil
	}
	last := &s.points[len(s.points)-1]
	if len(s.leaves) == 0 {
		s.points = s.points[:len(s.points)-1]
		return nil
	}
	window, err := s.windows.add(last.Window)
	last.Window = nil
	s.ended = append(s.ended, ended{blob.Fold(s.leaves, 0, blob.Width(uint32(len(s.leaves)))), window})
	s.leaves = s.leaves[:0]
	return err
}

// end says that all bytes have come.
func (s *spans) end() error {
	if err := s.settle(true); err != nil {
		return err
	}
	if err := s.close(); err != nil {
		return err
	}
	if len(s.pending) > 0 || len(s.ended) != len(s.points) || len(s.points) > 0 && s.points[0].Out != 0 || len(s.points) == 0 && s.size > 0 {
		return fmt.Errorf("BUG: the points of the codec do not begin at 0 or go beyond the end")
	}
	if s.scan == nil {
		return nil
	}
	return s.scan.End()
}

// lay makes the spans of a blob of stored bytes, size decoded, of which the decoder had taken consumed when it was done.
func (s *spans) lay(c index.Codec, stored, size, consumed int64) []index.Span {
	spans := make([]index.Span, len(s.points))
	for i, p := range s.points {
		// The byte in which the next point lies belongs to both spans; see codec.Span. The last span ends where the
		// decoder was when it was done: what may follow, padding say, nobody needs.
		out, in := size, min(stored, consumed)
		if i+1 < len(s.points) {
			out, in = s.points[i+1].Out, min(stored, s.points[i+1].In+1)
		}
		if c == index.Stored {
			in = p.In + out - p.Out
		}
		spans[i] = index.Span{
			Device: p.Out, Length: out - p.Out, Stored: p.In, StoredLength: in - p.In,
			Codec: c, Bit: p.Bit, Digest: s.ended[i].digest, Window: s.ended[i].window,
		}
	}
	return spans
}
