package swarm_test

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

// TestPeerExchange: A, B and C in a row. C is told of B only, and learns A from it; A has everything, B nothing
// that C wants, so what C gets it gets from a peer it was never told of.
func TestPeerExchange(t *testing.T) {
	g := blob.GeometryFor(1 << 20)
	data := swarmtest.Random(g.Size, 11)
	from := seed(t, g, data)
	to := empty(t, g)
	to.TakeRoots(from, blob.Claimed)
	a, b, c := newNode(t, swarm.Options{}), newNode(t, swarm.Options{}), newNode(t, swarm.Options{})
	add(t, a, from, blob.Hash{})
	tb := add(t, b, empty(t, g), blob.Hash{})
	tb.AddPeers(a.Addr())
	until(t, "A and B are connected", func() bool { return len(tb.Peers()) == 1 })
	tc := add(t, c, to, blob.Hash{})
	tc.AddPeers(b.Addr())
	if err := fill(deadline(t), tc, to); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(to.Bytes(), data) {
		t.Error("bytes differ")
	}
}

// TestPrivateTorrentsAreNotGossip: the same row, but all three call the torrent private (BEP 27).
func TestPrivateTorrentsAreNotGossip(t *testing.T) {
	g := blob.GeometryFor(1 << 20)
	var nodes [3]*swarm.Node
	var tors [3]*swarm.Torrent
	for i := range nodes {
		nodes[i] = newNode(t, swarm.Options{})
		tor, err := nodes[i].Add(swarm.Config{Keys: [][20]byte{key}, Name: name, Store: empty(t, g), Private: true})
		if err != nil {
			t.Fatal(err)
		}
		tors[i] = tor
	}
	tors[1].AddPeers(nodes[0].Addr(), nodes[2].Addr())
	tors[2].Hear(netip.MustParseAddr("127.0.0.1"), nodes[0].Addr())
	until(t, "B has two peers", func() bool { return len(tors[1].Peers()) == 2 })
	// Peers of a public torrent are told after half a second, and looked at once a second.
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	<-ctx.Done()
	for _, i := range []int{0, 2} {
		if n := len(tors[i].Peers()); n != 1 {
			t.Errorf("node %d has %d peers", i, n)
		}
	}
}
