// Package node is one running pantala: it builds the parts of the house in order, joins them for each blob,
// mounts blobs and shares them, and stops everything in reverse.
//
// # Place
//
// Directly below cmd/pantala. [New] takes a config.Config and builds the store, the peer wire, the origin
// client and the engines; a blob that is mounted, shared or downloaded becomes live: one cache entry, one
// torrent, one tracker session and one fetch.Blob, however many mounts use it. [Node] implements
// control.Node; [Cache] alone looks after a store when no node runs.
//
// # Goroutines
//
// One per mount, which waits for its end; one per live blob that has a digest to be checked; one per lost
// origin that is asked now and then whether it is back. All belong to the [Node]: Close waits for them. The
// parts own theirs.
//
// # Locks
//
// Node.mu guards the tables of mounts, shares and live blobs. It is held for table look-ups only, never over
// I/O, a channel or a call into another package.
//
// # Errors
//
// Errors of the parts are passed on with what was being done; trouble of this machine (the directory of a
// mount, the port, the disk, FUSE) is given the class control.ErrLocal on top.
package node
