package swarm

import (
	"context"
	"fmt"
	"sync"

	"github.com/pantala/pantala/blob"
)

// flight is one call of Fetch. The caller's goroutine lends buffers and hands parts to the loop one at a
// time, as fast as peers have room; what becomes of them comes back as news.
type flight struct {
	// Constant.
	t      *Torrent
	ctx    context.Context
	lend   context.Context // of the wait for a buffer; ends with ctx and when err is set
	refuse context.CancelFunc
	sink   blob.Sink
	class  blob.Class
	run    blob.Run

	// Of a call that collects a whole piece.
	whole   *assembly // which is its sink; nil: a call of Fetch
	only    *peer     // nobody else is asked; nil: all are
	refused []*peer   // not asked

	signal chan struct{} // there is news

	mu      sync.Mutex // guards what follows
	ended   []*part    // their Done was accepted
	again   []blob.Run // to be asked again: their bytes were wrong and have been dropped
	lost    []*part    // whose runs are in again
	waiting int        // parts handed to the loop and not asked of anybody yet
	err     error      // the call fails with it
}

// Fetch delivers the blocks of r from peers. See blob.Source.
func (t *Torrent) Fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	if len(t.files) > 1 {
		return fmt.Errorf("fetch blocks %s from peers: %w: %w", r, blob.ErrInvalid, errSeveral)
	}
	if r.End() < r.First || r.End() > t.geo.Blocks() {
		return fmt.Errorf("fetch blocks %s from peers: %w: the blob has %d blocks", r, blob.ErrInvalid, t.geo.Blocks())
	}
	return t.fetch(ctx, r, into)
}

// fetch delivers blocks of one file, by their numbers in the torrent.
func (t *Torrent) fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	return t.fly(&flight{t: t, ctx: ctx, sink: into, class: min(blob.ClassOf(ctx), blob.Background), run: r})
}

// fly carries a call out.
func (t *Torrent) fly(f *flight) error {
	f.signal = make(chan struct{}, 1)
	// All memory may be lent to parts that have failed, and only this call's end gives it back.
	f.lend, f.refuse = context.WithCancel(f.ctx)
	defer f.refuse()
	live := make(map[*part]struct{})
	most := uint32(blob.MaxBuffer)
	if s := t.scheme.Load(); s != nil && f.class > blob.Read {
		most = s.part // what has not come whole cannot be passed on
	}
	err := f.deliver(split(t.geo, f.run, most), most, live)
	if err == nil {
		return nil
	}
	left := make([]*part, 0, len(live))
	for pt := range live {
		if pt.close() {
			f.sink.Drop(pt.run)
		}
		left = append(left, pt)
	}
	select {
	case <-t.stop:
		err = blob.ErrClosed // whatever went wrong while everything was closed
	default:
		t.post(abandoned{left})
	}
	return fmt.Errorf("fetch blocks %s from peers: %w", f.run, err)
}

// deliver submits the runs and returns when all were accepted, or with the first error.
// Parts have at most most blocks.
func (f *flight) deliver(todo []blob.Run, most uint32, live map[*part]struct{}) error {
	waiting := 0
	for {
		// One part that waits for room keeps the pipe full; more would only hold memory.
		// Of small parts as many as make a full one, or another piece would be asked for in between.
		for len(todo) > 0 && (waiting < 2 || waiting*int(most) < blob.MaxBuffer) {
			buf, err := f.sink.Buffer(f.lend, todo[0])
			if failed := f.failed(); err != nil && failed != nil {
				return failed
			}
			if err != nil {
				return fmt.Errorf("buffer: %w", err)
			}
			pt := newPart(f, todo[0], buf)
			todo = todo[1:]
			live[pt] = struct{}{}
			f.mu.Lock()
			f.waiting++
			f.mu.Unlock()
			waiting++
			if !f.t.post(submitted{pt}) {
				return blob.ErrClosed
			}
		}
		if len(todo) == 0 && len(live) == 0 {
			return nil
		}
		select {
		case <-f.signal:
		case <-f.ctx.Done():
			return f.ctx.Err()
		case <-f.t.stop:
			return blob.ErrClosed
		}
		f.mu.Lock()
		for _, pt := range f.ended {
			delete(live, pt)
		}
		for _, pt := range f.lost {
			delete(live, pt)
		}
		todo = append(f.again, todo...)
		err := f.err
		f.ended, f.lost, f.again = nil, nil, nil
		waiting = f.waiting
		f.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// settle reports that the sink has taken a part, or failed with an error of its own.
func (f *flight) settle(pt *part, err error) {
	f.mu.Lock()
	f.ended = append(f.ended, pt)
	f.mu.Unlock()
	f.fail(err)
}

// retry reports that the bytes of a part were wrong and its buffer is gone.
func (f *flight) retry(pt *part) {
	f.mu.Lock()
	f.lost = append(f.lost, pt)
	f.again = append(f.again, pt.run)
	f.mu.Unlock()
	f.poke()
}

// placed reports that a part has been asked of somebody.
func (f *flight) placed() {
	f.mu.Lock()
	f.waiting--
	f.mu.Unlock()
	f.poke()
}

// fail ends the call, unless err is nil.
func (f *flight) fail(err error) {
	f.mu.Lock()
	if f.err == nil {
		f.err = err
	}
	f.mu.Unlock()
	if err != nil {
		f.refuse()
	}
	f.poke()
}

// failed is the error that the call fails with, if it does.
func (f *flight) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *flight) poke() {
	select {
	case f.signal <- struct{}{}:
	default:
	}
}

// split cuts a run into parts within pieces. What fits one buffer stays together; longer runs are cut at
// multiples of MaxBuffer, so that only their first and last part are short. Parts have at most most blocks.
func split(g *space, r blob.Run, most uint32) []blob.Run {
	parts := make([]blob.Run, 0, r.Count/most+2)
	for long := r.Count > blob.MaxBuffer; r.Count > 0; {
		n := min(r.Count, most, g.PieceBlocks(g.PieceOf(r.First)).End()-r.First)
		if long {
			n = min(n, blob.MaxBuffer-r.First%blob.MaxBuffer)
		}
		parts = append(parts, blob.Run{First: r.First, Count: n})
		r.First, r.Count = r.First+n, r.Count-n
	}
	return parts
}
