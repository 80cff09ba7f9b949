package swarm

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// maxDials bounds the connections of one torrent that are being opened.
const maxDials = 16

// dialPeer connects to an address, shakes hands under one of our keys and gives the connection to the loop.
func (t *Torrent) dialPeer(a netip.AddrPort, key [20]byte) {
	defer t.wg.Done()
	c, h, err := t.greet(a, key)
	if err != nil {
		t.log.Debug("dial peer", "addr", a, "err", err)
		t.post(dialFailed{a})
		return
	}
	t.adopt(c, h, a)
}

// upgrade is the key of v2 of a hybrid torrent.
func (t *Torrent) upgrade() (key [20]byte, ok bool) {
	if t.cfg.V1 == nil {
		return key, false
	}
	for _, k := range t.cfg.Keys {
		if k != t.cfg.V1.InfoHash {
			return k, true
		}
	}
	return key, false
}

// abilities are the reserved bits of our handshake. That of the DHT is set while there is a node of it. The bit of v2 says of a torrent, to somebody met under its
// v1 hash, that there is another one: it is not set where there is none.
func (t *Torrent) abilities() peerwire.Reserved {
	r := peerwire.Abilities
	if t.node.dht.Load() != nil && !t.cfg.Private {
		r = r.WithDHT()
	}
	if _, ok := t.upgrade(); !ok && t.cfg.V1 != nil {
		r = r.WithoutV2()
	}
	return r
}

func (t *Torrent) greet(a netip.AddrPort, key [20]byte) (c *net.TCPConn, h peerwire.Handshake, err error) {
	d := net.Dialer{Timeout: handshakeTimeout}
	conn, err := d.DialContext(t.ctx, "tcp", a.String())
	if err != nil {
		return nil, h, err
	}
	tcp := conn.(*net.TCPConn)
	unwatch := context.AfterFunc(t.ctx, func() { tcp.Close() })
	defer unwatch()
	defer func() {
		if err != nil {
			tcp.Close()
		}
	}()
	tcp.SetDeadline(now().Add(handshakeTimeout))
	ours := peerwire.Handshake{Reserved: t.abilities(), InfoHash: key, PeerID: t.node.opts.PeerID}
	if _, err = tcp.Write(peerwire.AppendHandshake(nil, ours)); err != nil {
		return nil, h, err
	}
	if h, err = peerwire.ReadHandshake(tcp); err != nil {
		return nil, h, err
	}
	for _, k := range t.cfg.Keys {
		if h.InfoHash == k {
			return tcp, h, nil
		}
	}
	return nil, h, fmt.Errorf("%w: asked for torrent %x, answered %x", blob.ErrInvalid, key, h.InfoHash)
}
