// Package peerwire reads and writes the messages that BitTorrent peers exchange over TCP: BEP 3 (core),
// BEP 6 (fast), BEP 10 (extended) and BEP 52 (hashes, v2). It knows bytes, not behaviour: what a message
// means for a torrent is decided in swarm.
//
// # Place
//
// Between swarm and a socket. [Reader] parses frames without allocating and reads the payload of a piece
// straight into memory that the caller names; [Writer] sends a batch of small messages in one write and a
// piece as header plus sendfile(2). The AppendX functions encode one message each onto a byte slice.
//
// # Goroutines
//
// None are started. A Reader belongs to one goroutine, a Writer to another; both may use one connection.
//
// # Locks
//
// None.
//
// # Errors
//
// A frame that breaks a BEP or a limit gives an error that wraps [blob.ErrInvalid] and names the message and
// the numbers in it: the connection is of no more use. Errors of the socket are returned as they are; after
// os.ErrDeadlineExceeded reading can go on where it stopped. Frames with an unknown id are no error: they
// are returned with [Message.ID] as received, and skipping them is a no-op.
package peerwire
