// Package profile remembers in which order an image is read when it starts, and reads ahead in that order the next
// time, here or on another node.
//
// What is remembered are spans (image/index), by the number of their layer and their own, in the order in which they
// were first read: some thousand of them in two or three bytes each. A [Recorder] is told of every read while an image
// starts. [Merge] makes one profile out of those of several starts. A [Prefetcher] fetches what a profile names, in its
// order, just ahead of those who read. A profile only says what is fetched first: whoever made it, no byte that is
// read depends on it, so it needs no trust, only bounds.
//
// # Place
//
// In image, beside device, which tells a Recorder what is read and is told by a Prefetcher what will be. The node keeps
// profiles and gives them to the tracker, which merges what it gets by [MergeBytes].
//
// # Goroutines
//
// A Recorder has none; who wants its profile waits in [Recorder.Wait]. [Prefetcher.Run] starts one for each batch that
// is under way, at most [Options].Batches, and waits for all of them.
//
// # Locks
//
// A Recorder has one for the list, taken once for each span that is read for the first time, never held over anything
// that waits; a span that is known costs one atomic load. A Prefetcher has one for its counters.
//
// # Errors
//
// blob.ErrInvalid for bytes that are not a profile, or not one of this version.
package profile
