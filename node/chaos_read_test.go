package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/fetch"
)

// chaosReader reads from one node what comes to its mind.
type chaosReader struct {
	w   *world
	of  *chaosNode
	rng *rand.Rand
}

// run reads until ctx ends.
func (r *chaosReader) run(ctx context.Context) {
	for ctx.Err() == nil && !r.w.t.Failed() {
		r.visit(ctx, r.rng.IntN(len(r.w.objects)))
	}
}

// visit opens an object, reads some of it, and lets it go.
func (r *chaosReader) visit(ctx context.Context, i int) {
	o := r.w.objects[i]
	changes, began := o.changed.Load(), time.Now()
	l, done, err := r.of.use(ctx, o, r.of.fill)
	if err != nil {
		r.judgeOpen(ctx, began, err, changes != o.changed.Load())
		pause(ctx, 20*time.Millisecond)
		return
	}
	defer done()
	want := o.bytes(l.meta.Validator)
	if want == nil {
		pause(ctx, 20*time.Millisecond)
		return // it has no ETag just now: any version
	}
	size := int64(len(want))
	length := 1 + r.rng.Int64N([]int64{1, 4 << 10, 16 << 10, 128 << 10, 1 << 20}[r.rng.IntN(5)])
	length = min(length, size)
	off, step := r.rng.Int64N(size), length
	pattern := r.rng.IntN(4)
	if pattern == 1 {
		step = length + r.rng.Int64N(512<<10)
	}
	if pattern == 3 {
		step = length/2 + 1 // overlapping
	}
	for range 1 + r.rng.IntN(40) {
		if ctx.Err() != nil {
			return
		}
		if pattern == 2 {
			off = r.rng.Int64N(size)
		}
		if off >= size {
			off = 0
		}
		if err := r.read(ctx, l, want, off, min(length, size-off), o, changes); err != nil {
			return
		}
		off += step
		if r.rng.IntN(10) == 0 {
			pause(ctx, time.Duration(r.rng.IntN(30))*time.Millisecond)
		}
	}
}

// whole reads an object from start to end; it must succeed.
func (r *chaosReader) whole(ctx context.Context, i int) {
	o := r.w.objects[i]
	for range 3 { // a blob that the others use still may be of an older version, and then has no origin
		changes, began := o.changed.Load(), time.Now()
		l, done, err := r.of.use(ctx, o, r.of.fill)
		if err != nil {
			r.judgeOpen(ctx, began, err, false)
			return
		}
		want := o.bytes(l.meta.Validator)
		for off := int64(0); off < int64(len(want)) && err == nil; off += 1 << 20 {
			err = r.read(ctx, l, want, off, min(1<<20, int64(len(want))-off), o, changes)
		}
		done()
		if err == nil && want != nil {
			return
		}
	}
}

// fromSeed reads the first version of an object, which peers have, from start to end; it must succeed.
func (r *chaosReader) fromSeed(ctx context.Context, o *object) {
	l, done, err := r.of.use(ctx, o, r.of.fill)
	if err != nil {
		return // never opened here before
	}
	defer done()
	want := o.bytes(l.meta.Validator)
	for off := int64(0); off < int64(len(want)); off += 1 << 20 {
		p := make([]byte, min(1<<20, int64(len(want))-off))
		began := time.Now()
		if err := l.fetch.ReadAt(ctx, p, off); err != nil {
			var peers []string
			for _, j := range l.joined() {
				for _, i := range j.torrent.Peers() {
					peers = append(peers, fmt.Sprintf("%+v", i))
				}
			}
			r.w.t.Errorf("node %d: at %d of %s after %v, without the origin: %v; peers %v; %+v", r.of.i, off, o.source(), time.Since(began), err, peers, l.fetch.Stats())
			return
		}
		if !bytes.Equal(p, want[off:off+int64(len(p))]) {
			r.w.t.Errorf("node %d: wrong bytes from the seed at %d", r.of.i, off)
		}
	}
}

// read reads n bytes at off in one of the ways there are, perhaps not to its end, and judges what comes.
func (r *chaosReader) read(ctx context.Context, l *live, want []byte, off, n int64, o *object, changes int64) error {
	began := time.Now()
	read, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.rng.IntN(12) == 0 {
		t := time.AfterFunc(time.Duration(r.rng.IntN(40))*time.Millisecond, cancel)
		defer t.Stop()
	}
	alarm := time.AfterFunc(hung, func() { r.hangs(l, off, n) })
	defer alarm.Stop()
	p := make([]byte, n)
	var err error
	if n <= 256<<10 && r.rng.IntN(2) == 0 {
		err = kernelRead(read, l.fetch, p, off)
	} else {
		err = l.fetch.ReadAt(read, p, off)
	}
	r.w.reads.Add(1)
	if err != nil {
		if read.Err() != nil && errors.Is(err, context.Canceled) {
			r.w.cancelled.Add(1)
			return nil
		}
		r.judge(ctx, began, err, changes != o.changed.Load() || o.outdated())
		return err
	}
	r.w.bytes.Add(n)
	if !bytes.Equal(p, want[off:off+n]) {
		at := 0
		for p[at] == want[off+int64(at)] {
			at++
		}
		r.w.t.Errorf("node %d: wrong bytes at %d of %s %s: read of %d at %d", r.of.i, off+int64(at), o.source(), l.meta.Validator, n, off)
	}
	return nil
}

// outdated reports whether there has been more than one version.
func (o *object) outdated() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.versions) > 1
}

// judgeOpen is judge for the opening of an object. One that does not tell its size must be read and kept as a
// whole first, and may be larger than the quota.
func (r *chaosReader) judgeOpen(ctx context.Context, began time.Time, err error, changed bool) {
	if errors.Is(err, context.Canceled) { // the node was stopped
		err = fmt.Errorf("%w: %w", blob.ErrClosed, err)
	}
	if r.of.conf.Quota > 0 && errors.Is(err, blob.ErrNoSpace) && r.w.mayFail(began) {
		return
	}
	r.judge(ctx, began, err, changed)
}

// judge decides whether a read that began then may fail like that.
func (r *chaosReader) judge(ctx context.Context, began time.Time, err error, changed bool) {
	r.w.failed.Add(1)
	switch {
	case ctx.Err() != nil:
		return
	case errors.Is(err, blob.ErrClosed):
		r.of.mu.Lock()
		defer r.of.mu.Unlock()
		if r.of.started == 1 && r.of.node != nil {
			r.w.t.Errorf("node %d was not closed: %v", r.of.i, err)
		}
		return
	case changed && (errors.Is(err, blob.ErrChanged) || errors.Is(err, blob.ErrUnavailable)):
		return
	case !errors.Is(err, blob.ErrUnavailable) && !errors.Is(err, blob.ErrDenied) && !errors.Is(err, blob.ErrNotFound):
		r.w.t.Errorf("node %d: a failure of a strange class after %v: %v", r.of.i, time.Since(began), err)
	case !r.w.mayFail(began):
		r.w.t.Errorf("node %d: all was well for %v when the read began, and %v later: %v", r.of.i, began.Sub(time.Unix(0, r.w.calmed.Load())), time.Since(began), err)
	}
}

// hangs reports a read that nobody answers, with all stacks.
func (r *chaosReader) hangs(l *live, off, n int64) {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	r.w.t.Errorf("node %d: a read of %d at %d of %s hangs: %+v\n%s", r.of.i, n, off, l.meta.Source, l.fetch.Stats(), buf)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// kernel is a waiter that is answered once.
type kernel struct {
	answers atomic.Int32
	answer  chan error
}

// Ready implements blob.Waiter.
func (k *kernel) Ready(err error) {
	if k.answers.Add(1) > 1 {
		panic("a parked read was answered twice")
	}
	k.answer <- err
}

// kernelRead reads as package fs does for the kernel: WriteTo to a descriptor, parked in between.
func kernelRead(ctx context.Context, b *fetch.Blob, p []byte, off int64) error {
	fd, err := unix.MemfdCreate("reply", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	hdr := [16]byte{0: 0xaa, 15: 0x55}
	for {
		n, err := b.WriteTo(fd, hdr[:], off, len(p))
		if err == nil {
			b.Touch(off, len(p))
			got := make([]byte, len(hdr)+len(p)+1)
			k, err := unix.Pread(fd, got, 0)
			if err != nil || n != len(hdr)+len(p) || k != n || !bytes.Equal(got[:16], hdr[:]) {
				return errors.New("the reply has another length or header than it should")
			}
			copy(p, got[16:])
			return nil
		}
		if !errors.Is(err, blob.ErrAbsent) {
			return err
		}
		k := &kernel{answer: make(chan error, 1)}
		if b.Want(off, len(p), k) {
			continue
		}
		select {
		case err = <-k.answer:
		case <-ctx.Done():
			if b.Cancel(k) {
				if k.answers.Load() != 0 {
					panic("a read that was taken back was answered")
				}
				return ctx.Err()
			}
			err = <-k.answer
		}
		if err != nil {
			return err
		}
	}
}
