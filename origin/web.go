package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/pantala/pantala/blob"
)

// web is the backend of an object behind HTTP or HTTPS.
type web struct {
	o    *Object
	c    *Client
	opt  Options
	at   []*endpoint // the one that was opened, then the mirrors in their order
	home *endpoint   // the one that answered Open: its word on a change is final

	valid     validator
	noIfRange atomic.Bool // the server takes If-Range for a mismatch that is none

	known bool // the bytes are named by their digest: no validator is asked for
	brief bool // a definite no of the chief ends it, once the others have said anything
	chief int  // whose word counts, as a place in at
}

func newWeb(c *Client, u *url.URL, opt Options) (*web, error) {
	via, err := c.transports(opt.CACert, TLS{})
	if err != nil {
		return nil, err
	}
	w := &web{c: c, opt: opt, at: []*endpoint{newEndpoint(u, opt, via)}}
	for _, raw := range opt.Mirrors {
		m, err := parseMirror(raw, u)
		if err != nil {
			return nil, err
		}
		w.at = append(w.at, newEndpoint(m, opt, via))
	}
	return w, nil
}

const (
	// The waits between rounds are 0.1, 0.2, 0.4, 0.8, 1.6 s, each ± 50 %: 3.1 s for the default of five,
	// which outlives the restart of a server and stays far below the 30 s after which a read fails.
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
)

// errMore says that a request did all it was to do, and that another one has to go on.
var errMore = errors.New("more to ask for")

// insist calls once with one endpoint after another, until it returns nil, an error that is not a *failure
// (it is the receiver's), or there is no hope left. A round asks each endpoint that may help; between two
// rounds that brought no progress it waits, after having called rest. once reports whether it made progress.
func (w *web) insist(ctx context.Context, rest func(), once func(wt *watch, e *endpoint) (bool, error)) error {
	pauses := &backoff.ExponentialBackOff{InitialInterval: firstPause, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: maxPause}
	tried := make([]bool, len(w.at))      // in this round
	failed := make([]*failure, len(w.at)) // the last failure of each
	idle := 0                             // errMore in a row without progress
	for round := 0; ; {
		i := w.pick(tried, failed)
		if i < 0 {
			if f := w.worst(failed, never); f != nil {
				return f
			}
			last := w.worst(failed, elsewhere)
			if w.brief && last == failed[w.chief] && last.verdict == elsewhere {
				return last
			}
			if round++; round > w.opt.Retries {
				return last
			}
			pause := max(pauses.NextBackOff(), patience(failed))
			if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < pause || pause > blob.DefaultTimeout {
				return last
			}
			rest()
			if err := w.sleep(ctx, pause, last); err != nil {
				return err
			}
			clear(tried)
			continue
		}
		e := w.at[i]
		wt := w.c.watches.start(ctx, w.opt.Stall)
		progress, err := once(wt, e)
		stalled := errors.Is(context.Cause(wt.ctx), errStalled)
		wt.stop()
		var f *failure
		switch {
		case err == nil:
			e.worked()
			return nil
		case err == errMore && (progress || idle == 0):
			if idle++; progress {
				idle = 0
			}
			continue
		case err == errMore:
			err = e.fail(blob.ErrUnavailable, again, "the server answers with less than a block at a time: it is broken, add a --mirror")
		}
		switch {
		case ctx.Err() != nil:
			if last := w.worst(failed, elsewhere); last != nil {
				return fmt.Errorf("origin: GET %s: %w (before that: %v)", display(e.url), ctx.Err(), last)
			}
			return fmt.Errorf("origin: GET %s: %w", display(e.url), ctx.Err())
		case !errors.As(err, &f), f.verdict == never:
			return err
		}
		w.opt.Log.Debug("origin request failed", "err", f, "progress", progress)
		if stalled {
			e.via.idle() // what lost this connection has probably taken the idle ones along
		}
		if !progress {
			e.resolved.Store(nil)
		}
		if !w.known || f.verdict == again {
			e.failed() // a server that many objects share is not ill because it lacks one of them
		}
		failed[i], tried[i] = f, true
		if progress {
			round = 0
			pauses.Reset()
			clear(tried)
		}
	}
}

// pick is the endpoint to ask next: the first that is well, else the one that rests for the shortest time;
// -1 when all have been tried in this round, or will not do better.
func (w *web) pick(tried []bool, failed []*failure) int {
	now, best, until := time.Now(), -1, time.Time{}
	for i, e := range w.at {
		if tried[i] || failed[i] != nil && failed[i].verdict == elsewhere {
			continue
		}
		r := e.rests(now)
		if r.IsZero() {
			return i
		}
		if best < 0 || r.Before(until) {
			best, until = i, r
		}
	}
	return best
}

// worst is the failure to tell the caller: that of the chief, the endpoint that the user named. With hope == never it
// is returned only if no endpoint may do better.
func (w *web) worst(failed []*failure, hope verdict) *failure {
	first := failed[w.chief]
	for _, f := range failed {
		if hope == never && (f == nil || f.verdict == again) {
			return nil
		}
		if first == nil {
			first = f
		}
	}
	return first
}

// patience is the shortest wait that a server asked for; zero when one of them asked for none.
func patience(failed []*failure) time.Duration {
	least := time.Duration(-1)
	for _, f := range failed {
		if f != nil && f.verdict == again && (least < 0 || f.after < least) {
			least = f.after
		}
	}
	return max(least, 0)
}

// sleep waits for d, at most until ctx or the client ends.
func (w *web) sleep(ctx context.Context, d time.Duration, last error) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("origin: %w while waiting to ask again (%v)", ctx.Err(), last)
	case <-w.c.ctx.Done():
		return fmt.Errorf("origin: %w: this node is stopping", blob.ErrClosed)
	}
}

// ask is a request for n bytes at off; n < 0: all that follow.
func (w *web) ask(off, n int64) ask {
	a := ask{rng: fmt.Sprintf("bytes=%d-", off)}
	if n >= 0 {
		a.rng = fmt.Sprintf("bytes=%d-%d", off, off+n-1)
	}
	if w.valid.strong() && !w.noIfRange.Load() {
		a.ifRange = w.valid.etag
	}
	return a
}

// read fills p from a body, telling the watch and the statistics of every piece. Like io.ReadFull it returns
// an error exactly if p is not full; io.EOF or io.ErrUnexpectedEOF is the body's own.
func (w *web) read(wt *watch, body io.Reader, p []byte) (n int, err error) {
	for n < len(p) {
		var k int
		k, err = body.Read(p[n:])
		if k > 0 {
			n += k
			wt.touch()
			w.opt.OnBytes(k)
		}
		if err != nil {
			break
		}
	}
	if n == len(p) {
		return n, nil
	}
	return n, err
}

// skip reads n bytes of a body and forgets them.
func (w *web) skip(wt *watch, body io.Reader, n int64) error {
	p := make([]byte, min(n, 64<<10))
	for n > 0 {
		k, err := w.read(wt, body, p[:min(n, int64(len(p)))])
		if n -= int64(k); err != nil {
			return err
		}
	}
	return nil
}
