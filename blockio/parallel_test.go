package blockio

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pantala/pantala/blob"
)

// Writers put overlapping runs, some direct, some from peers, some of them lying; claims come and are
// dropped; readers check whatever is present. In the end everything is there and right, every piece was
// reported, and the log tells the same.
func TestParallelPut(t *testing.T) {
	g := blob.Geometry{Size: 150*blob.BlockSize - 9, PieceLength: 8 * blob.BlockSize}
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	b := openBlob(t, s, 1, g)
	all := content(g.Size, 1)
	leaves := leavesOf(all)
	reported := make([]atomic.Int32, g.Pieces())
	defer b.OnPiece(func(p uint32) {
		if !b.PieceComplete(p) {
			t.Errorf("piece %d was reported and is not complete", p)
		}
		reported[p].Add(1)
	})()
	var readers, writers sync.WaitGroup
	stop := make(chan struct{})
	for w := range 3 {
		readers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 2))
			p := make([]byte, blob.BlockSize)
			for {
				select {
				case <-stop:
					return
				default:
				}
				i := rnd.Uint32N(g.Blocks())
				off, n := g.Bytes(run(i, 1))
				switch err := b.ReadAt(p[:n], off); {
				case err == nil && !bytes.Equal(p[:n], all[off:off+n]):
					t.Errorf("block %d is wrong", i)
					return
				case err != nil && !errors.Is(err, blob.ErrAbsent):
					t.Error(err)
					return
				}
				if l, ok := b.Leaves(g.PieceOf(i)); ok && !slices.Equal(l, leaves[g.PieceBlocks(g.PieceOf(i)).First:][:len(l)]) {
					t.Errorf("leaves of piece %d are wrong", g.PieceOf(i))
					return
				}
			}
		})
	}
	for w := range 6 {
		writers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			for range 300 {
				r := run(rnd.Uint32N(g.Blocks()), 1+rnd.Uint32N(blob.MaxBuffer)).Intersect(g.Blob())
				p := g.PieceOf(r.First)
				data := part(all, g, r)
				switch rnd.IntN(6) {
				case 0, 1: // the origin
					if err := b.Put(r, data, blob.Direct); err != nil {
						t.Error(err)
					}
				case 2: // an honest peer
					if err := b.Put(r, data, blob.Claimed); err != nil && !errors.Is(err, blob.ErrAbsent) {
						t.Error(err)
					}
				case 3: // a liar
					bad := bytes.Clone(data)
					bad[rnd.IntN(len(bad))] ^= 1
					if err := b.Put(r, bad, blob.Claimed); !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrAbsent) {
						t.Errorf("a lie: %v", err)
					}
				case 4:
					if err := b.SetRoot(p, g.PieceRoot(leaves[g.PieceBlocks(p).First:g.PieceBlocks(p).End()]), blob.Claimed); err != nil && !errors.Is(err, blob.ErrCorrupt) {
						t.Error(err)
					}
					if err := b.SetLeaves(p, leaves[g.PieceBlocks(p).First:g.PieceBlocks(p).End()]); err != nil && !errors.Is(err, blob.ErrAbsent) {
						t.Error(err)
					}
				case 5:
					if rnd.IntN(5) == 0 {
						b.DropClaim(p)
					} else if err := b.sync(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	putAll(t, b, all, 16, blob.Direct)
	<-b.Completed()
	if n := verify(t, b, all); n != int(g.Blocks()) || !b.Complete() {
		t.Errorf("%d blocks", n)
	}
	for p := range reported {
		if reported[p].Load() < 1 {
			t.Errorf("piece %d was not reported", p)
		}
	}
	if s.used.Load() != g.Size {
		t.Errorf("used %d, size %d", s.used.Load(), g.Size)
	}
	crash(s)
	b = openBlob(t, openStore(t, dir, Options{}), 1, g)
	if n := verify(t, b, all); n != int(g.Blocks()) || !b.Complete() {
		t.Errorf("%d blocks after a crash", n)
	}
}

// Two versions of the bytes race for the same blocks as direct: one wins each block, and its leaf fits.
func TestParallelConflict(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	b := openBlob(t, s, 1, small)
	versions := [][]byte{content(small.Size, 1), content(small.Size, 2)}
	var wg sync.WaitGroup
	for _, all := range versions {
		wg.Go(func() {
			for i := range small.Blocks() {
				if err := b.Put(run(i, 1), part(all, small, run(i, 1)), blob.Direct); err != nil && !errors.Is(err, blob.ErrChanged) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if !b.Complete() {
		t.Fatal("not complete")
	}
	got := make([]byte, small.Size)
	if err := b.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	for p := range small.Pieces() {
		leaves, ok := b.Leaves(p)
		r := small.PieceBlocks(p)
		if h, _ := b.Root(p); !ok || !slices.Equal(leaves, leavesOf(part(got, small, r))) || h != small.PieceRoot(leaves) {
			t.Errorf("piece %d: data, leaves and root do not fit", p)
		}
	}
}

// Opening, closing, removing and evicting from many goroutines.
func TestParallelOpenClose(t *testing.T) {
	g := blob.Geometry{Size: 4 * blob.BlockSize, PieceLength: 2 * blob.BlockSize}
	s := openStore(t, t.TempDir(), Options{Quota: 10 * blob.BlockSize})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 3))
			for range 60 {
				n := byte(rnd.IntN(5))
				b, err := s.Open(testID(n), g, Meta{})
				if err != nil {
					t.Error(err)
					return
				}
				all := content(g.Size, n)
				if err := b.Put(run(0, 4), all, blob.Direct); err != nil && !errors.Is(err, blob.ErrNoSpace) {
					t.Error(err)
				}
				got := make([]byte, blob.BlockSize)
				if err := b.ReadAt(got, 0); err == nil && !bytes.Equal(got, all[:blob.BlockSize]) {
					t.Error("wrong bytes")
				}
				s.List()
				if err := b.Close(); err != nil {
					t.Error(err)
				}
				if err := s.Remove(testID(n)); err != nil && !errors.Is(err, blob.ErrInvalid) && !errors.Is(err, blob.ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var sum int64
	for _, i := range s.List() {
		sum += i.Present
	}
	if u := s.Usage(); u.Bytes != sum {
		t.Errorf("used %d, present %d", u.Bytes, sum)
	}
}
