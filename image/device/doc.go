// Package device is the decoded address space of one layer as a local file that becomes present span by span.
//
// # Words
//
// A span is what is decoded and verified as a whole (image/index). A present span is in the file and was verified by
// this process, or belongs to a file that was complete and sealed. A loose span was decoded and verified but could not
// be written, because the disk is full: it answers who waits for it out of memory.
//
// # Place
//
// Between fs, which answers the kernel from it ([Device] has the methods of fs.Blob), and the stored blob of the layer,
// a [blob.ReaderAt] that fetch fills. The life of a read of an absent span: [Device.Want] parks it and makes a job of
// each span it lacks, or joins the job that is there; the [Pool] admits jobs, the most urgent first, while their
// stored bytes fit its memory; the job reads those bytes, waits for its turn to decode, decodes, verifies the digest,
// writes the span, and tells the readers.
//
// Bytes in the file that no process of now has verified are not believed: after a restart a span that lies in the file
// is read from there, but its digest decides. Only the seal ([Seal]), written after fsync(2), makes a file believed
// whole; so power may fail at any time.
//
// # Goroutines
//
// One per admitted job; as many as fit the pool's memory, of which as many as the pool has workers decode. They belong
// to their Device: [Device.Close] waits for them. Reads of present bytes start none and take no lock.
//
// # Locks
//
// Pool.mu guards the jobs and parked reads of all its devices. Under it loose.mu may be taken, which guards what is
// held in memory. streams.mu guards readahead and is a leaf; who does not get it at once does without. None is held
// over I/O, decoding or a Waiter's Ready.
//
// # Errors
//
// blob.ErrCorrupt: a span does not decode to its digest; it is counted and logged with layer and span.
// blob.ErrUnavailable: the stored bytes did not come in time. Others of the stored blob pass through. No failure is
// remembered: the next read tries again. blob.ErrInvalid: a list of spans that contradicts itself. blob.ErrClosed.
package device
