package peerwire

import (
	"encoding/binary"
	"errors"
	"io"
)

// readerSize is the read buffer in bytes: it holds a burst of 240 block requests, and bounds how much of a
// piece's payload is copied once more instead of being read straight into the caller's memory.
const readerSize = 4 << 10

// Reader parses the frames of one connection, after the handshake. It never reads more of a payload than it
// is asked for into memory of its own than fits its buffer.
type Reader struct {
	src   io.Reader
	buf   []byte
	r, w  int // buf[r:w] has been read from src and not been consumed
	left  int // payload of the current piece that has not been consumed
	limit int // longest frame in bytes
}

// NewReader returns a Reader of src. bitfield is the length in bytes of the torrent's bitfield message,
// which may exceed every other frame; it is capped at [MaxFrame].
func NewReader(src io.Reader, bitfield int) *Reader {
	// The longest frame besides a bitfield: 512 hashes with a full proof, or an extended handshake.
	longest := 1 + hashRangeLen + 32*(MaxHashes+maxProof)
	return &Reader{src: src, buf: make([]byte, readerSize), limit: min(MaxFrame, max(longest, 1+bitfield))}
}

// Next returns the next frame. Of a piece, and of data of our extension, it returns only the header: its Length bytes are read with
// [Reader.Payload] or [Reader.Discard]; what is left of them is discarded by Next. After
// os.ErrDeadlineExceeded it can be called again and goes on where it stopped.
func (r *Reader) Next() (Message, error) {
	if err := r.Discard(); err != nil {
		return Message{}, err
	}
	if err := r.fill(4); err != nil {
		return Message{}, err
	}
	n := int(binary.BigEndian.Uint32(r.buf[r.r:]))
	if n == 0 {
		r.r += 4
		return Message{ID: KeepAlive}, nil
	}
	if err := r.fill(5); err != nil {
		return Message{}, truncated(err)
	}
	id := ID(r.buf[r.r+4])
	if id == Piece {
		return r.piece(n)
	}
	if id == Extended && n >= 3+dataLen {
		if err := r.fill(7); err != nil {
			return Message{}, truncated(err)
		}
		if r.buf[r.r+5] == RunsID && Op(r.buf[r.r+6]) == OpData {
			return r.data(n)
		}
	}
	if n > r.limit {
		return Message{}, malformed(id, "frame of %d bytes, at most %d are read", n, r.limit)
	}
	if err := r.fill(4 + n); err != nil {
		return Message{}, truncated(err)
	}
	body := r.buf[r.r+5 : r.r+4+n]
	r.r += 4 + n
	return decode(id, body)
}

func (r *Reader) piece(n int) (Message, error) {
	if n < 9 || n > 9+MaxBlock {
		return Message{}, malformed(Piece, "frame of %d bytes, 9..%d are allowed", n, 9+MaxBlock)
	}
	if err := r.fill(PieceHeader); err != nil {
		return Message{}, truncated(err)
	}
	b := r.buf[r.r+5:]
	r.r += PieceHeader
	r.left = n - 9
	return Message{
		ID: Piece, Piece: binary.BigEndian.Uint32(b), Begin: binary.BigEndian.Uint32(b[4:]), Length: uint32(r.left),
	}, nil
}

// data is piece for data messages of our extension.
func (r *Reader) data(n int) (Message, error) {
	if n > 3+dataLen+MaxRun {
		return Message{}, malformed(Extended, "data frame of %d bytes, at most %d are read", n, 3+dataLen+MaxRun)
	}
	if err := r.fill(DataHeader); err != nil {
		return Message{}, truncated(err)
	}
	m, err := decodeData(n, r.buf[r.r+7:r.r+DataHeader])
	if err != nil {
		return m, err
	}
	r.r += DataHeader
	r.left = int(m.Length)
	return m, nil
}

// Payload reads the next len(p) bytes of the current piece's payload into p, which must not be longer than
// what is left of it. It returns how many it read; fewer only with an error. After os.ErrDeadlineExceeded
// it can be called again for the rest.
func (r *Reader) Payload(p []byte) (n int, err error) {
	if len(p) > r.left {
		return 0, malformed(Piece, "%d bytes wanted of %d", len(p), r.left)
	}
	n = copy(p, r.buf[r.r:r.w])
	r.r += n
	for n < len(p) && err == nil {
		var m int
		m, err = r.src.Read(p[n:])
		n += m
	}
	r.left -= n
	if n == len(p) {
		return n, nil
	}
	return n, truncated(err)
}

// Some reads once into p, which must not be longer than what is left of the current payload. It returns how
// many bytes came; none only with an error.
func (r *Reader) Some(p []byte) (n int, err error) {
	if len(p) > r.left {
		return 0, malformed(Piece, "%d bytes wanted of %d", len(p), r.left)
	}
	if r.r < r.w {
		n = copy(p, r.buf[r.r:r.w])
		r.r += n
	} else if n, err = r.src.Read(p); n > 0 {
		err = nil // what the error is about shows at the next read
	}
	r.left -= n
	return n, truncated(err)
}

// Skip discards the next n bytes of the current payload, or what is left of it. It is to be called again after
// os.ErrDeadlineExceeded, for what it says is left.
func (r *Reader) Skip(n int) (left int, err error) {
	rest := r.left - min(n, r.left)
	for r.left > rest && err == nil {
		if r.r == r.w {
			r.r, r.w = 0, 0
			r.w, err = r.src.Read(r.buf[:min(len(r.buf), r.left-rest)])
		}
		m := min(r.left-rest, r.w-r.r)
		r.r, r.left = r.r+m, r.left-m
	}
	if r.left == rest {
		return 0, nil
	}
	return r.left - rest, truncated(err)
}

// Discard skips what is left of the current piece's payload.
func (r *Reader) Discard() error {
	for r.left > 0 {
		if r.r == r.w {
			r.r, r.w = 0, 0
			m, err := r.src.Read(r.buf[:min(len(r.buf), r.left)])
			r.w = m
			if m == 0 && err != nil {
				return truncated(err)
			}
		}
		n := min(r.left, r.w-r.r)
		r.r, r.left = r.r+n, r.left-n
	}
	return nil
}

// Buffered reports whether bytes that have been read wait to be parsed: as long as it is true, Next may
// return without a system call, and answers are worth collecting.
func (r *Reader) Buffered() bool { return r.w-r.r >= 4 }

// fill makes at least n unconsumed bytes stand at buf[r:w].
func (r *Reader) fill(n int) error {
	if r.w-r.r >= n {
		return nil
	}
	switch {
	case n > len(r.buf):
		// A long frame: rare (bitfield, hashes), so the buffer grows for it and stays.
		b := make([]byte, n+readerSize)
		r.w = copy(b, r.buf[r.r:r.w])
		r.buf, r.r = b, 0
	case r.r == r.w:
		r.r, r.w = 0, 0
	case r.r+n > len(r.buf):
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	for r.w-r.r < n {
		m, err := r.src.Read(r.buf[r.w:])
		r.w += m
		if r.w-r.r >= n {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// truncated marks an end of stream inside a frame.
func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
