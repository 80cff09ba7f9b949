package swarm

import "net/netip"

// dhtNode is the node of the distributed hash table beside a Node (BEP 5): peers tell each other where theirs
// listen, so that whoever has found one peer can join the DHT.
type dhtNode struct {
	port    uint16
	onOther func(netip.AddrPort)
}

// ServesDHT says that a node of the DHT listens on this UDP port, and whom to tell of the nodes of peers. It is
// called before the first Add. onOther is called by readers and must not block.
func (n *Node) ServesDHT(port uint16, onOther func(netip.AddrPort)) {
	n.dht.Store(&dhtNode{port, onOther})
}

// dhtSaid passes on where the node of a peer listens.
func (p *peer) dhtSaid(port uint16) {
	if d := p.t.node.dht.Load(); d != nil && port != 0 && !p.t.cfg.Private {
		d.onOther(netip.AddrPortFrom(p.addr.Addr(), port))
	}
}

// Hear is [Torrent.Hear] for the torrent of a key, if there is one.
func (n *Node) Hear(key [20]byte, source netip.Addr, addrs ...netip.AddrPort) {
	if t := n.torrent(key); t != nil {
		t.Hear(source, addrs...)
	}
}
