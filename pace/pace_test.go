package pace

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const buffer = blob.MaxBuffer * blob.BlockSize

// within fails unless got is within a tenth of want.
func within(t *testing.T, what string, got, want float64) {
	t.Helper()
	if got < 0.9*want || got > 1.1*want {
		t.Errorf("%s: %.0f, want %.0f", what, got, want)
	}
}

// TestRate: whatever the size of what passes, and however many ask, the rate is kept.
func TestRate(t *testing.T) {
	for _, rate := range []int64{100 << 10, 5e6, 2e9} {
		for _, n := range []int{1000, blob.BlockSize, buffer} {
			synctest.Test(t, func(t *testing.T) {
				var g Group
				p := Path{g.Bucket(rate), nil, g.Bucket(0)}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				var mu sync.Mutex
				var wg sync.WaitGroup
				total := 0
				begin := time.Now()
				for range 7 {
					wg.Go(func() {
						for p.Wait(ctx, n, blob.Background) == nil {
							mu.Lock()
							total += n
							mu.Unlock()
							if n < buffer { // else the fake clock stands still too long
								continue
							}
						}
					})
					if float64(rate)/float64(n) > 1e5 {
						cancel() // too many steps to simulate
					}
				}
				wg.Wait()
				if took := time.Since(begin); took > time.Second {
					within(t, "bytes", float64(total), float64(rate)*took.Seconds()+leastHold)
				}
			})
		}
	}
}

// TestUrgentPasses: a block that somebody is blocked on passes at once what a download has used up, at a rate at
// which that takes seconds; the download pays for it.
func TestUrgentPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		p := Path{g.Bucket(64 << 10)}
		if err := p.Wait(t.Context(), buffer, blob.Background); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		begin := time.Now()
		var bulk time.Duration
		wg.Go(func() {
			p.Wait(t.Context(), buffer, blob.Background)
			bulk = time.Since(begin)
		})
		synctest.Wait()
		for range 4 {
			if err := p.Wait(t.Context(), blob.BlockSize, blob.Fault); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took > 0 {
			t.Errorf("four blocks waited for %v", took)
		}
		wg.Wait()
		// The bucket had 0 saved: 256 KiB of the first buffer and 64 KiB of blocks, at 64 KiB/s.
		if bulk < 4*time.Second || bulk > 6*time.Second {
			t.Errorf("the next buffer waited for %v", bulk)
		}
		// Urgent ones alone keep to the rate too, in the long run.
		begin = time.Now()
		for range 400 {
			p.Wait(t.Context(), blob.BlockSize, blob.Read)
		}
		within(t, "seconds for 6.25 MiB", time.Since(begin).Seconds(), 100-8+4)
	})
}

// TestClasses: when both wait, readahead goes before background.
func TestClasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		p := Path{g.Bucket(1 << 20)}
		p.Wait(t.Context(), buffer, blob.Background)
		var order []blob.Class
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, c := range []blob.Class{blob.Background, blob.Background, blob.Readahead} {
			wg.Go(func() {
				p.Wait(t.Context(), buffer, c)
				mu.Lock()
				order = append(order, c)
				mu.Unlock()
			})
			synctest.Wait()
		}
		wg.Wait()
		if order[0] != blob.Readahead {
			t.Errorf("%v", order)
		}
	})
}

// TestTenants: each keeps to its own rate, and both together to the host's; one that waits for its own does not
// hold up the other.
func TestTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		host := g.Bucket(3 << 20)
		slow, fast := Path{g.Bucket(1 << 20), host}, Path{g.Bucket(0), host}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var a, b int
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for slow.Wait(ctx, blob.BlockSize, blob.Background) == nil {
					a += blob.BlockSize
				}
			})
			wg.Go(func() {
				for fast.Wait(ctx, blob.BlockSize, blob.Background) == nil {
					b += blob.BlockSize
				}
			})
		}
		wg.Wait()
		within(t, "the limited tenant", float64(a), 30<<20)
		within(t, "both", float64(a+b), 90<<20)
	})
}

// TestSetRate: those who wait are told.
func TestSetRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		b := g.Bucket(1)
		p := Path{b}
		p.Wait(t.Context(), buffer, blob.Background)
		begin := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { p.Wait(t.Context(), buffer, blob.Background) })
		time.Sleep(time.Second)
		b.SetRate(0)
		wg.Wait()
		if took := time.Since(begin); took != time.Second {
			t.Errorf("released after %v", took)
		}
		if p.Limited() || b.Rate() != 0 {
			t.Error("still limited")
		}
		// A debt of a high rate is not paid at a low one.
		b.SetRate(1 << 30)
		p.Wait(t.Context(), 1<<30, blob.Background)
		b.SetRate(1 << 20)
		begin = time.Now()
		p.Wait(t.Context(), 1, blob.Background)
		if took := time.Since(begin); took > time.Second {
			t.Errorf("the first under the new rate waited for %v", took)
		}
	})
}

// TestCancel: who gives up does not pay, and does not stand in the way.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		b := g.Bucket(1 << 20)
		p := Path{b}
		p.Wait(t.Context(), 1<<20, blob.Background)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := p.Wait(ctx, 1<<30, blob.Background); err == nil {
			t.Fatal("passed")
		}
		begin := time.Now()
		p.Wait(t.Context(), 1, blob.Background)
		if took := time.Since(begin); took > time.Second {
			t.Errorf("waited for %v", took)
		}
		turn := p.Ask(1<<20, blob.Fault) // passes, with a debt
		<-turn.Ready()
		turn.Adjust(1)
		begin = time.Now()
		p.Wait(t.Context(), 1, blob.Background)
		if took := time.Since(begin); took > 10*time.Millisecond {
			t.Errorf("waited for %v after nearly all was given back", took)
		}
	})
}

// TestNoLimitCostsNothing: without limits nothing is allocated and nobody locks.
func TestNoLimitCostsNothing(t *testing.T) {
	var g Group
	p := Path{g.Bucket(0), nil, g.Bucket(0)}
	g.mu.Lock() // it would block
	defer g.mu.Unlock()
	if n := testing.AllocsPerRun(100, func() { p.Wait(t.Context(), buffer, blob.Fault) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestNobodyIsForgotten: whatever mix of askers, rates and changes, all pass in the end, and no more passes in any
// stretch of time than the rate, what was saved, the overdraft and one request allow.
func TestNobodyIsForgotten(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type ask struct {
			n     int
			class blob.Class
			after time.Duration
		}
		rate := rapid.Int64Range(10_000, 50e6).Draw(rt, "rate")
		asks := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) ask {
			return ask{rapid.IntRange(1, buffer).Draw(rt, "n"), blob.Class(rapid.IntRange(int(blob.Fault), int(blob.Background)).Draw(rt, "class")),
				time.Duration(rapid.IntRange(0, 300).Draw(rt, "after")) * time.Millisecond}
		}), 1, 40).Draw(rt, "asks")
		synctest.Test(t, func(t *testing.T) {
			var g Group
			b := g.Bucket(rate)
			p := Path{b, g.Bucket(0)}
			var mu sync.Mutex
			var wg sync.WaitGroup
			total, begin := 0, time.Now()
			for _, a := range asks {
				time.Sleep(a.after)
				wg.Go(func() {
					if err := p.Wait(context.Background(), a.n, a.class); err != nil {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					total += a.n
					most := float64(rate)*time.Since(begin).Seconds() + b.hold() + b.overdraft() + 2*buffer
					if float64(total) > most {
						t.Errorf("%d bytes passed in %v, at most %.0f may", total, time.Since(begin), most)
					}
				})
			}
			wg.Wait()
		})
	})
}

// TestClassBucket: it bounds its own class, and neither bounds nor counts what is asked for in others.
func TestClassBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		const rate = 1 << 20
		path := Path{g.Bucket(0), g.ClassBucket(blob.Background, rate)}
		move := func(c blob.Class) time.Duration {
			start := time.Now()
			for range 8 {
				if err := path.Wait(t.Context(), rate, c); err != nil {
					t.Fatal(err)
				}
			}
			return time.Since(start)
		}
		for c := blob.Fault; c < blob.Background; c++ {
			if d := move(c); d != 0 {
				t.Errorf("%v waits for %s", c, d)
			}
		}
		if d := move(blob.Background); d < 6*time.Second || d > 8*time.Second {
			t.Errorf("8 s worth of background passed in %s", d)
		}
	})
}
