package node

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/discovery"
	"github.com/pantala/pantala/swarm"
)

// finders are what looks for peers beside trackers. Each may be nil: off.
type finders struct {
	lsd   *discovery.LSD
	dht   *discovery.DHT
	known knownPeers

	mu    sync.Mutex
	asked map[[20]byte]func([]netip.AddrPort) // guarded by mu: who looks for peers of what is not open yet
}

// heard passes on peers that somebody has named.
func (n *Node) heard(key [20]byte, from netip.Addr, peers ...netip.AddrPort) {
	n.swarm.Hear(key, from, peers...)
	n.finders.mu.Lock()
	f := n.finders.asked[key]
	n.finders.mu.Unlock()
	if f != nil {
		f(peers)
	}
}

// lookFor looks for peers of a swarm that this node is not in, until stop is called. f must not block for long. Two
// requests for the same swarm at the same time share what is found badly: the later one gets it.
func (n *Node) lookFor(key [20]byte, f func([]netip.AddrPort)) (stop func()) {
	set := func(f func([]netip.AddrPort)) {
		n.finders.mu.Lock()
		defer n.finders.mu.Unlock()
		if n.finders.asked == nil {
			n.finders.asked = map[[20]byte]func([]netip.AddrPort){}
		}
		if n.finders.asked[key] = f; f == nil {
			delete(n.finders.asked, key)
		}
	}
	set(f)
	stops := []func(){func() { set(nil) }}
	if l := n.finders.lsd; l != nil {
		stops = append(stops, l.Announce(key))
	}
	if d := n.finders.dht; d != nil {
		stops = append(stops, d.Announce(key, n.swarm.Addr().Port()))
	}
	return func() {
		for _, s := range stops {
			s()
		}
	}
}

// finds reports whether there is anybody to ask beside trackers.
func (f *finders) finds() bool { return f.lsd != nil || f.dht != nil }

// discover starts them. It comes after the swarm, at whose port peers are to connect.
func (n *Node) discover() error {
	c, addr := n.cfg, n.swarm.Addr()
	n.finders.known = knownPeers{knownDir(c.State)}
	if err := n.finders.known.sweep(n.store, n.library()); err != nil {
		n.log.Warn("old lists of known peers stay", "err", err)
	}
	if c.LSD == config.On || c.LSD == config.Auto && !addr.Addr().IsLoopback() {
		l, err := discovery.NewLSD(discovery.LSDOptions{Listen: addr, Log: n.log, OnPeer: func(key [20]byte, peer netip.AddrPort) {
			n.heard(key, peer.Addr(), peer)
		}})
		switch {
		case err == nil:
			n.finders.lsd = l
		case c.LSD == config.On:
			return control.Local(err)
		default: // nobody has asked for it
			n.log.Info("no discovery on the local network", "err", err)
		}
	}
	if !c.DHT {
		return nil
	}
	d, err := discovery.NewDHT(discovery.DHTOptions{
		Listen: addr.String(), Bootstrap: c.Bootstrap, Known: n.finders.known.nodes(), Log: n.log,
		OnPeers: func(key [20]byte, from netip.Addr, peers []netip.AddrPort) { n.heard(key, from, peers...) },
	})
	if err != nil {
		if l := n.finders.lsd; l != nil {
			l.Close()
		}
		return control.Local(err)
	}
	n.finders.dht = d
	n.swarm.ServesDHT(d.Addr().Port(), d.AddNode)
	return nil
}

// close stops them, and remembers the nodes of the DHT.
func (f *finders) close() error {
	if f.lsd != nil {
		f.lsd.Close()
	}
	if f.dht == nil {
		return nil
	}
	nodes := f.dht.Nodes()
	f.dht.Close()
	if len(nodes) == 0 {
		return nil // those of the last time may still be there the next time
	}
	if err := f.known.putNodes(nodes); err != nil {
		return fmt.Errorf("nodes of the DHT: %w", err)
	}
	return nil
}

// seek looks for the peers of a torrent under all its keys, and gives it those that were good the last time,
// until stop is called. Peers of a private torrent come from its trackers only (BEP 27).
func (n *Node) seek(l *live, t *swarm.Torrent, keys [][20]byte, private bool) (stop func()) {
	if private {
		return func() {}
	}
	t.AddPeers(n.finders.known.get(l.id)...)
	var stops []func()
	for _, key := range keys {
		if f := n.finders.lsd; f != nil {
			stops = append(stops, f.Announce(key))
		}
		if f := n.finders.dht; f != nil {
			stops = append(stops, f.Announce(key, n.swarm.Addr().Port()))
		}
	}
	remembering := n.remember(l, t)
	return func() {
		for _, s := range stops {
			s()
		}
		remembering()
	}
}
