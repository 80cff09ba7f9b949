// Package swarmtest is test support for packages that use swarm: a store in memory that verifies what it is
// given, a sink in front of it, a peer that lies, and a simulator that runs thousands of nodes in virtual time.
//
// # Place
//
// Below tests, beside swarm.Node: [MemStore] takes the place of *blockio.Blob, [Sink] that of fetch, and
// [Liar] that of another node.
//
// A [Sim] takes the place of the machines, their clocks and the network between them. What decides is the program's
// own code: behind the simulated tracker a tracker.Desk, which is what a Server does below HTTP (swarms, leases, plans,
// long polls, the bytes of the messages); in every node a tracker.Puppet, which is a Session without network (what is
// said when, when a tracker is given up, and how it is found again), a relay.Picker and the choker of package swarm.
// What carries out the decisions (sockets, hashing, disks) is not there. What is a model: an uplink sends one part
// after the other, in turn to each connection that has a slot and one to send, and before all bulk what somebody is
// blocked on; a part arrives a latency later, through the receiver's downlink; it can be passed on when it has arrived.
// Whom a node without a plan asks, and a reader, is a short copy of what fetch and swarm do (sim_want.go,
// sim_reader.go). Requests and answers take a latency too. Loss is what it does to TCP: a bound on the rate of a
// connection, and a late arrival now and then.
//
// Everything random of network and nodes comes from one seed, which each run prints:
//
//	go test ./swarm/swarmtest -v -run TestDisturbed -seed 7
//
// repeats it. Where relay may take either of two equal choices it takes the one that a map yields first, so figures of
// a repeated run with deaths or liars differ by a percent or so. SIM_NODES=10000, or make sim, for more nodes.
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
