package blockio

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/pantala/pantala/blob"
)

// content is size reproducible random bytes.
func content(size int64, seed byte) []byte {
	p := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

func openStore(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, blob.ErrClosed) {
			t.Error(err)
		}
	})
	return s
}

func testID(n byte) blob.ID { return blob.DigestID(blob.Hash{n, 0xee}) }

func openBlob(t testing.TB, s *Store, n byte, g blob.Geometry) *Blob {
	t.Helper()
	b, err := s.Open(testID(n), g, Meta{Source: "http://origin.example/x", Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// part is the bytes of a run of blocks.
func part(all []byte, g blob.Geometry, r blob.Run) []byte {
	off, n := g.Bytes(r)
	return all[off : off+n]
}

func run(first, count uint32) blob.Run { return blob.Run{First: first, Count: count} }

// putAll stores a whole blob in runs of at most step blocks.
func putAll(t testing.TB, b *Blob, all []byte, step uint32, trust blob.Trust) {
	t.Helper()
	g := b.Geometry()
	for first := uint32(0); first < g.Blocks(); first += step {
		r := run(first, step).Intersect(g.Blob())
		if err := b.Put(r, part(all, g, r), trust); err != nil {
			t.Fatal(err)
		}
	}
}

func leavesOf(all []byte) (out []blob.Hash) {
	for ; len(all) > 0; all = all[min(len(all), blob.BlockSize):] {
		out = append(out, blob.Leaf(all[:min(len(all), blob.BlockSize)]))
	}
	return out
}

func rootOf(all []byte, g blob.Geometry, p uint32) blob.Hash {
	return g.PieceRoot(leavesOf(part(all, g, g.PieceBlocks(p))))
}

var small = blob.Geometry{Size: 5<<16 + 777, PieceLength: 64 << 10} // 21 blocks, 6 pieces of 4, short last block and piece

func TestDirect(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	b := openBlob(t, s, 1, small)
	defer b.Close()
	all := content(small.Size, 1)
	var pieces []uint32
	defer b.OnPiece(func(p uint32) { pieces = append(pieces, p) })()
	putAll(t, b, all, 3, blob.Direct)
	if !b.Complete() || b.Present() != small.Size || !b.Has(small.Blob()) || len(pieces) != 6 {
		t.Fatalf("complete %v, present %d, pieces %v", b.Complete(), b.Present(), pieces)
	}
	<-b.Completed()
	got := make([]byte, small.Size)
	if err := b.ReadAt(got, 0); err != nil || !bytes.Equal(got, all) {
		t.Fatalf("read back: %v", err)
	}
	for p := range small.Pieces() {
		h, trust := b.Root(p)
		if h != rootOf(all, small, p) || trust != blob.Direct {
			t.Fatalf("root of piece %d: %v %v", p, h, trust)
		}
	}
}

func TestPeer(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	b := openBlob(t, s, 1, small)
	defer b.Close()
	all := content(small.Size, 1)
	r := run(0, 4)
	if err := b.Put(r, part(all, small, r), blob.Claimed); !errors.Is(err, blob.ErrAbsent) {
		t.Fatal(err)
	}
	leaves := leavesOf(all)
	if err := b.SetLeaves(0, leaves[:4]); !errors.Is(err, blob.ErrAbsent) {
		t.Fatal(err)
	}
	if err := b.SetRoot(0, rootOf(all, small, 0), blob.Claimed); err != nil {
		t.Fatal(err)
	}
	if err := b.SetLeaves(0, leaves[1:5]); !errors.Is(err, blob.ErrCorrupt) {
		t.Fatal(err)
	}
	if err := b.SetLeaves(0, leaves[:4]); err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(part(all, small, r))
	bad[2*blob.BlockSize]++
	if err := b.Put(r, bad, blob.Claimed); !errors.Is(err, blob.ErrCorrupt) {
		t.Fatal(err)
	}
	if b.Has(run(2, 1)) || !b.Has(run(0, 2)) || !b.Has(run(3, 1)) {
		t.Fatal("not exactly the good blocks were kept")
	}
	if err := b.Put(r, part(all, small, r), blob.Claimed); err != nil {
		t.Fatal(err)
	}
	if !b.PieceComplete(0) {
		t.Fatal("piece 0 is not complete")
	}
	if _, trust := b.Root(0); trust != blob.Claimed {
		t.Fatal(trust)
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	b := openBlob(t, s, 1, small)
	all := content(small.Size, 1)
	putAll(t, b, all, 16, blob.Direct)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, Options{})
	i, ok := s.Lookup(testID(1))
	if !ok || !i.Complete || i.Present != small.Size || i.Meta.Name != "x" {
		t.Fatalf("%+v", i)
	}
	b = openBlob(t, s, 1, small)
	defer b.Close()
	got := make([]byte, small.Size)
	if err := b.ReadAt(got, 0); err != nil || !bytes.Equal(got, all) || !b.Complete() {
		t.Fatalf("read back: %v", err)
	}
}
