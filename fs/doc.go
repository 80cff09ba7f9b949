// Package fs answers the kernel: it mounts blobs as a read-only file or tree of files, serves them from /dev/fuse
// while bytes are still arriving, and hands each to kernel passthrough when all of it is there. [Devices] is such a
// mount whose files come and go: the address spaces of layers, for EROFS above. [MountImage] shows the whole tree of an
// image where the kernel's EROFS cannot: names and attributes out of its metadata, content out of its layers.
//
// # Words
//
// A request is one message that the kernel puts on /dev/fuse; its unique number names it. A parked read is a
// READ whose bytes are absent: it waits as a [blob.Waiter] and holds no goroutine. Node ids are constants
// (root 1, the only file 2 while it arrives and 3 once it is complete, in a tree 2+2e for entry e, a device what
// its owner gave it, in an image its nid plus 2): nothing that a READ needs lives in handles or lookup counts, so that a successor process can
// answer for an open file it has never seen. A leaf is a file of the tree: an extent of a blob, and mostly all of it.
//
// # Place
//
// At the top of the read path, between the kernel and fetch: an application's read becomes READ requests, and
// those become [Blob.WriteTo] (bytes are present: header and mapped bytes in one writev) or [Blob.Want]. The
// semantics that applications see are promised in docs/semantics.md, which the tests of this package quote.
//
// # Goroutines
//
// A [Mounted] owns all of them and waits for them before [Mounted.Done] closes: Threads loops (read a request,
// answer it, on one goroutine; they never wait for data), one switcher (waits for completion, registers the
// backing file, invalidates the name), one keeper (asleep unless a read is parked; decides about interrupted
// and orphaned reads) and one closer. Parked reads are answered by the goroutine that made the bytes present.
// Besides, umount(2), and statfs(2) of a mount that another process serves, run in goroutines of their own whose
// result may be given up: the kernel decides when they return.
//
// A mount of [Devices] may outlive its process: the holder (holder.go), a process of its own, keeps the connection to the
// kernel and what a successor must know. After [Devices.Handover] the loops end with the process, or with the next
// request.
//
// This process must never touch its own mount: a loop that waits for a request which only a loop can answer
// never wakes up. Therefore nothing here stats, opens or executes anything below [Mounted.Dir]; device numbers
// come from /proc/self/mountinfo.
//
// # Locks
//
// A READ of present bytes takes none. lot.mu guards the map of parked reads and is a leaf: nothing is called while
// it is held. leaf.mu guards the count of open handles of a file that has one node; while it is held the backing file
// may be registered, which is an ioctl(2) that does not wait. deviceTree.change is held while a device is added, removed,
// opened or released; then leaf.mu, latch.mu or hold.mu may be taken, which orders what the holder is told: an exchange
// over a local socket, bounded, that must be over before the kernel is answered. latch.mu guards who waits for a device
// that a successor has not opened yet. scattered.mu guards who waits for a file that lies in several pieces, gather.mu the
// pieces of one read; both are leaves. No READ takes any of them but latch.mu and these two, while it has to wait.
//
// # Errors
//
// Towards the kernel: errno.go maps the classes of blob to errno, in one place. Towards the caller:
// [ErrMountPoint], [ErrStale], [ErrBusy], [ErrNotMounted] and [ErrPrerequisite], each wrapped in one line that
// says what to do.
package fs
