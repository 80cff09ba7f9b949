package swarm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

// fill fetches whatever peers offer until the store is complete, as soon as they offer it.
func fill(ctx context.Context, tor *swarm.Torrent, s *swarmtest.MemStore) error {
	changed := make(chan struct{}, 1)
	cancel := tor.Changed(func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer cancel()
	ctx = blob.WithClass(ctx, blob.Background)
	for {
		for p := range s.Geometry().Pieces() {
			r := s.Geometry().PieceBlocks(p)
			if s.PieceComplete(p) || !tor.Has(r) {
				continue
			}
			if err := fetch(ctx, tor, s, r); err != nil && !errors.Is(err, blob.ErrUnavailable) {
				return err
			}
		}
		if s.Complete() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d pieces: %w", s.Geometry().Pieces(), ctx.Err())
		}
	}
}

// TestFiveNodes starts five nodes with a fifth of the pieces each, all dialling all, and lets them complete
// each other: pieces are passed on the moment they are complete, and every pair keeps one connection.
func TestFiveNodes(t *testing.T) {
	const n = 5
	g := blob.GeometryFor(20<<20 + 4321)
	data := swarmtest.Random(g.Size, 7)
	whole := seed(t, g, data)
	var nodes [n]*swarm.Node
	var tors [n]*swarm.Torrent
	var stores [n]*swarmtest.MemStore
	for i := range n {
		stores[i] = empty(t, g)
		stores[i].TakeRoots(whole, blob.Claimed)
		for p := uint32(i); p < g.Pieces(); p += n {
			r := g.PieceBlocks(p)
			off, size := g.Bytes(r)
			if err := stores[i].Put(r, data[off:off+size], blob.Direct); err != nil {
				t.Fatal(err)
			}
		}
		nodes[i] = newNode(t, swarm.Options{})
		tors[i] = add(t, nodes[i], stores[i], blob.Hash{})
	}
	for i := range n {
		for j := range n {
			tors[i].AddPeers(nodes[j].Addr()) // itself too
		}
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := fill(deadline(t), tors[i], stores[i]); err != nil {
				t.Errorf("node %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	for i := range n {
		if !bytes.Equal(stores[i].Bytes(), data) {
			t.Errorf("node %d: bytes differ", i)
		}
		until(t, "one connection to each other node", func() bool {
			ids := make(map[[20]byte]bool)
			ps := tors[i].Peers()
			for _, p := range ps {
				ids[p.ID] = true
			}
			return len(ps) == n-1 && len(ids) == n-1 && !ids[nodes[i].PeerID()]
		})
	}
	// Everybody had a fifth, so nobody downloads more than the rest, but for what was asked twice.
	for i := range n {
		if down := tors[i].Stats().Downloaded; down > g.Size {
			t.Errorf("node %d downloaded %d bytes of %d", i, down, g.Size)
		}
	}
}

// TestChain passes a blob along nodes that know only their neighbour, while the first one still gets it.
func TestChain(t *testing.T) {
	g := blob.GeometryFor(6 << 20)
	data := swarmtest.Random(g.Size, 8)
	whole := seed(t, g, data)
	first := empty(t, g)
	first.TakeRoots(whole, blob.Claimed)
	prev := newNode(t, swarm.Options{})
	add(t, prev, first, blob.Hash{})
	var stores []*swarmtest.MemStore
	var wg sync.WaitGroup
	for range 3 {
		s := empty(t, g)
		s.TakeRoots(whole, blob.Claimed)
		node := newNode(t, swarm.Options{})
		tor := add(t, node, s, blob.Hash{})
		tor.AddPeers(prev.Addr())
		wg.Go(func() {
			if err := fill(deadline(t), tor, s); err != nil {
				t.Error(err)
			}
		})
		prev, stores = node, append(stores, s)
	}
	last := stores[len(stores)-1]
	for p := range g.Pieces() {
		r := g.PieceBlocks(p)
		off, n := g.Bytes(r)
		if err := first.Put(r, data[off:off+n], blob.Direct); err != nil {
			t.Fatal(err)
		}
		until(t, "the piece at the end of the chain", func() bool { return last.PieceComplete(p) })
	}
	wg.Wait()
	if !bytes.Equal(last.Bytes(), data) {
		t.Error("bytes differ")
	}
}

// TestPeerKilled closes one of two seeds in the middle of a call that uses both.
func TestPeerKilled(t *testing.T) {
	g := blob.GeometryFor(64 << 20)
	data := swarmtest.Random(g.Size, 9)
	a, b := newNode(t, swarm.Options{UploadLimit: 40 << 20}), newNode(t, swarm.Options{UploadLimit: 40 << 20})
	add(t, a, seed(t, g, data), blob.Hash{})
	add(t, b, seed(t, g, data), blob.Hash{})
	tor, s := leecher(t, g, data)
	tor.AddPeers(a.Addr(), b.Addr())
	until(t, "both seeds", func() bool {
		n := 0
		for _, p := range tor.Peers() {
			if !p.Choking && p.Pieces == g.Pieces() {
				n++
			}
		}
		return n == 2
	})
	done := make(chan error)
	go func() { done <- fetch(blob.WithClass(deadline(t), blob.Readahead), tor, s, g.Blob()) }()
	until(t, "bytes from both", func() bool {
		n := 0
		for _, p := range tor.Peers() {
			if p.Downloaded > 1<<20 {
				n++
			}
		}
		return n == 2
	})
	a.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(s.Bytes(), data) {
		t.Error("bytes differ")
	}
}

// TestLastPeerKilled ends a call when nobody is left; the address is dialled again when somebody listens
// there again.
func TestLastPeerKilled(t *testing.T) {
	g := blob.GeometryFor(4 << 20)
	data := swarmtest.Random(g.Size, 10)
	l := liar(t, g, data, swarmtest.Lies{StallAfter: 3})
	tor, s := leecher(t, g, data)
	tor.AddPeers(l.Addr())
	await(t, tor, g.Blob())
	done := make(chan error)
	go func() { done <- fetch(deadline(t), tor, s, g.Blob()) }()
	until(t, "the stall", func() bool { return l.Blocks() == 3 })
	conns := l.Conns()
	l.HangUp()
	if err := <-done; !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("fetch: %v, want ErrUnavailable", err)
	}
	until(t, "a new connection", func() bool { return l.Conns() > conns })
	await(t, tor, g.Blob())
}

// TestUnavailable refuses at once what nobody connected has, or what no root is trusted for.
func TestUnavailable(t *testing.T) {
	g := blob.GeometryFor(1 << 20)
	data := swarmtest.Random(g.Size, 11)
	tor, s := leecher(t, g, data)
	if err := fetch(deadline(t), tor, s, g.Blob()); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("no peer: %v", err)
	}

	a, b := newNode(t, swarm.Options{}), newNode(t, swarm.Options{})
	whole := seed(t, g, data)
	add(t, a, whole, blob.Hash{})
	bare := empty(t, g) // no roots
	tb := add(t, b, bare, blob.Hash{})
	var calls atomic.Int32
	cancel := tb.Changed(func() { calls.Add(1) })
	defer cancel()
	tb.AddPeers(a.Addr())
	until(t, "the peer", func() bool { ps := tb.Peers(); return len(ps) == 1 && !ps[0].Choking && ps[0].Pieces == 4 })
	if tb.Has(blob.Run{Count: 1}) || calls.Load() != 0 {
		t.Error("a piece without a trusted root counts as available")
	}
	if err := fetch(deadline(t), tb, bare, blob.Run{Count: 1}); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("no root: %v", err)
	}
	// The tracker names the root of piece 2.
	root, _ := whole.Root(2)
	if err := bare.SetRoot(2, root, blob.Claimed); err != nil {
		t.Fatal(err)
	}
	tb.RootsChanged()
	await(t, tb, g.PieceBlocks(2))
	until(t, "Changed", func() bool { return calls.Load() > 0 })
	if tb.Has(g.PieceBlocks(1)) || tb.Has(g.Blob()) {
		t.Error("pieces without a root count as available")
	}
	if err := fetch(deadline(t), tb, bare, g.PieceBlocks(2)); err != nil {
		t.Error(err)
	}
	for _, r := range []blob.Run{{}, {First: 64, Count: 1}, {First: 60, Count: 5}, {First: 1<<32 - 1, Count: 2}} {
		if tb.Has(r) {
			t.Errorf("Has(%s)", r)
		}
	}
	if err := fetch(deadline(t), tb, bare, blob.Run{First: 60, Count: 5}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("beyond the end: %v", err)
	}
}

// TestSinkErrors returns the receiver's own trouble as it is, and blames nobody for it.
func TestSinkErrors(t *testing.T) {
	g := blob.GeometryFor(4 << 20)
	data := swarmtest.Random(g.Size, 12)
	a := newNode(t, swarm.Options{})
	add(t, a, seed(t, g, data), blob.Hash{})
	for _, want := range []error{blob.ErrChanged, blob.ErrNoSpace, blob.ErrClosed} {
		tor, s := leecher(t, g, data)
		tor.AddPeers(a.Addr())
		await(t, tor, g.Blob())
		for _, class := range []blob.Class{blob.Fault, blob.Background} {
			k := swarmtest.NewSink(s, g.Blob())
			k.FailDone(func(r blob.Run) error {
				if r.Contains(100) {
					return fmt.Errorf("test: %w", want)
				}
				return nil
			})
			if err := tor.Fetch(blob.WithClass(deadline(t), class), g.Blob(), k); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
			k.Finish()
		}
		if n := banned(tor); n != 0 {
			t.Errorf("%v: %d peers banned", want, n)
		}
	}
}

// TestClose ends calls in progress, and is repeatable.
func TestClose(t *testing.T) {
	g := blob.GeometryFor(4 << 20)
	data := swarmtest.Random(g.Size, 13)
	l := liar(t, g, data, swarmtest.Lies{StallAfter: 1})
	for _, whole := range []bool{false, true} {
		s := empty(t, g)
		s.TakeRoots(seed(t, g, data), blob.Claimed)
		n := newNode(t, swarm.Options{})
		tor := add(t, n, s, blob.Hash{})
		tor.AddPeers(l.Addr())
		await(t, tor, g.Blob())
		done := make(chan error)
		go func() { done <- fetch(deadline(t), tor, s, g.Blob()) }()
		until(t, "a block", func() bool { return tor.Stats().Downloaded > 0 })
		for range 2 {
			if whole {
				n.Close()
			} else {
				tor.Close()
			}
		}
		if err := <-done; !errors.Is(err, blob.ErrClosed) {
			t.Errorf("fetch: %v, want ErrClosed", err)
		}
		if err := fetch(deadline(t), tor, s, g.Blob()); !errors.Is(err, blob.ErrClosed) {
			t.Errorf("fetch after: %v, want ErrClosed", err)
		}
		if ps := tor.Peers(); len(ps) != 0 {
			t.Errorf("peers after: %v", ps)
		}
		tor.AddPeers(l.Addr())
		tor.RootsChanged()
		if whole {
			if _, err := n.Add(swarm.Config{Keys: [][20]byte{key}, Store: s}); !errors.Is(err, blob.ErrClosed) {
				t.Errorf("add after: %v", err)
			}
		} else if tor2 := add(t, n, s, blob.Hash{}); tor2 == nil {
			t.Error("the key is still taken")
		}
	}
}

// TestListenErrors says what to do.
func TestListenErrors(t *testing.T) {
	n := newNode(t, swarm.Options{})
	for addr, class := range map[string]error{
		n.Addr().String(): blob.ErrUnavailable, "192.0.2.1:0": blob.ErrInvalid, "nonsense": blob.ErrInvalid,
	} {
		m, err := swarm.NewNode(swarm.Options{Listen: addr})
		if err == nil {
			m.Close()
		}
		if !errors.Is(err, class) || !bytes.Contains([]byte(fmt.Sprint(err)), []byte("--listen")) {
			t.Errorf("listen on %s: %v", addr, err)
		}
	}
	s := empty(t, blob.GeometryFor(1))
	add(t, n, s, blob.Hash{})
	for name, c := range map[string]swarm.Config{
		"same key": {Keys: [][20]byte{key}, Store: s}, "no key": {Store: s},
	} {
		if _, err := n.Add(c); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOtherKey reaches a peer that knows the blob only under the second of our keys.
func TestOtherKey(t *testing.T) {
	g := blob.GeometryFor(100_000)
	data := swarmtest.Random(g.Size, 14)
	a, b := newNode(t, swarm.Options{}), newNode(t, swarm.Options{})
	whole := seed(t, g, data)
	if _, err := a.Add(swarm.Config{Keys: [][20]byte{key}, Name: name, Store: whole}); err != nil {
		t.Fatal(err)
	}
	s := empty(t, g)
	s.TakeRoots(whole, blob.Claimed)
	tor, err := b.Add(swarm.Config{Keys: [][20]byte{{7}, key}, Name: name, Store: s})
	if err != nil {
		t.Fatal(err)
	}
	tor.AddPeers(a.Addr())
	await(t, tor, g.Blob())
}

// TestSlots serves more peers than there are slots, in turn.
func TestSlots(t *testing.T) {
	g := blob.GeometryFor(1 << 20)
	data := swarmtest.Random(g.Size, 15)
	a := newNode(t, swarm.Options{UploadSlots: 1})
	ta := add(t, a, seed(t, g, data), blob.Hash{})
	var tors []*swarm.Torrent
	var stores []*swarmtest.MemStore
	for range 2 {
		tor, s := leecher(t, g, data)
		tor.AddPeers(a.Addr())
		until(t, "connection", func() bool { return len(tor.Peers()) == 1 && tor.Peers()[0].Pieces == 4 })
		tors, stores = append(tors, tor), append(stores, s)
	}
	await(t, tors[0], g.Blob())
	if !tors[1].Peers()[0].Choking {
		t.Error("two peers are served with one slot")
	}
	// What somebody is blocked on is served all the same, and bulk has to wait.
	if err := fetch(deadline(t), tors[1], stores[1], blob.Run{First: 3, Count: 1}); err != nil {
		t.Fatal(err)
	}
	bulk := make(chan error, 1)
	go func() {
		bulk <- fetch(blob.WithClass(deadline(t), blob.Background), tors[1], stores[1], blob.Run{First: 8, Count: 8})
	}()
	select {
	case err := <-bulk:
		t.Errorf("bulk without a slot: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := fetch(deadline(t), tors[0], stores[0], g.Blob()); err != nil {
		t.Fatal(err)
	}
	if err := <-bulk; err != nil { // the first one is complete and needs its slot no more
		t.Error(err)
	}
	// The first one is complete and no longer interested, so the slot goes to the second.
	await(t, tors[1], g.Blob())
	if err := fetch(deadline(t), tors[1], stores[1], g.Blob()); err != nil {
		t.Fatal(err)
	}
	if n := len(ta.Peers()); n != 2 {
		t.Errorf("%d peers", n)
	}
}

// TestMaxPeers refuses connections beyond the bound.
func TestMaxPeers(t *testing.T) {
	g := blob.GeometryFor(1 << 20)
	data := swarmtest.Random(g.Size, 16)
	a := newNode(t, swarm.Options{MaxPeers: 2})
	ta := add(t, a, seed(t, g, data), blob.Hash{})
	for range 4 {
		tor, _ := leecher(t, g, data)
		tor.AddPeers(a.Addr())
	}
	until(t, "two peers", func() bool { return len(ta.Peers()) == 2 })
	for range 100 {
		if n := len(ta.Peers()); n > 2 {
			t.Fatalf("%d peers", n)
		}
	}
}

// TestOnBytes counts what goes over the wire on both sides, and TestUploadLimit's bound holds.
func TestOnBytes(t *testing.T) {
	g := blob.GeometryFor(2<<20 + 5)
	data := swarmtest.Random(g.Size, 17)
	var up, down atomic.Int64
	count := func(_ netip.AddrPort, d, u int) { down.Add(int64(d)); up.Add(int64(u)) }
	a, b := newNode(t, swarm.Options{OnBytes: count}), newNode(t, swarm.Options{OnBytes: count})
	add(t, a, seed(t, g, data), blob.Hash{})
	s := empty(t, g)
	s.TakeRoots(seed(t, g, data), blob.Claimed)
	tor := add(t, b, s, blob.Hash{})
	tor.AddPeers(a.Addr())
	await(t, tor, g.Blob())
	if err := fetch(deadline(t), tor, s, g.Blob()); err != nil {
		t.Fatal(err)
	}
	until(t, "the count of both", func() bool { return up.Load() == g.Size && down.Load() == g.Size })
}

// TestUploadLimit cannot be faster than the limit allows: 4 MiB at 8 MiB/s take 0.4 s at least, a burst of a
// tenth of a second aside.
func TestUploadLimit(t *testing.T) {
	g := blob.GeometryFor(4 << 20)
	data := swarmtest.Random(g.Size, 18)
	a := newNode(t, swarm.Options{UploadLimit: 8 << 20})
	add(t, a, seed(t, g, data), blob.Hash{})
	tor, s := leecher(t, g, data)
	tor.AddPeers(a.Addr())
	await(t, tor, g.Blob())
	start := time.Now()
	if err := fetch(blob.WithClass(deadline(t), blob.Background), tor, s, g.Blob()); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d < 390*time.Millisecond {
		t.Errorf("4 MiB took %s", d)
	}
}

// TestUrgentOvertakesBulk asks for single blocks while a slow seeder has 8 MiB of bulk to send: each comes
// before the bulk is done.
func TestUrgentOvertakesBulk(t *testing.T) {
	g := blob.GeometryFor(16 << 20)
	data := swarmtest.Random(g.Size, 19)
	a := newNode(t, swarm.Options{UploadLimit: 4 << 20})
	add(t, a, seed(t, g, data), blob.Hash{})
	tor, s := leecher(t, g, data)
	tor.AddPeers(a.Addr())
	await(t, tor, g.Blob())
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(blob.WithClass(deadline(t), blob.Background))
	go func() { done <- fetch(ctx, tor, s, blob.Run{Count: 512}) }()
	until(t, "bulk transfer", func() bool { return tor.Stats().Downloaded > 1<<20 })
	for i := range uint32(3) {
		if err := fetch(deadline(t), tor, s, blob.Run{First: 600 + 100*i, Count: 1}); err != nil {
			t.Fatal(err)
		}
	}
	stored, _ := s.Counts()
	if stored > 500 {
		t.Errorf("%d blocks of bulk came before three single ones", stored)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
