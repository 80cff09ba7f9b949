// Package zstdspan decodes streams of Zstandard (RFC 8878) and makes them readable at random: [Scan] finds the places at
// which decoding can begin, [Span] begins there. It is a decoder of our own because no other tells, or takes, what a
// decoder knows between two blocks.
//
// Any number of frames may follow each other, with skippable frames between them. The start of a frame is a point that
// needs nothing (Window nil). So that streams of one frame, as most tools write them, have points too, any block may be
// one: its window holds the three repeat offsets, the descriptions of the entropy tables that the block inherits, and
// of the frame's window only those bytes that matches of the span copy.
//
// # Place
//
// A room of codec, above blob; image builds and reads layers with it.
//
// # Goroutines
//
// None are started. Scan calls emit and mark from the caller's.
//
// # Locks
//
// None: Span takes a decoder out of a pool and gives it back.
//
// # Errors
//
// blob.ErrCorrupt: damaged, cut short, or a window that does not belong to the span. blob.ErrInvalid: well-formed, but
// it needs a dictionary or a window of more than 128 MiB ([MaxWindow]).
package zstdspan
