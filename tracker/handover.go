package tracker

import (
	"net"
	"sync"
)

// handover is a listener of connections that somebody else has accepted, and read from.
type handover struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

var _ net.Listener = (*handover)(nil)

func newHandover(addr net.Addr) *handover {
	return &handover{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// give passes c on; false when nobody takes it any more.
func (h *handover) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
		return false
	}
}

// Accept implements [net.Listener].
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements [net.Listener].
func (h *handover) Addr() net.Addr { return h.addr }

// begun is a connection of which some bytes have been read already.
type begun struct {
	net.Conn
	read   []byte // and not given out yet; owned by the one reader there is
	once   sync.Once
	closed func()
}

// Read implements [net.Conn].
func (c *begun) Read(b []byte) (int, error) {
	if len(c.read) > 0 && len(b) > 0 {
		n := copy(b, c.read)
		if c.read = c.read[n:]; len(c.read) == 0 {
			c.read = nil
		}
		return n, nil
	}
	return c.Conn.Read(b)
}

// CloseWrite lets net/http end a reply without cutting it off.
func (c *begun) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close implements [net.Conn].
func (c *begun) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.closed)
	return err
}
