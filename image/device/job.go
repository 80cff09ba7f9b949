package device

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
)

// job makes one span present. A span has at most one, however many want it.
type job struct {
	// Constant.
	d    *Device
	span uint32
	cost int64 // bytes that it counts for while admitted
	seq  uint64

	// Guarded by Pool.mu.
	rank     rank
	in       *queue
	place    int
	admitted bool
	reads    []*read
	fans     []*prefetch
	cancel   context.CancelFunc // of reading the stored bytes; nil while it does not
	again    bool               // it was cancelled to be read in a more urgent class
	need     int64              // decoded bytes of its turn
	go_      chan struct{}      // closed when its turn comes
}

// graceForSource is how much later than its readers the reading of stored bytes gives up: a source with the same
// bound then says itself why, and remembers it for the reads that the kernel repeats.
const graceForSource = 5 * time.Second

// run makes the span present, or fails, and tells everybody.
func (j *job) run() {
	d := j.d
	defer d.flying.Done()
	data, there := j.fromFile()
	var err error
	if !there {
		data, err = j.produce()
	}
	last := d.publish(j, data, there, err)
	d.pool.finish(j)
	if last {
		d.seal()
	}
}

// produce returns the verified bytes of the span, in a buffer of the pool.
func (j *job) produce() ([]byte, error) {
	d := j.d
	s := &d.spans[j.span]
	var window []byte
	if s.Window.Length > 0 {
		if err := j.fetch(func(ctx context.Context) (err error) {
			window, err = d.index.Window(ctx, d.windows, int(j.span))
			return err
		}); err != nil {
			return nil, fmt.Errorf("window of span %d of the index of %s: %w", j.span, d.name, err)
		}
	}
	src := d.pool.buffers.get(s.StoredLength)
	if err := j.fetch(func(ctx context.Context) error { return d.stored.ReadAt(ctx, src, s.Stored) }); err != nil {
		d.pool.buffers.put(src)
		return nil, fmt.Errorf("%s of %s, bytes %d to %d of the stored layer: %w", d.spanName(j.span), d.name, s.Stored, s.Stored+s.StoredLength, err)
	}
	dst := src
	inPlace := s.Codec == index.Stored && s.Pad == 0
	if inPlace {
		d.pool.turn(j, 0)
	} else {
		d.pool.turn(j, s.Skip+s.Length)
		dst = d.pool.buffers.get(s.Skip + s.Length)
	}
	defer d.pool.decoded()
	err := d.decode(s, dst[:s.Skip+s.Decoded()], src, window)
	if err == nil && !s.Verify(src, dst[s.Skip:s.Skip+s.Decoded()]) {
		err = fmt.Errorf("%w: the bytes do not match their digest", blob.ErrCorrupt)
	}
	if !inPlace {
		d.pool.buffers.put(src)
		copy(dst, dst[s.Skip:s.Skip+s.Decoded()])
		dst = dst[:s.Length]
		clear(dst[s.Decoded():])
	}
	if err != nil {
		d.pool.buffers.put(dst)
		return nil, fmt.Errorf("%s of %s: %w", d.spanName(j.span), d.name, err)
	}
	d.decodes.Add(1)
	return dst, nil
}

// fromFile returns the verified bytes of a span that lies in the file from an earlier life. Those whose digest is of
// what was stored cannot be verified here, and count as absent.
func (j *job) fromFile() (data []byte, ok bool) {
	d := j.d
	if !d.maybe.get(j.span) {
		return nil, false
	}
	s := &d.spans[j.span]
	d.pool.turn(j, s.Length)
	defer d.pool.decoded()
	data = d.pool.buffers.get(s.Length)
	if _, err := d.file.ReadAt(data, s.Device); err == nil && s.Kind != index.StoredChunk && s.Verify(nil, data[:s.Decoded()]) && blank(data[s.Decoded():]) {
		d.found.Add(1)
		return data, true
	}
	d.pool.buffers.put(data)
	d.maybe.clear(j.span)
	return nil, false
}

// blank reports whether b is zeros.
func blank(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// fetch calls read with a context of the job's class, and again when the class changed meanwhile.
func (j *job) fetch(read func(context.Context) error) error {
	d, p := j.d, j.d.pool
	for {
		p.mu.Lock()
		ctx, cancel := context.WithCancel(blob.WithClass(d.ctx, j.rank.class()))
		stop := cancel
		if d.timeout > 0 {
			ctx, stop = context.WithTimeout(ctx, d.timeout+graceForSource)
		}
		j.cancel, j.again = cancel, false
		p.mu.Unlock()
		err := read(ctx)
		late := ctx.Err() == context.DeadlineExceeded
		stop()
		cancel()
		p.mu.Lock()
		again := j.again
		j.cancel = nil
		p.mu.Unlock()
		switch {
		case err == nil:
			return nil
		case d.ctx.Err() != nil:
			return fmt.Errorf("%w: the layer is being closed", blob.ErrClosed)
		case again:
			continue
		case late && errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("%w: nothing came within %v", blob.ErrUnavailable, d.timeout+graceForSource)
		}
		return err
	}
}

// raise makes a job at least as urgent as r. Needs Pool.mu.
func (j *job) raise(r rank) {
	if r >= j.rank {
		return
	}
	before := j.rank.class()
	j.rank = r
	j.moved()
	// What is asked for in the background may be held back for long. Bytes that have come stay in the stored blob.
	if j.cancel != nil && before > blob.Read && r <= rankRead {
		j.again = true
		j.cancel()
	}
}

// decode fills dst. A panic of a decoder is damage of that span, not the end of the process.
func (d *Device) decode(s *index.Span, dst, src, window []byte) (err error) {
	if s.Codec == index.Stored {
		copy(dst, src) // unless they are the same
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			d.log.Error("BUG: panic while decoding", "layer", d.name, "panic", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: the decoder panicked: %v", blob.ErrCorrupt, v)
		}
	}()
	return d.decoders[s.Codec](dst, src, s.Bit, window)
}
