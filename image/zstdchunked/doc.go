// Package zstdchunked reads layers in the format zstd:chunked: tar archives compressed as many frames of Zstandard, one
// for each chunk of a file, with a table of contents, itself compressed, in a skippable frame at the end. Where the
// table lies is said by an annotation of the layer's descriptor, or by a footer, the last frame.
//
// There are two of them: the one of containers/storage (Podman, Buildah, Skopeo), whose chunks end where contents says
// so and whose zeros are holes, and that of stargz-snapshotter, which is eStargz with other compression. They differ in
// one letter of the footer, in the names of annotations, and in what vouches for the table: an annotation with the
// digest of it as it is stored, or as it is decoded; [Parse] holds it against whatever there is.
// Sources: containers/storage pkg/chunked/internal/minimal; stargz-snapshotter estargz/zstdchunked.
//
// # Place
//
// In image, above toc, index and codec/zstdspan.
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
// index.ErrFormat: the layer is of another format; no more than its last 72 bytes have been read. blob.ErrCorrupt: the
// table does not match its digest, or is damaged. blob.ErrInvalid: it asks for more, or other things, than this program
// takes. Errors of the layer's reader are passed on.
package zstdchunked
