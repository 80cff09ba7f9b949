// Package relay decides how the blocks of a blob travel from one source through all nodes that want them: which
// node passes which stripe on to whom ([Planner], the tracker's side), and whom a node asks next ([Picker], the
// node's side). Both are pure state machines: they are given the time, start nothing and touch no network, so
// that the same code runs in the program and in a simulation of thousands of nodes.
//
// The pieces of a blob are dealt out to K stripes ([Stripe]). Each stripe has a tree: at its head a node that
// reads the stripe from the source (the origin, or a peer that has everything), below it nodes that take it from
// their parent as it arrives and pass it on before it is complete. A node passes on one stripe and is a leaf in
// the trees of the others, so that everybody's uplink carries what its downlink receives, and the source sends
// everything once. A node whose uplink is slow is a leaf everywhere.
//
// # Place
//
// Above blob, below tracker, which runs a Planner per swarm, and swarm, whose event loop runs a Picker per
// torrent. The assignment travels in the tracker's plan; what a Picker complains of travels back.
//
// # Goroutines
//
// None are started.
//
// # Locks
//
// None: a Planner belongs to whoever holds its swarm, a Picker to one event loop.
//
// # Errors
//
// None are returned. What makes no sense (an unknown node, a stripe that is not there) is ignored: all of this is
// hints, and what is asked elsewhere is verified all the same.
package relay
