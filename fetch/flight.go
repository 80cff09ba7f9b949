package fetch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
)

const (
	// patience is how long a transfer that a reader is blocked on may stand still before another source is
	// asked too. A transfer is seen to move only when a whole buffer has come, so a slow source gets twice the
	// time that one takes it, up to maxPatience: 1 Mbit/s brings 256 KiB in 2.1 s.
	patience    = 300 * time.Millisecond
	maxPatience = 5 * time.Second

	// soon is the time within which a block that is further back in a transfer must be expected; else a
	// blocked reader gets a transfer of its own.
	soon = 250 * time.Millisecond
)

// flight is one transfer under way.
type flight struct {
	run     blob.Run
	class   blob.Class
	kind    sourceKind
	follows bool // more of the same will be read: the pieces will be completed
	lane    int  // of a plan, from 1; 0: none
	whole   bool // the one transfer of an origin that can only be read from its start
	started time.Time
	cancel  context.CancelFunc

	overtaken bool // it has been cancelled; guarded by Blob.mu

	landed   atomic.Int64 // bytes
	progress atomic.Int64 // unix nanoseconds of the last block that landed
	front    atomic.Uint32
}

// stands reports whether nothing has come for longer than it should take. rate is what transfers from this
// source have brought lately, in bytes per second; 0: not known.
func (f *flight) stands(rate float64, now time.Time) bool {
	still := now.Sub(time.Unix(0, f.progress.Load()))
	if still <= patience || rate == 0 {
		return still > patience
	}
	buffer := min(f.run.Count, blob.MaxBuffer)
	if f.kind == fromOrigin && f.class <= blob.Read {
		buffer = 1 // a slow origin fills the buffers of blocked readers block by block
	}
	expected := 2 * float64(buffer) * blob.BlockSize / rate
	return still.Seconds() > min(expected, maxPatience.Seconds())
}

// late reports whether a reader that has been blocked on a block of this transfer since a while should be
// helped by another one, and which source that had better avoid: this one, when it stands still.
// A reader that jumps about is helped at once when a bulk transfer has its block: peers may only be waiting for it
// themselves, and one block asked twice costs little. One that reads on is right behind what arrives.
func (f *flight) late(block uint32, rate float64, n need, now time.Time) (late bool, avoid sourceKind) {
	if f.lane > 0 {
		// It may stand still because nobody has the blocks yet: that is no fault of peers who have this one.
		return !n.follows || now.Sub(n.since) > soon, nowhere
	}
	if f.stands(rate, now) {
		return true, f.kind
	}
	if f.class <= blob.Read {
		return false, nowhere
	}
	if f.kind == fromPeers {
		return !n.follows || now.Sub(n.since) > soon, nowhere
	}
	ahead := int64(block) - int64(f.front.Load())
	landed, took := f.landed.Load(), now.Sub(f.started).Seconds()
	if ahead <= blob.MaxBuffer || landed == 0 || took <= 0 {
		return false, nowhere
	}
	return float64(ahead*blob.BlockSize)/(float64(landed)/took) > soon.Seconds(), nowhere
}

// late is [flight.late] for all transfers that bring block: nobody is to be asked besides while one of them will
// bring it soon, or when both sources stand still. Needs mu.
func (b *Blob) late(block uint32, n need, now time.Time) (late bool, avoid sourceKind) {
	for f := range b.flights {
		if !f.run.Contains(block) {
			continue
		}
		slow, still := f.late(block, b.sides[f.kind].rate, n, now)
		if !slow || still != nowhere && avoid != nowhere && still != avoid {
			return false, nowhere
		}
		late, avoid = true, max(avoid, still)
	}
	return late, avoid
}

// overtake ends the transfers all of whose blocks are here before they brought them. One that has brought nothing
// yet may go on for maxPatience while there is room, to show how fast its source is; then that rests as after a
// failure. Needs mu.
func (b *Blob) overtake(now time.Time) {
	for f := range b.flights {
		// One that has brought everything itself is about to end, and keeps its connection.
		_, n := b.geo.Bytes(f.run)
		landed := f.landed.Load()
		if f.overtaken || landed >= n || !b.has(f.run) {
			continue
		}
		s := &b.sides[f.kind]
		if landed == 0 {
			if now.Sub(f.started) < maxPatience && s.demand < maxDemand/2 {
				continue
			}
			s.failedAt(now)
		}
		f.overtaken = true
		f.cancel()
	}
}

// launch starts a transfer of run unless there are enough of its sort already. Needs mu.
func (b *Blob) launch(run blob.Run, n need, kind sourceKind, now time.Time) {
	class := n.class
	s := &b.sides[kind]
	lane := b.lane(run, class, kind)
	if class <= blob.Read {
		if s.demand >= maxDemand {
			return
		}
		s.demand++
	} else if lane > 0 {
		if b.lanes[lane] >= b.laneLimit() {
			return
		}
		b.lanes[lane]++
	} else {
		if kind == fromOrigin && s.bulk >= maxBulkOrigin || kind == fromPeers && s.bulk >= maxBulkPeers {
			return
		}
		s.bulk++
	}
	if b.flightsOver(run) > 0 {
		b.hedges.Add(1)
	}
	ctx, cancel := context.WithCancel(blob.WithClass(b.ctx, class))
	f := &flight{run: run, class: class, kind: kind, follows: n.follows, lane: lane, started: now, cancel: cancel}
	f.whole = kind == fromOrigin && !b.origin.Ranges()
	f.progress.Store(now.UnixNano())
	f.front.Store(run.First)
	b.flights[f] = struct{}{}
	b.flying.Add(1)
	go b.fly(ctx, f)
}

// startStream starts, or leaves running, the one transfer of an origin that can only be read from its start.
// Needs mu.
func (b *Blob) startStream(n need, now time.Time) {
	if b.peersHave(n.run) && now.After(b.sides[fromPeers].restUntil) {
		for p := b.geo.PieceOf(n.run.First); p < b.geo.PiecesOf(n.run).End(); p++ {
			part := b.geo.PieceBlocks(p).Intersect(n.run)
			if b.flightsOver(part) == 0 || n.late {
				b.launch(part, n, fromPeers, now)
			}
		}
		return
	}
	if s := &b.sides[fromOrigin]; s.demand+s.bulk == 0 && now.After(s.restUntil) {
		n.class = blob.Background // whoever waits for something far behind may ask peers for it
		b.launch(b.geo.Blob(), n, fromOrigin, now)
	}
}

// fly is the goroutine of one transfer.
func (b *Blob) fly(ctx context.Context, f *flight) {
	defer b.flying.Done()
	defer f.cancel()
	to := &sink{b: b, f: f}
	var err error
	switch {
	case f.kind == fromPeers:
		err = b.peers.Fetch(ctx, f.run, to)
	case f.whole:
		err = b.stream(ctx, to)
	default:
		err = b.origin.Fetch(ctx, f.run, to)
	}
	now := time.Now()
	b.mu.Lock()
	delete(b.flights, f)
	s := &b.sides[f.kind]
	if f.class <= blob.Read {
		s.demand--
	} else if f.lane > 0 {
		b.lanes[f.lane]--
	} else {
		s.bulk--
	}
	if landed := f.landed.Load(); landed > 0 {
		s.measured(landed, now.Sub(f.started))
	}
	kept := !errors.Is(err, blob.ErrNoSpace) // else the source is not to blame
	if err == nil {
		b.cause = nil
	} else if ctx.Err() == nil && kept {
		s.failedAt(now)
		b.lastErr, b.cause = err, err
		if f.kind == fromOrigin && final(err) {
			b.refused = err
		}
	}
	b.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		b.engine.log.Debug("transfer failed", "blob", b.store.ID(), "blocks", f.run, "class", f.class, "err", err)
		if f.kind == fromOrigin && final(err) {
			b.failDemand(err, func(blob.Run) bool { return true })
		}
	}
	b.Wake()
}

// stream reads the whole blob from an origin without ranges.
func (b *Blob) stream(ctx context.Context, to *sink) error {
	var (
		at   uint32
		buf  []byte
		fill int
		run  blob.Run
	)
	defer func() {
		if buf != nil {
			to.Drop(run)
		}
	}()
	err := b.origin.Stream(ctx, func(p []byte) error {
		for len(p) > 0 {
			if buf == nil {
				if at == b.geo.Blocks() {
					return fmt.Errorf("%w: the origin sends more than the %d bytes it announced", blob.ErrChanged, b.geo.Size)
				}
				run = blob.Run{First: at, Count: min(blob.MaxBuffer, b.geo.Blocks()-at)}
				next, err := to.Buffer(ctx, run)
				if err != nil {
					return err
				}
				buf, fill = next, 0
			}
			n := copy(buf[fill:], p)
			fill, p = fill+n, p[n:]
			if fill == len(buf) {
				buf = nil
				at = run.End()
				if err := to.Done(run); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil && at != b.geo.Blocks() {
		err = fmt.Errorf("%w: the origin ended before byte %d of %d", blob.ErrUnavailable, int64(at)*blob.BlockSize, b.geo.Size)
	}
	return err
}

// sink takes the blocks of one flight into the store.
type sink struct {
	b *Blob
	f *flight

	mu   sync.Mutex
	lent []lent
}

// lent is a buffer that a source is filling.
type lent struct {
	run blob.Run
	buf []byte
}

// Buffer implements blob.Sink.
func (s *sink) Buffer(ctx context.Context, r blob.Run) ([]byte, error) {
	if r.Empty() || r.Count > blob.MaxBuffer || r.Intersect(s.f.run) != r {
		return nil, fmt.Errorf("%w: buffer for blocks %v of a transfer of %v", blob.ErrInvalid, r, s.f.run)
	}
	_, n := s.b.geo.Bytes(r)
	if err := s.b.limits.wait(ctx, int(n), s.f.class, s.f.kind); err != nil {
		return nil, err
	}
	buf, err := s.b.engine.memory.get(ctx, int(n), s.f.class)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.lent = append(s.lent, lent{r, buf})
	s.mu.Unlock()
	return buf, nil
}

// take ends the loan of the buffer of r.
func (s *sink) take(r blob.Run) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, l := range s.lent {
		if l.run == r {
			s.lent[i] = s.lent[len(s.lent)-1]
			s.lent = s.lent[:len(s.lent)-1]
			return l.buf
		}
	}
	return nil
}

// Drop implements blob.Sink.
func (s *sink) Drop(r blob.Run) {
	if buf := s.take(r); buf != nil {
		s.b.engine.memory.put(buf, s.f.class)
	}
}

// Done implements blob.Sink.
func (s *sink) Done(r blob.Run) error {
	buf := s.take(r)
	if buf == nil {
		return fmt.Errorf("%w: blocks %v were given back twice", blob.ErrInvalid, r)
	}
	defer s.b.engine.memory.put(buf, s.f.class)
	trust, counter := blob.Direct, &s.b.fromOrigin
	if s.f.kind == fromPeers {
		trust, counter = blob.Claimed, &s.b.fromPeers
	}
	var fresh int64
	for i := range r.Count {
		if !s.b.store.Has(blob.Run{First: r.First + i, Count: 1}) {
			fresh += int64(s.b.geo.BlockLen(r.First + i))
		}
	}
	var claimed blob.Hash
	if trust == blob.Claimed { // r lies in one piece; asked before the bytes are verified, so that a dispute meanwhile shows
		claimed = s.b.root(r.First)
	}
	err := s.b.store.Put(r, buf, trust)
	unkept := false
	switch {
	case errors.Is(err, blob.ErrNoSpace):
		now := time.Now()
		if last := s.b.unkept.Swap(now.UnixNano()); last < now.Add(-time.Minute).UnixNano() {
			s.b.engine.log.Warn("the cache cannot keep what is read; reads go on without it", "blob", s.b.store.ID(), "err", err)
		}
		s.b.hold(r, buf, claimed, now)
		unkept = s.f.class > blob.Read && !s.f.whole // nobody is blocked on the rest of it
	case err != nil:
		if errors.Is(err, blob.ErrCorrupt) {
			s.b.corrupt.Add(1)
			s.b.published(r) // the blocks that are right are kept
		}
		return err
	}
	counter.Add(fresh)
	s.f.landed.Add(int64(len(buf)))
	s.f.progress.Store(time.Now().UnixNano())
	if s.f.kind == fromOrigin {
		s.f.front.Store(r.End())
	}
	if s.f.whole {
		s.b.mu.Lock()
		if r.End() > s.b.reached {
			s.b.reached, s.b.streamed = r.End(), time.Now()
		}
		s.b.mu.Unlock()
	}
	s.b.published(r)
	if unkept {
		return err
	}
	return nil
}

// published answers the parked reads that r completes.
func (b *Blob) published(r blob.Run) {
	var few [8]*parked
	ready := few[:0]
	b.mu.Lock()
	for w, p := range b.parked {
		if !p.run.Intersect(r).Empty() && b.has(p.run) {
			ready = append(ready, p)
			delete(b.parked, w)
		}
	}
	b.mu.Unlock()
	for _, p := range ready {
		p.waiter.Ready(nil)
	}
}
