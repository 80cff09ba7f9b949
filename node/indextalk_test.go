package node

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/peerwire"
)

// holdLayer opens the blob of a layer that knows these peers and nobody else.
func holdLayer(t *testing.T, n *Node, peers ...netip.AddrPort) *live {
	t.Helper()
	f := found{id: blob.DigestID(blob.Hash{7}), geometry: blob.GeometryFor(1 << 20), peers: peers, meta: blockio.Meta{Source: "layer", Name: "layer"}}
	w, err := n.want("layer", control.Options{Fill: "never"}, f)
	if err != nil {
		t.Fatal(err)
	}
	l, _, err := n.hold(patient(t), f, w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.release(l) })
	return l
}

// TestIndexWithoutTracker: nodes that have a layer say which file is its index; the claim that most make is first.
func TestIndexWithoutTracker(t *testing.T) {
	a, b, c := start(t, conf(t)), start(t, conf(t)), start(t, conf(t))
	from := holdLayer(t, a)
	from.vouchIndex(blob.Hash{1}, blob.Hash{2}, 300, blob.Built)
	to := holdLayer(t, b, a.swarm.Addr())
	all := to.askIndex(patient(t))
	if len(all) != 1 || all[0].Root != (blob.Hash{1}) || all[0].Digest != (blob.Hash{2}) || all[0].Size != 300 || all[0].Vouchers != 1 || len(all[0].Peers) != 1 || all[0].Peers[0] != a.swarm.Addr() {
		t.Errorf("%+v", all)
	}
	// Who comes to know it later says so later.
	last := holdLayer(t, c, b.swarm.Addr())
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if all := last.askIndex(short); len(all) != 0 {
		t.Errorf("nobody it is connected to knows: %+v", all)
	}
	to.vouchIndex(blob.Hash{1}, blob.Hash{2}, 300, blob.Claimed)
	if all := last.askIndex(patient(t)); len(all) != 1 || all[0].Trust != blob.Claimed || all[0].Vouchers != 0 || len(all[0].Peers) != 1 {
		t.Errorf("%+v", all)
	}
}

// TestHeardIndexes: what peers say is bounded, and one host counts once.
func TestHeardIndexes(t *testing.T) {
	x := new(indexTalk)
	claim := func(n byte) []peerwire.IndexClaim {
		return []peerwire.IndexClaim{{Root: blob.Hash{1, n}, Digest: blob.Hash{2, n}, Size: 5, Trust: blob.Built}}
	}
	at := func(host byte, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, host}), port)
	}
	x.hear(netip.AddrPort{}, claim(9))
	for n := range byte(10) {
		x.hear(at(n, 1), claim(n))
	}
	for port := range uint16(100) {
		x.hear(at(100, port+1), claim(1))
		x.hear(at(byte(port)+101, 1), claim(2))
	}
	all, _ := x.list()
	if len(all) != maxHeardIndexes || all[0].Root != (blob.Hash{1, 2}) || all[0].Vouchers != maxHeardHosts || all[1].Root != (blob.Hash{1, 1}) || all[1].Vouchers != 2 || len(all[0].Peers) != 4 {
		t.Errorf("%+v", all)
	}
}
