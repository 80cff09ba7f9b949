// Package swarm exchanges the blocks of blobs with the peers that share them, over the BitTorrent wire (BEP 3, 6,
// 9, 10, 11, 52). To fetch it is a source of verified blocks; to other nodes it is an uploader of what the store
// holds. A torrent is one blob, or the files of a v2 or hybrid one, a blob each ([Torrent.File]).
//
// # Place
//
// Above peerwire, which knows the messages; beside origin, which it does not know; below fetch, which asks
// both through blob.Source. It sees the local blob through [Store] and hands received bytes over through
// blob.Sink, whose Done verifies them by their leaf hashes, so no peer can make a wrong one appear. Where the leaf
// hashes come from is swarm's business: from peers, with proof; or, where peers have none (v1), from a whole
// piece that it has collected in memory of its own and compared with its SHA-1 sum or its root ([assembly]).
//
// # Goroutines
//
// A [Node] runs one goroutine that accepts connections, one per handshake in progress, and a few that call
// Sink.Done for large runs ([verifier]). A [Torrent] runs one event loop that owns who is connected, who has
// what, which run of blocks was asked of whom and who is banned; events are applied one at a time ([event]).
// Each peer has a reader and a writer, and each piece that is collected whole a goroutine. Payload never passes through the loop: it decides once per run of up
// to 16 blocks, and the reader receives straight into the memory that the sink lent. [Torrent.Fetch] works
// on the goroutine of its caller, and so does [Node.FetchInfo], which waits for the one it starts for each peer that it
// asks. Node.Close waits for all of them, torrents first.
//
// # Locks
//
// The loop needs none for what it owns. What readers and writers share with it is guarded by small locks
// that are never held across a system call that can wait and never nested: part.mu (which block of a run is
// being received by whom), peer.mu (what was asked of the peer), outbox.mu (what is to be sent to it),
// flight.mu (news for one Fetch), infoQuest.mu (an info dictionary that is collected), board.mu (runs that wait for leaf hashes), lot.mu (what peers wait for), partial.mu (blocks that peers hold of incomplete pieces), leftover.mu (what the
// uplink can lend), Torrent.mu (callbacks, and what the store has reported). Node.mu (the table of torrents) is taken before none of them.
//
// # Errors
//
// Fetch returns blob.ErrUnavailable when nobody who is left can deliver, blob.ErrChanged and the sink's own
// errors as they come, blob.ErrClosed after Close, and the error of its context. Corrupt bytes are no error
// of Fetch: the sender is blamed, and banned, and the blocks are asked elsewhere. What goes wrong with one
// peer ends that connection and is logged with its address.
package swarm
