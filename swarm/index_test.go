package swarm_test

import (
	"bytes"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

// indexNode is a node with one layer that may know its index.
type indexNode struct {
	*swarm.Node
	tor *swarm.Torrent

	mu    sync.Mutex
	knows []peerwire.IndexClaim
	heard []peerwire.IndexClaim
	from  netip.AddrPort
}

func newIndexNode(t *testing.T, data []byte, knows ...peerwire.IndexClaim) *indexNode {
	n := &indexNode{Node: newNode(t, swarm.Options{}), knows: knows}
	var err error
	n.tor, err = n.Add(swarm.Config{
		Keys: [][20]byte{key}, Name: name, Store: seed(t, blob.GeometryFor(int64(len(data))), data),
		Index: func() []peerwire.IndexClaim {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.knows
		},
		OnIndex: func(peer netip.AddrPort, claims []peerwire.IndexClaim) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.heard, n.from = append(n.heard, claims...), peer
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *indexNode) has(claims ...peerwire.IndexClaim) func() bool {
	return func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return slices.Equal(n.heard, claims)
	}
}

func (n *indexNode) learn(c peerwire.IndexClaim) {
	n.mu.Lock()
	n.knows = append(n.knows, c)
	n.mu.Unlock()
	n.tor.TellIndex()
}

func claim(n byte) peerwire.IndexClaim {
	return peerwire.IndexClaim{Root: blob.Hash{1, n}, Digest: blob.Hash{2, n}, Size: int64(n) + 1, Trust: blob.Built}
}

// TestIndexOfPeers: peers say which index of the layer they have to those who ask, also when they come to know it
// later, or the connection comes later; who does not ask is not told.
func TestIndexOfPeers(t *testing.T) {
	data := swarmtest.Random(300_000, 1)
	a, b, quiet := newIndexNode(t, data, claim(1)), newIndexNode(t, data), newIndexNode(t, data)
	b.tor.AskIndex()
	for _, n := range []*indexNode{b, quiet} {
		n.tor.AddPeers(a.Addr())
	}
	until(t, "the claim of a", b.has(claim(1)))
	b.mu.Lock()
	from := b.from
	b.mu.Unlock()
	if from != a.Addr() {
		t.Errorf("it came from %v, not %v", from, a.Addr())
	}
	// The connection is there; then it asks.
	c := newIndexNode(t, data)
	c.tor.AddPeers(a.Addr(), quiet.Addr())
	until(t, "connections", func() bool { return len(c.tor.Peers()) == 2 })
	c.tor.AskIndex()
	until(t, "the claim of a", c.has(claim(1)))
	quiet.learn(claim(2))
	until(t, "the claim of another", c.has(claim(1), claim(2)))
	// It knows now, and asks no more.
	c.learn(claim(1))
	quiet.learn(claim(3))
	last := newIndexNode(t, data)
	last.tor.AskIndex()
	last.tor.AddPeers(quiet.Addr())
	until(t, "all claims", last.has(claim(2), claim(3)))
	if !c.has(claim(1), claim(2))() || !quiet.has()() {
		t.Errorf("who did not ask was told: %v, %v", c.heard, quiet.heard)
	}
}

// TestIndexOfStrangers: one connection gets a bounded number of answers; five claims end it; a torrent that is no layer
// does not offer the exchange.
func TestIndexOfStrangers(t *testing.T) {
	data := swarmtest.Random(300_000, 2)
	n := newIndexNode(t, data, claim(1), claim(2), claim(3), claim(4), claim(5))
	n.tor.AskIndex()
	c := dialRaw(t, n.Node, 1)
	c.Write(peerwire.AppendExtendedHandshake(nil, peerwire.ExtendedHandshake{Messages: map[string]uint8{peerwire.IndexName: 77}}))
	h, err := peerwire.ParseExtendedHandshake(c.next(t, peerwire.Extended).Data)
	id := h.Messages[peerwire.IndexName]
	if err != nil || id == 0 {
		t.Fatalf("%+v, %v", h, err)
	}
	if m := c.next(t, peerwire.Extended); m.Ext != 77 || !bytes.Equal(m.Data, []byte{0}) {
		t.Errorf("it did not ask: %+v", m)
	}
	var flood []byte
	for i := range byte(100) {
		flood = peerwire.AppendIndexAsk(flood, id)
		flood = peerwire.AppendIndexClaims(flood, id, []peerwire.IndexClaim{claim(100 + i)})
	}
	c.Write(flood)
	const turns = 8
	for range turns {
		m := c.next(t, peerwire.Extended)
		if _, claims, err := peerwire.ParseIndex(m.Data); m.Ext != 77 || err != nil || len(claims) != peerwire.MaxIndexClaims {
			t.Fatalf("%+v: %v, %v", m, claims, err)
		}
	}
	heard := func() int {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.heard)
	}
	until(t, "what it listens to", func() bool { return heard() == turns })
	c.Write([]byte{0, 0, 0, 13, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0}) // a request for a block, whose answer ends the flood
	for m := (peerwire.Message{}); m.ID != peerwire.Piece && m.ID != peerwire.Reject; {
		var err error
		if m, err = c.Next(); err != nil {
			t.Fatal(err)
		}
		if m.ID == peerwire.Extended && m.Ext == 77 {
			t.Fatalf("more than %d answers", turns)
		}
	}
	if n := heard(); n != turns {
		t.Errorf("%d claims were listened to", n)
	}
	c.Write(peerwire.AppendIndexClaims(nil, id, make([]peerwire.IndexClaim, 5)))
	until(t, "the end of the connection", func() bool { return len(n.tor.Peers()) == 0 })

	plain := newNode(t, swarm.Options{})
	add(t, plain, seed(t, blob.GeometryFor(int64(len(data))), data), blob.Hash{})
	c = dialRaw(t, plain, 2)
	if h, err := peerwire.ParseExtendedHandshake(c.next(t, peerwire.Extended).Data); err != nil || h.Messages[peerwire.IndexName] != 0 {
		t.Errorf("%+v, %v", h, err)
	}
}
