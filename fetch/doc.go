// Package fetch makes absent blocks present: one fetch per absent block however many readers wait for it,
// the most urgent first, from whoever can deliver, within a deadline and a memory budget.
//
// # Place
//
// Between fs (or any other reader) above and the two kinds of source below: the peers of a swarm and the
// origin. It is the only package that sees both, through [blob.Source]. What arrives goes through a [sink]
// into blockio, which verifies it; only then is a reader told.
//
// The life of a read whose bytes are absent: [Blob.Want] parks it; the blob's own goroutine turns parked
// reads, readahead windows and background filling into needs, most urgent first (plan.go); routes each need
// to peers, to the origin, or to "wait, another node holds the origin lease" (route.go); starts flights
// (flight.go); each block that lands wakes the readers it completes, on the goroutine that landed it.
//
// # Goroutines
//
// One per open Blob (Blob.run), which decides, and one per flight, which moves bytes. Both are owned by the
// Blob; Close waits for them. Readers' goroutines only park or copy.
//
// # Locks
//
// Blob.mu guards parked reads and flights; Blob.ahead.mu guards readahead streams; transient.mu guards blocks
// that could not be kept; sink.mu guards the buffers that are lent; Engine.mu guards the set of open blobs. The
// first three are taken in this order, and what is asked under them (Source.Has, the Planner, the store's bitmaps
// and roots) does not block. The others are leaves. None is held over I/O or over a Waiter's Ready.
//
// # Errors
//
// A read fails with [blob.ErrUnavailable] when nobody delivered within its deadline (never, when Hard; with an
// origin that can only be read from its start the deadline counts from the last byte that came), with the
// origin's [blob.ErrChanged], [blob.ErrDenied] or [blob.ErrNotFound] at once when no peer has the bytes, and with
// [blob.ErrClosed] when the Blob is closed. Unverified bytes are never returned.
package fetch
