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
	conn   *net.TCPConn
	raw    syscall.RawConn
	quick  func(fd uintptr)
	low    int // see lowAt; used by the reader only
	setLow func(fd uintptr)
	off    atomic.Bool   // the client is known to send header and payload together
	await  *atomic.Int32 // blocks outstanding
}

func newPromptReader(c *net.TCPConn, await *atomic.Int32) (*promptReader, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	r := &promptReader{conn: c, raw: raw, await: await, low: 1, quick: func(fd uintptr) {
		// Failing only costs time.
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	}}
	r.setLow = func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, r.low)
	}
	return r, nil
}

// lowAt makes a read that waits go on only when n bytes have come (SO_RCVLOWAT, socket(7)), so that a long payload
// costs a wake-up per n bytes instead of one per some segments. It has to be 1 again before anything shorter is
// waited for.
func (r *promptReader) lowAt(n int) {
	if r.low == n {
		return
	}
	r.low = n
	// Failing only costs time.
	_ = r.raw.Control(r.setLow)
}

func (r *promptReader) Read(p []byte) (int, error) {
	if !r.off.Load() && r.await.Load() <= lone {
		if err := r.raw.Control(r.quick); err != nil {
			return 0, err
		}
	}
	return r.conn.Read(p)
}
