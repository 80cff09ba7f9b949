// Package erofslayer reads layers that are no archives but EROFS file systems (media type
// application/vnd.erofs.layer.v1, containerd 2.1 and later): which entries they have, and where the bytes of files lie.
//
// What is there is told as it stands: whiteouts and opaque directories in the form of overlayfs, a character device 0/0
// and the attribute trusted.overlay.opaque. What they mean together is for image/tree to say.
//
// The format is that of the kernel's fs/erofs/erofs_fs.h. Its words are used here: nid, the number of an inode, is its
// offset in the metadata in units of 32 bytes; the content of an inode is flat (one row of blocks), flat and inline (the
// last block stands behind the inode), or of chunks, each with an address. What is compressed, or lies in other devices,
// is refused by name.
//
// # Place
//
// In image, above index; build calls it when all bytes of such a layer have come.
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
// blob.ErrInvalid: not an EROFS image, or one with a feature that is not supported; the text says what to do.
// blob.ErrCorrupt: an image that contradicts itself. Errors of the reader and of the caller's functions are passed on.
// Nothing in an image is believed: no method panics or loops, and memory is in proportion to the image.
package erofslayer
