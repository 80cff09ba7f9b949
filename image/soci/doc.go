// Package soci reads the tables of SOCI (Seekable OCI, https://github.com/awslabs/soci-snapshotter): a blob beside a
// layer, the ztoc, that lists the members of its archive and has a checkpoint of zlib every few MiB, so that an
// unmodified gzip layer, or a plain archive, can be read at random.
//
// A ztoc is a FlatBuffer. Its checkpoints have windows of 32 KiB; here they become points of codec/inflate. Digests are
// of the stored bytes of a span. The address space is the archive.
//
// Which ztoc belongs to which layer is said by an index manifest ([Manifest]). In its second version the image itself
// names that by digest, so the image vouches for it; one of the first version is found through the referrers API of a
// registry, where whoever may write can have put it.
//
// # Place
//
// In image, above index, toc and codec/inflate.
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
// index.ErrFormat: not a ztoc. blob.ErrCorrupt: it does not match its digest, or contradicts itself or its layer.
// blob.ErrInvalid: it asks for more, or other things, than this program takes.
package soci
