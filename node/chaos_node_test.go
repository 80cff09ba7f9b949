package node

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fetch"
	"github.com/pantala/pantala/tracker"
)

// chaosNode is a node that is stopped and started again.
type chaosNode struct {
	w    *world
	i    int
	conf config.Config
	fill string

	mu      sync.Mutex
	node    *Node          // nil: stopped
	using   sync.WaitGroup // readers that use it
	started int
}

func (n *chaosNode) start() {
	node, err := New(n.conf, Options{Version: "test"})
	if err != nil {
		n.w.t.Errorf("node %d does not start again: %v", n.i, err)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.node = node
	n.started++
}

// stop closes the node, with reads under way; rude closes what serves them first.
func (n *chaosNode) stop(rude bool) {
	n.mu.Lock()
	node := n.node
	n.node = nil
	n.mu.Unlock()
	if node == nil {
		return
	}
	n.w.stops.Add(1)
	if rude {
		node.mu.Lock()
		var engines []*fetch.Engine
		for _, e := range node.engines {
			engines = append(engines, e)
		}
		node.mu.Unlock()
		for _, e := range engines {
			e.Close()
		}
	} else {
		for _, l := range n.w.inUse(node) {
			l.fetch.Close() // as unmount does
		}
	}
	node.refuse() // as Close begins
	n.using.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := node.Close(ctx); err != nil {
		n.w.t.Errorf("node %d: close: %v", n.i, err)
	}
}

// inUse are the blobs that a node has open.
func (w *world) inUse(node *Node) (open []*live) {
	node.mu.Lock()
	all := make([]*live, 0, len(node.live))
	for _, l := range node.live {
		all = append(all, l)
	}
	node.mu.Unlock()
	for _, l := range all {
		if <-l.ready; l.err == nil {
			open = append(open, l)
		}
	}
	return open
}

// use takes hold of an object at the node; the caller ends with done.
func (n *chaosNode) use(ctx context.Context, o *object, fill string) (l *live, done func(), err error) {
	n.mu.Lock()
	node := n.node
	if node == nil {
		n.mu.Unlock()
		return nil, nil, blob.ErrClosed
	}
	n.using.Add(1)
	n.mu.Unlock()
	defer func() {
		if err != nil {
			n.using.Done()
		}
	}()
	ctx, end, err := node.begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer end()
	opts := control.Options{Fill: fill}
	f, err := node.find(ctx, o.source(), opts, noProgress)
	if err != nil {
		return nil, nil, err
	}
	want, err := node.want(o.source(), opts, f)
	if err != nil {
		return nil, nil, err
	}
	l, _, err = node.hold(ctx, f, want)
	if err != nil {
		return nil, nil, err
	}
	return l, func() { node.release(l); n.using.Done() }, nil
}

// chaosTracker is a tracker at one address that comes and goes.
type chaosTracker struct {
	t       *testing.T
	addr    netip.AddrPort
	url     string
	tracker *tracker.Server
	http    *http.Server // nil: stopped
	served  sync.WaitGroup
}

func newChaosTracker(t *testing.T) *chaosTracker {
	c := &chaosTracker{t: t, addr: netip.MustParseAddrPort("127.0.0.1:0")}
	c.start(true)
	c.url = "http://" + c.addr.String() + "/announce"
	return c
}

// start lets it answer; a fresh one remembers nothing.
func (c *chaosTracker) start(fresh bool) {
	if c.http != nil {
		return
	}
	ln, err := net.Listen("tcp", c.addr.String())
	if err != nil {
		return // somebody else has the port now: it stays away
	}
	c.addr = ln.Addr().(*net.TCPAddr).AddrPort()
	if fresh || c.tracker == nil {
		if c.tracker != nil {
			c.tracker.Close()
		}
		c.tracker = tracker.NewServer(tracker.ServerOptions{})
	}
	h := &http.Server{Handler: c.tracker}
	c.http = h
	c.served.Go(func() { h.Serve(ln) })
}

// stop breaks all connections to it.
func (c *chaosTracker) stop() {
	if c.http == nil {
		return
	}
	c.http.Close()
	c.served.Wait()
	c.http = nil
}
