// Package lz4block decodes blocks of LZ4 (LZ4 Block Format Description, lz4_Block_format.md): no frame, no checksum, no
// length; whoever stored the block knows how long it is decoded. Nydus images hold chunks in this form.
//
// # Place
//
// In codec, beside inflate and zstdspan; image/device decodes spans with it.
//
// # Goroutines
//
// None.
//
// # Locks
//
// None.
//
// # Errors
//
// blob.ErrCorrupt: the block does not decode to that many bytes.
package lz4block
