// Package swarmtest is test support for packages that use swarm: a store in memory that verifies what it is
// given, a sink in front of it, a peer that lies, and a simulator that runs thousands of nodes in virtual time.
//
// # Place
//
// Below tests, beside swarm.Node: [MemStore] takes the place of *blockio.Blob, [Sink] that of fetch, and
// [Liar] that of another node.
//
// A [Sim] takes the place of the machines, their clocks and the network between them. What decides is the program's
// own code: relay.Planner behind the simulated tracker, relay.Picker in every node. What carries out the
// decisions (sockets, hashing, disks) is not there. Its model: an uplink sends one part after the other, in turn to
// each connection that has one to send; a part arrives a latency later, through the receiver's downlink; it can be
// passed on when it has arrived. Requests, reports and assignments take a latency too. Loss is what it does to TCP:
// a bound on the rate of a connection, and a late arrival now and then. Everything random comes from one seed, so
// that a run can be repeated.
//
// # Goroutines
//
// A Sim starts none. A Liar runs one goroutine that accepts and one per connection; Liar.Close waits for them.
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
