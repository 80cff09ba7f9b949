package swarm

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

// spaceFor is a space that is known to be valid.
func spaceFor(pieceLength int64, sizes ...int64) *space {
	s, err := newSpace(pieceLength, sizes...)
	if err != nil {
		panic(err)
	}
	return s
}

// TestSpace lays files out: every block belongs to exactly one file and has its length, every piece too, and all
// bytes of all files are there once.
func TestSpace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.Int64Range(1, 300_000), 1, 8).Draw(t, "sizes")
		length := blockSize * rapid.Int64Range(1, 6).Draw(t, "blocks per piece")
		s := spaceFor(length, sizes...)
		var at uint32 // next piece
		seen := make(map[uint32]bool)
		for i, n := range sizes {
			var bytes int64
			pieces := uint32((n + length - 1) / length)
			for p := at; p < at+pieces; p++ {
				if s.fileOf(p) != i {
					t.Fatalf("piece %d is of file %d, want %d", p, s.fileOf(p), i)
				}
				run := s.PieceBlocks(p)
				if run.Empty() || s.PiecesOf(run) != (blob.Run{First: p, Count: 1}) {
					t.Fatalf("piece %d has blocks %s of pieces %s", p, run, s.PiecesOf(run))
				}
				var inPiece int64
				for b := run.First; b < run.End(); b++ {
					if seen[b] || !s.isBlock(b) || s.PieceOf(b) != p {
						t.Fatalf("block %d", b)
					}
					seen[b] = true
					inPiece += int64(s.BlockLen(b))
					r := blockRequest(s, b)
					if r.piece != p || r.piece*s.bpp+r.begin/blockSize != b || int(r.length) != s.BlockLen(b) {
						t.Fatalf("block %d is asked as %+v", b, r)
					}
				}
				if inPiece != s.pieceLen(p) {
					t.Fatalf("piece %d has %d bytes, want %d", p, inPiece, s.pieceLen(p))
				}
				bytes += inPiece
			}
			if bytes != n {
				t.Fatalf("file %d has %d bytes, want %d", i, bytes, n)
			}
			at += pieces
		}
		if at != s.Pieces() {
			t.Fatalf("%d pieces, want %d", s.Pieces(), at)
		}
		for b := range s.Pieces()*s.bpp + 1 {
			if s.isBlock(b) != seen[b] {
				t.Fatalf("block %d: %v", b, s.isBlock(b))
			}
		}
		if n := s.Blocks(); !s.isBlock(n-1) || s.isBlock(n) {
			t.Fatalf("%d blocks", n)
		}
		// The parts of a run within a file are legal and make it up.
		p := rapid.Uint32Range(0, s.Pieces()-1).Draw(t, "piece")
		f := s.files[s.fileOf(p)]
		r := blob.Run{First: s.PieceBlocks(p).First, Count: s.PieceBlocks(f.end-1).End() - s.PieceBlocks(p).First}
		next := r.First
		for _, part := range split(s, r, blob.MaxBuffer) {
			if part.First != next || part.Empty() || part.Count > blob.MaxBuffer || s.PiecesOf(part).Count != 1 {
				t.Fatalf("part %s of %s at %d", part, r, next)
			}
			next = part.End()
		}
		if next != r.End() {
			t.Fatalf("parts end at %d of %s", next, r)
		}
	})
}

// TestSpaceAsGeometry: a torrent of one file is numbered as its blob.
func TestSpaceAsGeometry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := blob.Geometry{Size: rapid.Int64Range(0, 1<<22).Draw(t, "size"), PieceLength: blockSize << rapid.IntRange(0, 4).Draw(t, "piece")}
		s := spaceFor(g.PieceLength, g.Size)
		if s.Blocks() != g.Blocks() || s.Pieces() != g.Pieces() || s.BlocksPerPiece() != g.BlocksPerPiece() || s.Size != g.Size {
			t.Fatalf("%+v of %+v", s, g)
		}
		for p := range g.Pieces() {
			if s.PieceBlocks(p) != g.PieceBlocks(p) {
				t.Fatalf("piece %d: %s, want %s", p, s.PieceBlocks(p), g.PieceBlocks(p))
			}
		}
		for b := range g.Blocks() {
			if s.BlockLen(b) != g.BlockLen(b) || s.PieceOf(b) != g.PieceOf(b) {
				t.Fatalf("block %d", b)
			}
		}
	})
}

// TestSpaceRefuses says what cannot be exchanged.
func TestSpaceRefuses(t *testing.T) {
	for _, length := range []int64{0, -1, 1 << 10, blockSize + 1, 100_000, 1<<30 + blockSize} {
		if _, err := newSpace(length, 1); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("piece length %d: %v", length, err)
		}
	}
	if _, err := newSpace(blockSize, blob.MaxSize, blob.MaxSize); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("too many blocks: %v", err)
	}
	if _, err := newSpace(blockSize, 1, -1); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("negative size: %v", err)
	}
	if s := spaceFor(blockSize, 10, 0, 10); len(s.files) != 2 || !slices.Equal([]int64{s.files[0].size, s.files[1].size}, []int64{10, 10}) {
		t.Errorf("an empty file among others: %+v", s)
	}
}
