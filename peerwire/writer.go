package peerwire

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// Body is where the payload of a piece comes from; *blockio.Blob is one. SendTo writes exactly n bytes from
// offset off of the blob to the socket c, with sendfile(2) where that is possible.
type Body interface {
	SendTo(c syscall.Conn, off int64, n int) error
}

// Writer sends to one connection. It is used by one goroutine at a time.
type Writer struct {
	conn *net.TCPConn
	raw  syscall.RawConn

	more  func(fd uintptr) bool // sends head with MSG_MORE; kept so that a call allocates nothing
	head  []byte
	errno error
}

// NewWriter returns a Writer to c.
func NewWriter(c *net.TCPConn) (*Writer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &Writer{conn: c, raw: raw}
	w.more = func(fd uintptr) bool {
		for len(w.head) > 0 {
			n, err := syscall.SendmsgN(int(fd), w.head, nil, nil, syscall.MSG_MORE|syscall.MSG_NOSIGNAL)
			switch {
			case err == nil:
				w.head = w.head[n:]
			case errors.Is(err, syscall.EAGAIN):
				return false
			case !errors.Is(err, syscall.EINTR):
				w.errno = err
				return true
			}
		}
		return true
	}
	return w, nil
}

// Send writes a batch of encoded messages.
func (w *Writer) Send(batch []byte) error {
	if len(batch) == 0 {
		return nil
	}
	_, err := w.conn.Write(batch)
	return err
}

// Piece writes head, a batch of encoded messages that ends with the header of a piece
// ([AppendPieceHeader]), and then the n bytes of payload at off of body. The head waits in the socket
// (MSG_MORE, tcp(7)) for the payload, so that both leave in full segments. After an error the stream is cut
// inside a frame and the connection must be closed.
func (w *Writer) Piece(head []byte, body Body, off int64, n int) error {
	w.head, w.errno = head, nil
	err := w.raw.Write(w.more)
	w.head = nil
	if err == nil {
		err = w.errno
	}
	if err != nil {
		return fmt.Errorf("piece header: %w", err)
	}
	return body.SendTo(w, off, n)
}

// SyscallConn is the socket, made once: [net.TCPConn.SyscallConn] allocates each time.
func (w *Writer) SyscallConn() (syscall.RawConn, error) { return w.raw, nil }
