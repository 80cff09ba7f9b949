// Package index is what makes a layer of an image readable at random: which files it holds, where their bytes lie in
// its address space, and how any stretch of that address space is decoded and verified alone.
//
// The address space of a layer is its uncompressed archive, or, where the format names chunks instead, those chunks
// one after the other, each aligned to 512 bytes. EROFS sees it as one device.
//
// # Place
//
// In image, below tree (which merges the entries of several layers) and device (which decodes spans); above codec.
//
// # Goroutines
//
// None.
//
// # Locks
//
// None: an Index does not change once it is made.
//
// # Errors
//
// blob.ErrInvalid: not an index, or one of another version. blob.ErrCorrupt: damaged.
package index
