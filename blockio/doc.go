// Package blockio keeps verified blocks on this machine: it checks bytes against their hashes, stores them,
// says lock-free which ones are here, hands them out, and believes after a crash only what it can prove.
//
// A [Store] is one folder of one process. Each blob in it has a folder named by its id:
//
//	data       the bytes, sparse, truncated to the full size when created
//	leaves     32 bytes per block: the SHA-256 of each block that is known
//	log        which blocks, leaves and roots are believed, in records of 48 bytes, see record.go
//	meta.json  id, geometry, where it came from, pinned or not
//
// # What is believed when
//
// [Blob.Put] hashes a block before anything else. Bytes that this node read from the origin itself define the
// leaf; bytes from a peer must match a leaf that is known, because the leaves of its piece fold to a root that
// somebody vouches for (blob.Trust). When direct bytes contradict a Claimed root, the claim and all that hung
// on it are dropped, and the piece takes no claim again. Then, in this order: data, leaves, log record, and
// the bit that readers see. A process killed anywhere in between leaves bytes that nobody believes; the page
// cache survives it, so the order of the writes is enough, and nothing needs to be synced for it.
//
// A power loss keeps no order. Every few seconds, and when a blob is closed, data and leaves are synced
// and a record says up to where the log is safe. Records behind that point, written under another boot of the
// kernel, count only once their blocks have been hashed again. The same holds for all records when the data
// file is not the inode that was written (somebody copied the folder), and when the log is damaged in the
// middle. What fails is punched out of the file and fetched again.
//
// # Eviction
//
// The unit is a whole blob, since a mount wants all of one and a hole costs a download. Pinned and open blobs
// stay. First goes a version of a source that a newer version has replaced; then S3-FIFO over the rest: blobs
// opened once go before blobs that were opened again. The maintained caches for Go (otter, theine, ristretto)
// keep a map in memory and decide alone: none lets the caller veto a victim that is open at this moment, nor
// restores its queues from disk. A store holds tens to thousands of blobs, so the policy is a page of code
// (evict.go) whose state is two numbers per blob, kept in its log.
//
// # Place
//
// fetch and swarm put blocks in and ask what is there, fs and swarm take bytes out; below are mmap and the
// file system. blockio knows no network.
//
// # Goroutines
//
// One per store, which syncs; Close waits for it. Recovery and import hash with one goroutine per processor
// and wait for them. Everything may be called concurrently. Calls of [Blob.OnPiece] observers come from the
// goroutine whose Put completed the piece.
//
// # Locks
//
// Readers ([Blob.Has], [Blob.ReadAt], [Blob.WriteTo], …) take none. A Put claims its blocks in a bitmap, so
// it waits only for another Put of the same block, and holds no lock while it hashes; while it
// writes, it holds b.life and b.appends shared, which keep out only Close and the repair of a torn log.
// Order: entry.change, Blob.life, a claim, then Blob.syncMu and Blob.appends; Store.mu, Blob.rootsMu,
// syncer.mu and claims.mu are leaves, held for memory only. Store.evicting is taken inside a claim; under it
// entry.change is only tried.
//
// # Errors
//
// blob.ErrAbsent: a block, leaf or root is not here. blob.ErrCorrupt: a peer's bytes, or leaves, are wrong, or
// a file of ours was damaged by others. blob.ErrChanged: the origin delivers other bytes than before.
// blob.ErrNoSpace: verified, not kept. blob.ErrInvalid, blob.ErrNotFound, blob.ErrDenied, blob.ErrClosed, and
// [ErrLocked] as they say.
package blockio
