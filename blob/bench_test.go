package blob_test

import (
	"crypto/sha256"
	"testing"

	"github.com/pantala/pantala/blob"
)

// BenchmarkLeaf beside BenchmarkSHA256: the hash of a block costs what SHA-256 of 16 KiB costs.
func BenchmarkLeaf(b *testing.B) {
	block := content(blob.BlockSize)
	b.SetBytes(blob.BlockSize)
	b.ReportAllocs()
	for b.Loop() {
		blob.Leaf(block)
	}
}

func BenchmarkSHA256(b *testing.B) {
	block := content(blob.BlockSize)
	b.SetBytes(blob.BlockSize)
	for b.Loop() {
		sha256.Sum256(block)
	}
}

// BenchmarkLeaves is the leaves of a full buffer, what a Put of a sequential download hashes: sixteen blocks at
// once where the processor can, beside the same one by one.
func BenchmarkLeaves(b *testing.B) {
	data, leaves := content(blob.MaxBuffer*blob.BlockSize), make([]blob.Hash, blob.MaxBuffer)
	b.Run("leaves", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			blob.Leaves(leaves, data)
		}
	})
	b.Run("sha256", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			for i := range leaves {
				leaves[i] = sha256.Sum256(data[i*blob.BlockSize : (i+1)*blob.BlockSize])
			}
		}
	})
}

// BenchmarkPieceRoot folds the 64 leaves of a piece of 1 MiB; the rate is that of the bytes they stand for.
func BenchmarkPieceRoot(b *testing.B) {
	g, leaves := blob.GeometryFor(gib), someLeaves(64)
	b.SetBytes(g.PieceLength)
	b.ReportAllocs()
	for b.Loop() {
		g.PieceRoot(leaves)
	}
}

// BenchmarkRoot folds the piece layer of a blob of 64 GiB, 16384 pieces.
func BenchmarkRoot(b *testing.B) {
	g := blob.GeometryFor(64 * gib)
	roots := someLeaves(int(g.Pieces()))
	b.ReportAllocs()
	for b.Loop() {
		g.Root(roots)
	}
}

// BenchmarkCovering is what every FUSE READ pays to find its blocks.
func BenchmarkCovering(b *testing.B) {
	g := blob.GeometryFor(gib)
	b.ReportAllocs()
	var off int64
	for b.Loop() {
		g.Covering(off, 131072)
		off = (off + 4096*1021) % (gib - 131072)
	}
}

func BenchmarkProofRoot(b *testing.B) {
	row := someLeaves(1024)
	proof, err := blob.Prove(row, 0, 1024, 777, 1, 10)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := blob.ProofRoot(row[777:778], 777, proof); err != nil {
			b.Fatal(err)
		}
	}
}
