// Package toc reads tables of contents in JSON, as eStargz and zstd:chunked have them (both come from CRFS): a list of
// the members of an archive in which regular files say where their chunks are stored, each compressed alone, and what
// their digests are.
//
// Such a table does not say where content lies in the archive, so its address space is made up: the content of all
// files, one after the other in the order of the table, each at a multiple of 512 bytes, with zeros between them. Chunks
// of one file follow each other without gaps, whatever their lengths. Holes of a file take no room, but for what fills
// up the blocks at their ends.
//
// # Place
//
// In image, above index, below the rooms estargz and zstdchunked, which find the table in a layer and check it against
// what vouches for it.
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
// blob.ErrCorrupt: not a table, or one that contradicts itself or its layer. blob.ErrInvalid: one with more, or with
// other things, than this program takes.
package toc
