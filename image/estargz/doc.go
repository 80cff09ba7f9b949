// Package estargz reads layers in the format eStargz (and its predecessor stargz): gzip files in which each chunk of
// each file is a member of its own, with a table of contents at the end, found through a footer of 51 (47) bytes.
// Specification: the eStargz document of https://github.com/containerd/stargz-snapshotter.
//
// What vouches for the table, and through its digests for every chunk, is an annotation of the layer's descriptor. The
// table knows modification times in whole seconds, and names that are UTF-8. The landmarks that tell another
// implementation what to prefetch, and the table itself, are no files of the image and are left out.
//
// # Place
//
// In image, above toc and index.
//
// # Goroutines
//
// None.
//
// # Locks
//
// None: [Parse] is safe for concurrent use.
//
// # Errors
//
// index.ErrFormat: the layer is of another format; no more than its last 51 bytes have been read. blob.ErrCorrupt: the
// table does not match its digest, or is damaged. blob.ErrInvalid: it asks for more, or other things, than this program
// takes. Errors of the layer's reader are passed on.
package estargz
