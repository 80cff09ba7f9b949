package profile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

// line brings bytes one after the other, at a rate, each a round trip after it was asked for.
type line struct {
	rate float64 // bytes per second
	trip time.Duration

	mu   sync.Mutex
	free time.Time // when it has sent all that was asked for
	held time.Duration
}

// take waits until n bytes have come.
func (l *line) take(ctx context.Context, n int64) error {
	l.mu.Lock()
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	l.held = l.free.Sub(now)
	l.free = l.free.Add(time.Duration(float64(n) / l.rate * 1e9))
	end := l.free.Add(l.trip)
	l.mu.Unlock()
	t := time.NewTimer(time.Until(end))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// layer is a fake device that writes down what was asked of it.
type layer struct {
	number uint16
	spans  []int64
	line   *line
	log    *order
	fail   func(span uint32) error
	here   map[uint32]bool // guarded by log.mu
}

// order is what all layers of an image were asked for.
type order struct {
	mu      sync.Mutex
	asked   []Touch
	classes map[blob.Class]bool
	under   int
	most    int // at a time
}

func (l *layer) Prefetch(ctx context.Context, spans []uint32, class blob.Class) error {
	l.log.mu.Lock()
	l.log.classes[class] = true
	l.log.under++
	l.log.most = max(l.log.most, l.log.under)
	for _, s := range spans {
		l.log.asked = append(l.log.asked, Touch{l.number, s})
	}
	l.log.mu.Unlock()
	defer func() {
		l.log.mu.Lock()
		l.log.under--
		l.log.mu.Unlock()
	}()
	for _, s := range spans {
		if l.fail != nil {
			if err := l.fail(s); err != nil {
				return err
			}
		}
		l.log.mu.Lock()
		here := l.here[s]
		l.here[s] = true
		l.log.mu.Unlock()
		if l.line != nil && !here {
			if err := l.line.take(ctx, l.spans[s]); err != nil {
				return err
			}
		}
	}
	return nil
}

// fake is an image of layers with so many spans of so many bytes.
func fake(on *line, spans, bytes int, layers int) (list []Layer, log *order) {
	log = &order{classes: map[blob.Class]bool{}}
	for i := range layers {
		l := &layer{number: uint16(i), line: on, log: log, here: map[uint32]bool{}}
		for range spans {
			l.spans = append(l.spans, int64(bytes))
		}
		list = append(list, Layer{l, l.spans})
	}
	return list, log
}

// TestOrder: spans are asked for in the order of the profile through all layers; what is not there is left out; the
// budget holds; and never more is under way than may be.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(t, "layers")
		layers, log := fake(nil, 20, rapid.IntRange(1, 100_000).Draw(t, "bytes"), n)
		missing := rapid.IntRange(-1, n-1).Draw(t, "missing")
		if missing >= 0 {
			layers[missing].Device = nil
		}
		touch := rapid.Custom(func(t *rapid.T) Touch {
			return Touch{uint16(rapid.IntRange(0, 5).Draw(t, "layer")), uint32(rapid.IntRange(0, 25).Draw(t, "span"))}
		})
		of := &Profile{Starts: 1, Touches: rapid.SliceOfNDistinct(touch, 0, 80, rapid.ID).Draw(t, "touches")}
		o := Options{Budget: int64(rapid.IntRange(1, 4_000_000).Draw(t, "budget")), Batches: 1}
		p := NewPrefetcher(layers, o)
		if err := p.Run(context.Background(), of); err != nil {
			t.Fatal(err)
		}
		var want []Touch
		left := o.Budget
		for _, touch := range of.Touches {
			if int(touch.Layer) >= n || int(touch.Layer) == missing || touch.Span >= 20 {
				continue
			}
			if left -= layers[touch.Layer].Spans[touch.Span]; left < 0 {
				break
			}
			want = append(want, touch)
		}
		if !slices.Equal(log.asked, want) {
			t.Fatalf("asked %v, not %v", log.asked, want)
		}
		if s := p.Stats(); s.Asked != int64(len(want)) || s.Came != s.Asked || s.Bytes > o.Budget {
			t.Fatalf("%+v", s)
		}
		if len(want) > 0 && (!log.classes[blob.Readahead] || len(log.classes) != 1 || log.most > 1) {
			t.Fatalf("classes %v, %d at a time", log.classes, log.most)
		}
	})
}

// TestLineIsUsed: on any line nearly all of it is used, and a reader who comes meanwhile finds little before it.
func TestLineIsUsed(t *testing.T) {
	for _, c := range []struct {
		rate float64
		trip time.Duration
	}{
		{100e6 / 8, 0},
		{100e6 / 8, 20 * time.Millisecond},
		{1e9 / 8, 500 * time.Microsecond},
		{1e9 / 8, 20 * time.Millisecond},
		{1e9 / 8, 100 * time.Millisecond},
	} {
		for _, bytes := range []int{30_000, 300_000} {
			t.Run(fmt.Sprintf("%.0f Mbit, %v, %d bytes", c.rate*8/1e6, c.trip, bytes), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := &line{rate: c.rate, trip: c.trip}
					const layers = 3
					spans := 120_000_000 / bytes / layers
					list, _ := fake(l, spans, bytes, layers)
					of := &Profile{Starts: 1}
					for i := range spans * layers {
						of.Touches = append(of.Touches, Touch{uint16(i % layers), uint32(i / layers)})
					}
					began := time.Now()
					ended := make(chan error, 1)
					go func() { ended <- NewPrefetcher(list, Options{}).Run(t.Context(), of) }()
					one := time.Duration(float64(max(bytes, batchBytes)) / l.rate * 1e9)
					var worst time.Duration
					for done := false; !done; {
						select {
						case err := <-ended:
							if err != nil {
								t.Error(err)
							}
							done = true
						case <-time.After(37 * time.Millisecond):
							if time.Since(began) < 15*l.trip+20*one {
								continue // it still finds out
							}
							l.mu.Lock()
							worst = max(worst, time.Until(l.free))
							l.mu.Unlock()
						}
					}
					took, ideal := time.Since(began), time.Duration(120e6/l.rate*1e9)+l.trip
					// Finding out takes some round trips.
					if took > ideal*115/100+8*l.trip {
						t.Errorf("took %v, the line %v", took, ideal)
					}
					if bound := 3*one + l.trip/2; worst > bound {
						t.Errorf("a reader waited %v behind prefetching, a span takes %v and a round trip %v", worst, one, l.trip)
					}
				})
			})
		}
	}
}

// TestFillStandsBack: as long as somebody waits nothing is asked for in the background; then all of it is, the smallest
// layer first.
func TestFillStandsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &line{rate: 1e8, trip: time.Millisecond}
		layers, log := fake(l, 50, 100_000, 2)
		layers[0].Spans = append(layers[0].Spans, 100_000)
		layers[0].Device.(*layer).spans = layers[0].Spans
		var waiting atomic.Int64
		asked := func() int {
			log.mu.Lock()
			defer log.mu.Unlock()
			return len(log.asked)
		}
		waiting.Store(1)
		p := NewPrefetcher(layers, Options{Waiting: func() int { return int(waiting.Load()) }})
		ended := make(chan error, 1)
		go func() { ended <- p.Fill(t.Context()) }()
		time.Sleep(time.Second)
		if n := asked(); n != 0 {
			t.Errorf("%d spans while somebody waits", n)
		}
		waiting.Store(0)
		time.Sleep(standBack / 2)
		if n := asked(); n != 0 {
			t.Errorf("%d spans at once", n)
		}
		time.Sleep(standBack + 10*time.Millisecond)
		waiting.Store(1)
		time.Sleep(100 * time.Millisecond) // what is on its way comes
		n := asked()
		if n == 0 || n == 101 {
			t.Errorf("%d spans", n)
		}
		time.Sleep(time.Second)
		if asked() != n {
			t.Errorf("%d spans were asked for while somebody waits", asked()-n)
		}
		waiting.Store(0)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if asked() != 101 || log.asked[0].Layer != 1 || log.asked[100].Layer != 0 || log.classes[blob.Readahead] {
			t.Errorf("%d spans, the first of layer %d", asked(), log.asked[0].Layer)
		}
	})
}

// TestErrors: one span that fails does not keep the others from being fetched; when nobody delivers it gives up; and
// filling tries again later.
func TestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layers, log := fake(nil, 100, 200_000, 1)
		l := layers[0].Device.(*layer)
		l.fail = func(s uint32) error {
			if s%3 == 0 {
				return fmt.Errorf("%w: of the test", blob.ErrUnavailable)
			}
			return nil
		}
		of := &Profile{Starts: 1}
		for i := range uint32(100) {
			of.Touches = append(of.Touches, Touch{0, i})
		}
		p := NewPrefetcher(layers, Options{})
		if err := p.Run(t.Context(), of); !errors.Is(err, blob.ErrUnavailable) {
			t.Error(err)
		}
		if s := p.Stats(); s.Failed != 34 || s.Came != 66 {
			t.Errorf("%+v", s)
		}
		l.fail = func(uint32) error { return fmt.Errorf("%w: of the test", blob.ErrUnavailable) }
		p = NewPrefetcher(layers, Options{Batches: 2})
		if err := p.Run(t.Context(), of); !errors.Is(err, blob.ErrUnavailable) {
			t.Error(err)
		}
		if s := p.Stats(); s.Failed != giveUp {
			t.Errorf("%+v", s)
		}
		began := time.Now()
		l.fail = func(uint32) error {
			if time.Since(began) < time.Minute {
				return fmt.Errorf("%w: of the test", blob.ErrUnavailable)
			}
			return nil
		}
		if err := p.Fill(t.Context()); err != nil || time.Since(began) > time.Minute+fillRetry {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		l.fail = func(uint32) error { return fmt.Errorf("%w: of the test", blob.ErrClosed) }
		if err := p.Fill(t.Context()); !errors.Is(err, blob.ErrClosed) {
			t.Error(err)
		}
		if len(log.asked) == 0 {
			t.Error("nothing was asked for")
		}
	})
}

// TestCancel: it ends when it is told to, and waits for what it began.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layers, log := fake(&line{rate: 1e6, trip: time.Second}, 100, 200_000, 2)
		of := &Profile{Starts: 1, Touches: []Touch{{0, 0}, {1, 0}, {0, 5}, {1, 9}}}
		for _, run := range []func(context.Context, *Prefetcher) error{
			func(ctx context.Context, p *Prefetcher) error { return p.Run(ctx, of) },
			func(ctx context.Context, p *Prefetcher) error { return p.Fill(ctx) },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			if err := run(ctx, NewPrefetcher(layers, Options{})); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			cancel()
			if log.under != 0 {
				t.Errorf("%d calls still run", log.under)
			}
		}
	})
}
