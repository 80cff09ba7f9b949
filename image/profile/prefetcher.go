package profile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
)

// Device makes spans of one layer present, in the order given, below what somebody is blocked on; it returns when all
// are, or with the first error, or when ctx ends. Spans that are there cost nothing. It is safe for concurrent use.
// image/device implements it.
type Device interface {
	Prefetch(ctx context.Context, spans []uint32, class blob.Class) error
}

// Layer is one layer of an image, as far as it is fetched ahead.
type Layer struct {
	Device Device  // nil: all of it is here
	Spans  []int64 // bytes that fetching each takes: Span.StoredLength
}

// Options configure a Prefetcher; the zero value is good.
type Options struct {
	// Budget is how many bytes Run fetches at most. 0: DefaultBudget.
	Budget int64
	// Waiting is how many reads of the image wait for bytes now; Fill stands back as long as there are any. It is
	// called often. nil: none ever do.
	Waiting func() int
	// Batches bounds what is under way, each a goroutine. 0: 512: spans of 32 KiB fill the greatest window.
	Batches int
}

// Bounds of prefetching.
const (
	// DefaultBudget is more than any image that was looked at reads while it starts (22 MB of 644 MB), and less than
	// what would keep a disk busy for long.
	DefaultBudget = 256 << 20
	defBatches    = 512
	batchBytes    = 128 << 10 // 1 ms of 1 Gbit/s: spans that are smaller are asked for together
	batchSpans    = 32
	giveUp        = 8 // batches that fail in a row: nobody has it now, and who reads will find out anyway

	standBack = 20 * time.Millisecond // for which nobody may have waited before Fill goes on: a reader's think time
	look      = 5 * time.Millisecond  // how often it looks
	fillRetry = 30 * time.Second      // after errors
)

// Prefetcher fetches spans of one image ahead of its readers. Safe for concurrent use.
type Prefetcher struct {
	layers []Layer
	o      Options

	mu    sync.Mutex // guards stats
	stats Stats
}

// Stats counts what a Prefetcher has done.
type Stats struct {
	Asked  int64 // spans
	Came   int64 // spans
	Failed int64 // spans
	Bytes  int64 // that were asked for, present or not
	Window int64 // bytes that may be on their way, lately
}

// NewPrefetcher makes a Prefetcher of an image; layers are bottom first.
func NewPrefetcher(layers []Layer, o Options) *Prefetcher {
	if o.Budget <= 0 {
		o.Budget = DefaultBudget
	}
	if o.Batches <= 0 {
		o.Batches = defBatches
	}
	if o.Waiting == nil {
		o.Waiting = func() int { return 0 }
	}
	return &Prefetcher{layers: layers, o: o}
}

// Stats is a snapshot.
func (p *Prefetcher) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// length is what fetching a span takes; 0: there is none such, or it is here.
func (p *Prefetcher) length(t Touch) int64 {
	if int(t.Layer) >= len(p.layers) || p.layers[t.Layer].Device == nil || int64(t.Span) >= int64(len(p.layers[t.Layer].Spans)) {
		return 0
	}
	return max(p.layers[t.Layer].Spans[t.Span], 1)
}

// Run fetches what a profile names, in its order through all layers, within the budget. It returns when all of it is
// there, or ctx has ended, or nobody could deliver several batches in a row, with an error then. Nothing depends on it:
// what is missing is fetched when it is read.
func (p *Prefetcher) Run(ctx context.Context, of *Profile) error {
	return p.fetch(ctx, p.batches(of.Plan(p.length, p.o.Budget)), blob.Readahead)
}

// Fill fetches all spans of all layers, the layer with the fewest bytes first, so that each is complete soon and served
// from a plain file, until everything is there or ctx ends. As long as somebody waits it asks for nothing. What fails
// is asked for again later.
func (p *Prefetcher) Fill(ctx context.Context) error {
	for {
		err := p.fetch(ctx, p.batches(p.all()), blob.Background)
		if err == nil || ctx.Err() != nil || errors.Is(err, blob.ErrClosed) {
			return err
		}
		t := time.NewTimer(fillRetry)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// all are the spans of all layers, in the order in which they are filled.
func (p *Prefetcher) all() (list []Touch) {
	type sized struct {
		layer int
		bytes int64
	}
	var order []sized
	for i, l := range p.layers[:min(len(p.layers), MaxLayers)] {
		if l.Device != nil {
			s := sized{layer: i}
			for _, n := range l.Spans {
				s.bytes += n
			}
			order = append(order, s)
		}
	}
	slices.SortStableFunc(order, func(a, b sized) int { return cmp.Compare(a.bytes, b.bytes) })
	for _, s := range order {
		for k := range p.layers[s.layer].Spans {
			list = append(list, Touch{uint16(s.layer), uint32(k)})
		}
	}
	return list
}

// batch is what one call of Prefetch asks for.
type batch struct {
	layer uint16
	spans []uint32
	bytes int64
}

// batches puts small spans of the same layer together, keeping the order.
func (p *Prefetcher) batches(list []Touch) (all []batch) {
	for _, t := range list {
		n := p.length(t)
		if last := len(all) - 1; last >= 0 && all[last].layer == t.Layer && all[last].bytes+n <= batchBytes && len(all[last].spans) < batchSpans {
			all[last].spans = append(all[last].spans, t.Span)
			all[last].bytes += n
			continue
		}
		all = append(all, batch{t.Layer, []uint32{t.Span}, n})
	}
	return all
}

// came is the end of one batch.
type came struct {
	batch
	took time.Duration
	err  error
}

// fetch asks for batches in order, as many at a time as the window allows.
func (p *Prefetcher) fetch(ctx context.Context, list []batch, class blob.Class) error {
	ctx, cancel := context.WithCancel(ctx)
	var flying sync.WaitGroup
	defer flying.Wait()
	defer cancel()
	ended := make(chan came, p.o.Batches)
	w := newWindow(time.Now())
	var under int64 // bytes on their way
	var n, failed int
	var bad error // of a batch that failed
	for len(list) > 0 || n > 0 {
		for len(list) > 0 && n < p.o.Batches && (n == 0 || under+list[0].bytes <= w.size) {
			if class == blob.Background && n == 0 && p.standBack(ctx) {
				w.idle(time.Now())
			} else if class == blob.Background && p.o.Waiting() > 0 {
				break // what is on its way comes; then it stands back
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			b, began := list[0], time.Now()
			list, n, under = list[1:], n+1, under+b.bytes
			p.count(func(s *Stats) { s.Asked += int64(len(b.spans)); s.Bytes += b.bytes })
			flying.Go(func() {
				err := p.layers[b.layer].Device.Prefetch(ctx, b.spans, class)
				ended <- came{b, time.Since(began), err}
			})
		}
		if n == 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c := <-ended:
			n, under = n-1, under-c.bytes
			if c.err != nil {
				p.count(func(s *Stats) { s.Failed += int64(len(c.spans)) })
				bad = fmt.Errorf("layer %d, %d spans from %d on: %w", c.layer, len(c.spans), c.spans[0], c.err)
				if failed++; failed == giveUp {
					return bad
				}
				continue
			}
			failed = 0
			w.done(time.Now(), c.bytes, c.took)
			p.count(func(s *Stats) { s.Came += int64(len(c.spans)); s.Window = w.size })
		}
	}
	return bad
}

// standBack waits until nobody has waited for a while, and reports whether it had to wait.
func (p *Prefetcher) standBack(ctx context.Context) (waited bool) {
	if p.o.Waiting() == 0 {
		return false
	}
	quiet := time.Now()
	t := time.NewTicker(look)
	defer t.Stop()
	for time.Since(quiet) < standBack {
		select {
		case <-ctx.Done():
			return true
		case <-t.C:
		}
		if p.o.Waiting() > 0 {
			quiet = time.Now()
		}
	}
	return true
}

func (p *Prefetcher) count(f func(*Stats)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.stats)
}
