package blob_test

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
	gib = int64(1) << 30
	tib = int64(1) << 40
)

func TestPieceLengthFor(t *testing.T) {
	for _, c := range []struct{ size, want int64 }{
		{0, 256 * kib},
		{1, 256 * kib},
		{256 * mib, 256 * kib},
		{256*mib + 1, mib},
		{16 * gib, mib},
		{16*gib + 1, 4 * mib},
		{blob.MaxSize, 4 * mib},
	} {
		if got := blob.PieceLengthFor(c.size); got != c.want {
			t.Errorf("PieceLengthFor(%d) = %d, want %d", c.size, got, c.want)
		}
	}
	// What its comment promises of 64 GiB: a piece layer of at most 512 KiB, a bitfield of at most 2 KiB.
	g := blob.GeometryFor(64 * gib)
	if n := g.Pieces(); n*32 > 512<<10 || n/8 > 2<<10 {
		t.Errorf("64 GiB has %d pieces: its piece layer or bitfield is larger than promised", n)
	}
}

func TestGeometryCounts(t *testing.T) {
	for _, c := range []struct {
		g              blob.Geometry
		blocks, pieces uint32
		lastBlock      int
		lastPiece      blob.Run
	}{
		{blob.Geometry{Size: 1, PieceLength: 16 * kib}, 1, 1, 1, blob.Run{First: 0, Count: 1}},
		{blob.Geometry{Size: 16 * kib, PieceLength: 16 * kib}, 1, 1, 16384, blob.Run{First: 0, Count: 1}},
		{blob.Geometry{Size: 16*kib + 1, PieceLength: 16 * kib}, 2, 2, 1, blob.Run{First: 1, Count: 1}},
		{blob.GeometryFor(256 * kib), 16, 1, 16384, blob.Run{First: 0, Count: 16}},
		{blob.GeometryFor(256*kib + 1), 17, 2, 1, blob.Run{First: 16, Count: 1}},
		{blob.GeometryFor(gib), 65536, 1024, 16384, blob.Run{First: 65472, Count: 64}},
		{blob.GeometryFor(gib - 5), 65536, 1024, 16379, blob.Run{First: 65472, Count: 64}},
		{blob.GeometryFor(blob.MaxSize), math.MaxUint32, 1 << 24, 16384, blob.Run{First: math.MaxUint32 - 255, Count: 255}},
	} {
		if err := c.g.Check(); err != nil {
			t.Errorf("%+v: %v", c.g, err)
		}
		if got := c.g.Blocks(); got != c.blocks {
			t.Errorf("%+v has %d blocks, want %d", c.g, got, c.blocks)
		}
		if got := c.g.Pieces(); got != c.pieces {
			t.Errorf("%+v has %d pieces, want %d", c.g, got, c.pieces)
		}
		if got := c.g.BlockLen(c.blocks - 1); got != c.lastBlock {
			t.Errorf("%+v: last block of %d bytes, want %d", c.g, got, c.lastBlock)
		}
		if got := c.g.PieceBlocks(c.pieces - 1); got != c.lastPiece {
			t.Errorf("%+v: last piece is %v, want %v", c.g, got, c.lastPiece)
		}
	}
}

func TestEmptyBlob(t *testing.T) {
	g := blob.GeometryFor(0)
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	if g.Blocks() != 0 || g.Pieces() != 0 || !g.Blob().Empty() {
		t.Errorf("an empty blob has %d blocks, %d pieces, %v", g.Blocks(), g.Pieces(), g.Blob())
	}
	if r := g.Covering(0, 1); !r.Empty() {
		t.Errorf("Covering of an empty blob = %v", r)
	}
	if r := g.PiecesOf(blob.Run{}); !r.Empty() {
		t.Errorf("PiecesOf nothing = %v", r)
	}
	if r := g.BlocksOf(blob.Run{}); !r.Empty() {
		t.Errorf("BlocksOf nothing = %v", r)
	}
}

func TestGeometryCheck(t *testing.T) {
	for _, c := range []struct {
		g  blob.Geometry
		ok bool
	}{
		{blob.Geometry{Size: 0, PieceLength: 16 * kib}, true},
		{blob.Geometry{Size: blob.MaxSize, PieceLength: gib}, true},
		{blob.Geometry{Size: blob.MaxSize + 1, PieceLength: gib}, false},
		{blob.Geometry{Size: -1, PieceLength: 16 * kib}, false},
		{blob.Geometry{Size: 1, PieceLength: 0}, false},
		{blob.Geometry{Size: 1, PieceLength: 8 * kib}, false},
		{blob.Geometry{Size: 1, PieceLength: 48 * kib}, false},
		{blob.Geometry{Size: 1, PieceLength: 2 * gib}, false},
		{blob.Geometry{Size: 1, PieceLength: math.MinInt64}, false},
	} {
		err := c.g.Check()
		if (err == nil) != c.ok {
			t.Errorf("Check(%+v) = %v, want ok %v", c.g, err, c.ok)
		}
		if err != nil && !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("Check(%+v) = %v, not ErrInvalid", c.g, err)
		}
	}
}

func TestCovering(t *testing.T) {
	g := blob.GeometryFor(100_000) // 6 full blocks and 1696 bytes
	for _, c := range []struct {
		off, n int64
		want   blob.Run
	}{
		{0, 1, blob.Run{First: 0, Count: 1}},
		{0, 16384, blob.Run{First: 0, Count: 1}},
		{0, 16385, blob.Run{First: 0, Count: 2}},
		{16383, 2, blob.Run{First: 0, Count: 2}},
		{16384, 1, blob.Run{First: 1, Count: 1}},
		{99_999, 1, blob.Run{First: 6, Count: 1}},
		{99_999, 4096, blob.Run{First: 6, Count: 1}},
		{100_000, 1, blob.Run{}},
		{5, 0, blob.Run{}},
		{5, -1, blob.Run{}},
		{-1, 10, blob.Run{}},
		{20_000, math.MaxInt64, blob.Run{First: 1, Count: 6}},
		{math.MaxInt64, math.MaxInt64, blob.Run{}},
	} {
		if got := g.Covering(c.off, c.n); got != c.want {
			t.Errorf("Covering(%d, %d) = %v, want %v", c.off, c.n, got, c.want)
		}
	}
}

func TestRun(t *testing.T) {
	r := blob.Run{First: 3, Count: 4}
	if got := r.String(); got != "[3,7)" {
		t.Errorf("String() = %q", got)
	}
	for i, want := range []bool{3: true, 4: true, 5: true, 6: true, 7: false} {
		if got := r.Contains(uint32(i)); got != want {
			t.Errorf("%v.Contains(%d) = %v", r, i, got)
		}
	}
	last := blob.Run{First: math.MaxUint32 - 1, Count: 1}
	if !last.Contains(math.MaxUint32-1) || last.Contains(math.MaxUint32) || last.Contains(0) {
		t.Error("Contains is wrong at the end of the number range")
	}
	for _, c := range []struct{ a, b, want blob.Run }{
		{r, blob.Run{First: 0, Count: 3}, blob.Run{}},
		{r, blob.Run{First: 0, Count: 4}, blob.Run{First: 3, Count: 1}},
		{r, blob.Run{First: 5, Count: 9}, blob.Run{First: 5, Count: 2}},
		{r, blob.Run{First: 4, Count: 1}, blob.Run{First: 4, Count: 1}},
		{r, blob.Run{First: 7, Count: 9}, blob.Run{}},
		{r, blob.Run{First: 4}, blob.Run{}},
	} {
		if got := c.a.Intersect(c.b); got != c.want {
			t.Errorf("%v ∩ %v = %v, want %v", c.a, c.b, got, c.want)
		}
		if got := c.b.Intersect(c.a); got != c.want {
			t.Errorf("%v ∩ %v = %v, want %v", c.b, c.a, got, c.want)
		}
	}
}

// drawGeometry draws a blob that is not empty, small enough to walk block by block.
func drawGeometry(t *rapid.T) blob.Geometry {
	return blob.Geometry{
		Size:        rapid.Int64Range(1, 4*mib).Draw(t, "size"),
		PieceLength: int64(blob.BlockSize) << rapid.IntRange(0, 6).Draw(t, "blocks per piece (log2)"),
	}
}

// TestBlocksTile: blocks and pieces cover the blob without gap or overlap, and all conversions agree.
func TestBlocksTile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawGeometry(t)
		var at int64
		for i := range g.Blocks() {
			off, n := g.Bytes(blob.Run{First: i, Count: 1})
			if off != at || n != int64(g.BlockLen(i)) || n <= 0 {
				t.Fatalf("block %d is %d bytes at %d (BlockLen %d), want it at %d", i, n, off, g.BlockLen(i), at)
			}
			at += n
		}
		if at != g.Size {
			t.Fatalf("blocks end at %d of %d", at, g.Size)
		}
		next := uint32(0)
		for p := range g.Pieces() {
			r := g.PieceBlocks(p)
			if r.First != next || r.Empty() || r.Count > g.BlocksPerPiece() {
				t.Fatalf("piece %d is %v, want it to start at block %d", p, r, next)
			}
			if got := (blob.Run{First: p, Count: 1}); g.PiecesOf(r) != got || g.BlocksOf(got) != r {
				t.Fatalf("piece %d: PiecesOf(%v) = %v, BlocksOf back = %v", p, r, g.PiecesOf(r), g.BlocksOf(got))
			}
			if g.PieceOf(r.First) != p || g.PieceOf(r.End()-1) != p {
				t.Fatalf("PieceOf disagrees about %v of piece %d", r, p)
			}
			next = r.End()
		}
		if next != g.Blocks() {
			t.Fatalf("pieces end at block %d of %d", next, g.Blocks())
		}
		whole := blob.Run{Count: g.Pieces()}
		if g.BlocksOf(whole) != g.Blob() || g.PiecesOf(g.Blob()) != whole {
			t.Fatalf("BlocksOf(%v) = %v, PiecesOf(%v) = %v", whole, g.BlocksOf(whole), g.Blob(), g.PiecesOf(g.Blob()))
		}
	})
}

// TestCoveringIsShortest: the run holds every byte asked for, and neither its first nor its last block is idle.
func TestCoveringIsShortest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawGeometry(t)
		off := rapid.Int64Range(0, g.Size-1).Draw(t, "off")
		n := rapid.Int64Range(1, 2*g.Size).Draw(t, "n")
		r := g.Covering(off, n)
		end := min(off+n, g.Size)
		lo, length := g.Bytes(r)
		if lo > off || lo+length < end {
			t.Fatalf("%v spans [%d,%d), asked [%d,%d)", r, lo, lo+length, off, end)
		}
		if lo+int64(g.BlockLen(r.First)) <= off {
			t.Fatalf("first block of %v lies before %d", r, off)
		}
		if l, _ := g.Bytes(blob.Run{First: r.End() - 1, Count: 1}); l >= end {
			t.Fatalf("last block of %v lies behind %d", r, end)
		}
	})
}

// TestIntersectAgainstSets compares Intersect with membership, block by block.
func TestIntersectAgainstSets(t *testing.T) {
	run := rapid.Custom(func(t *rapid.T) blob.Run {
		return blob.Run{First: rapid.Uint32Range(0, 40).Draw(t, "first"), Count: rapid.Uint32Range(0, 40).Draw(t, "count")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := run.Draw(t, "a"), run.Draw(t, "b")
		var want, got []uint32
		for i := range uint32(100) {
			if a.Contains(i) && b.Contains(i) {
				want = append(want, i)
			}
			if a.Intersect(b).Contains(i) {
				got = append(got, i)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("%v ∩ %v: %s", a, b, d)
		}
	})
}
