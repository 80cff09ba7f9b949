// Package swarmtest is test support for packages that use swarm: a store in memory that verifies what it is
// given, a sink in front of it, and a peer that lies.
//
// # Place
//
// Below tests, beside swarm.Node: [MemStore] takes the place of *blockio.Blob, [Sink] that of fetch, and
// [Liar] that of another node.
//
// # Goroutines
//
// A Liar runs one goroutine that accepts and one per connection; Liar.Close waits for them.
//
// # Locks
//
// MemStore and Sink have one mutex each, never held across a call out.
//
// # Errors
//
// Those of the contracts that are implemented: blob.ErrCorrupt for bytes and hashes that do not verify,
// blob.ErrAbsent for blocks that are not there. What cannot fail in a test panics.
package swarmtest
