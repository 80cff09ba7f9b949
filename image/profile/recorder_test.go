package profile

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestRecorder: each span once, in the order of its first read; what is out of bounds is passed over.
func TestRecorder(t *testing.T) {
	r := NewRecorder([]int{100, 0, 7})
	for _, touch := range []Touch{{0, 3}, {0, 99}, {2, 6}, {0, 3}, {0, 0}} {
		r.Touch(int(touch.Layer), touch.Span)
	}
	r.Touch(0, 100)
	r.Touch(1, 0)
	r.Touch(3, 0)
	r.Touch(-1, 0)
	r.OnTouch(2)(0)
	r.OnTouch(2)(7)
	for _, layer := range []int{2, 0, 2, 3, -1} {
		r.Blind(layer)
	}
	want := []Touch{{0, 3}, {0, 99}, {2, 6}, {0, 0}, {2, 0}}
	if p := r.Profile(); p.Starts != 1 || !slices.Equal(p.Blind, []uint16{0, 2}) || !slices.Equal(p.Touches, want) {
		t.Errorf("%v", p)
	}
	r.End()
	r.Touch(0, 50)
	r.Blind(1) // it may have become so before the end
	if p := r.Profile(); !slices.Equal(p.Touches, want) || len(p.Blind) != 3 {
		t.Errorf("after the end: %v", p)
	}
	if err := r.Wait(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestTouchIsCheap: a span that is known allocates nothing.
func TestTouchIsCheap(t *testing.T) {
	r := NewRecorder([]int{1000})
	touch := r.OnTouch(0)
	touch(999)
	if n := testing.AllocsPerRun(1000, func() { touch(999) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestWindow: a recording ends when nothing new was read for Quiet, or after Longest.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRecorder([]int{1 << 20})
		began := time.Now()
		over := make(chan time.Duration, 1)
		go func() {
			if r.Wait(context.Background()) == nil {
				over <- time.Since(began)
			}
		}()
		time.Sleep(time.Hour) // mounted, and not started yet
		began = time.Now()
		r.Touch(0, 1)
		time.Sleep(Quiet - time.Second)
		r.Touch(0, 2)
		time.Sleep(Quiet - time.Second)
		r.Touch(0, 1) // nothing new
		if got, want := <-over, 2*Quiet-time.Second; got != want {
			t.Errorf("over after %v, not %v", got, want)
		}
		r.Touch(0, 3)
		if p := r.Profile(); len(p.Touches) != 2 {
			t.Errorf("after the end: %v", p)
		}

		r = NewRecorder([]int{1 << 20})
		for i := range uint32(1000) {
			r.Touch(0, i)
			time.Sleep(time.Second)
		}
		if n := len(r.Profile().Touches); n != int(Longest/time.Second) {
			t.Errorf("%d spans in %v, one a second", n, Longest)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := NewRecorder(nil).Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// TestMostTouches: a recording is full after MaxTouches, and ends.
func TestMostTouches(t *testing.T) {
	r := NewRecorder([]int{2 * MaxTouches})
	for i := range uint32(2 * MaxTouches) {
		r.Touch(0, i)
	}
	if err := r.Wait(context.Background()); err != nil {
		t.Error(err)
	}
	if n := len(r.Profile().Touches); n != MaxTouches {
		t.Errorf("%d spans", n)
	}
	r.Profile().Append(nil) // within the bounds
}

// TestManyReaders: those who read at the same time write each span down once.
func TestManyReaders(t *testing.T) {
	r := NewRecorder([]int{300, 300})
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 600 {
				i = (i + 150*g) % 600
				r.Touch(i/300, uint32(i%300))
			}
		})
	}
	all.Wait()
	if p := r.Profile(); len(p.Touches) != 600 || p.check() != nil {
		t.Errorf("%d spans: %v", len(p.Touches), p.check())
	}
}

func BenchmarkTouch(b *testing.B) {
	r := NewRecorder([]int{1000})
	r.Touch(0, 5)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r.Touch(0, 5)
		}
	})
}
