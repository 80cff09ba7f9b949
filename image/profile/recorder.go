package profile

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a recording.
const (
	// Quiet is how long nothing new may be read, after the first span, before a start counts as over: services that read a second time,
	// when the first request comes, do so within seconds of being started.
	Quiet = 30 * time.Second
	// Longest is how long a start may last: what reads all the time is not starting, and its order not worth keeping.
	Longest = 5 * time.Minute
)

// Recorder writes down in which order the spans of an image are read for the first time. Touch is safe for concurrent
// use, and so is everything else.
type Recorder struct {
	layers []seen
	begun  chan struct{} // closed with the first touch
	done   chan struct{} // closed when the recording is over
	over   atomic.Bool

	mu      sync.Mutex // guards what follows; innermost
	touches []Touch
	blind   []uint16
	first   time.Time // when the first of them came
	last    time.Time // and the last one
}

// seen is a bitmap of the spans of one layer that have been read.
type seen struct {
	words []atomic.Uint64
	spans uint32
}

// NewRecorder makes a recording of an image whose layers, bottom first, have this many spans each. It starts with the
// first span that is read: an image may be mounted long before anything runs. Layers and spans beyond the bounds of a
// profile are not recorded.
func NewRecorder(spans []int) *Recorder {
	r := &Recorder{layers: make([]seen, min(len(spans), MaxLayers)), begun: make(chan struct{}), done: make(chan struct{})}
	for i := range r.layers {
		n := min(max(spans[i], 0), MaxSpans)
		r.layers[i] = seen{make([]atomic.Uint64, (n+63)/64), uint32(n)}
	}
	return r
}

// Touch says that a span is read. It is called on the hot path: a span that was read before costs one atomic load,
// and nothing is allocated for it.
func (r *Recorder) Touch(layer int, span uint32) {
	if layer >= len(r.layers) || layer < 0 || span >= r.layers[layer].spans {
		return
	}
	word, bit := &r.layers[layer].words[span/64], uint64(1)<<(span%64)
	if word.Load()&bit != 0 || r.over.Load() || word.Or(bit)&bit != 0 {
		return
	}
	r.add(Touch{uint16(layer), span})
}

// OnTouch is Touch of one layer, for those who know no other.
func (r *Recorder) OnTouch(layer int) func(span uint32) {
	return func(span uint32) { r.Touch(layer, span) }
}

// add writes a span down, unless the start is over by now.
func (r *Recorder) add(t Touch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	switch {
	case r.over.Load():
		return
	case len(r.touches) == 0:
		r.first = now
		close(r.begun)
	case !now.Before(r.deadline()):
		r.end()
		return
	}
	r.last = now
	if r.touches = append(r.touches, t); len(r.touches) == MaxTouches {
		r.end()
	}
}

// deadline is when the recording, which has begun, ends if nothing new is read. Needs mu.
func (r *Recorder) deadline() time.Time {
	end := r.last.Add(Quiet)
	if last := r.first.Add(Longest); last.Before(end) {
		return last
	}
	return end
}

// end needs mu.
func (r *Recorder) end() {
	if !r.over.Swap(true) {
		close(r.done)
	}
}

// Blind says that not all reads of a layer are, or were, seen: it is complete, and the kernel reads its file itself.
func (r *Recorder) Blind(layer int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if layer < 0 || layer >= len(r.layers) {
		return
	}
	if at, there := slices.BinarySearch(r.blind, uint16(layer)); !there {
		r.blind = slices.Insert(r.blind, at, uint16(layer))
	}
}

// End ends the recording: the image is not in use any more.
func (r *Recorder) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end()
}

// Wait returns when the recording is over, or with the error of ctx.
func (r *Recorder) Wait(ctx context.Context) error {
	select {
	case <-r.begun:
	case <-r.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		r.mu.Lock()
		left := time.Until(r.deadline())
		if left <= 0 {
			r.end()
		}
		r.mu.Unlock()
		t := time.NewTimer(left)
		select {
		case <-r.done:
			t.Stop()
			return nil
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

// Profile is what was read so far, in order.
func (r *Recorder) Profile() *Profile {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &Profile{Starts: 1, Blind: slices.Clone(r.blind), Touches: slices.Clone(r.touches)}
}
