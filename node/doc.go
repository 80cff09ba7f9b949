// Package node is one running pantala: it builds the parts of the house in order, joins them for each blob,
// mounts blobs and shares them, and stops everything in reverse.
//
// # Place
//
// Directly below cmd/pantala. [New] takes a config.Config and builds the store, the peer wire, the origin
// client and the engines; a blob that is mounted, shared or downloaded becomes live: one cache entry, one
// torrent, one tracker session and one fetch.Blob, however many mounts use it. A torrent of files is a live blob
// whose parts are the blobs of its files (parts.go). [Node] implements
// control.Node; [Cache] alone looks after a store when no node runs.
//
// # Goroutines
//
// One per mount, which waits for its end, belongs to the [Node]: Close waits for it, unless somebody has a file of
// it open whom only the end of the process can cut off. Those of a live blob (the wait for a tracker's first
// answer, the check of a digest, the questions to an origin that was away, the news for the parts of a torrent)
// belong to that blob: its last release waits for them. ask, fetchInfo, hashFile and Download.Wait wait for their
// own. One gives memory back when images have been worked on. The parts own theirs.
//
// # Locks
//
// Node.mu guards the tables of mounts (those in the file tree, and those that were detached from it while somebody
// has a file open), shares, live blobs and engines. It is held for look-ups only, never over I/O, a channel or a
// call into another package. live.swarms guards the list of swarms that a blob is in, sources.mu that of the swarms
// that a part fetches from, webSeeds.mu what is known of HTTP servers, finders.mu who looks for peers; they are leaves.
//
// # Errors
//
// Errors of the parts are passed on with what was being done; trouble of this machine (the directory of a
// mount, the port, the disk, FUSE) is given the class control.ErrLocal on top.
package node
