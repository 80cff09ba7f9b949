package swarm_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

// several is a torrent of several files in memory.
type several struct {
	piece int64
	data  [][]byte
	whole []*swarmtest.MemStore
	roots []blob.Hash
	v1    *swarm.V1
}

func newSeveral(t testing.TB, piece int64, hybrid bool, sizes ...int64) (f several) {
	f.piece = piece
	var space []byte
	for i, n := range sizes {
		d := swarmtest.Random(n, uint64(60+i))
		s := seed(t, blob.Geometry{Size: n, PieceLength: piece}, d)
		f.data, f.whole, f.roots = append(f.data, d), append(f.whole, s), append(f.roots, s.TreeRoot())
		space = append(space, make([]byte, (piece-int64(len(space))%piece)%piece)...)
		space = append(space, d...)
	}
	if hybrid {
		f.v1 = sumsOf(space, piece)
		f.v1.InfoHash = sha1.Sum(space)
	}
	return f
}

func (f several) join(t testing.TB, n *swarm.Node, stores []*swarmtest.MemStore) *swarm.Torrent {
	t.Helper()
	c := swarm.Config{Keys: [][20]byte{key}, V1: f.v1}
	if f.v1 != nil {
		c.Keys = append(c.Keys, f.v1.InfoHash)
	}
	for i, s := range stores {
		c.Files = append(c.Files, swarm.File{Store: s, Root: f.roots[i]})
	}
	tor, err := n.Add(c)
	if err != nil {
		t.Fatal(err)
	}
	return tor
}

func (f several) empty(t testing.TB) (stores []*swarmtest.MemStore) {
	for _, d := range f.data {
		stores = append(stores, empty(t, blob.Geometry{Size: int64(len(d)), PieceLength: f.piece}))
	}
	return stores
}

// get fetches from one file, again as long as nobody could deliver.
func (f several) get(ctx context.Context, tor *swarm.Torrent, stores []*swarmtest.MemStore, i int, r blob.Run) error {
	changed := make(chan struct{}, 1)
	defer tor.File(i).Changed(func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})()
	for {
		if tor.File(i).Has(r) {
			k := swarmtest.NewSink(stores[i], r)
			err := tor.File(i).Fetch(ctx, r, k)
			k.Finish()
			if !errors.Is(err, blob.ErrUnavailable) {
				return err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("file %d, blocks %s: %w", i, r, ctx.Err())
		}
	}
}

// TestFiles passes torrents of several files along three nodes, each of which knows only the one before: single
// blocks in any order first, then everything.
func TestFiles(t *testing.T) {
	for _, c := range []struct {
		piece int64
		sizes []int64
	}{
		{16 << 10, []int64{1, 16 << 10, 40_000}}, {64 << 10, []int64{700_001, 1, 64 << 10, 100_000, 3}},
		{256 << 10, []int64{5 << 20, 2<<20 + 1, 77}}, {1 << 20, []int64{10, 3 << 20}},
	} {
		for _, hybrid := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d/hybrid=%v", c.piece, hybrid), func(t *testing.T) {
				f := newSeveral(t, c.piece, hybrid, c.sizes...)
				prev := newNode(t, swarm.Options{})
				f.join(t, prev, f.whole)
				var wg sync.WaitGroup
				for range 3 {
					stores, n := f.empty(t), newNode(t, swarm.Options{})
					tor := f.join(t, n, stores)
					tor.AddPeers(prev.Addr())
					prev = n
					wg.Go(func() {
						ctx := deadline(t)
						var blocks [][2]uint32
						for i, s := range stores {
							for b := range s.Geometry().Blocks() {
								blocks = append(blocks, [2]uint32{uint32(i), b})
							}
						}
						rand.Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
						for _, b := range blocks[:min(len(blocks), 20)] {
							if err := f.get(ctx, tor, stores, int(b[0]), blob.Run{First: b[1], Count: 1}); err != nil {
								t.Error(err)
								return
							}
						}
						for i, s := range stores {
							if err := f.get(blob.WithClass(ctx, blob.Background), tor, stores, i, s.Geometry().Blob()); err != nil {
								t.Error(err)
								return
							}
							if !bytes.Equal(s.Bytes(), f.data[i]) {
								t.Errorf("file %d differs", i)
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

// TestFilesRefused says what a torrent of several files is not.
func TestFilesRefused(t *testing.T) {
	f := newSeveral(t, 64<<10, false, 100_000, 5)
	n := newNode(t, swarm.Options{})
	tor := f.join(t, n, f.whole)
	s := swarmtest.NewSink(f.whole[0], blob.Run{Count: 1})
	if err := tor.Fetch(deadline(t), blob.Run{Count: 1}, s); !errors.Is(err, blob.ErrInvalid) || tor.Has(blob.Run{Count: 1}) {
		t.Errorf("the torrent as one blob: %v", err)
	}
	if err := tor.File(1).Fetch(deadline(t), blob.Run{First: 1, Count: 1}, s); !errors.Is(err, blob.ErrInvalid) || tor.File(1).Has(blob.Run{First: 1, Count: 1}) {
		t.Errorf("beyond the end of a file: %v", err)
	}
	for name, files := range map[string][]swarm.File{
		"empty file":    {{Store: empty(t, blob.Geometry{PieceLength: 64 << 10})}, {Store: f.whole[0], Root: f.roots[0]}},
		"other lengths": {{Store: f.whole[0], Root: f.roots[0]}, {Store: empty(t, blob.GeometryFor(1))}},
	} {
		if _, err := n.Add(swarm.Config{Keys: [][20]byte{{4}}, Files: files}); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHybridContradicts has a v1 half with other bytes than the v2 half: one of them is believed, and the call says
// that the other is not.
func TestHybridContradicts(t *testing.T) {
	f := newSeveral(t, 64<<10, true, 64<<10, 300_000)
	other := newSeveral(t, 64<<10, true, 64<<10, 300_001)
	f.v1.Sums = slices.Clone(f.v1.Sums)
	f.v1.Sums[2] = other.v1.Sums[3]
	// A peer that knows only the v1 half has what it says there.
	v1only := newNode(t, swarm.Options{})
	space := append(bytes.Clone(f.data[0]), f.data[1]...)
	if _, err := v1only.Add(swarm.Config{Keys: [][20]byte{f.v1.InfoHash}, Store: seed(t, blob.Geometry{Size: int64(len(space)), PieceLength: f.piece}, space), V1: f.v1}); err != nil {
		t.Fatal(err)
	}
	stores := f.empty(t)
	tor := f.join(t, newNode(t, swarm.Options{}), stores)
	tor.AddPeers(v1only.Addr())
	r := blob.Run{First: 4, Count: 1} // in piece 1 of the second file, piece 2 of the torrent
	until(t, "Has", func() bool { return tor.File(1).Has(r) })
	k := swarmtest.NewSink(stores[1], r)
	defer k.Finish()
	if err := tor.File(1).Fetch(deadline(t), r, k); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("bytes that fit v2 only, from a v1 peer: %v", err)
	}
	if stored, _ := stores[1].Counts(); stored != 0 {
		t.Errorf("%d blocks were stored", stored)
	}
}
