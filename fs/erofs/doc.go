// Package erofs writes a merged image tree as an EROFS file system that holds metadata only, reads such a file system,
// and has the kernel mount it. The bytes of files stay where they are: in the address spaces of the layers, which the
// kernel knows as extra devices.
//
// One form serves both ways of mounting. Metadata and layers share one address space in blocks of 512 bytes: metadata
// first, then every layer at the place that the device table says. A kernel that reads EROFS out of files (Linux 6.12)
// gets the metadata file and one file per layer ([Mount]); an older one (from 6.4) gets one file, in which everything
// lies at its place, through a loop device ([MountFlat]). Nobody without root mounts anything: they are served from an
// [Image], which reads the same metadata.
//
// The format is that of the kernel's fs/erofs/erofs_fs.h; its words are used here: nid, the number of an inode, is
// its offset in the metadata in units of 32 bytes.
//
// # Place
//
// Inside fs, above image/tree; node writes, mounts and unmounts through it, fs serves an Image.
//
// # Goroutines
//
// None.
//
// # Locks
//
// One mutex orders mounts of this process while the kernel names their backing device; an Image has none, and may be
// used by many at once.
//
// # Errors
//
// blob.ErrInvalid: what cannot be expressed, or is not an EROFS image. blob.ErrCorrupt: an image that contradicts
// itself. blob.ErrDenied: mounting needs CAP_SYS_ADMIN. blob.ErrUnavailable: this kernel cannot; [Probe] says why.
// [ErrBusy]: somebody has a file of the mount open.
package erofs
