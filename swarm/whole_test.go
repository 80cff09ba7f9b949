package swarm_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

// sumsOf is what BEP 3 says of bytes.
func sumsOf(data []byte, pieceLength int64) *swarm.V1 {
	v1 := &swarm.V1{InfoHash: key, PieceLength: pieceLength, Length: int64(len(data))}
	for at := int64(0); at < v1.Length; at += pieceLength {
		v1.Sums = append(v1.Sums, sha1.Sum(data[at:min(at+pieceLength, v1.Length)]))
	}
	return v1
}

// unit is the largest power of two that divides a piece length.
func unit(pieceLength int64) int64 { return pieceLength & -pieceLength }

func addV1(t testing.TB, s *swarmtest.MemStore, v1 *swarm.V1) (*swarm.Torrent, *swarm.Node) {
	t.Helper()
	n := newNode(t, swarm.Options{})
	tor, err := n.Add(swarm.Config{Keys: [][20]byte{key}, Store: s, V1: v1})
	if err != nil {
		t.Fatal(err)
	}
	return tor, n
}

// TestV1 exchanges v1 torrents, of which nothing is known but the SHA-1 sums of their pieces, between two nodes.
func TestV1(t *testing.T) {
	for _, c := range []struct{ size, piece int64 }{
		{1, 16 << 10}, {blob.BlockSize, 256 << 10}, {100_000, 32 << 10}, {500_001, 48 << 10}, {1_000_003, 80 << 10},
		{3<<20 + 12345, 256 << 10}, {5<<20 + 1, 768 << 10}, {40<<20 + 5, 16 << 20},
	} {
		t.Run(fmt.Sprintf("size=%d/piece=%d", c.size, c.piece), func(t *testing.T) {
			g := blob.Geometry{Size: c.size, PieceLength: unit(c.piece)}
			data := swarmtest.Random(c.size, 31)
			v1 := sumsOf(data, c.piece)
			_, from := addV1(t, seed(t, g, data), v1)
			s := empty(t, g)
			tor, _ := addV1(t, s, v1)
			tor.AddPeers(from.Addr())
			await(t, tor, g.Blob())
			// A single block brings its piece, and only that.
			last := blob.Run{First: g.Blocks() - 1, Count: 1}
			if err := fetch(deadline(t), tor, s, last); err != nil {
				t.Fatal(err)
			}
			until(t, "the rest of the piece", func() bool { return s.PieceComplete(g.Pieces() - 1) })
			stored, _ := s.Counts()
			if rest := c.size % c.piece; rest == 0 && int64(stored)*blob.BlockSize < c.piece && c.size >= c.piece || int64(stored) > c.piece/blob.BlockSize {
				t.Errorf("%d blocks were stored for one", stored)
			}
			if err := fetch(blob.WithClass(deadline(t), blob.Background), tor, s, g.Blob()); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(s.Bytes(), data) || !s.Complete() {
				t.Error("bytes differ")
			}
			for p := range g.Pieces() {
				if _, trust := s.Root(p); trust != blob.Pinned {
					t.Errorf("root of piece %d is %s", p, trust)
				}
			}
			// Nothing is asked twice, but for what was in flight when its piece was complete.
			if down := tor.Stats().Downloaded; down > c.size+c.size/4 {
				t.Errorf("%d bytes came for %d", down, c.size)
			}
		})
	}
}

// TestV1Liar: of a piece nothing is published before all of it fits. A peer that alone sends wrong ones is banned.
func TestV1Liar(t *testing.T) {
	g := blob.GeometryFor(2 << 20)
	data := swarmtest.Random(g.Size, 32)
	v1 := sumsOf(data, g.PieceLength)
	l := liar(t, g, data, swarmtest.Lies{Corrupt: func(b uint32) bool { return b%16 == 15 }, NoLeaves: true})
	s := empty(t, g)
	tor, _ := addV1(t, s, v1)
	tor.AddPeers(l.Addr())
	await(t, tor, g.Blob())
	for p := range g.Pieces() {
		if !tor.Has(g.PieceBlocks(p)) {
			break // banned
		}
		if err := fetch(deadline(t), tor, s, blob.Run{First: g.PieceBlocks(p).First, Count: 1}); !errors.Is(err, blob.ErrUnavailable) {
			t.Fatalf("piece %d: %v, want ErrUnavailable", p, err)
		}
	}
	until(t, "ban", func() bool { return banned(tor) == 1 })
	if stored, _ := s.Counts(); stored != 0 {
		t.Errorf("%d blocks were stored", stored)
	}
}

// TestV1SmartBan finds the liar among several senders of a bad piece, and nobody else.
func TestV1SmartBan(t *testing.T) {
	g := blob.GeometryFor(8 << 20)
	data := swarmtest.Random(g.Size, 33)
	v1 := sumsOf(data, g.PieceLength)
	bad := liar(t, g, data, swarmtest.Lies{Corrupt: func(b uint32) bool { return true }})
	good := []*swarmtest.Liar{liar(t, g, data, swarmtest.Lies{}), liar(t, g, data, swarmtest.Lies{})}
	s := empty(t, g)
	tor, _ := addV1(t, s, v1)
	tor.AddPeers(bad.Addr(), good[0].Addr(), good[1].Addr())
	until(t, "three peers", func() bool { return serving(tor) == 3 })
	if err := fetch(blob.WithClass(deadline(t), blob.Background), tor, s, g.Blob()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(s.Bytes(), data) {
		t.Error("bytes differ")
	}
	for _, p := range tor.Peers() {
		if p.Banned && p.Addr != bad.Addr() {
			t.Errorf("%s was banned", p.Addr)
		}
	}
	// A wrong block in three pieces is enough; what it sent until then may have been in as few.
	if n := bad.Blocks(); n > 10*16 || n > 6*16 && banned(tor) == 0 {
		t.Errorf("the liar sent %d blocks; banned: %d", n, banned(tor))
	}
}

// serving is how many peers have everything and serve us.
func serving(tor *swarm.Torrent) (n int) {
	for _, p := range tor.Peers() {
		if !p.Choking && p.Pieces > 0 {
			n++
		}
	}
	return n
}

// TestNoLeaves gets pieces of a v2 torrent whose roots are pinned from peers that reject hash requests.
func TestNoLeaves(t *testing.T) {
	g := blob.GeometryFor(2<<20 + 4321)
	data := swarmtest.Random(g.Size, 34)
	whole := seed(t, g, data)
	for name, lies := range map[string][]swarmtest.Lies{
		"honest": {{NoLeaves: true}}, "wrong leaves": {{BadLeaves: true}}, "deaf": {{DeafLeaves: true}}, "one lies": {{NoLeaves: true, Corrupt: func(b uint32) bool { return b == 5 }}, {NoLeaves: true}},
	} {
		t.Run(name, func(t *testing.T) {
			s := empty(t, g)
			s.TakeRoots(whole, blob.Pinned)
			tor := add(t, newNode(t, swarm.Options{}), s, blob.Hash{})
			for _, l := range lies {
				tor.AddPeers(liar(t, g, data, l).Addr())
			}
			until(t, "peers", func() bool { return serving(tor) == len(lies) })
			if err := fetch(deadline(t), tor, s, blob.Run{First: 5, Count: 1}); err != nil {
				t.Fatal(err)
			}
			if err := fetch(blob.WithClass(deadline(t), blob.Background), tor, s, g.Blob()); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(s.Bytes(), data) {
				t.Error("bytes differ")
			}
			if len(lies) == 1 && banned(tor) != 0 {
				t.Error("the only peer, whose bytes are right, was banned")
			}
		})
	}
	// A claimed root is no reason to believe a whole piece.
	tor, s := leecher(t, g, data)
	tor.AddPeers(liar(t, g, data, swarmtest.Lies{NoLeaves: true}).Addr())
	await(t, tor, g.Blob())
	if err := fetch(deadline(t), tor, s, blob.Run{Count: 1}); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("claimed: %v", err)
	}
}

// TestV1Crowd reads the same pieces by many calls at once, some of which give up.
func TestV1Crowd(t *testing.T) {
	g := blob.GeometryFor(64 << 20)
	data := swarmtest.Random(g.Size, 35)
	v1 := sumsOf(data, 4<<20)
	g.PieceLength = 4 << 20
	_, a := addV1(t, seed(t, g, data), v1)
	_, b := addV1(t, seed(t, g, data), v1)
	s := empty(t, g)
	tor, _ := addV1(t, s, v1)
	tor.AddPeers(a.Addr(), b.Addr())
	await(t, tor, g.Blob())
	var wg sync.WaitGroup
	for i := range uint32(40) {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(blob.WithClass(deadline(t), blob.Class(i%4)))
			defer cancel()
			r := blob.Run{First: i * 97 % (g.Blocks() - 300), Count: 1 + i*7%300}
			if i%5 == 4 {
				go cancel()
			}
			if err := fetch(ctx, tor, s, r); err != nil && !(i%5 == 4 && errors.Is(err, context.Canceled)) {
				t.Errorf("call %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if err := fetch(deadline(t), tor, s, g.Blob()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(s.Bytes(), data) {
		t.Error("bytes differ")
	}
}

// TestHybridUpgrade meets under the v1 hash of a hybrid torrent and goes on as v2: leaves are asked for, and a
// single block comes alone.
func TestHybridUpgrade(t *testing.T) {
	g := blob.GeometryFor(1 << 20)
	data := swarmtest.Random(g.Size, 36)
	whole := seed(t, g, data)
	root := whole.TreeRoot()
	v1 := sumsOf(data, g.PieceLength)
	v1.InfoHash = [20]byte{7, 7}
	c := swarm.Config{Keys: [][20]byte{v1.InfoHash, key}, Name: root, Root: root, V1: v1, Store: whole}
	a, b := newNode(t, swarm.Options{}), newNode(t, swarm.Options{})
	if _, err := a.Add(c); err != nil {
		t.Fatal(err)
	}
	s := empty(t, g)
	c.Store = s
	tor, err := b.Add(c)
	if err != nil {
		t.Fatal(err)
	}
	tor.AddPeers(a.Addr())
	await(t, tor, g.Blob())
	if err := fetch(deadline(t), tor, s, blob.Run{First: 3, Count: 1}); err != nil {
		t.Fatal(err)
	}
	if down := tor.Stats().Downloaded; down != blob.BlockSize {
		t.Errorf("%d bytes came for one block", down)
	}
	// A peer that knows only v1 serves a whole piece.
	v1only := swarm.Config{Keys: [][20]byte{v1.InfoHash}, V1: v1, Store: whole}
	d := newNode(t, swarm.Options{})
	if _, err := d.Add(v1only); err != nil {
		t.Fatal(err)
	}
	e := newNode(t, swarm.Options{})
	s2 := empty(t, g)
	c.Store = s2
	tor2, err := e.Add(c)
	if err != nil {
		t.Fatal(err)
	}
	tor2.AddPeers(d.Addr())
	await(t, tor2, g.Blob())
	if err := fetch(deadline(t), tor2, s2, blob.Run{First: 3, Count: 1}); err != nil {
		t.Fatal(err)
	}
	until(t, "the piece", func() bool { return s2.PieceComplete(0) })
	if s2.PieceComplete(1) {
		t.Error("another piece came, too")
	}
}

// TestV1Refused says what cannot be exchanged.
func TestV1Refused(t *testing.T) {
	g := blob.Geometry{Size: 100_000, PieceLength: 16 << 10}
	s := empty(t, g)
	n := newNode(t, swarm.Options{})
	for name, change := range map[string]func(v *swarm.V1){
		"odd piece length": func(v *swarm.V1) { v.PieceLength = 20_000 },
		"sums missing":     func(v *swarm.V1) { v.Sums = v.Sums[1:] },
		"too short":        func(v *swarm.V1) { v.Length-- },
		"too long":         func(v *swarm.V1) { v.Length = 200_000 },
		"not a key":        func(v *swarm.V1) { v.InfoHash = [20]byte{8} },
		"huge pieces":      func(v *swarm.V1) { v.PieceLength, v.Sums = 64<<20, v.Sums[:1] },
	} {
		v := sumsOf(make([]byte, g.Size), 16<<10)
		change(v)
		if _, err := n.Add(swarm.Config{Keys: [][20]byte{key}, Store: s, V1: v}); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// narrow is a sink that lends two buffers at a time.
type narrow struct {
	*swarmtest.Sink
	free chan struct{}
}

func (n *narrow) Buffer(ctx context.Context, r blob.Run) ([]byte, error) {
	select {
	case n.free <- struct{}{}:
		return n.Sink.Buffer(ctx, r)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *narrow) Done(r blob.Run) error {
	defer func() { <-n.free }()
	return n.Sink.Done(r)
}

func (n *narrow) Drop(r blob.Run) {
	n.Sink.Drop(r)
	<-n.free
}

// TestV1LittleMemory gets pieces of 4 MiB, one and eight of which are wanted at the same time, through sinks that lend
// 512 KiB.
func TestV1LittleMemory(t *testing.T) {
	data := swarmtest.Random(32<<20, 37)
	v1 := sumsOf(data, 4<<20)
	g := blob.Geometry{Size: int64(len(data)), PieceLength: 4 << 20}
	_, from := addV1(t, seed(t, g, data), v1)
	s := empty(t, g)
	tor, _ := addV1(t, s, v1)
	tor.AddPeers(from.Addr())
	await(t, tor, g.Blob())
	free := make(chan struct{}, 2)
	var wg sync.WaitGroup
	for i := range uint32(8) {
		wg.Go(func() {
			r := blob.Run{First: i * 256, Count: 256}
			k := &narrow{swarmtest.NewSink(s, r), free}
			if err := tor.Fetch(blob.WithClass(deadline(t), blob.Background), r, k); err != nil {
				t.Error(err)
			}
			k.Finish()
		})
	}
	wg.Wait()
	if !bytes.Equal(s.Bytes(), data) {
		t.Error("bytes differ")
	}
	if down := tor.Stats().Downloaded; down > g.Size+g.Size/4 {
		t.Errorf("%d bytes came for %d", down, g.Size)
	}
}
