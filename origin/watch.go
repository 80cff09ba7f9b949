package origin

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
)

// errStalled is the cause of a context that a watch has ended.
var errStalled = errors.New("no byte arrived in time")

// watch ends the context of one request when nothing has arrived for a while: while dialling, while waiting
// for the header and inside the body alike. Its methods are for one goroutine.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	every  time.Duration
	of     *watches
	last   atomic.Int64 // when something arrived, in ns since of.born; paused: never mind
}

const paused = -1

// watches looks after all requests of a Client with one timer: to start and stop one for each request, and
// set it back at each read, wakes the scheduler's poller every time and cost 13 µs of CPU per block.
type watches struct {
	born time.Time

	mu     sync.Mutex
	live   map[*watch]struct{} // guarded by mu
	timer  *time.Timer         // guarded by mu
	tick   time.Duration       // between two looks; 0: the timer does not run; guarded by mu
	closed bool                // guarded by mu
}

// looks is how often a watch is looked at within the time after which it ends: a stall is noticed after 1
// to 1 + 1/looks of it.
const looks = 8

func newWatches() *watches {
	s := &watches{born: time.Now(), live: map[*watch]struct{}{}}
	s.timer = time.AfterFunc(time.Hour, s.look)
	s.timer.Stop()
	return s
}

// start watches a request. Its context ends with ctx, with close, or after a stall of every.
func (s *watches) start(ctx context.Context, every time.Duration) *watch {
	w := &watch{every: every, of: s}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.touch()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		w.cancel(blob.ErrClosed)
		return w
	}
	s.live[w] = struct{}{}
	if t := max(every/looks, time.Millisecond); s.tick == 0 || t < s.tick {
		s.tick = t
		s.timer.Reset(t)
	}
	return w
}

// look ends the requests that have stalled. The timer runs on as long as there are any.
func (s *watches) look() {
	var stalled []*watch
	now := int64(time.Since(s.born))
	s.mu.Lock()
	if s.tick = 0; len(s.live) > 0 && !s.closed {
		s.tick = time.Hour
		for w := range s.live {
			s.tick = min(s.tick, max(w.every/looks, time.Millisecond))
			if last := w.last.Load(); last != paused && now-last >= int64(w.every) {
				stalled = append(stalled, w)
			}
		}
		s.timer.Reset(s.tick)
	}
	s.mu.Unlock()
	for _, w := range stalled {
		w.cancel(errStalled)
	}
}

// close ends all requests with ErrClosed, and those that start later at once.
func (s *watches) close() {
	s.mu.Lock()
	s.closed = true
	s.timer.Stop()
	live := s.live
	s.live = nil
	s.mu.Unlock()
	for w := range live {
		w.cancel(blob.ErrClosed)
	}
}

// touch says that something has arrived.
func (w *watch) touch() { w.last.Store(int64(time.Since(w.of.born))) }

// pause stops the clock until the next touch: now the receiver is the one who takes time.
func (w *watch) pause() { w.last.Store(paused) }

// stop ends the watch and its context.
func (w *watch) stop() {
	w.of.mu.Lock()
	delete(w.of.live, w)
	w.of.mu.Unlock()
	w.cancel(context.Canceled)
}
