package pace

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
)

const (
	// hold is how much a bucket that nobody has used can have saved up, as time at its rate: shorter than a
	// network's queues are deep, and longer than two ticks of a busy machine.
	hold = 50 * time.Millisecond
	// leastHold is the least of that in bytes: one data message.
	leastHold = 64 << 10
	// overdraft is how much in debt a bucket may be, as time at its rate, before urgent requests wait too. It is
	// what a transfer may be ahead of the rate for a moment when only urgent ones are made.
	overdraft = 100 * time.Millisecond
	// leastOverdraft is the least of that in bytes: two transfer buffers, so that a block that somebody is blocked
	// on never waits for the one buffer of bulk that has just passed, however low the rate.
	leastOverdraft = 2 * blob.MaxBuffer * blob.BlockSize
	// grain is the least time between two looks at who may pass: it makes one timer of hundreds.
	grain = time.Millisecond
)

// Group is a set of buckets that requests may ask along together. Its zero value is ready.
type Group struct {
	mu      sync.Mutex // guards the buckets too
	waiting [blob.Background + 1][]*Turn
	timer   *time.Timer
}

// Bucket is one rate. Buckets come from [Group.Bucket] and belong to it.
type Bucket struct {
	g    *Group
	rate atomic.Int64 // bytes per second; 0: no limit. Written with mu held
	only bool         // it counts for one class only
	of   blob.Class   // that one

	tokens float64 // bytes; negative: a debt
	at     time.Time
}

// Path is what a request asks along, in any order. All buckets are of one group; nil ones are skipped.
type Path []*Bucket

// Bucket makes a bucket that lets bytesPerSecond pass; 0: all.
func (g *Group) Bucket(bytesPerSecond int64) *Bucket {
	b := &Bucket{g: g, at: time.Now()}
	b.rate.Store(max(0, bytesPerSecond))
	return b
}

// ClassBucket makes a bucket that counts what is asked for in one class, and lets everything else pass.
func (g *Group) ClassBucket(c blob.Class, bytesPerSecond int64) *Bucket {
	b := g.Bucket(bytesPerSecond)
	b.only, b.of = true, c
	return b
}

// in is what of the path counts for a class.
func (p Path) in(c blob.Class) Path {
	other := func(b *Bucket) bool { return b != nil && b.only && b.of != c }
	if !slices.ContainsFunc(p, other) {
		return p
	}
	return slices.DeleteFunc(slices.Clone(p), other)
}

// Rate is the bytes per second that pass; 0: no limit.
func (b *Bucket) Rate() int64 {
	if b == nil {
		return 0
	}
	return b.rate.Load()
}

// SetRate changes the rate, for those who wait already too.
func (b *Bucket) SetRate(bytesPerSecond int64) {
	b.g.mu.Lock()
	at := time.Now()
	b.fill(at)
	b.rate.Store(max(0, bytesPerSecond))
	if b.tokens < 0 && bytesPerSecond > 0 {
		// A debt is from another time: it must not make those wait for long who come under a lower rate.
		b.tokens = max(b.tokens, -b.overdraft())
	}
	passed := b.g.grant(at)
	b.g.mu.Unlock()
	release(passed)
}

// fill adds what has come since the last time. Needs mu.
func (b *Bucket) fill(at time.Time) {
	rate := float64(b.rate.Load())
	if d := at.Sub(b.at); d > 0 {
		b.tokens = min(b.tokens+d.Seconds()*rate, b.hold())
	}
	b.at = at
}

func (b *Bucket) hold() float64 {
	return max(float64(b.rate.Load())*hold.Seconds(), leastHold)
}

func (b *Bucket) overdraft() float64 {
	return max(float64(b.rate.Load())*overdraft.Seconds(), leastOverdraft)
}

// wait is how long it takes until a request of a class may pass; 0: now. Needs mu.
func (b *Bucket) wait(class blob.Class) time.Duration {
	rate := float64(b.rate.Load())
	if rate == 0 {
		return 0
	}
	need := -b.tokens
	if class <= blob.Read {
		need -= b.overdraft()
	}
	if need < 0 {
		return 0
	}
	return max(grain, time.Duration((need+1)/rate*float64(time.Second)))
}

// limited reports whether any bucket has a limit. It takes no lock.
func (p Path) limited() bool {
	return slices.ContainsFunc(p, func(b *Bucket) bool { return b != nil && b.rate.Load() > 0 })
}

// Limited reports whether a request along the path could have to wait now.
func (p Path) Limited() bool { return p.limited() }

// Turn is a request that may pass, or waits to.
type Turn struct {
	path  Path
	class blob.Class
	n     int
	ready chan struct{} // closed when it may pass; nil: it may at once
}

// passed is what all turns wait for that need not.
var passed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Ready is closed when the bytes may move. They are paid for then.
func (t *Turn) Ready() <-chan struct{} {
	if t.ready == nil {
		return passed
	}
	return t.ready
}

// Ask asks that n bytes of a class may pass. Who does not wait for Ready calls Cancel.
func (p Path) Ask(n int, class blob.Class) *Turn {
	t := &Turn{path: p, class: min(class, blob.Background), n: n}
	if !p.limited() {
		return t
	}
	p = p.in(t.class)
	t.path = p
	if !p.limited() {
		return t
	}
	g := p.group()
	at := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	// Those who wait in the same or a more urgent class come first, unless they wait for something else.
	for _, earlier := range g.waiting[:t.class+1] {
		for _, e := range earlier {
			if e.class > blob.Read == (t.class > blob.Read) && e.shares(p) {
				g.queue(t, at)
				return t
			}
		}
	}
	if g.pass(t, at) == 0 {
		return t
	}
	g.queue(t, at)
	return t
}

func (p Path) group() *Group {
	for _, b := range p {
		if b != nil {
			return b.g
		}
	}
	return nil
}

// shares reports whether a turn asks along a limited bucket that p has too.
func (t *Turn) shares(p Path) bool {
	return slices.ContainsFunc(p, func(b *Bucket) bool {
		return b != nil && b.rate.Load() > 0 && slices.Contains(t.path, b)
	})
}

// pass lets a turn through when all buckets do, else it says how long that takes. Needs mu.
func (g *Group) pass(t *Turn, at time.Time) (wait time.Duration) {
	for _, b := range t.path {
		if b != nil {
			b.fill(at)
			wait = max(wait, b.wait(t.class))
		}
	}
	if wait == 0 {
		for _, b := range t.path {
			if b != nil && b.rate.Load() > 0 {
				b.tokens -= float64(t.n)
			}
		}
	}
	return wait
}

// queue makes a turn wait. Needs mu.
func (g *Group) queue(t *Turn, at time.Time) {
	t.ready = make(chan struct{})
	g.waiting[t.class] = append(g.waiting[t.class], t)
	g.arm(g.pause(at))
}

// pause is how long until the first of those who wait may pass; 0: nobody waits. Needs mu.
func (g *Group) pause(at time.Time) (least time.Duration) {
	for _, ts := range g.waiting {
		for _, t := range ts {
			var wait time.Duration
			for _, b := range t.path {
				if b != nil {
					b.fill(at)
					wait = max(wait, b.wait(t.class))
				}
			}
			if wait = max(wait, grain); least == 0 || wait < least {
				least = wait
			}
			if least == grain {
				return least
			}
		}
	}
	return least
}

// arm sets the timer. Needs mu.
func (g *Group) arm(d time.Duration) {
	switch {
	case d == 0:
		if g.timer != nil {
			g.timer.Stop()
		}
	case g.timer == nil:
		g.timer = time.AfterFunc(d, g.tick)
	default:
		g.timer.Reset(d)
	}
}

// tick is called by the timer.
func (g *Group) tick() {
	g.mu.Lock()
	passed := g.grant(time.Now())
	g.mu.Unlock()
	release(passed)
}

// grant takes out those who may pass now, the most urgent first and then in order, and sets the timer for the next.
// Needs mu.
func (g *Group) grant(at time.Time) (passed []*Turn) {
	for c := range g.waiting {
		g.waiting[c] = slices.DeleteFunc(g.waiting[c], func(t *Turn) bool {
			if g.pass(t, at) != 0 {
				return false
			}
			passed = append(passed, t)
			return true
		})
	}
	g.arm(g.pause(at))
	return passed
}

func release(ts []*Turn) {
	for _, t := range ts {
		close(t.ready)
	}
}

// Cancel takes a turn back. What it has paid is given back; it may be called whether or not it has passed, once.
func (t *Turn) Cancel() {
	g := t.path.group()
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.waiting[t.class], t); i >= 0 {
		g.waiting[t.class] = slices.Delete(g.waiting[t.class], i, i+1)
		return
	}
	t.path.returned(t.n)
}

// Adjust corrects a turn that has passed and moves n bytes instead of what it asked for.
func (t *Turn) Adjust(n int) {
	g := t.path.group()
	if g == nil || n == t.n {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	t.path.returned(t.n - n)
	t.n = n
}

// returned gives n bytes back, or takes them when n is negative. Needs mu.
func (p Path) returned(n int) {
	for _, b := range p {
		if b != nil && b.rate.Load() > 0 {
			b.tokens = min(b.tokens+float64(n), b.hold())
		}
	}
}

// Wait blocks until n bytes of a class may pass, or ctx ends.
func (p Path) Wait(ctx context.Context, n int, class blob.Class) error {
	if !p.limited() {
		return nil
	}
	t := p.Ask(n, class)
	select {
	case <-t.Ready():
		return nil
	default:
	}
	select {
	case <-t.Ready():
		return nil
	case <-ctx.Done():
		t.Cancel()
		return context.Cause(ctx)
	}
}
