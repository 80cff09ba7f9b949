// Package simtest runs swarms of thousands of nodes in virtual time: the real planner and picker of package relay
// on a network that is computed.
//
// # Place
//
// Below the tests of the swarm's big figures. A [Sim] takes the place of the machines, their clocks and the network
// between them. What decides is the program's own code: [relay.Planner] behind the simulated tracker,
// [relay.Picker] in every node. What carries out the decisions (sockets, hashing, disks) is not there.
//
// The model: an uplink sends one part after the other, in turn to each connection that has one to send; a part
// arrives a latency later, through the receiver's downlink; it can be passed on when it has arrived. Requests,
// reports and assignments take a latency too. Loss is what it does to TCP: a bound on the rate of a connection, and
// a late arrival now and then. Everything random comes from one seed, so that a run can be repeated.
//
// # Goroutines
//
// None are started.
//
// # Locks
//
// None: a Sim belongs to one goroutine.
//
// # Errors
//
// None are returned: what goes wrong is in the [Result].
package simtest
