package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pantala/pantala/blob"
)

const (
	// A buffer is published as a whole, so somebody who waits for its first block waits for all of it. It
	// grows while it fills within quickFill and shrinks when that takes longer than slowFill: a fast path gets
	// the 256 KiB that cost least per byte, a slow one block by block. 16 ms is one frame of a screen.
	quickFill = 4 * time.Millisecond
	slowFill  = 16 * time.Millisecond
)

// filling is one Fetch call under way.
type filling struct {
	w    *web
	into blob.Sink
	g    blob.Geometry

	next, end uint32 // blocks that are not done
	buf       []byte // nil, or lent for run, which starts at next
	run       blob.Run
	got       int // bytes in buf
	lent      time.Time
	chunk     uint32 // blocks of the next buffer
	reached   int64  // the furthest offset at the end of any attempt
	corrupt   int    // buffers that the sink refused
}

// fetch implements backend.
func (w *web) fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	f := &filling{w: w, into: into, g: w.o.geometry(), next: r.First, end: r.End(), chunk: 1}
	if blob.ClassOf(ctx) >= blob.Readahead {
		f.chunk = blob.MaxBuffer
	}
	f.reached = f.offset()
	defer f.drop()
	return w.insist(ctx, f.drop, f.attempt)
}

// offset is the first byte that is missing.
func (f *filling) offset() int64 { return int64(f.next)*blob.BlockSize + int64(f.got) }

// drop gives the buffer back, if there is one: memory is not held while waiting to ask again.
func (f *filling) drop() {
	if f.buf != nil {
		f.into.Drop(f.run)
		f.buf, f.got = nil, 0
	}
}

// attempt asks one endpoint for all that is missing. A block more than ever before is progress.
func (f *filling) attempt(wt *watch, e *endpoint) (progress bool, err error) {
	err = f.request(wt, e)
	if at := f.offset(); at >= f.reached+blob.BlockSize {
		f.reached, progress = at, true
	}
	return progress, err
}

func (f *filling) request(wt *watch, e *endpoint) error {
	start, n := f.g.Bytes(blob.Run{First: f.next, Count: f.end - f.next})
	off := f.offset()
	n -= off - start
	a := f.w.ask(off, n)
	resp, err := e.get(wt.ctx, a)
	if err != nil {
		return e.asFailure(wt, err)
	}
	defer resp.Body.Close()
	wt.touch()
	of, err := f.w.judge(resp, e, a, off, n)
	if err != nil {
		if resp.StatusCode >= 300 {
			discard(resp)
		}
		return err
	}
	if err := f.w.skip(wt, resp.Body, of.skip); err != nil {
		return f.cut(wt, e, err)
	}
	for left := of.n; left > 0; {
		if f.buf == nil {
			if err := f.borrow(wt, e); err != nil {
				return err
			}
		}
		p := f.buf[f.got:]
		k, err := f.w.read(wt, resp.Body, p[:min(left, int64(len(p)))])
		f.got += k
		if left -= int64(k); err != nil {
			return f.cut(wt, e, err)
		}
		if f.got == len(f.buf) {
			if err := f.done(wt, e); err != nil {
				return err
			}
		}
	}
	if f.next < f.end {
		return errMore // a server may answer with the first part of a range (RFC 9110 section 15.3.7)
	}
	return nil
}

// cut is the failure of a body that ended too early.
func (f *filling) cut(wt *watch, e *endpoint, err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return e.fail(blob.ErrUnavailable, again, "the body ended early, at byte %d of the object: the server is broken or restarting, try again", f.offset())
	}
	return e.asFailure(wt, err)
}

// borrow takes the next buffer from the sink. The server is not to blame for that wait.
func (f *filling) borrow(wt *watch, e *endpoint) error {
	run := blob.Run{First: f.next, Count: min(f.chunk, f.end-f.next)}
	wt.pause()
	buf, err := f.into.Buffer(wt.ctx, run)
	wt.touch()
	if err != nil && wt.ctx.Err() != nil {
		return e.asFailure(wt, err)
	}
	if err != nil {
		return fmt.Errorf("origin: no memory for blocks %v: %w", run, err)
	}
	f.buf, f.run, f.got, f.lent = buf, run, 0, time.Now()
	return nil
}

// done hands the full buffer over.
func (f *filling) done(wt *watch, e *endpoint) error {
	took := time.Since(f.lent)
	wt.pause()
	err := f.into.Done(f.run)
	wt.touch()
	run := f.run
	f.buf, f.got = nil, 0
	switch {
	case err == nil:
		f.next = run.End()
	case errors.Is(err, blob.ErrCorrupt):
		// Once may have been the network, whose checksums are weak; a second time it is the endpoint.
		v := again
		if f.corrupt++; f.corrupt > 1 {
			v = elsewhere
		}
		return e.fail(blob.ErrCorrupt, v, "blocks %v: %v", run, err)
	case errors.Is(err, blob.ErrChanged):
		f.w.o.changed.Store(true)
		return fmt.Errorf("origin: GET %s: blocks %v: %w", display(e.url), run, err)
	default:
		return fmt.Errorf("origin: blocks %v: %w", run, err)
	}
	switch {
	case took < quickFill:
		f.chunk = min(2*f.chunk, blob.MaxBuffer)
	case took > slowFill:
		f.chunk = max(f.chunk/2, 1)
	}
	return nil
}
