package swarm

import (
	"net"
	"sync/atomic"
	"syscall"
)

// lone is how many blocks may be outstanding for the wait to count as somebody's read rather than a stream.
const lone = burst

// promptReader reads a connection. Clients that leave Nagle's algorithm on (libtorrent does) send the header
// of a lone block, and hold its payload back until the header was acknowledged, which the kernel here delays
// by 40 ms: 42 ms for a block instead of 0.3 ms. So before waiting for a lone answer of such a client it asks
// for acknowledgements at once (TCP_QUICKACK, tcp(7): not permanent, hence each time).
type promptReader struct {
	conn  *net.TCPConn
	raw   syscall.RawConn
	quick func(fd uintptr)
	off   atomic.Bool   // the client is known to send header and payload together
	await *atomic.Int32 // blocks outstanding
}

func newPromptReader(c *net.TCPConn, await *atomic.Int32) (*promptReader, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &promptReader{conn: c, raw: raw, await: await, quick: func(fd uintptr) {
		// Failing only costs time.
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	}}, nil
}

func (r *promptReader) Read(p []byte) (int, error) {
	if !r.off.Load() && r.await.Load() <= lone {
		if err := r.raw.Control(r.quick); err != nil {
			return 0, err
		}
	}
	return r.conn.Read(p)
}
