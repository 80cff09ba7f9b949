package blob

import "fmt"

// BlockSize is the length in bytes of every block but a blob's last one: the request size of BEP 3, and
// the leaf of the hash tree of BEP 52.
const BlockSize = 16 << 10

// MaxSize is the largest blob, in bytes: block numbers are 32 bits.
const MaxSize = int64(1<<32-1) * BlockSize

// Run is Count consecutive blocks (or pieces, where a function says so), the first of which is First.
type Run struct {
	First, Count uint32
}

// End is the number after the last one of the run.
func (r Run) End() uint32 { return r.First + r.Count }

// Empty reports whether the run holds nothing.
func (r Run) Empty() bool { return r.Count == 0 }

// Contains reports whether block i lies in the run.
func (r Run) Contains(i uint32) bool { return i >= r.First && i-r.First < r.Count }

// Intersect is what both runs hold.
func (r Run) Intersect(o Run) Run {
	first, end := max(r.First, o.First), min(r.End(), o.End())
	if end <= first {
		return Run{}
	}
	return Run{first, end - first}
}

// String is "[first,end)".
func (r Run) String() string { return fmt.Sprintf("[%d,%d)", r.First, r.End()) }

// Geometry says how a blob of Size bytes is cut. PieceLength is a power of two ≥ BlockSize (BEP 52).
type Geometry struct {
	Size        int64
	PieceLength int64
}

// GeometryFor is the geometry that every node derives for a blob of size bytes when nobody prescribed
// another: see [PieceLengthFor].
func GeometryFor(size int64) Geometry { return Geometry{Size: size, PieceLength: PieceLengthFor(size)} }

// PieceLengthFor is the canonical piece length in bytes. It is part of a blob's infohash and of the plan
// protocol and must never change: 256 KiB up to 256 MiB, 1 MiB up to 16 GiB, 4 MiB above, which keeps the
// piece layer ≤ 512 KiB and the bitfield ≤ 2 KiB up to 64 GiB.
func PieceLengthFor(size int64) int64 {
	switch {
	case size <= 256<<20:
		return 256 << 10
	case size <= 16<<30:
		return 1 << 20
	default:
		return 4 << 20
	}
}

// Check returns ErrInvalid when the geometry is not one that can be stored or exchanged.
func (g Geometry) Check() error {
	if g.Size < 0 || g.Size > MaxSize {
		return fmt.Errorf("%w: blob size %d is outside 0..%d", ErrInvalid, g.Size, MaxSize)
	}
	if g.PieceLength < BlockSize || g.PieceLength > 1<<30 || g.PieceLength&(g.PieceLength-1) != 0 {
		return fmt.Errorf("%w: piece length %d is not a power of two between %d and %d", ErrInvalid, g.PieceLength, BlockSize, 1<<30)
	}
	return nil
}

// Blocks is the number of blocks; 0 for an empty blob.
func (g Geometry) Blocks() uint32 { return uint32((g.Size + BlockSize - 1) / BlockSize) }

// Pieces is the number of pieces; 0 for an empty blob.
func (g Geometry) Pieces() uint32 { return uint32((g.Size + g.PieceLength - 1) / g.PieceLength) }

// BlocksPerPiece is the number of blocks in every piece but possibly the last.
func (g Geometry) BlocksPerPiece() uint32 { return uint32(g.PieceLength / BlockSize) }

// PieceOf is the piece that holds a block.
func (g Geometry) PieceOf(block uint32) uint32 { return block / g.BlocksPerPiece() }

// PieceBlocks is the run of blocks of one piece.
func (g Geometry) PieceBlocks(piece uint32) Run {
	first := piece * g.BlocksPerPiece()
	return Run{first, min(g.BlocksPerPiece(), g.Blocks()-first)}
}

// PiecesOf is the run of pieces that a run of blocks touches.
func (g Geometry) PiecesOf(r Run) Run {
	if r.Count == 0 {
		return Run{}
	}
	first := g.PieceOf(r.First)
	return Run{first, g.PieceOf(r.End()-1) - first + 1}
}

// BlocksOf is the run of blocks of a run of pieces.
func (g Geometry) BlocksOf(pieces Run) Run {
	if pieces.Count == 0 {
		return Run{}
	}
	first := pieces.First * g.BlocksPerPiece()
	last := g.PieceBlocks(pieces.End() - 1)
	return Run{first, last.End() - first}
}

// Blob is the run of all blocks.
func (g Geometry) Blob() Run { return Run{0, g.Blocks()} }

// Bytes is the extent of a run of blocks: its offset in the blob and its length, both in bytes.
func (g Geometry) Bytes(r Run) (off, n int64) {
	off = int64(r.First) * BlockSize
	return off, min(int64(r.Count)*BlockSize, g.Size-off)
}

// BlockLen is the length in bytes of one block.
func (g Geometry) BlockLen(i uint32) int {
	return int(min(BlockSize, g.Size-int64(i)*BlockSize))
}

// Covering is the shortest run of blocks that holds the n bytes at off, clipped to the blob.
func (g Geometry) Covering(off, n int64) Run {
	if off < 0 || off >= g.Size || n <= 0 {
		return Run{}
	}
	end := off + min(n, g.Size-off)
	first := uint32(off / BlockSize)
	return Run{first, uint32((end+BlockSize-1)/BlockSize) - first}
}
