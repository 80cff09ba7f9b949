// Package build makes the index of a layer in one pass over its stored bytes, as they come from wherever they come:
// it hashes them, decodes them, hashes what comes out, notes where decoding can begin again, and finds the members of
// the archive. Its other half, [Check], holds an index against the layer it is of.
//
// # Place
//
// In image, above index, tarscan and the codecs. node calls it with what fetch delivers, and for layers that are
// complete.
//
// # Goroutines
//
// [Build] starts three and waits for them: the caller's goroutine reads and hashes what is stored, one decodes, one
// hashes all that was decoded, and one hashes its spans, scans the archive and writes it. They hand each other buffers
// of 256 KiB, of which there are so many that a layer takes 8 MiB at most, 3 MiB when no stage waits for another.
//
// # Locks
//
// None.
//
// # Errors
//
// blob.ErrCorrupt: the layer is not what was asked for, or damaged; the text says which of its digests or sizes differs,
// or where decoding failed. blob.ErrInvalid: it is more than the limits allow, or nothing that a runtime would unpack.
// Errors of the reader, of the writer and of the context are passed on.
package build
