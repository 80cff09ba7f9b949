package fs

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/pantala/pantala/blob"
)

// latch is the blob of a device that a successor knows by name but has not opened yet: reads wait until it has.
type latch struct {
	size int64
	real atomic.Pointer[Blob] // nil: not opened yet

	mu      sync.Mutex
	waiting map[blob.Waiter]extent // guarded by mu
	err     error                  // it will not be opened; guarded by mu
}

// extent is what a waiter wants.
type extent struct {
	off int64
	n   int
}

func newLatch(size int64) *latch { return &latch{size: size, waiting: map[blob.Waiter]extent{}} }

// open lets all reads go to b.
func (l *latch) open(b Blob) error {
	l.mu.Lock()
	if l.real.Load() != nil {
		l.mu.Unlock()
		return fmt.Errorf("%w: it is served already", blob.ErrInvalid)
	}
	if b.Size() != l.size {
		l.mu.Unlock()
		return fmt.Errorf("%w: it has %d bytes, but had %d when it was mounted", blob.ErrInvalid, b.Size(), l.size)
	}
	l.real.Store(&b)
	waiting := l.waiting
	l.waiting = nil
	l.mu.Unlock()
	for w, e := range waiting {
		if b.Want(e.off, e.n, w) {
			w.Ready(nil)
		}
	}
	return nil
}

// fail ends the waiting: nobody will open it.
func (l *latch) fail(err error) {
	l.mu.Lock()
	if l.real.Load() != nil {
		l.mu.Unlock()
		return
	}
	l.err = err
	waiting := l.waiting
	l.waiting = map[blob.Waiter]extent{}
	l.mu.Unlock()
	for w := range waiting {
		w.Ready(err)
	}
}

func (l *latch) Size() int64 { return l.size }

func (l *latch) Want(off int64, n int, w blob.Waiter) bool {
	if b := l.real.Load(); b != nil {
		return (*b).Want(off, n, w)
	}
	l.mu.Lock()
	if b := l.real.Load(); b != nil {
		l.mu.Unlock()
		return (*b).Want(off, n, w)
	}
	if err := l.err; err != nil {
		l.mu.Unlock()
		w.Ready(err)
		return false
	}
	l.waiting[w] = extent{off, n}
	l.mu.Unlock()
	return false
}

func (l *latch) Cancel(w blob.Waiter) bool {
	if b := l.real.Load(); b != nil {
		return (*b).Cancel(w)
	}
	l.mu.Lock()
	_, ok := l.waiting[w]
	delete(l.waiting, w)
	l.mu.Unlock()
	if b := l.real.Load(); !ok && b != nil {
		return (*b).Cancel(w)
	}
	return ok
}

func (l *latch) WriteTo(fd int, hdr []byte, off int64, n int) (int, error) {
	if b := l.real.Load(); b != nil {
		return (*b).WriteTo(fd, hdr, off, n)
	}
	return 0, blob.ErrAbsent
}

func (l *latch) Touch(off int64, n int) {
	if b := l.real.Load(); b != nil {
		(*b).Touch(off, n)
	}
}

func (l *latch) Complete() bool {
	b := l.real.Load()
	return b != nil && (*b).Complete()
}

// Completed is not asked of devices: they are passed through when they are opened.
func (l *latch) Completed() <-chan struct{} { return nil }

func (l *latch) File() *os.File {
	if b := l.real.Load(); b != nil {
		return (*b).File()
	}
	return nil
}
