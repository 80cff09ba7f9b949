// Package tracker brings the peers of a blob together and schedules who reads what from the origin: the
// [Server] that any BitTorrent client can announce to and that plans for our nodes, and the [Session] by which
// one node takes part for one blob.
//
// # Place
//
// Beside the read path. fetch asks a Session, without blocking, whether a piece is this node's to read from
// the origin (Mine), somebody else's (Held), or nobody's business (Solo, Dead, None); swarm is given addresses;
// the store is given piece roots. All of it is hints: no read depends on a tracker, and when it is dead a node
// goes to the peers it knows and to the origin at once.
//
// The scheduler is a pure state machine (swarm.go: members; lease.go: who reads what; claim.go: piece roots;
// news.go: what a node has to be told) that is given the time and starts nothing. Peers that do not plan are kept
// beside it, a million in a hundred megabytes (crowd.go: one swarm; plain.go: all of them). server.go and poll.go put
// HTTP around both, plan.go is what our nodes exchange with it, byte by byte, and announce.go what everybody else
// does; plainserve.go joins the two kinds of peers. udp.go and udpsocket.go are the same over UDP. front.go
// and fronthead.go answer announces and scrapes over HTTP, and hand all else to net/http. session.go, loop.go,
// dialogue.go (what is said to one tracker, a pure state machine), report.go, exchange.go and udpclient.go are the
// client, directory.go the order in which it uses several trackers.
// desk.go and puppet.go are both sides without HTTP, clock and goroutines, for the simulator in swarm/swarmtest.
// Package bencode reads both sides' messages within bounds.
//
// While several nodes want everything the scheduler runs a planner of package relay (trees.go, place.go), and leases
// follow its heads. Trackers may share what they know of their swarms through Redis or Valkey: commons.go speaks with
// it, abroad.go is what the scheduler makes of what others say. blocklist.go is who is refused.
//
// Beside swarms a tracker keeps small records of images: which file is the index of a layer, and in which order an image
// is read. shelf.go is what it keeps, shelfwire.go what is said about it, byte by byte, shelfserve.go and shelfcommons.go
// answer, recordsclient.go is the node's side, [Records].
//
// # Goroutines
//
// A Server has one, the janitor, and two more while it shares its state, one that writes and reads and one that
// listens for changes; Close waits for them. Serve has one for every connection and waits for them,
// ServeUDP answers on the one that calls it. A Session
// has one that owns its state and runs all callbacks, and, while a tracker answers, two that wait for HTTP
// (one poll is always outstanding, and one report beside it) and one that looks for trackers that it prefers to
// the one in use. A [Records] has one that tells trackers what this node vouches for, and one for every exchange under
// way. Each is waited for by the one that started it; Close waits for all.
//
// # Locks
//
// Server.mu guards the table of swarms in which nodes plan, room.mu one of them, shard.mu the plain peers of a
// part of all swarms, commons.mu what others leave for the goroutine that shares the state. Order: room.mu before
// shard.mu and commons.mu; Server.mu is never taken while another is held; none is held
// over I/O. Session.mu guards what callers leave for the session's goroutine; it is innermost
// and never held over a call of Store or a callback. State, Mine and Held take no lock. shelf.mu, meter.mu and Records.mu
// are innermost.
//
// # Errors
//
// A Session has no errors to return: what fails is in Status and in the log, and shows as State Dead. Malformed
// requests are refused with a reason (ErrInvalid), a full server with ErrUnavailable. A Records returns ErrUnavailable
// when no tracker answers; what trackers do not know is no error.
package tracker
