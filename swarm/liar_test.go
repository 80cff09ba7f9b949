package swarm_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

func liar(t testing.TB, g blob.Geometry, data []byte, lies swarmtest.Lies) *swarmtest.Liar {
	l := swarmtest.NewLiar(g, data, lies)
	t.Cleanup(l.Close)
	return l
}

func all(uint32) bool { return true }

// leecher is a node with an empty store that knows the claimed roots of data.
func leecher(t testing.TB, g blob.Geometry, data []byte) (*swarm.Torrent, *swarmtest.MemStore) {
	s := empty(t, g)
	s.TakeRoots(seed(t, g, data), blob.Claimed)
	return add(t, newNode(t, swarm.Options{}), s, blob.Hash{}), s
}

func banned(tor *swarm.Torrent) (n int) {
	for _, p := range tor.Peers() {
		if p.Banned {
			n++
		}
	}
	return n
}

// TestCorruptBlocks asks a liar for 10 000 blocks: none is accepted, and it is banned after three verdicts.
func TestCorruptBlocks(t *testing.T) {
	g := blob.GeometryFor(10_000 * blob.BlockSize)
	data := swarmtest.Random(g.Size, 2)
	l := liar(t, g, data, swarmtest.Lies{Corrupt: all})
	tor, s := leecher(t, g, data)
	tor.AddPeers(l.Addr())
	await(t, tor, g.Blob())
	verdicts := 0
	for at := uint32(0); at < g.Blocks() && tor.Has(g.Blob()); at++ {
		err := fetch(deadline(t), tor, s, blob.Run{First: at, Count: 1})
		if !errors.Is(err, blob.ErrUnavailable) {
			t.Fatalf("fetch of block %d: %v, want ErrUnavailable", at, err)
		}
		if _, verdicts = s.Counts(); verdicts > 3 {
			t.Fatalf("%d corrupt blocks before the ban", verdicts)
		}
	}
	until(t, "ban", func() bool { return banned(tor) == 1 })
	if stored, _ := s.Counts(); stored != 0 {
		t.Errorf("%d corrupt blocks were stored", stored)
	}
	// It stays out: neither dialled again, nor let in.
	conns := l.Conns()
	tor.AddPeers(l.Addr())
	if err := fetch(deadline(t), tor, s, blob.Run{Count: 1}); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("fetch after the ban: %v", err)
	}
	if l.Conns() != conns {
		t.Error("a banned address was dialled again")
	}
}

// TestBannedPeerComesBack lets a banned peer open a connection itself.
func TestBannedPeerComesBack(t *testing.T) {
	g := blob.GeometryFor(1 << 20)
	data := swarmtest.Random(g.Size, 2)
	l := liar(t, g, data, swarmtest.Lies{Corrupt: all})
	s := empty(t, g)
	s.TakeRoots(seed(t, g, data), blob.Claimed)
	n := newNode(t, swarm.Options{})
	tor := add(t, n, s, blob.Hash{})
	tor.AddPeers(l.Addr())
	await(t, tor, g.Blob())
	if err := fetch(deadline(t), tor, s, g.Blob()); !errors.Is(err, blob.ErrUnavailable) {
		t.Fatal(err)
	}
	until(t, "ban", func() bool { return banned(tor) == 1 })
	if err := l.Dial(n.Addr(), key); err != nil {
		t.Fatal(err)
	}
	// An honest peer that comes after it is let in, so the liar has been looked at by then.
	a := newNode(t, swarm.Options{})
	add(t, a, seed(t, g, data), blob.Hash{})
	tor.AddPeers(a.Addr())
	await(t, tor, g.Blob())
	for _, p := range tor.Peers() {
		if !p.Banned && p.ID != a.PeerID() {
			t.Errorf("peer %q was let in", p.ID)
		}
	}
}

// TestLiarBesideHonest reads everything while one of two peers misbehaves: the bytes are right, and no call
// fails.
func TestLiarBesideHonest(t *testing.T) {
	g := blob.GeometryFor(24<<20 + 77)
	data := swarmtest.Random(g.Size, 3)
	for name, lies := range map[string]swarmtest.Lies{
		"all corrupt":   {Corrupt: all},
		"some corrupt":  {Corrupt: func(b uint32) bool { return b%29 == 3 }},
		"bad leaves":    {BadLeaves: true},
		"no leaves":     {NoLeaves: true},
		"deaf leaves":   {DeafLeaves: true},
		"stalls":        {StallAfter: 40},
		"stalls mid":    {StallAfter: 40, StallMid: true},
		"hangs up":      {HangUpAfter: 40},
		"rejects":       {Reject: true},
		"chokes":        {Choke: true},
		"unasked":       {Unasked: true},
		"malformed":     {Truncated: true},
		"floods":        {Flood: true},
		"slow":          {Delay: 20 * time.Millisecond},
		"no fast":       {NoFast: true, HangUpAfter: 200},
		"no fast stall": {NoFast: true, StallAfter: 40},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := liar(t, g, data, lies)
			a := newNode(t, swarm.Options{})
			add(t, a, seed(t, g, data), blob.Hash{})
			tor, s := leecher(t, g, data)
			tor.AddPeers(l.Addr(), a.Addr())
			await(t, tor, g.Blob())
			until(t, "both dialled", func() bool { return l.Conns() > 0 && len(tor.Peers()) > 0 })
			until(t, "honest peer", func() bool {
				for _, p := range tor.Peers() {
					if p.ID == a.PeerID() && !p.Choking {
						return true
					}
				}
				return false
			})
			ctx := blob.WithClass(deadline(t), blob.Readahead)
			for at := uint32(0); at < g.Blocks(); at += 256 {
				r := blob.Run{First: at, Count: min(256, g.Blocks()-at)}
				if err := fetch(ctx, tor, s, r); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(s.Bytes(), data) {
				t.Error("bytes differ")
			}
		})
	}
}

// TestBadLeavesUnderKnownRoot bans at the first proof that does not lead to the root.
func TestBadLeavesUnderKnownRoot(t *testing.T) {
	g := blob.GeometryFor(3 << 20)
	data := swarmtest.Random(g.Size, 4)
	l := liar(t, g, data, swarmtest.Lies{BadLeaves: true})
	s := empty(t, g)
	tor := add(t, newNode(t, swarm.Options{}), s, seed(t, g, data).TreeRoot())
	tor.AddPeers(l.Addr())
	await(t, tor, g.Blob())
	if err := fetch(deadline(t), tor, s, blob.Run{Count: 1}); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("fetch: %v", err)
	}
	until(t, "ban", func() bool { return banned(tor) == 1 })
	if tor.Has(blob.Run{Count: 1}) {
		t.Error("a banned peer still counts as a source")
	}
}

// TestFalseClaim gives the node a root that nobody can meet: two honest peers are not banned for it, and the
// claim is dropped.
func TestFalseClaim(t *testing.T) {
	g := blob.GeometryFor(1 << 20)
	data := swarmtest.Random(g.Size, 5)
	s := empty(t, g)
	s.TakeRoots(seed(t, g, data), blob.Claimed)
	s.DropClaim(1)
	if err := s.SetRoot(1, blob.Hash{6, 6, 6}, blob.Claimed); err != nil {
		t.Fatal(err)
	}
	tor := add(t, newNode(t, swarm.Options{}), s, blob.Hash{})
	for range 2 {
		a := newNode(t, swarm.Options{})
		add(t, a, seed(t, g, data), blob.Hash{})
		tor.AddPeers(a.Addr())
	}
	until(t, "two peers", func() bool {
		n := 0
		for _, p := range tor.Peers() {
			if !p.Choking && p.Pieces == g.Pieces() {
				n++
			}
		}
		return n == 2
	})
	if err := fetch(deadline(t), tor, s, g.PieceBlocks(1)); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("fetch under a false claim: %v", err)
	}
	if _, trust := s.Root(1); trust != blob.Unknown {
		t.Errorf("the claim is still %s", trust)
	}
	if n := banned(tor); n != 0 {
		t.Errorf("%d honest peers were banned", n)
	}
	if err := fetch(deadline(t), tor, s, g.PieceBlocks(2)); err != nil {
		t.Errorf("another piece: %v", err)
	}
}

// TestCancel ends calls in every state: buffers come back at once, and the peer is of use afterwards.
func TestCancel(t *testing.T) {
	g := blob.GeometryFor(8 << 20)
	data := swarmtest.Random(g.Size, 6)
	for name, lies := range map[string]swarmtest.Lies{
		"no block": {StallAfter: 1}, "mid block": {StallAfter: 1, StallMid: true},
		"no leaves": {DeafLeaves: true}, "running": {Delay: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			l := liar(t, g, data, lies)
			tor, s := leecher(t, g, data)
			tor.AddPeers(l.Addr())
			await(t, tor, g.Blob())
			ctx, cancel := context.WithCancel(deadline(t))
			done := make(chan error)
			go func() { done <- fetch(ctx, tor, s, g.Blob()) }()
			until(t, "some bytes", func() bool { return tor.Stats().Downloaded > 0 })
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("fetch: %v, want canceled", err)
			}
			if name == "running" {
				r := blob.Run{First: 300, Count: 20}
				if err := fetch(deadline(t), tor, s, r); err != nil {
					t.Errorf("after the cancel: %v", err)
				}
			}
		})
	}
}
