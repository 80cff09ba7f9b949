package imagestest

import (
	"net"
	"sync"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// Delay is a way to a registry that is longer: a port of a host's loopback that forwards to it and adds a round trip, for
// kernels that have no netem. Bandwidth is whatever lies behind it.
type Delay struct {
	Addr string // on loopback of the host
	half time.Duration
	to   string
	host *e2etest.Host
	l    net.Listener
	all  sync.WaitGroup
	mu   sync.Mutex
	open map[net.Conn]struct{}
}

// NewDelay begins to forward from port 5001 of the host's loopback.
func NewDelay(w *e2etest.World, h *e2etest.Host, to string, rtt time.Duration) *Delay {
	w.T.Helper()
	d := &Delay{Addr: "127.0.0.1:5001", half: rtt / 2, to: to, host: h, open: map[net.Conn]struct{}{}}
	err := h.Do(func() (err error) {
		d.l, err = net.Listen("tcp", d.Addr)
		return err
	})
	if err != nil {
		w.T.Fatal(err)
	}
	d.all.Go(func() {
		for {
			c, err := d.l.Accept()
			if err != nil {
				return
			}
			d.all.Go(func() { d.forward(w, c) })
		}
	})
	w.Defer(d.close)
	return d
}

func (d *Delay) close() {
	d.l.Close()
	d.mu.Lock()
	for c := range d.open {
		c.Close()
	}
	d.open = nil
	d.mu.Unlock()
	d.all.Wait()
}

// keep has close end a connection; false when that has been.
func (d *Delay) keep(c net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open == nil {
		c.Close()
		return false
	}
	d.open[c] = struct{}{}
	return true
}

func (d *Delay) drop(c net.Conn) {
	c.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, c)
}

func (d *Delay) forward(w *e2etest.World, from net.Conn) {
	if !d.keep(from) {
		return
	}
	defer d.drop(from)
	time.Sleep(2 * d.half) // TCP's own greeting
	to, err := d.host.Dial(w.T.Context(), "tcp", d.to)
	if err != nil || !d.keep(to) {
		return
	}
	defer d.drop(to)
	var both sync.WaitGroup
	both.Go(func() { d.pass(to, from) })
	both.Go(func() { d.pass(from, to) })
	both.Wait()
}

// part is what arrived, and when it is to go on.
type part struct {
	due   time.Time
	bytes []byte
}

// pass copies one direction, late. On its way there may be 64 MiB, a second of half a gigabit.
func (d *Delay) pass(to, from net.Conn) {
	way := make(chan part, 1024)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(way)
		for {
			b := make([]byte, 64<<10)
			n, err := from.Read(b)
			if n > 0 {
				way <- part{time.Now().Add(d.half), b[:n]}
			}
			if err != nil {
				return
			}
		}
	})
	var err error
	for p := range way {
		if err != nil {
			continue // the reader must not block
		}
		time.Sleep(time.Until(p.due))
		if _, err = to.Write(p.bytes); err != nil {
			from.Close()
		}
	}
	if t, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		t.CloseWrite()
	}
	reader.Wait()
}
