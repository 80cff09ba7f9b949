// Package inflate reads gzip files (RFC 1952, RFC 1951) at random: [Scan] decodes one once, in one pass, and finds the
// points at which decoding can begin; [Span] decodes what lies between two of them, alone.
//
// A point is the start of a member, which needs nothing, or the end of a deflate block, which needs a window: those
// of the 32 KiB before it that the data behind it refers to. That is a tenth of them, more or less, and so little
// that an index with a point per MiB is less than a hundredth of its file. [Scan] finds out which by noting, for
// 32 KiB behind a point, where each match reaches; that costs nothing elsewhere, since the check for matches which
// reach too far is needed anyhow. A block that is very long, as those of some fast encoders are, has points inside;
// their windows hold the codes of the block, too.
//
// A point without a window always lies at the first byte of a member's header, and only there: one elsewhere that
// needs nothing of what is before it has a window that says so. Whoever knows the start of a member from elsewhere,
// as the table of contents of an eStargz layer tells it, decodes it by Span(dst, stored, 0, nil).
//
// # Place
//
// A room of codec: below image, which builds indexes and decodes spans of layers.
//
// # Goroutines
//
// None are started.
//
// # Locks
//
// None that show: all functions are safe for concurrent use.
//
// # Errors
//
// blob.ErrCorrupt: not gzip, damaged, or cut short; the text says what and at which stored byte.
package inflate
