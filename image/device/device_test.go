package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
)

// Whatever is read in whatever order by however many, while the source delays, fails and lies: bytes equal the straight
// decode or the read fails with a class; and once the source is well again everything can be read.
func TestReadsEqualTheDecode(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		lengths := rapid.SliceOfN(rapid.IntRange(1, 70_000), 1, 12).Draw(t, "spans")
		l := newLayer(byte(n), lengths...)
		var ill atomic.Bool
		ill.Store(true)
		var calls atomic.Int64
		trouble := rapid.SliceOfN(rapid.IntRange(0, 9), 1, 50).Draw(t, "trouble")
		next := func() int { return trouble[int(calls.Add(1))%len(trouble)] }
		src := &memory{bytes: l.stored,
			before: func(ctx context.Context, _ int64, _ int) error {
				if !ill.Load() {
					return nil
				}
				switch next() {
				case 0:
					return fmt.Errorf("%w: of the test", blob.ErrUnavailable)
				case 1, 2:
					time.Sleep(100 * time.Microsecond)
				}
				return nil
			},
			spoil: func() bool { return ill.Load() && next() == 3 },
		}
		n++
		path := filepath.Join(dir, fmt.Sprint(n))
		d, err := l.tryOpen(path, src, func(c *Config) {
			c.Pool = NewPool(PoolOptions{Memory: 300_000, Workers: rapid.IntRange(1, 3).Draw(t, "workers")})
		})
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(path)
		defer d.Close()
		size := len(l.decoded)
		type ask struct{ off, n int }
		asks := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) ask {
			off := rapid.IntRange(0, size-1).Draw(t, "off")
			return ask{off, rapid.IntRange(1, size-off).Draw(t, "n")}
		}), 1, 20).Draw(t, "reads")
		var wg sync.WaitGroup
		fail := make(chan string, 100)
		for w := range 4 {
			wg.Go(func() {
				for i, a := range asks {
					if i%4 != w && w != 3 {
						continue
					}
					ctx := context.Background()
					if i%3 == 0 {
						ctx = blob.WithClass(ctx, blob.Class(i%4))
					}
					p := make([]byte, a.n)
					err := d.ReadAt(ctx, p, int64(a.off))
					if err == nil && !bytes.Equal(p, l.decoded[a.off:a.off+a.n]) {
						fail <- fmt.Sprintf("wrong bytes at %d+%d", a.off, a.n)
					}
					if err != nil && !errors.Is(err, blob.ErrUnavailable) && !errors.Is(err, blob.ErrCorrupt) {
						fail <- err.Error()
					}
				}
			})
		}
		wg.Wait()
		ill.Store(false)
		for d.Stats().Jobs > 0 { // those were begun while it was ill
			time.Sleep(100 * time.Microsecond)
		}
		p := make([]byte, size)
		if err := d.ReadAt(context.Background(), p, 0); err != nil || !bytes.Equal(p, l.decoded) {
			t.Fatalf("all of it: %v", err)
		}
		<-d.Completed()
		if d.Present() != int64(size) || !d.Complete() {
			t.Fatalf("present %d of %d", d.Present(), size)
		}
		close(fail)
		for f := range fail {
			t.Fatal(f)
		}
	})
}

// However many readers want a span, it is read once.
func TestSingleFlight(t *testing.T) {
	l := newLayer(1, even(4, 100_000)...)
	gate := make(chan struct{})
	src := &memory{bytes: l.stored, before: func(context.Context, int64, int) error { <-gate; return nil }}
	d := l.open(t, src, nil)
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() { l.check(t, d, int64(i*10), 250_000) })
	}
	eventually(t, "all readers", func() bool { return d.Stats().Waiting == 32 })
	close(gate)
	wg.Wait()
	for off, n := range src.asked {
		if n != 1 {
			t.Errorf("stored bytes at %d were read %d times", off, n)
		}
	}
}

// What somebody is blocked on overtakes all else, and the memory for stored bytes is bounded.
func TestUrgentFirst(t *testing.T) {
	l := newLayer(2, even(64, 64<<10)...)
	gate := make(chan struct{})
	src := &memory{bytes: l.stored, before: func(ctx context.Context, _ int64, _ int) error {
		select {
		case <-gate:
		case <-ctx.Done():
		}
		return ctx.Err()
	}}
	const memoryLimit = 1 << 20
	d := l.open(t, src, func(c *Config) { c.Pool = NewPool(PoolOptions{Memory: memoryLimit, Workers: 1}) })
	all := make([]uint32, 64)
	for i := range all {
		all[i] = uint32(i)
	}
	done := make(chan error, 2)
	go func() { done <- d.Prefetch(t.Context(), all[10:], blob.Background) }()
	eventually(t, "the background", func() bool { return src.reads() > 0 })
	background := src.under.Load()
	if background > memoryLimit/4 {
		t.Errorf("the background fills %d of %d bytes", background, memoryLimit/2)
	}
	go func() { done <- d.Prefetch(t.Context(), all[:8], blob.Readahead) }()
	eventually(t, "the prefetch", func() bool { return src.under.Load() > background })
	w := newWaiter()
	if d.Want(9*64<<10, 10, w) {
		t.Fatal("present")
	}
	eventually(t, "the fault", func() bool {
		src.mu.Lock()
		defer src.mu.Unlock()
		return slices.Contains(src.classes, blob.Fault)
	})
	if src.under.Load() > memoryLimit/2 {
		t.Errorf("%d bytes under way", src.under.Load())
	}
	close(gate)
	if err := w.wait(t); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if src.most.Load() > memoryLimit/2 {
		t.Errorf("at most %d bytes were under way at once", src.most.Load())
	}
}

// What is prefetched comes in the order given, before what comes in the background.
func TestPrefetchOrder(t *testing.T) {
	l := newLayer(16, even(12, 64<<10)...)
	gate := make(chan struct{})
	src := &memory{bytes: l.stored, before: func(context.Context, int64, int) error { <-gate; return nil }}
	d := l.open(t, src, func(c *Config) { c.Pool = NewPool(PoolOptions{Memory: 128 << 10}) }) // one job at a time
	done := make(chan error, 2)
	jobs := func(n int) func() bool { return func() bool { return d.Stats().Jobs == n } }
	go func() { done <- d.Prefetch(t.Context(), []uint32{0, 1, 2}, blob.Background) }()
	eventually(t, "the background", jobs(3))
	go func() { done <- d.Prefetch(t.Context(), []uint32{9, 4, 11, 6}, blob.Readahead) }()
	eventually(t, "the prefetch", jobs(7))
	close(gate)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	var order []uint32
	for _, off := range src.order {
		order = append(order, uint32(slices.IndexFunc(l.index.Spans, func(s index.Span) bool { return s.Stored == off })))
	}
	if want := []uint32{0, 9, 4, 11, 6, 1, 2}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
}

// A read of a span that is being fetched in the background makes that urgent.
func TestPromotion(t *testing.T) {
	l := newLayer(3, 50_000)
	src := &memory{bytes: l.stored, before: func(ctx context.Context, _ int64, _ int) error {
		if blob.ClassOf(ctx) == blob.Background {
			<-ctx.Done()
		}
		return ctx.Err()
	}}
	d := l.open(t, src, nil)
	done := make(chan error)
	go func() { done <- d.Prefetch(t.Context(), []uint32{0}, blob.Background) }()
	eventually(t, "the background", func() bool { return src.reads() == 1 })
	l.check(t, d, 7, 100)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if want := []blob.Class{blob.Background, blob.Fault}; !slices.Equal(src.classes, want) {
		t.Errorf("classes %v, want %v", src.classes, want)
	}
}

func TestWantAndCancel(t *testing.T) {
	l := newLayer(4, even(3, 100_000)...)
	gate := make(chan struct{})
	src := &memory{bytes: l.stored, before: func(context.Context, int64, int) error { <-gate; return nil }}
	d := l.open(t, src, nil)
	hdr := []byte("header")
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		return r, w
	}
	r, w := pipe()
	fd := int(w.Fd())
	if n, err := d.WriteTo(fd, hdr, 0, 100); n != 0 || !errors.Is(err, blob.ErrAbsent) {
		t.Fatalf("%d, %v", n, err)
	}
	a, b := newWaiter(), newWaiter()
	a.hook = func(err error) {
		if _, werr := d.WriteTo(fd, hdr, 99_990, 20); err != nil || werr != nil {
			t.Errorf("%v, %v", err, werr)
		}
	}
	if d.Want(99_990, 20, a) || d.Want(5, 10, b) {
		t.Fatal("present")
	}
	if !d.Cancel(b) || d.Cancel(b) || d.Cancel(newWaiter()) {
		t.Error("Cancel does not say what it did")
	}
	close(gate)
	if err := a.wait(t); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	n, _ := r.Read(got)
	if want := append(hdr, l.decoded[99_990:100_010]...); !bytes.Equal(got[:n], want) {
		t.Errorf("%d bytes came, want %d", n, len(want))
	}
	if d.Cancel(a) {
		t.Error("Cancel after Ready")
	}
	if !d.Want(100, 10, newWaiter()) {
		t.Error("present bytes are waited for")
	}
	select {
	case <-b.ready:
		t.Error("Ready after Cancel")
	default:
	}
	for _, c := range [][2]int64{{-1, 1}, {0, 300_001}, {300_000, 1}, {1, -1}} {
		if _, err := d.WriteTo(fd, hdr, c[0], int(c[1])); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%v: %v", c, err)
		}
	}
}

// A read fails in its time, and the next one tries again.
func TestTimeout(t *testing.T) {
	l := newLayer(5, 50_000)
	var dead atomic.Bool
	dead.Store(true)
	gate := make(chan struct{})
	src := &memory{bytes: l.stored, before: func(ctx context.Context, _ int64, _ int) error {
		if dead.Load() {
			select {
			case <-ctx.Done():
			case <-gate:
			}
		}
		return ctx.Err()
	}}
	d := l.open(t, src, func(c *Config) { c.Timeout = 30 * time.Millisecond })
	if err := d.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if s := d.Stats(); s.Errors != 1 || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
	dead.Store(false)
	close(gate)
	d2 := l.open(t, src, nil)
	l.check(t, d2, 0, 50_000)
	eventually(t, "the span", func() bool { return d.Present() == 50_000 })
	l.check(t, d, 0, 50_000)
}

func TestContextEnds(t *testing.T) {
	l := newLayer(6, 50_000)
	gate := make(chan struct{})
	defer close(gate)
	d := l.open(t, &memory{bytes: l.stored, before: func(ctx context.Context, _ int64, _ int) error { <-ctx.Done(); return ctx.Err() }}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := d.ReadAt(ctx, make([]byte, 1), 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if err := d.Prefetch(ctx, []uint32{0}, blob.Readahead); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// Wrong bytes never surface: not from the source, not from the decoder; both are told with layer and span.
func TestCorrupt(t *testing.T) {
	l := newLayer(7, 50_000, 50_000, 50_000)
	bad := true
	src := &memory{bytes: l.stored, spoil: func() bool { return bad }}
	var text bytes.Buffer
	d := l.open(t, src, func(c *Config) { c.Name, c.Log = "layer-7", testLog(&text) })
	d.spans[2].Codec = index.Zstd // panics
	for off := range 3 {
		if err := d.ReadAt(t.Context(), make([]byte, 10), int64(off)*50_000); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("span %d: %v", off, err)
		}
	}
	if s := d.Stats(); s.Corrupt < 2 || s.Present != 0 {
		t.Errorf("%+v", s)
	}
	bad = false
	l.check(t, d, 0, 100_000)
	if err := d.ReadAt(t.Context(), make([]byte, 10), 100_000); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("panic of a decoder: %v", err)
	}
	d.Close()
	for _, want := range []string{"layer-7", "span=0", "span=1"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the log does not name %s: %s", want, text.String())
		}
	}
}

func TestReadAhead(t *testing.T) {
	l := newLayer(8, even(40, 256<<10)...)
	src := &memory{bytes: l.stored}
	d := l.open(t, src, nil)
	for off := int64(0); off < steady-128<<10; off += 128 << 10 {
		l.check(t, d, off, 128<<10)
	}
	eventually(t, "rest", func() bool { return d.Stats().Jobs == 0 })
	if p := d.Present(); p > steady {
		t.Errorf("%d bytes came for a reader of less than %d", p, steady)
	}
	for off := int64(steady - 128<<10); off < 2*steady; off += 128 << 10 {
		l.check(t, d, off, 128<<10)
	}
	eventually(t, "what lies ahead", func() bool { return d.Present() > 2*steady })
	eventually(t, "rest", func() bool { return d.Stats().Jobs == 0 })
	if p := d.Present(); p > 3*steady {
		t.Errorf("%d bytes came for a reader of %d", p, 2*steady)
	}
	if !slices.Contains(src.classes, blob.Readahead) {
		t.Error("no readahead")
	}

	// Random reads bring what they read.
	src2 := &memory{bytes: l.stored}
	d2 := l.open(t, src2, nil)
	for _, i := range []int64{31, 3, 17, 9, 25, 1, 36, 13} {
		l.check(t, d2, i*256<<10+5, 4096)
	}
	if n := src2.reads(); n != 8 {
		t.Errorf("%d spans were read for 8 random reads", n)
	}
}

func TestOnTouch(t *testing.T) {
	l := newLayer(9, even(10, 10_000)...)
	var mu sync.Mutex
	var seen []uint32
	d := l.open(t, &memory{bytes: l.stored}, func(c *Config) {
		c.OnTouch = func(i uint32) { mu.Lock(); seen = append(seen, i); mu.Unlock() }
	})
	if err := d.Prefetch(t.Context(), []uint32{8, 1, 1, 99}, blob.Readahead); err != nil {
		t.Fatal(err)
	}
	l.check(t, d, 55_000, 10)
	l.check(t, d, 9_995, 10)
	l.check(t, d, 55_100, 10)
	l.check(t, d, 85_000, 10)
	if want := []uint32{5, 0, 1, 8}; !slices.Equal(seen, want) {
		t.Errorf("touched %v, want %v", seen, want)
	}
}

// A full disk: everybody still gets the bytes, also reads of several spans, and nothing is believed to be kept.
func TestDiskFull(t *testing.T) {
	l := newLayer(10, even(6, 100_000)...)
	src := &memory{bytes: l.stored}
	var text bytes.Buffer
	d := l.open(t, src, func(c *Config) { c.Log = testLog(&text) })
	real := d.file
	d.file = openFile(t, d.path, os.O_RDONLY) // every write fails
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 20 {
				off := int64((i*7919 + k*104_729) % 400_000)
				l.check(t, d, off, 150_000)
				// And by the way of a mount: Want, then WriteTo from within Ready.
				null := openFile(t, "/dev/null", os.O_WRONLY)
				for tries := 0; tries < 64; tries++ {
					w := newWaiter()
					wrote := false
					write := func() bool {
						n, err := d.WriteTo(int(null.Fd()), []byte("hdr"), off, 150_000)
						if err != nil && !errors.Is(err, blob.ErrAbsent) {
							t.Error(err)
						}
						return err == nil && n == 150_003
					}
					w.hook = func(err error) { wrote = err == nil && write() }
					if d.Want(off, 150_000, w) {
						if write() {
							break
						}
						continue
					}
					if err := w.wait(t); err != nil {
						t.Error(err)
					}
					if wrote {
						break
					}
				}
				null.Close()
			}
		})
	}
	wg.Wait()
	s := d.Stats()
	if s.Unkept == 0 || s.Present != 0 || d.Complete() {
		t.Errorf("%+v", s)
	}
	// A sequential reader with small reads does not decode a span for each.
	before := d.Stats().Decodes
	for off := int64(0); off < 600_000; off += 4000 {
		l.check(t, d, off, 4000)
	}
	if n := d.Stats().Decodes - before; n > 18 {
		t.Errorf("%d decodes for 6 spans", n)
	}
	eventually(t, "rest", func() bool { return d.Stats().Jobs == 0 })
	d.file.Close()
	d.file = real
	l.check(t, d, 0, 600_000)
	if n := strings.Count(text.String(), "cannot be kept"); n != 1 {
		t.Errorf("%d warnings", n)
	}
}

func TestClose(t *testing.T) {
	l := newLayer(11, even(20, 300_000)...)
	src := &memory{bytes: l.stored, before: func(ctx context.Context, _ int64, _ int) error { <-ctx.Done(); return ctx.Err() }}
	d := l.open(t, src, func(c *Config) { c.Pool = NewPool(PoolOptions{Memory: 1 << 20}) })
	var waiters []*waiter
	for i := range 20 {
		w := newWaiter()
		waiters = append(waiters, w)
		if d.Want(int64(i)*300_000, 10, w) {
			t.Fatal("present")
		}
	}
	done := make(chan error)
	go func() { done <- d.Prefetch(t.Context(), []uint32{19, 18}, blob.Background) }()
	eventually(t, "the prefetch", func() bool {
		d.pool.mu.Lock()
		defer d.pool.mu.Unlock()
		return len(d.jobs[19].fans) == 1
	})
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	for _, w := range waiters {
		if err := w.wait(t); !errors.Is(err, blob.ErrClosed) {
			t.Error(err)
		}
	}
	if err := <-done; !errors.Is(err, blob.ErrClosed) {
		t.Error(err)
	}
	if err := d.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, blob.ErrClosed) {
		t.Error(err)
	}
	if _, err := d.WriteTo(1, nil, 0, 0); !errors.Is(err, blob.ErrClosed) {
		t.Error(err)
	}
	if d.pool.reading != 0 || d.pool.held != 0 || d.pool.decoding != 0 || len(d.pool.waiting) != 0 {
		t.Errorf("the pool still counts: %+v", d.pool)
	}
}

func TestBadIndex(t *testing.T) {
	for name, spoil := range map[string]func(*index.Index){
		"gap":      func(x *index.Index) { x.Spans[1].Device++ },
		"overlap":  func(x *index.Index) { x.Spans[1].Device-- },
		"short":    func(x *index.Index) { x.Size++ },
		"long":     func(x *index.Index) { x.Size-- },
		"empty":    func(x *index.Index) { x.Spans[0].Length = 0 },
		"negative": func(x *index.Index) { x.Spans[0].Stored = -1 },
		"beyond":   func(x *index.Index) { x.Spans[2].Stored = x.Stored },
		"huge":     func(x *index.Index) { x.Spans[2].StoredLength = 1 << 62 },
		"codec":    func(x *index.Index) { x.Spans[0].Codec = 9 },
		"stored":   func(x *index.Index) { x.Spans[0].StoredLength-- },
	} {
		l := newLayer(12, 1000, 1000, 1000)
		spoil(l.index)
		if _, err := l.tryOpen(filepath.Join(t.TempDir(), "layer"), &memory{}, nil); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEmptyLayer(t *testing.T) {
	l := newLayer(13)
	d := l.open(t, &memory{}, nil)
	<-d.Completed()
	if !d.Complete() || d.Size() != 0 {
		t.Error("an empty layer is complete")
	}
	if err := d.ReadAt(t.Context(), nil, 0); err != nil {
		t.Error(err)
	}
	if !d.Want(0, 0, newWaiter()) {
		t.Error("nothing is waited for")
	}
}

// The way of a read of present bytes allocates nothing.
func TestNoAllocations(t *testing.T) {
	l := newLayer(14, even(9, 64<<10)...)
	d := l.open(t, &memory{bytes: l.stored}, nil)
	l.check(t, d, 0, 8*64<<10)
	if d.Complete() {
		t.Fatal("complete")
	}
	null := openFile(t, "/dev/null", os.O_WRONLY)
	defer null.Close()
	fd, hdr := int(null.Fd()), make([]byte, 16)
	if n := testing.AllocsPerRun(200, func() {
		if _, err := d.WriteTo(fd, hdr, 65_000, 4096); err != nil {
			t.Fatal(err)
		}
		d.Touch(65_000, 4096)
		if _, err := d.WriteTo(fd, hdr, 8*64<<10, 4096); err != blob.ErrAbsent {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkHit(b *testing.B) {
	l := newLayer(15, even(1000, 16<<10)...)
	d := l.open(b, &memory{bytes: l.stored}, nil)
	spans := make([]uint32, 999)
	for i := range spans {
		spans[i] = uint32(i)
	}
	if err := d.Prefetch(b.Context(), spans, blob.Background); err != nil {
		b.Fatal(err)
	}
	null := openFile(b, "/dev/null", unix.O_WRONLY)
	defer null.Close()
	hdr := make([]byte, 16)
	b.SetBytes(4096)
	for i := int64(0); b.Loop(); i++ {
		off := i * 7919 * 4096 % (999*16<<10 - 4096)
		if _, err := d.WriteTo(int(null.Fd()), hdr, off, 4096); err != nil {
			b.Fatal(err)
		}
		d.Touch(off, 4096)
	}
}
