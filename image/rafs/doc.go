// Package rafs reads what Nydus images are made of: a bootstrap, which is the tree of the whole image with the digest of
// every chunk, and blobs, in which the chunks lie compressed. It makes an index of them like that of any layer, so that
// everything behind it reads a Nydus image as it reads the others: the bootstrap is the layer, its address space is all
// chunks of all blobs one after the other, and its stored bytes are those of the blobs.
//
// # Words
//
// A bootstrap of version 6 of RAFS is an EROFS image without content, with an extended superblock behind the superblock
// and three tables: of devices, which are the blobs in decoded form, of blobs and of chunks (docs/formats.md). A batch is
// several small chunks that are compressed together; where they lie in it is told by a table in the blob.
//
// # Place
//
// In image, above index. fs/erofs reads the inodes of a bootstrap for it; node brings both and the blobs together.
//
// # Goroutines
//
// None.
//
// # Locks
//
// None: nothing here is shared.
//
// # Errors
//
// [ErrUnsupported], of class blob.ErrInvalid: a Nydus image of a kind that is not read, and what to do about it.
// blob.ErrCorrupt: a bootstrap that contradicts itself, or its image. Bootstraps come from strangers: whatever stands in
// one, reading it takes memory in proportion to its length.
package rafs
