package blob

import (
	"context"
	"fmt"
	"time"
)

// ReaderAt is the contract of the whole read path.
//
// ReadAt fills all of p with verified bytes that start at off, or returns an error; it is never short. It is
// safe for concurrent use. off+len(p) must not exceed Size. The wait is bounded by ctx.
type ReaderAt interface {
	ReadAt(ctx context.Context, p []byte, off int64) error
	Size() int64
}

// MaxBuffer is the largest number of blocks that [Sink.Buffer] lends at once: 256 KiB.
const MaxBuffer = 16

// Source delivers blocks: an origin, or the peers of a swarm. fetch asks it; it knows nothing of fetch.
type Source interface {
	// Has reports, without blocking, whether every block of r could be asked for now.
	Has(r Run) bool
	// Fetch delivers the blocks of r, in any order, through into. It returns nil when Done was accepted for
	// each of them, and otherwise an error of a class of this package or of ctx; what was delivered before
	// the error stays delivered. When ctx ends it returns at once. Class and deadline of the request travel
	// in ctx ([ClassOf]). Fetch may be called concurrently for different, and for the same, runs. After it
	// has returned it must not touch into or any buffer again.
	Fetch(ctx context.Context, r Run, into Sink) error
}

// Sink takes the blocks of one Fetch call straight from the socket into memory of the store. Its methods are
// safe for concurrent use, for runs that do not overlap.
type Sink interface {
	// Buffer lends memory for exactly the bytes of r, which lies inside the run that was asked for and is at
	// most MaxBuffer blocks long. It waits while the memory budget is used up. Every buffer is given back by
	// exactly one Done or Drop for the same r.
	Buffer(ctx context.Context, r Run) ([]byte, error)
	// Done says that the buffer of r is full: its blocks are verified, written and published. ErrCorrupt:
	// the bytes did not match their hash and were dropped, whoever sent them is to blame. ErrChanged: this
	// is no longer the object that was opened. Other errors are the receiver's own trouble.
	Done(r Run) error
	// Drop gives a buffer back that could not be filled.
	Drop(r Run)
}

// Waiter is a read that has been parked until its bytes are present. Ready is called exactly once, from any
// goroutine, unless the wait was cancelled; it must not block for long.
type Waiter interface {
	Ready(err error)
}

// Class is how urgent a request is; lower is more urgent.
type Class uint8

const (
	// Fault: somebody is blocked on one page: a page fault, or a small random read. The kernel does not say
	// which of the two it is; both want a single block and nothing behind it.
	Fault Class = iota
	// Read: an application is blocked in a read of more than a page, part of which may be kernel readahead.
	Read
	// Readahead: an application will probably read this next.
	Readahead
	// Background: nobody waits; the blob is being completed.
	Background
)

// String is the word used in status and logs.
func (c Class) String() string {
	return [...]string{"fault", "read", "readahead", "background"}[min(c, Background)]
}

// ParseClass is the reverse of String.
func ParseClass(s string) (Class, error) {
	for c := Fault; c <= Background; c++ {
		if c.String() == s {
			return c, nil
		}
	}
	return 0, fmt.Errorf("%w class %q: known are fault, read, readahead, background", ErrInvalid, s)
}

type classKey struct{}

// WithClass returns a context that carries class c.
func WithClass(ctx context.Context, c Class) context.Context {
	return context.WithValue(ctx, classKey{}, c)
}

// ClassOf is the class that ctx carries, Fault when it carries none.
func ClassOf(ctx context.Context) Class {
	c, _ := ClassIn(ctx)
	return c
}

// ClassIn is the class that ctx carries, and whether it carries one.
func ClassIn(ctx context.Context) (c Class, ok bool) {
	c, ok = ctx.Value(classKey{}).(Class)
	return c, ok
}

// DefaultTimeout is how long a read waits for somebody who can deliver before it fails with ErrUnavailable.
const DefaultTimeout = 30 * time.Second
