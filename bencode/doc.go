// Package bencode reads and writes bencoding (BEP 3) that comes from anybody.
//
// A value is found by its extent first ([Cut]) and read where it is needed, so nothing is allocated for what is
// not looked at, and nesting is bounded: a reader that recurses once per "l" of a hostile body ends the process,
// because Go does not recover from the end of a stack.
//
// # Place
//
// Just above blob. Tracker replies and metainfo are read with it.
//
// # Goroutines
//
// None.
//
// # Locks
//
// None.
//
// # Errors
//
// All wrap [blob.ErrInvalid] and quote the place.
package bencode
