package swarm

import (
	"fmt"
	"sort"

	"github.com/pantala/pantala/blob"
)

// space is how the blocks and pieces of a torrent are numbered: the pieces of its files one after the other, each
// of PieceLength bytes, and in each BlocksPerPiece block numbers. A file of a v2 torrent begins with a piece of
// its own (BEP 52), so the numbers behind a file's last byte up to the next piece belong to no block: they are
// gaps, which a hybrid torrent fills with pad files (BEP 47) of zeros. A torrent of one file has none, and its
// numbers are those of the file's blob.
//
// It has the methods of blob.Geometry, with the same meaning, and is immutable.
type space struct {
	Size        int64 // from the first byte to the last one, gaps included
	PieceLength int64
	bpp         uint32
	pieces      uint32
	blocks      uint32   // the number after the last block
	files       []extent // that are not empty, in order
	v1          int64    // bytes of the space as v1 peers see it, pad files included; 0: they do not
}

// extent is where a file lies in a space.
type extent struct {
	first uint32 // its first piece
	end   uint32 // the piece after its last
	size  int64  // bytes
}

// newSpace lays files of these lengths, none of them empty, out in pieces.
func newSpace(pieceLength int64, sizes ...int64) (*space, error) {
	if pieceLength < blockSize || pieceLength%blockSize != 0 || pieceLength > 1<<30 {
		return nil, fmt.Errorf("%w: piece length %d: only multiples of %d up to %d can be exchanged: make the torrent again with another piece length",
			blob.ErrInvalid, pieceLength, blockSize, 1<<30)
	}
	s := &space{PieceLength: pieceLength, bpp: uint32(pieceLength / blockSize)}
	var pieces int64
	for _, n := range sizes {
		if n < 0 || n > blob.MaxSize {
			return nil, fmt.Errorf("%w: file of %d bytes, 0..%d can be exchanged", blob.ErrInvalid, n, blob.MaxSize)
		}
		first := pieces
		pieces += (n + pieceLength - 1) / pieceLength
		if pieces*int64(s.bpp) >= 1<<32 {
			return nil, fmt.Errorf("%w: a torrent of more than %d blocks", blob.ErrInvalid, int64(1)<<32-1)
		}
		if n > 0 || len(sizes) == 1 {
			s.files = append(s.files, extent{uint32(first), uint32(pieces), n})
			s.Size = first*pieceLength + n
		}
	}
	s.pieces = uint32(pieces)
	s.blocks = uint32((s.Size + blockSize - 1) / blockSize)
	return s, nil
}

// Blocks is the number after the last block.
func (s *space) Blocks() uint32 { return s.blocks }

// Pieces is the number of pieces.
func (s *space) Pieces() uint32 { return s.pieces }

// BlocksPerPiece is how many block numbers a piece has.
func (s *space) BlocksPerPiece() uint32 { return s.bpp }

// PieceOf is the piece that holds a block.
func (s *space) PieceOf(block uint32) uint32 { return block / s.bpp }

// fileOf is the index of the file that a piece belongs to.
func (s *space) fileOf(piece uint32) int {
	if len(s.files) == 1 {
		return 0
	}
	return sort.Search(len(s.files)-1, func(i int) bool { return s.files[i].end > piece })
}

// pieceLen is how many bytes of a file a piece holds.
func (s *space) pieceLen(piece uint32) int64 {
	f := s.files[s.fileOf(piece)]
	return min(s.PieceLength, f.size-int64(piece-f.first)*s.PieceLength)
}

// wireLen is how many bytes of a piece may be asked for: with the zeros of the pad file behind it where v1 peers
// see one.
func (s *space) wireLen(piece uint32) int64 {
	if s.v1 == 0 {
		return s.pieceLen(piece)
	}
	return max(s.pieceLen(piece), min(s.PieceLength, s.v1-int64(piece)*s.PieceLength))
}

// PieceBlocks is the run of blocks of one piece.
func (s *space) PieceBlocks(piece uint32) blob.Run {
	return blob.Run{First: piece * s.bpp, Count: uint32((s.pieceLen(piece) + blockSize - 1) / blockSize)}
}

// PiecesOf is the run of pieces that a run of blocks touches.
func (s *space) PiecesOf(r blob.Run) blob.Run {
	if r.Count == 0 {
		return blob.Run{}
	}
	first := s.PieceOf(r.First)
	return blob.Run{First: first, Count: s.PieceOf(r.End()-1) - first + 1}
}

// BlockLen is the length in bytes of one block; 0 in a gap.
func (s *space) BlockLen(block uint32) int {
	at := int64(block%s.bpp) * blockSize
	return int(max(0, min(blockSize, s.pieceLen(block/s.bpp)-at)))
}

// isBlock reports whether a number is that of a block.
func (s *space) isBlock(block uint32) bool { return block < s.blocks && s.BlockLen(block) > 0 }
