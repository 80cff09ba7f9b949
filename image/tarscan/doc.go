// Package tarscan finds what a tar archive holds, and where, while the archive passes by: headers become entries whose
// extents point into the archive, contents are skipped and never held.
//
// It reads v7, ustar, star, PAX and GNU headers, long names and sparse files of both kinds, in any mixture. Where the
// formats leave room it does what container runtimes do when they unpack a layer, since an image must look the same
// here: global PAX records say nothing about entries, an empty PAX value leaves the field of the header as it is, two
// blocks of zeros end the archive whatever follows, and a missing end is no error.
//
// # Place
//
// In image, above image/index, whose entries it makes; image/build drives it with what a decoder hands out.
//
// # Goroutines
//
// None are started. A [Scanner] belongs to one goroutine.
//
// # Locks
//
// None.
//
// # Errors
//
// blob.ErrCorrupt: what should be a header is none, or the archive ends in the middle of something. blob.ErrInvalid: an
// entry of a kind that no runtime unpacks, or one that says more about itself than [MaxMeta]. Each names the entry and
// its offset in the archive.
package tarscan
