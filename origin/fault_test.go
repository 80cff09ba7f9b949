package origin_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin"
	"github.com/pantala/pantala/origin/origintest"
)

const size = 1<<20 + 4321

// TestFetchFaults opens a good server and then lets it fail: all right bytes, or a clear error of the right
// class, long before the deadline.
func TestFetchFaults(t *testing.T) {
	for _, test := range []struct {
		name     string
		f        origintest.Faults
		class    error // nil: all bytes arrive
		says     string
		requests int // at most, after Open; 0: not checked
	}{
		{name: "ignores range", f: origintest.Faults{IgnoreRange: true}},
		{name: "ignores range once", f: origintest.Faults{IgnoreRange: true, Times: 1}},
		{name: "bad If-Range", f: origintest.Faults{BadIfRange: true}, requests: 2},
		{name: "shifted range", f: origintest.Faults{ShiftRange: 100}, class: blob.ErrUnavailable, says: "broken"},
		{name: "shifted back", f: origintest.Faults{ShiftRange: -16384, Times: 1}},
		{name: "wrong total", f: origintest.Faults{WrongTotal: 1}, class: blob.ErrChanged, says: "size"},
		{name: "star total", f: origintest.Faults{StarTotal: true}, requests: 1},
		{name: "no Content-Range", f: origintest.Faults{NoRangeLine: true}, class: blob.ErrUnavailable, says: "Content-Range"},
		{name: "shorter ranges", f: origintest.Faults{Shorten: 100_000}, requests: 11},
		{name: "crumbs", f: origintest.Faults{Shorten: 10}, class: blob.ErrUnavailable, says: "less than a block"},
		{name: "short bodies", f: origintest.Faults{ShortBody: 100_000}, requests: 11},
		{name: "short body once", f: origintest.Faults{ShortBody: 5, Times: 1}},
		{name: "tiny bodies", f: origintest.Faults{ShortBody: 5}, class: blob.ErrUnavailable, says: "ended early"},
		{name: "resets", f: origintest.Faults{Reset: 100_000}},
		{name: "stall once", f: origintest.Faults{Stall: 100_000, Times: 1}},
		{name: "stall", f: origintest.Faults{Stall: 5}, class: blob.ErrUnavailable, says: "nothing arrived"},
		{name: "no answer", f: origintest.Faults{Stall: -1}, class: blob.ErrUnavailable, says: "nothing arrived"},
		{name: "no answer once", f: origintest.Faults{Stall: -1, Times: 1}},
		{name: "500 once", f: origintest.Faults{Status: 500, Times: 1}, requests: 2},
		{name: "502", f: origintest.Faults{Status: 502}, class: blob.ErrUnavailable, says: "502"},
		{name: "429 once", f: origintest.Faults{Status: 429, RetryAfter: "0", Times: 1}, requests: 2},
		{name: "503 for long", f: origintest.Faults{Status: 503, RetryAfter: "3000"}, class: blob.ErrUnavailable, says: "in 50m0s", requests: 1},
		{name: "401", f: origintest.Faults{Status: 401}, class: blob.ErrDenied, says: "Authorization", requests: 1},
		{name: "403", f: origintest.Faults{Status: 403}, class: blob.ErrDenied, says: "Authorization", requests: 1},
		{name: "404", f: origintest.Faults{Status: 404}, class: blob.ErrNotFound, says: "404", requests: 1},
		{name: "416", f: origintest.Faults{Status: 416}, class: blob.ErrUnavailable, says: "416"},
		{name: "304", f: origintest.Faults{Status: 304}, class: blob.ErrUnavailable, says: "304"},
		{name: "206 of nothing", f: origintest.Faults{Status: 206}, class: blob.ErrUnavailable, says: "Content-Range"},
		{name: "no validator", f: origintest.Faults{NoETag: true, NoLastModified: true}, class: blob.ErrUnavailable, says: "validator"},
		{name: "no validator once", f: origintest.Faults{NoETag: true, NoLastModified: true, Times: 1}},
		{name: "slow", f: origintest.Faults{Rate: 2 << 20}},
		{name: "chunked whole", f: origintest.Faults{Chunked: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := origintest.Bytes(6, size)
			s := origintest.New(t, origintest.Of(want))
			obj := open(t, newClient(t, impatient), s.At("/x?sig=hunter2"), origin.Options{})
			before := s.Requests()
			s.Set(test.f)
			sink := origintest.NewSink(t, obj.Size())
			r := blob.Run{First: 2, Count: sink.All().Count - 2}
			err := obj.Fetch(within(t, 10*time.Second), r, sink)
			if !errors.Is(err, test.class) {
				t.Fatalf("Fetch: %v, want %v", err, test.class)
			}
			if err != nil && (!strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "hunter2")) {
				t.Errorf("Fetch: %v\ndoes not say %q, or says too much", err, test.says)
			}
			if err == nil {
				sink.Check(r, want)
			}
			if err := sink.Wrong(want); err != nil {
				t.Error(err)
			}
			if n := s.Requests() - before; test.requests > 0 && n > test.requests {
				t.Errorf("%d requests, want at most %d", n, test.requests)
			}
			if changed := test.class == blob.ErrChanged; obj.Changed() != changed || obj.Has(r) == changed {
				t.Errorf("changed %v, has %v", obj.Changed(), obj.Has(r))
			}
			if test.class == nil || test.class == blob.ErrChanged {
				return
			}
			// No verdict but a change is final.
			s.Set(origintest.Faults{})
			fetchAll(t, obj, want)
		})
	}
}

// TestLyingServer: wrong bytes in an answer without a fault can only be found by the receiver.
func TestLyingServer(t *testing.T) {
	want := origintest.Bytes(7, size)
	verify := func(r blob.Run, p []byte) error {
		if off := int(r.First) * blob.BlockSize; !bytes.Equal(p, want[off:off+len(p)]) {
			return blob.ErrCorrupt
		}
		return nil
	}
	for _, test := range []struct {
		name  string
		f     origintest.Faults
		class error
	}{
		{"flipped once", origintest.Faults{Corrupt: []int64{200_000}, Times: 1}, nil},
		{"flipped", origintest.Faults{Corrupt: []int64{200_000}}, blob.ErrCorrupt},
		{"other place", origintest.Faults{LieRange: 16384}, blob.ErrCorrupt},
	} {
		s := origintest.New(t, origintest.Of(want))
		obj := open(t, newClient(t, impatient), s.At("/x"), origin.Options{})
		s.Set(test.f)
		sink := origintest.NewSink(t, size)
		sink.OnDone = verify
		if err := obj.Fetch(within(t, 10*time.Second), sink.All(), sink); !errors.Is(err, test.class) {
			t.Errorf("%s: %v, want %v", test.name, err, test.class)
		}
		if err := sink.Wrong(want); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if test.class == nil {
			sink.Check(sink.All(), want)
		}
	}

	// A mirror helps against a primary that always lies.
	bad, good := origintest.New(t, origintest.Of(want)), origintest.New(t, origintest.Of(want))
	obj := open(t, newClient(t, impatient), bad.At("/x"), origin.Options{Mirrors: []string{good.At("/x")}})
	bad.Set(origintest.Faults{Corrupt: []int64{200_000}})
	sink := origintest.NewSink(t, size)
	sink.OnDone = verify
	if err := obj.Fetch(within(t, 10*time.Second), sink.All(), sink); err != nil {
		t.Error(err)
	}
	sink.Check(sink.All(), want)
}

// TestSinkSays: the receiver's own errors come back as they are, and nothing is retried.
func TestSinkSays(t *testing.T) {
	want := origintest.Bytes(8, size)
	own := errors.New("own trouble")
	for _, err := range []error{own, blob.ErrNoSpace, blob.ErrChanged} {
		s := origintest.New(t, origintest.Of(want))
		obj := open(t, newClient(t, impatient), s.At("/x"), origin.Options{})
		sink := origintest.NewSink(t, size)
		sink.OnDone = func(r blob.Run, _ []byte) error {
			if r.Contains(3) {
				return err
			}
			return nil
		}
		if got := obj.Fetch(within(t, 10*time.Second), sink.All(), sink); !errors.Is(got, err) {
			t.Errorf("Fetch: %v, want %v", got, err)
		}
		if s.Requests() != 2 {
			t.Errorf("%v: %d requests, want 2", err, s.Requests())
		}
		if obj.Changed() != (err == blob.ErrChanged) {
			t.Errorf("%v: changed %v", err, obj.Changed())
		}
		if err := sink.Wrong(want); err != nil {
			t.Error(err)
		}
	}
	s := origintest.New(t, origintest.Of(want))
	obj := open(t, newClient(t, impatient), s.At("/x"), origin.Options{})
	sink := origintest.NewSink(t, size)
	sink.OnBuffer = func(context.Context, blob.Run) error { return own }
	if got := obj.Fetch(within(t, 10*time.Second), sink.All(), sink); !errors.Is(got, own) {
		t.Errorf("Fetch: %v, want %v", got, own)
	}
}

// TestSlowSink: a receiver that takes longer than Stall for a buffer is not the server's fault.
func TestSlowSink(t *testing.T) {
	want := origintest.Bytes(9, size)
	s := origintest.New(t, origintest.Of(want))
	obj := open(t, newClient(t, origin.Options{}), s.At("/x"), origin.Options{Stall: 300 * time.Millisecond, Retries: -1})
	sink := origintest.NewSink(t, size)
	slow := func(r blob.Run) {
		if r.Contains(1) {
			time.Sleep(700 * time.Millisecond) // longer than Stall, which is what is tested
		}
	}
	sink.OnBuffer = func(_ context.Context, r blob.Run) error { slow(r); return nil }
	sink.OnDone = func(r blob.Run, _ []byte) error { slow(r); return nil }
	if err := obj.Fetch(within(t, 10*time.Second), sink.All(), sink); err != nil {
		t.Fatal(err)
	}
	if sink.Check(sink.All(), want); s.Requests() != 2 {
		t.Errorf("%d requests, want 2", s.Requests())
	}
}

// TestChanged: another version at the origin is never mixed with the first one, and the verdict is final.
func TestChanged(t *testing.T) {
	for name, f := range map[string]origintest.Faults{
		"ETag":               {},
		"weak ETag":          {WeakETag: true},
		"Last-Modified":      {NoETag: true},
		"If-Range ignored":   {IgnoreIfRange: true},
		"no ranges any more": {IgnoreRange: true},
	} {
		t.Run(name, func(t *testing.T) {
			want, other := origintest.Bytes(10, size), origintest.Bytes(11, size)
			s := origintest.New(t, origintest.Of(want))
			if !f.IgnoreRange {
				s.Set(f)
			}
			obj := open(t, newClient(t, impatient), s.At("/x"), origin.Options{})
			s.Set(f)
			first := 1
			if f.IgnoreRange {
				first = 2 // a 200 to If-Range is tried once more without it
			}
			s.ChangeAfter(first, origintest.Of(other))
			sink := origintest.NewSink(t, size)
			if err := obj.Fetch(within(t, 10*time.Second), blob.Run{First: 0, Count: 20}, sink); err != nil {
				t.Fatal(err)
			}
			if err := obj.Fetch(within(t, 10*time.Second), blob.Run{First: 20, Count: 20}, sink); !errors.Is(err, blob.ErrChanged) {
				t.Errorf("Fetch: %v, want changed", err)
			}
			if err := sink.Wrong(want); err != nil {
				t.Error(err)
			}
			s.Change(origintest.Of(want))
			n := s.Requests()
			if err := obj.Fetch(within(t, time.Second), sink.All(), sink); !errors.Is(err, blob.ErrChanged) || s.Requests() != n || !obj.Changed() || obj.Has(sink.All()) {
				t.Errorf("afterwards: %v, %d requests", err, s.Requests()-n)
			}
			if _, err := streamAll(t, obj); !errors.Is(err, blob.ErrChanged) {
				t.Errorf("Stream: %v", err)
			}
		})
	}
}

// TestChangedSize: 416 and a shrunken object.
func TestChangedSize(t *testing.T) {
	s := origintest.New(t, origintest.Of(origintest.Bytes(12, size)))
	s.Set(origintest.Faults{NoETag: true, NoLastModified: true})
	obj := open(t, newClient(t, impatient), s.At("/x"), origin.Options{})
	s.Change(origintest.Of(origintest.Bytes(12, 100_000)))
	sink := origintest.NewSink(t, size)
	if err := obj.Fetch(within(t, 10*time.Second), blob.Run{First: 40, Count: 3}, sink); !errors.Is(err, blob.ErrChanged) {
		t.Errorf("Fetch: %v, want changed", err)
	}
}

// TestNoRanges: a large object without ranges can be fetched near its start only, and says so.
func TestNoRanges(t *testing.T) {
	content := origintest.Pattern(20 << 20)
	s := origintest.New(t, content)
	c := newClient(t, impatient)
	s.Set(origintest.Faults{IgnoreRange: true})
	if obj := open(t, c, s.At("/x"), origin.Options{}); obj.Ranges() || obj.Size() != content.Size() || obj.Has(blob.Run{Count: 1}) {
		t.Errorf("Open: ranges %v, size %d", obj.Ranges(), obj.Size())
	}
	s.Set(origintest.Faults{})
	obj := open(t, c, s.At("/x"), origin.Options{})
	s.Set(origintest.Faults{IgnoreRange: true})
	sink := origintest.NewSink(t, content.Size())
	want := make([]byte, content.Size())
	if _, err := content.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	near, far := blob.Run{First: 500, Count: 12}, blob.Run{First: 1000, Count: 12}
	if err := obj.Fetch(within(t, 10*time.Second), near, sink); err != nil {
		t.Fatal(err)
	}
	sink.Check(near, want)
	before := s.Bytes()
	if err := obj.Fetch(within(t, 10*time.Second), far, sink); !errors.Is(err, blob.ErrUnavailable) || obj.Ranges() || obj.Has(near) {
		t.Errorf("far: %v, ranges %v", err, obj.Ranges())
	}
	if n := s.Bytes() - before; n > 10<<20 {
		t.Errorf("far: %d bytes were sent for nothing", n)
	}
	if got, err := streamAll(t, obj); err != nil || !bytes.Equal(got, want) {
		t.Errorf("Stream: %d bytes, %v", len(got), err)
	}
}

// TestContext: a context that ends, ends the call at once and gives all buffers back.
func TestContext(t *testing.T) {
	want := origintest.Bytes(13, size)
	for name, f := range map[string]origintest.Faults{"header": {Stall: -1}, "body": {Stall: 100_000}, "pause": {Status: 503, RetryAfter: "5"}} {
		t.Run(name, func(t *testing.T) {
			s := origintest.New(t, origintest.Of(want))
			c := newClient(t, origin.Options{})
			obj := open(t, c, s.At("/x"), origin.Options{})
			s.Set(f)
			ctx, cancel := context.WithCancel(t.Context())
			sink := origintest.NewSink(t, size)
			done := make(chan error, 1)
			go func() { done <- obj.Fetch(ctx, sink.All(), sink) }()
			s.Await(2)
			cancel()
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("Fetch: %v, want canceled", err)
				}
			case <-time.After(4 * time.Second): // less than Retry-After and Stall
				t.Fatal("Fetch did not end with its context")
			}
			if err := sink.Wrong(want); err != nil {
				t.Error(err)
			}
			if _, err := c.Open(ctx, s.At("/x"), origin.Options{}); !errors.Is(err, context.Canceled) {
				t.Errorf("Open: %v, want canceled", err)
			}

			short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			err := obj.Fetch(short, sink.All(), sink)
			if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, blob.ErrUnavailable) {
				t.Errorf("Fetch: %v, want a deadline", err)
			}
		})
	}
}

// TestClose: Close ends what is under way, even a wait for memory.
func TestClose(t *testing.T) {
	for name, wait := range map[string]bool{"server": false, "sink": true} {
		t.Run(name, func(t *testing.T) {
			s := origintest.New(t, origintest.Of(origintest.Bytes(14, size)))
			c := newClient(t, origin.Options{})
			obj := open(t, c, s.At("/x"), origin.Options{})
			sink := origintest.NewSink(t, size)
			under := make(chan struct{})
			var once sync.Once
			sink.OnBuffer = func(ctx context.Context, r blob.Run) error {
				once.Do(func() { close(under) })
				if wait {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}
			s.Set(origintest.Faults{Stall: 100_000})
			done := make(chan error, 1)
			go func() { done <- obj.Fetch(context.Background(), sink.All(), sink) }()
			<-under
			c.Close()
			if err := <-done; !errors.Is(err, blob.ErrClosed) {
				t.Errorf("Fetch: %v, want closed", err)
			}
			if err := obj.Fetch(t.Context(), sink.All(), sink); !errors.Is(err, blob.ErrClosed) {
				t.Errorf("Fetch after Close: %v", err)
			}
			if _, err := c.Open(t.Context(), s.At("/x"), origin.Options{}); !errors.Is(err, blob.ErrClosed) {
				t.Errorf("Open after Close: %v", err)
			}
		})
	}
}

// TestConcurrent: many ranges at once, over a server that loses connections.
func TestConcurrent(t *testing.T) {
	want := origintest.Bytes(15, 8<<20)
	s := origintest.New(t, origintest.Of(want))
	var taken sync.Map
	obj := open(t, newClient(t, origin.Options{}), s.At("/x"), origin.Options{OnBytes: func(n int) { taken.Store(n, true) }})
	s.Set(origintest.Faults{Reset: 300_000})
	sink := origintest.NewSink(t, obj.Size())
	var wg sync.WaitGroup
	for first := uint32(0); first < sink.All().Count; first += 64 {
		wg.Go(func() {
			if err := obj.Fetch(within(t, 20*time.Second), blob.Run{First: first, Count: 64}, sink); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	sink.Check(sink.All(), want)
	if _, ok := taken.Load(0); ok {
		t.Error("OnBytes was told of nothing")
	}
	sink = origintest.NewSink(t, obj.Size())
	if err := obj.Fetch(within(t, time.Second), blob.Run{First: sink.All().Count - 1, Count: 2}, sink); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("beyond the end: %v", err)
	}
	if err := obj.Fetch(within(t, time.Second), blob.Run{First: 3}, sink); err != nil {
		t.Errorf("nothing: %v", err)
	}
}
