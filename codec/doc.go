// Package codec makes bytes shorter for slow links, and whole again at the other end.
//
// Its rooms inflate and zstdspan read streams that others have made at random: [Point], [Scan] and [Span] are what
// they have in common.
//
// # Place
//
// Just above blob, below swarm, which compresses what it sends to peers of ours where that is faster, and below image,
// which reads layers.
//
// # Goroutines
//
// None are started.
//
// # Locks
//
// None that show: all functions are safe for concurrent use. A [Gauge] belongs to whoever asks it.
//
// # Errors
//
// [Expand] returns blob.ErrInvalid for what is not a frame of exactly the expected length.
package codec
