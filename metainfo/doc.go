// Package metainfo is what a .torrent and a magnet link say: names, lengths and hashes of one or many files, in
// BitTorrent v1 (BEP 3), v2 (BEP 52) or both (hybrid), and how they lie in the piece space.
//
// # Words
//
// The piece space is what pieces number: in v1 the plain concatenation of all files, in v2 and hybrids the files
// each from a piece boundary on. A pad is what lies between (BEP 47: a file of zeros that nobody sees).
//
// # Place
//
// Above bencode and blob; below swarm, which downloads what it describes, and node, which mounts it.
//
// # Goroutines
//
// [Make] starts one per CPU that hashes, and waits for them. Everything else runs on the caller's.
//
// # Locks
//
// None: an [Info] is not changed once it has been parsed.
//
// # Errors
//
// What is malformed, or would be unsafe to put into a file tree, wraps [blob.ErrInvalid] and says which part of it
// and why; piece layers that do not belong to their file wrap [blob.ErrCorrupt]. Nothing is repaired silently but
// names: see [safeName]. Memory is bounded by [MaxSize] and [MaxFiles].
package metainfo
