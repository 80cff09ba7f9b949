// Package mmap reads files through memory maps that neither crash nor stall the program.
//
// A plain memory map has two traps in Go. A page that is not in memory is read by a page fault, outside any
// system call, so the scheduler does not notice and loses an operating system thread for the time of the disk
// read. And a file that is truncated by somebody else turns every access beyond its new end into SIGBUS,
// which kills the process. A [Region] avoids both: it touches mapped memory itself only where mincore(2) said
// that the pages are resident, takes pread(2) elsewhere, and turns the fault that remains possible into an
// error. For answers to the kernel it hands the mapped address to writev(2), where page faults happen inside
// a system call and truncation is the errno EFAULT.
//
// Mapped slices never leave the package: nobody can keep one beyond Close, or touch one that may fault.
//
// # Place
//
// Directly above the kernel, below blockio, which maps every data file once. mmap knows files and offsets,
// not blobs; of blob it uses the error classes.
//
// # Goroutines
//
// None are started. All methods may be called concurrently, Close included.
//
// # Locks
//
// None on the way of a read: readers in flight are counted with one atomic word, and Close waits until the
// count has fallen to zero before it unmaps. The list of open regions has a lock, which is tried, not waited for, by
// whoever finds that too much is mapped; under it are madvise(2) calls, which wait for no disk.
//
// # Errors
//
// blob.ErrCorrupt: the file has become shorter than what was mapped, or its disk cannot be read.
// blob.ErrClosed: the region was closed. blob.ErrInvalid: an offset or size outside the file. What writev
// itself says (EAGAIN, EPIPE, ENOENT from /dev/fuse) is wrapped as the errno it is.
package mmap
