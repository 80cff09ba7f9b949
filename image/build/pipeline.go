package build

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/image/index"
)

const (
	buffer = blob.MaxBuffer * blob.BlockSize // what is read, decoded and hashed at once: sixteen lanes of blob.Leaves
	// storedBuffers and decodedBuffers are how many there are: enough that no stage waits for another one that has
	// been descheduled for a time slice, some 4 ms, in which a decoder makes 3 MiB.
	storedBuffers  = 6
	decodedBuffers = 14
)

// chunk is a buffer on its way through the pipeline. Its memory is lent while it is on its way: of those that there may
// be few are at any moment, and all layers of an image come at once.
type chunk struct {
	b    []byte // of mem
	mem  *[buffer]byte
	refs atomic.Int32
	home chan *chunk
}

func (c *chunk) release() {
	if c.refs.Add(-1) == 0 {
		memory.Put(c.mem)
		c.b, c.mem = nil, nil
		c.home <- c // it has room for all there are
	}
}

// memory is that of chunks that nobody uses, of all layers.
var memory = sync.Pool{New: func() any { return new([buffer]byte) }}

// step is what the decoder says next: more bytes, or a point.
type step struct {
	chunk *chunk
	point codec.Point
}

// pipeline is one Build.
type pipeline struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	kind   kind
	o      Options

	storedFree, decodedFree chan *chunk
	stored                  chan *chunk // from the reader to the decoder; closed at the end
	decoded                 chan *chunk // from the decoder to the hash of the whole
	steps                   chan step   // from the decoder to the spans

	read     atomic.Int64 // stored bytes
	whole    blob.Hash    // of the decoded bytes
	size     int64        // of them
	kept     io.ReaderAt  // of an EROFS image: what was decoded
	consumed int64        // stored bytes that the decoder had taken when it handed out its last bytes
	spans    spans
}

func newPipeline(ctx context.Context, k kind, o Options) *pipeline {
	p := &pipeline{
		kind: k, o: o,
		storedFree: buffers(storedBuffers), decodedFree: buffers(decodedBuffers),
		stored: make(chan *chunk, storedBuffers), decoded: make(chan *chunk, decodedBuffers),
		// Points may come without bytes between them; they wait when the spans are behind.
		steps: make(chan step, 2*decodedBuffers),
	}
	if o.Image {
		p.kept = keep(&p.o)
	}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	return p
}

func buffers(n int) chan *chunk {
	c := make(chan *chunk, n)
	for range n {
		c <- &chunk{home: c}
	}
	return c
}

// take waits for a free buffer.
func (p *pipeline) take(free chan *chunk) (*chunk, error) {
	select {
	case c := <-free:
		c.mem = memory.Get().(*[buffer]byte)
		c.b = c.mem[:]
		return c, nil
	case <-p.ctx.Done():
		return nil, context.Cause(p.ctx)
	}
}

// run does it all, and returns when every goroutine has ended.
func (p *pipeline) run(r io.Reader) (*Built, error) {
	defer p.cancel(nil)
	var wait sync.WaitGroup
	for _, stage := range []func() error{p.decode, p.hash, p.cut} {
		wait.Go(func() {
			if err := stage(); err != nil {
				p.cancel(err)
			}
		})
	}
	side := newStoredSide()
	if err := p.feed(r, &side); err != nil {
		p.cancel(err)
	}
	close(p.stored) // after cancel: an end that is none must not look like one
	wait.Wait()
	if p.ctx.Err() != nil {
		return nil, context.Cause(p.ctx)
	}
	b := &Built{Facts: index.Facts{Format: p.kind.format, DiffID: p.whole, Size: p.size}, Entries: &p.spans.entries, decoded: p.size}
	if side.facts(&b.Facts); p.kind.codec == index.Stored {
		b.DiffID = b.Layer
	}
	if err := p.o.Want.check(b.Facts); err != nil {
		return nil, err
	}
	b.Spans, b.windows = p.spans.lay(p.kind.codec, b.Stored, b.Size, p.consumed), p.spans.windows
	if p.o.Image {
		return b, p.image(b)
	}
	return b, nil
}

// feed reads and hashes the stored bytes.
func (p *pipeline) feed(r io.Reader, side *storedSide) error {
	want := p.o.Want.Size
	for {
		c, err := p.take(p.storedFree)
		if err != nil {
			return err
		}
		n, err := io.ReadFull(r, c.b)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		c.b = c.b[:n]
		side.add(c.b)
		p.read.Add(int64(n))
		if want != 0 && (side.size > want || err != nil && side.size < want) {
			more := ""
			if err == nil {
				more = "at least "
			}
			return fmt.Errorf("%w layer: it has %s%d bytes, not %d", blob.ErrCorrupt, more, side.size, want)
		}
		c.refs.Store(1)
		select {
		case p.stored <- c:
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
		if err != nil {
			return nil
		}
	}
}

// storedReader is what the decoder reads.
type storedReader struct {
	p    *pipeline
	c    *chunk
	rest []byte
	n    int64 // bytes that were taken
}

func (s *storedReader) Read(b []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.c != nil {
			s.c.release()
			s.c = nil
		}
		select {
		case c, ok := <-s.p.stored:
			if !ok {
				// The reader closes it when it fails, too.
				if err := s.p.ctx.Err(); err != nil {
					return 0, context.Cause(s.p.ctx)
				}
				return 0, io.EOF
			}
			s.c, s.rest = c, c.b
		case <-s.p.ctx.Done():
			return 0, context.Cause(s.p.ctx)
		}
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	s.n += int64(n)
	return n, nil
}

// decode runs the codec, and gathers what it hands out in buffers.
func (p *pipeline) decode() (err error) {
	defer close(p.decoded)
	defer close(p.steps)
	defer func() {
		if err != nil {
			p.cancel(err) // before they are closed: an end that is none must not look like one
		}
	}()
	in := &storedReader{p: p}
	var c *chunk
	n := 0
	send := func() error {
		c.b = c.b[:n]
		c.refs.Store(2)
		select {
		case p.decoded <- c: // has room for all buffers
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
		out := c
		c, n = nil, 0
		return p.step(step{chunk: out})
	}
	emit := func(b []byte) error {
		p.size += int64(len(b))
		p.consumed = in.n
		if err := p.limit(); err != nil {
			return err
		}
		for len(b) > 0 {
			if c == nil {
				var err error
				if c, err = p.take(p.decodedFree); err != nil {
					return err
				}
			}
			k := copy(c.b[n:], b)
			b = b[k:]
			if n += k; n == len(c.b) {
				if err := send(); err != nil {
					return err
				}
			}
		}
		return nil
	}
	mark := func(at codec.Point) error { return p.step(step{point: at}) }
	if err := p.kind.scan(in, p.kind.spacing, emit, mark); err != nil {
		return err
	}
	if c != nil {
		return send()
	}
	return nil
}

func (p *pipeline) step(s step) error {
	select {
	case p.steps <- s:
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// limit refuses what becomes too much.
func (p *pipeline) limit() error {
	if p.size > p.o.MaxSize {
		return fmt.Errorf("%w layer: it is larger than %d bytes when decoded (limited by max-layer-size)", blob.ErrInvalid, p.o.MaxSize)
	}
	stored := max(p.o.Want.Size, p.read.Load())
	if p.size > free && p.size/p.o.MaxRatio > stored {
		return fmt.Errorf("%w layer: a zip bomb: more than %d bytes for each of %d stored ones (limited by max-layer-ratio)", blob.ErrInvalid, p.o.MaxRatio, stored)
	}
	return nil
}

// hash makes the digest of all that was decoded.
func (p *pipeline) hash() error {
	h := sha256.New()
	for {
		select {
		case c, ok := <-p.decoded:
			if !ok {
				p.whole = blob.Hash(h.Sum(nil))
				return nil
			}
			if p.kind.codec != index.Stored { // where it would be the digest of what is stored
				h.Write(c.b)
			}
			c.release()
		case <-p.ctx.Done():
			return nil
		}
	}
}

// cut feeds the spans.
func (p *pipeline) cut() error {
	p.spans.init(p.kind.late, p.o)
	for {
		select {
		case s, ok := <-p.steps:
			switch {
			case !ok && p.ctx.Err() != nil:
				return nil
			case !ok:
				return p.spans.end()
			case s.chunk == nil:
				p.spans.mark(s.point)
				continue
			}
			err := p.spans.add(s.chunk.b)
			s.chunk.release()
			if err != nil {
				return err
			}
		case <-p.ctx.Done():
			return nil
		}
	}
}
