// Package discovery finds peers of a swarm without a tracker: on the local network by multicast ([LSD], BEP 14),
// and anywhere by the distributed hash table of BitTorrent ([DHT], BEP 5).
//
// # Place
//
// Beside tracker, which it does not know; node joins both to swarm. What comes from here is hearsay: an address
// that somebody has named. Whoever dials it verifies every byte all the same.
//
// # Goroutines
//
// An [LSD] runs one that reads from each socket and one that sends; a [DHT] runs one that reads, one that looks
// after the routing table, and one per key that is announced. Close waits for all of them. Callbacks run on these
// goroutines and must not block, nor call Close.
//
// # Locks
//
// LSD.mu guards what is announced, DHT.mu the tables. Neither is held while a packet is sent or a callback runs.
//
// # Errors
//
// What a packet says is never an error of ours: what makes no sense is dropped, and counted. NewDHT and NewLSD
// return blob.ErrUnavailable when no socket can be had. Sending that fails is logged once per cause.
package discovery
