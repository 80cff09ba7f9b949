// Package blob is the vocabulary that every room of pantala shares: what a blob is called, how its bytes
// are cut into blocks and pieces, how they are verified, how much a hash is trusted, and the few interfaces
// and error classes that travel between packages.
//
// # Words
//
// A blob is immutable bytes with a name. It is cut into blocks of [BlockSize] (16 KiB): the unit that is
// requested on the wire, verified, stored and published. A piece is a power of two of blocks: the unit of
// bookkeeping between machines (HAVE messages, leases, piece roots). A [Run] is consecutive blocks.
//
// # Place
//
// At the very bottom: blob imports only the standard library, and everything else imports blob.
//
// # Assembly
//
// Hashing is the largest part of the processor time of a download, so [Leaves] has a kernel for amd64 with AVX-512
// that hashes sixteen blocks at once (leaves_amd64.s; docs/decisions/0005-sixteen-lane-sha256.md). Everywhere else,
// and with the build tag purego, it calls crypto/sha256.
//
// # Goroutines
//
// None are started. Functions touch nothing but their arguments; all values are safe to share once built.
//
// # Locks
//
// None.
//
// # Errors
//
// The error classes of the whole program are declared here ([ErrNotFound], [ErrUnavailable], [ErrCorrupt],
// [ErrDenied], [ErrChanged], [ErrNoSpace], [ErrInvalid], [ErrClosed]) and wrapped with what, where and from
// whom by those who return them; fs/errno.go and cmd/pantala/exit.go turn them into errno and exit codes.
package blob
