package fetch

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
)

const (
	// tick is how often deadlines and late transfers are looked at while anything is under way.
	tick = 50 * time.Millisecond

	// idleAfter is how long no read must have come before idle filling starts, and idleCheck how often
	// that is looked at.
	idleAfter = 2 * time.Second
	idleCheck = 500 * time.Millisecond

	// forgetFailure is how long a run that timed out fails at once when it is asked again: the kernel asks
	// page by page for what its readahead did not get.
	forgetFailure = 2 * time.Second

	// wishBytes is how far ahead leases are asked for, in bytes.
	wishBytes = 64 << 20

	// warnEvery is how often a failed read of one blob is worth a warning: hundreds may fail together.
	warnEvery = time.Second

	// pauseUnkept is how long readahead and filling rest after the store could not keep a block.
	pauseUnkept = 5 * time.Second
)

// need is a run of absent blocks that somebody wants.
type need struct {
	run     blob.Run
	class   blob.Class
	since   time.Time
	follows bool
	by      *parked    // the blocked read; nil: none is
	late    bool       // a transfer has it, but a blocked reader should be helped
	avoid   sourceKind // the source of a transfer that stands still
}

// run is the blob's own goroutine: it looks at what changed and starts what is needed.
func (b *Blob) run() {
	defer close(b.done)
	timer := time.NewTimer(idleCheck)
	defer timer.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-b.wake:
		case <-timer.C:
		}
		now := time.Now()
		b.settle()
		b.expire(now)
		b.refuse()
		timer.Reset(b.pump(now))
	}
}

// settle answers the parked reads whose blocks are there without a transfer of this blob having brought them: what
// can only be verified in whole pieces is stored by whoever verifies it.
func (b *Blob) settle() {
	var ready []*parked
	b.mu.Lock()
	for w, p := range b.parked {
		if b.has(p.run) {
			ready = append(ready, p)
			delete(b.parked, w)
		}
	}
	b.mu.Unlock()
	for _, p := range ready {
		p.waiter.Ready(nil)
	}
}

// expire fails the parked reads whose deadline has passed. While an origin that can only be read from its start
// gets further, their bytes will come by.
func (b *Blob) expire(now time.Time) {
	var late []*parked
	b.mu.Lock()
	for w, p := range b.parked {
		if !p.deadline.IsZero() && !now.Before(p.deadline) && (b.origin == nil || b.origin.Ranges() || !now.Before(b.streamed.Add(b.engine.timeout))) {
			late = append(late, p)
			delete(b.parked, w)
		}
	}
	cause := b.cause
	b.mu.Unlock()
	for _, p := range late {
		err := fmt.Errorf("%w: no source delivered blocks %v within %v", blob.ErrUnavailable, p.run, b.engine.timeout)
		if cause != nil {
			err = fmt.Errorf("%w; last error: %v", err, cause)
		} else {
			err = fmt.Errorf("%w: check that the origin, or a peer that has them, can be reached, or wait longer with --timeout", err)
		}
		b.fail(p, err, now)
	}
}

// fail ends one read that is no longer parked.
func (b *Blob) fail(p *parked, err error, now time.Time) {
	b.failures.Add(1)
	b.mu.Lock()
	b.failed = append(b.failed, failure{p.run, now.Add(forgetFailure), err})
	b.lastErr = err
	level := slog.LevelDebug
	if now.Sub(b.warned) >= warnEvery {
		b.warned, level = now, slog.LevelWarn
	}
	b.mu.Unlock()
	b.engine.log.Log(b.ctx, level, "read failed", "failures", b.failures.Load(), "blob", b.store.ID(), "blocks", p.run, "waited", now.Sub(p.since).Round(time.Millisecond), "err", err)
	p.waiter.Ready(err)
}

// refuse fails the reads for which the origin is not asked any more because it has refused for good. An origin
// that is only away has refused nothing.
func (b *Blob) refuse() {
	b.mu.Lock()
	err := b.refused
	b.mu.Unlock()
	if err != nil {
		b.failDemand(err, func(r blob.Run) bool { return b.origin.Ranges() && !b.origin.Has(r) })
	}
}

// failDemand fails every parked read of a run that only the origin could have served, once the origin has refused
// for good.
func (b *Blob) failDemand(err error, lost func(blob.Run) bool) {
	var hit []*parked
	b.mu.Lock()
	for w, p := range b.parked {
		if lost(p.run) && !b.peersHave(p.run) {
			hit = append(hit, p)
			delete(b.parked, w)
		}
	}
	b.mu.Unlock()
	now := time.Now()
	for _, p := range hit {
		b.fail(p, err, now)
	}
}

// final reports whether asking the origin again cannot help.
func final(err error) bool {
	return errors.Is(err, blob.ErrChanged) || errors.Is(err, blob.ErrDenied) || errors.Is(err, blob.ErrNotFound)
}

// pump starts what can be started and returns when to look again without being woken.
func (b *Blob) pump(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return time.Hour
	}
	b.overtake(now)
	b.takeBack(now)
	if b.store.Complete() && len(b.parked) == 0 {
		return time.Hour
	}
	var wish wish
	// To the end, even when no more transfers can start: the wish is made of these needs too. Each is started
	// before the next is worked out, so that overlapping needs become one transfer.
	for n := range b.demand(now) {
		b.start(n, now, &wish)
	}
	for n := range b.bulk(now) {
		b.start(n, now, &wish)
	}
	if b.plan != nil {
		b.plan.Want(b.reading(), wish.urgent, wish.ahead)
	}
	switch {
	case len(b.parked) > 0 || len(b.flights) > 0:
		return tick
	case b.fill != FillNever:
		return idleCheck
	default:
		return time.Minute
	}
}

// reading lists the incomplete pieces that are being read from the origin and will be completed. Needs mu.
func (b *Blob) reading() (pieces []blob.Run) {
	if b.origin == nil || !b.origin.Ranges() {
		return nil // or one transfer of everything, which asks no plan
	}
	for f := range b.flights {
		if f.kind != fromOrigin || !f.follows {
			continue
		}
		for p, run := b.geo.PieceOf(f.run.First), b.geo.PiecesOf(f.run); p < run.End(); p++ {
			if !b.store.PieceComplete(p) {
				pieces = append(pieces, blob.Run{First: p, Count: 1})
			}
		}
	}
	return pieces
}

// demand yields what parked reads wait for and nobody is fetching well enough, the most urgent and the longest
// waiting first. Needs mu.
func (b *Blob) demand(now time.Time) iter.Seq[need] {
	return func(yield func(need) bool) {
		for _, p := range b.admitted(now) {
			if !b.uncovered(need{run: p.run, class: p.class, since: p.since, follows: p.follows, by: p}, now, yield) {
				return
			}
		}
	}
}

// admitted lists the parked reads that may have transfers, the most urgent and the longest waiting first. While
// the store keeps nothing those are as many as fit into transient together: more would drive out each other's
// blocks, and none would ever have all of its own. Needs mu.
func (b *Blob) admitted(now time.Time) []*parked {
	waiting := slices.SortedFunc(maps.Values(b.parked), func(x, y *parked) int {
		if c := cmp.Compare(x.class, y.class); c != 0 {
			return c
		}
		return x.since.Compare(y.since)
	})
	if now.UnixNano()-b.unkept.Load() >= int64(pauseUnkept) {
		return waiting
	}
	room := b.transient.limit
	for i, p := range waiting {
		if room -= int(p.run.Count); room < 0 && i > 0 {
			return waiting[:i]
		}
	}
	return waiting
}

// hold keeps blocks that the store could not for the reads that wait for them. claimed is as in transient.add.
func (b *Blob) hold(r blob.Run, data []byte, claimed blob.Hash, now time.Time) {
	var needed []blob.Run
	b.mu.Lock()
	for _, p := range b.admitted(now) {
		needed = append(needed, p.run)
	}
	b.mu.Unlock()
	b.transient.add(r, data, claimed, needed)
}

// absent yields the maximal runs inside r that cannot be read now.
func (b *Blob) absent(r blob.Run) iter.Seq[blob.Run] {
	return func(yield func(blob.Run) bool) {
		for at := r.First; at < r.End(); {
			run, ok := b.store.NextAbsent(at, r.End())
			if !ok {
				return
			}
			for at = run.First; b.unkept.Load() != 0 && at < run.End() && b.has(blob.Run{First: at, Count: 1}); {
				at++
			}
			end := run.End()
			if b.unkept.Load() != 0 {
				for end = at; end < run.End() && !b.has(blob.Run{First: end, Count: 1}); end++ {
				}
			}
			if at < end && !yield(blob.Run{First: at, Count: end - at}) {
				return
			}
			at = end
		}
	}
}

// uncovered yields the absent parts of n that no transfer is bringing, and, marked late, those that a transfer
// brings too slowly for a blocked reader; false: yield wants no more. Needs mu.
func (b *Blob) uncovered(n need, now time.Time, yield func(need) bool) bool {
	for run := range b.absent(n.run) {
		for at := run.First; at < run.End(); {
			f, end := b.flightAt(at, run.End())
			part := n
			part.run = blob.Run{First: at, Count: end - at}
			at = end
			if f != nil {
				if n.class > blob.Read {
					continue
				}
				if part.late, part.avoid = b.late(part.run.First, n, now); !part.late {
					continue
				}
			}
			if !yield(part) {
				return false
			}
		}
	}
	return true
}

// flightAt returns a transfer that brings block at (nil: none) and where another answer begins. Needs mu.
func (b *Blob) flightAt(at, limit uint32) (found *flight, end uint32) {
	end = limit
	for f := range b.flights {
		if f.run.Contains(at) {
			found, end = f, min(end, f.run.End())
		} else if f.run.First > at {
			end = min(end, f.run.First)
		}
	}
	return found, end
}

// flightsOver counts the transfers that touch r. Needs mu.
func (b *Blob) flightsOver(r blob.Run) (n int) {
	for f := range b.flights {
		if !f.run.Intersect(r).Empty() {
			n++
		}
	}
	return n
}

// bulk yields what should be fetched though nobody is blocked on it: ahead of readers first, then the rest of
// the blob. Needs mu.
func (b *Blob) bulk(now time.Time) iter.Seq[need] {
	return func(yield func(need) bool) {
		if now.UnixNano()-b.unkept.Load() < int64(pauseUnkept) {
			return
		}
		var extents [2 * maxStreams]extent
		for _, x := range b.ahead.extents(extents[:0], b.geo.Size) {
			n := need{run: b.geo.Covering(x.off, x.end-x.off), class: blob.Readahead, since: now, follows: true}
			if !b.uncovered(n, now, yield) {
				return
			}
		}
		for run := range b.wantedBelow(now) {
			n := need{run: run, class: blob.Background, since: now, follows: true}
			if !b.uncovered(n, now, yield) {
				return
			}
		}
		if b.fill == FillNever || b.fill == FillIdle && now.UnixNano()-b.lastRead.Load() < int64(idleAfter) {
			return
		}
		first, ok := b.store.NextAbsent(b.fillFrom, b.geo.Blocks())
		if !ok { // but a dispute may have taken away what was there
			first, ok = b.store.NextAbsent(0, b.geo.Blocks())
		}
		if !ok {
			return
		}
		b.fillFrom = first.First
		n := need{
			run:   blob.Run{First: first.First, Count: min(wishBytes/blob.BlockSize, b.geo.Blocks()-first.First)},
			class: blob.Background, since: now, follows: true,
		}
		b.uncovered(n, now, yield)
	}
}

// wish collects the pieces that this node would read from the origin.
type wish struct {
	urgent, ahead []blob.Run
	pieces        uint32
}

// add notes one piece.
func (w *wish) add(piece uint32, class blob.Class) {
	list := &w.ahead
	if class <= blob.Read {
		list = &w.urgent
	}
	if n := len(*list); n > 0 {
		last := &(*list)[n-1]
		if last.Contains(piece) {
			return
		}
		if last.End() == piece {
			last.Count++
			w.pieces++
			return
		}
	}
	*list = append(*list, blob.Run{First: piece, Count: 1})
	w.pieces++
}
