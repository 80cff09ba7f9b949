package codec

import "io"

// Point is a place in a compressed stream at which decoding can begin.
type Point struct {
	Out    int64  // decoded bytes before it
	In     int64  // stored bytes before the byte that holds its first bit
	Bit    uint8  // 0–7: how many low bits of that byte belong to what comes before (RFC 1951 section 3.1.1); 0 elsewhere
	Window []byte // what decoding needs beside the stream, in the packed form of its codec; nil: nothing
}

// Spacing says how far apart the points of a stream shall be: one is due as soon as either that many stored or that
// many decoded bytes have passed since the last. Formats have them only in certain places, so gaps may be longer.
type Spacing struct {
	Stored, Decoded int64
}

// Scan decodes a whole stream from r. It hands the decoded bytes to emit, in order and in slices that are valid during
// the call, and each point to mark, the first (Out 0) before anything else, the others in order but perhaps only after
// bytes behind them have been emitted. It reads to the end of r, and fails with blob.ErrCorrupt when the stream is
// damaged or cut short, and with whatever r, emit or mark fails with.
type Scan func(r io.Reader, s Spacing, emit func(p []byte) error, mark func(Point) error) error

// Span decodes a stretch of a stream: it fills dst with what follows the point that bit and window are of. src holds
// the stored bytes from Point.In on, at least up to and including the byte in which the next point begins; what lies
// behind is not looked at. blob.ErrCorrupt: src does not decode to that many bytes. Safe for concurrent use.
type Span func(dst, src []byte, bit uint8, window []byte) error
