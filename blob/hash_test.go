package blob_test

import (
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/anacrolix/torrent/merkle"
	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

// naive is the tree as BEP 52 defines it, without any cleverness: the leaves, zero leaves up to width, and every
// layer above them up to the root.
func naive(leaves []blob.Hash, width uint32) [][]blob.Hash {
	row := make([]blob.Hash, width)
	copy(row, leaves)
	rows := [][]blob.Hash{row}
	for len(row) > 1 {
		above := make([]blob.Hash, len(row)/2)
		for i := range above {
			above[i] = sha256.Sum256(append(slices.Clone(row[2*i][:]), row[2*i+1][:]...))
		}
		rows, row = append(rows, above), above
	}
	return rows
}

// someLeaves are n distinct hashes.
func someLeaves(n int) []blob.Hash {
	l := make([]blob.Hash, n)
	for i := range l {
		l[i] = blob.Leaf([]byte{byte(i), byte(i >> 8)})
	}
	return l
}

func TestFoldAgainstNaive(t *testing.T) {
	for n := 0; n <= 130; n++ {
		leaves := someLeaves(n)
		for width := blob.Width(uint32(n)); width <= 256; width *= 2 {
			rows := naive(leaves, width)
			root := rows[len(rows)-1][0]
			if got := blob.Fold(leaves, 0, width); got != root {
				t.Fatalf("Fold(%d leaves, width %d) = %s, want %s", n, width, got, root)
			}
			// From any layer, given only the nodes above real leaves.
			for layer, row := range rows {
				kept := (n + 1<<layer - 1) >> layer
				if got := blob.Fold(row[:kept], layer, uint32(len(row))); got != root {
					t.Fatalf("Fold(%d nodes of layer %d, width %d) = %s, want %s", kept, layer, len(row), got, root)
				}
			}
		}
	}
}

func TestFoldLeavesItsInputAlone(t *testing.T) {
	leaves := someLeaves(13)
	before := slices.Clone(leaves)
	blob.Fold(leaves, 0, 16)
	if !slices.Equal(leaves, before) {
		t.Error("Fold changed the hashes it was given")
	}
	spare := append(make([]blob.Hash, 0, 32), leaves...)
	blob.Fold(spare, 0, 16)
	if got := spare[:14][13]; !got.IsZero() {
		t.Error("Fold wrote behind the hashes it was given")
	}
}

// TestFoldAgainstAnacrolix: another implementation of BEP 52, on whole contents.
func TestFoldAgainstAnacrolix(t *testing.T) {
	for _, size := range []int64{1, 16384, 16385, 5 * 16384, 262144, 262145, 1000003} {
		data := content(size)
		h := merkle.NewHash()
		if _, err := h.Write(data); err != nil {
			t.Fatal(err)
		}
		g := blob.GeometryFor(size)
		leaves := leavesOf(data)
		if got, want := g.RootOfLeaves(leaves), blob.Hash(h.Sum(nil)); got != want {
			t.Errorf("%d bytes: RootOfLeaves = %s, anacrolix says %s", size, got, want)
		}
		last := g.PieceBlocks(g.Pieces() - 1)
		off, _ := g.Bytes(last)
		h.Reset()
		if _, err := h.Write(data[off:]); err != nil {
			t.Fatal(err)
		}
		if got, want := g.PieceRoot(leaves[last.First:last.End()]), blob.Hash(h.SumMinLength(nil, int(g.PieceLength))); got != want {
			t.Errorf("%d bytes: root of the last piece = %s, anacrolix says %s", size, got, want)
		}
	}
}

// TestOnePieceBlob: BEP 52 roots a file of at most one piece over its own leaves, not over the padded piece.
func TestOnePieceBlob(t *testing.T) {
	g := blob.GeometryFor(40_000) // 3 blocks of 16
	leaves := leavesOf(content(40_000))
	rows := naive(leaves, 4)
	if got := g.RootOfLeaves(leaves); got != rows[2][0] {
		t.Errorf("root of 3 leaves = %s, want that of 4 wide, %s", got, rows[2][0])
	}
	rows = naive(leaves, 16)
	if got := g.PieceRoot(leaves); got != rows[4][0] {
		t.Errorf("piece root = %s, want that of 16 wide, %s", got, rows[4][0])
	}
	one := blob.GeometryFor(700)
	leaf := leavesOf(content(700))
	if got := one.RootOfLeaves(leaf); got != leaf[0] {
		t.Errorf("root of one block = %s, want its leaf %s", got, leaf[0])
	}
}

func TestPadAndWidth(t *testing.T) {
	if h := blob.Pad(0); !h.IsZero() {
		t.Errorf("Pad(0) = %s, want zeros", h)
	}
	for layer := 1; layer <= 10; layer++ {
		rows := naive(nil, 1<<layer)
		if got := blob.Pad(layer); got != rows[layer][0] {
			t.Errorf("Pad(%d) = %s, want %s", layer, got, rows[layer][0])
		}
		if got := blob.Fold(nil, 0, 1<<layer); got != rows[layer][0] {
			t.Errorf("Fold(nothing, width %d) = %s, want %s", 1<<layer, got, rows[layer][0])
		}
	}
	for _, c := range [][2]uint32{{0, 1}, {1, 1}, {2, 2}, {3, 4}, {4, 4}, {5, 8}, {1 << 20, 1 << 20}, {1<<20 + 1, 1 << 21}, {1 << 31, 1 << 31}} {
		if got := blob.Width(c[0]); got != c[1] {
			t.Errorf("Width(%d) = %d, want %d", c[0], got, c[1])
		}
	}
	if got := blob.Layer(1 << 17); got != 17 {
		t.Errorf("Layer(2^17) = %d", got)
	}
}

// TestProofRoundTrip proves every aligned subtree of small trees up to every height, and climbs back.
func TestProofRoundTrip(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5, 8, 11, 16} {
		width := blob.Width(uint32(n))
		leaves := someLeaves(n)
		rows := naive(leaves, width)
		for sub := uint32(1); sub <= width; sub *= 2 {
			for index := uint32(0); index < width; index += sub {
				above := blob.Layer(width) - blob.Layer(sub)
				for count := 0; count <= above; count++ {
					proof, err := blob.Prove(leaves, 0, width, index, sub, count)
					if err != nil {
						t.Fatalf("Prove(%d of %d at %d, %d up): %v", sub, n, index, count, err)
					}
					if len(proof) != count {
						t.Fatalf("proof of %d hashes, want %d", len(proof), count)
					}
					got, err := blob.ProofRoot(rows[0][index:index+sub], index, proof)
					layer := blob.Layer(sub) + count
					if want := rows[layer][index>>layer]; err != nil || got != want {
						t.Fatalf("%d leaves at %d of %d, %d up: %s, %v; want %s", sub, index, n, count, got, err, want)
					}
				}
			}
		}
	}
}

// TestProofOfPieceLayer: piece roots with uncles up to the blob's root, as BEP 52 "hashes" carries them, in the lower
// and the upper half of the tree and in its padding.
func TestProofOfPieceLayer(t *testing.T) {
	g := blob.GeometryFor(11*256*kib + 100) // 12 pieces: a row 16 wide
	leaves := leavesOf(content(g.Size))
	roots := pieceRootsOf(g, leaves)
	layer, width := blob.Layer(g.BlocksPerPiece()), blob.Width(g.Pieces())
	want := g.RootOfLeaves(leaves)
	padded := slices.Clone(roots)
	for uint32(len(padded)) < width {
		padded = append(padded, blob.Pad(layer))
	}
	for _, c := range []struct{ index, n uint32 }{{0, 4}, {4, 4}, {8, 4}, {12, 4}, {15, 1}, {10, 2}, {8, 8}, {0, 16}} {
		count := blob.Layer(width) - blob.Layer(c.n)
		proof, err := blob.Prove(roots, layer, width, c.index, c.n, count)
		if err != nil {
			t.Fatalf("Prove(%d at %d): %v", c.n, c.index, err)
		}
		if got, err := blob.ProofRoot(padded[c.index:c.index+c.n], c.index, proof); err != nil || got != want {
			t.Errorf("%d pieces at %d lead to %s, %v; want %s", c.n, c.index, got, err, want)
		}
	}
	// One piece by its leaves: fold to the piece root, then climb the piece layer (here in the upper half).
	const piece = 10
	r := g.PieceBlocks(piece)
	proof, err := blob.Prove(roots, layer, width, piece, 1, blob.Layer(width))
	if err != nil {
		t.Fatal(err)
	}
	got, err := blob.ProofRoot([]blob.Hash{g.PieceRoot(leaves[r.First:r.End()])}, piece, proof)
	if err != nil || got != want {
		t.Errorf("leaves of piece %d lead to %s, %v; want %s", piece, got, err, want)
	}
}

func TestProofRejects(t *testing.T) {
	row := someLeaves(8)
	for _, c := range []struct {
		name            string
		width, index, n uint32
		count           int
	}{
		{"no nodes", 8, 0, 0, 0},
		{"not a power of two", 8, 0, 3, 0},
		{"not aligned", 8, 1, 2, 1},
		{"beyond the row", 8, 8, 1, 1},
		{"wider than the row", 8, 0, 16, 0},
		{"end wraps around 32 bits", 8, 1<<32 - 4, 4, 1},
		{"above the root", 8, 0, 1, 4},
		{"negative count", 8, 0, 1, -1},
	} {
		if p, err := blob.Prove(row, 0, c.width, c.index, c.n, c.count); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("Prove, %s: %v, %v; want ErrInvalid", c.name, p, err)
		}
	}
	for _, c := range []struct {
		name  string
		nodes int
		index uint32
	}{{"no nodes", 0, 0}, {"not a power of two", 3, 0}, {"not aligned", 2, 1}, {"not aligned, large", 4, 1<<32 - 2}} {
		if h, err := blob.ProofRoot(someLeaves(c.nodes), c.index, nil); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("ProofRoot, %s: %s, %v; want ErrInvalid", c.name, h, err)
		}
	}
}

// TestBitFlips: one flipped bit anywhere (content, leaf, proof, or a wrong index) leads to another root.
func TestBitFlips(t *testing.T) {
	const size = 6*16384 + 777
	data := content(size)
	g := blob.Geometry{Size: size, PieceLength: 32 * kib}
	leaves := leavesOf(data)
	root := g.RootOfLeaves(leaves)
	for _, at := range []int{0, 1, 16383, 16384, 3*16384 + 5, 6 * 16384, size - 1} {
		for bit := range 8 {
			data[at] ^= 1 << bit
			if g.RootOfLeaves(leavesOf(data)) == root {
				t.Errorf("bit %d of byte %d does not change the root", bit, at)
			}
			data[at] ^= 1 << bit
		}
	}
	if g.RootOfLeaves(leavesOf(append(data[:size:size], 0))) == root {
		t.Error("a zero byte behind the end does not change the root")
	}
	const index = 5
	proof, err := blob.Prove(leaves, 0, 8, index, 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	lead := func() blob.Hash {
		h, err := blob.ProofRoot(leaves[index:index+1], index, proof)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if lead() != root {
		t.Fatal("the proof does not lead to the root")
	}
	for bit := range 256 {
		for _, h := range []*blob.Hash{&leaves[index], &proof[0], &proof[1], &proof[2]} {
			h[bit/8] ^= 1 << (bit % 8)
			if lead() == root {
				t.Errorf("bit %d of a hash does not change the root", bit)
			}
			h[bit/8] ^= 1 << (bit % 8)
		}
	}
	for wrong := range uint32(8) {
		h, err := blob.ProofRoot(leaves[index:index+1], wrong, proof)
		if err != nil {
			t.Fatal(err)
		}
		if (h == root) != (wrong == index) {
			t.Errorf("proof of leaf %d, read at index %d: leads to the root: %v", index, wrong, h == root)
		}
	}
}

// TestTreeProperties: for any blob, the piece layer, all leaves and a proof of any piece agree on one root.
func TestTreeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perPiece := 1 << rapid.IntRange(0, 5).Draw(t, "blocks per piece (log2)")
		n := rapid.IntRange(perPiece+1, 300).Draw(t, "blocks") // two pieces at least: one has no piece layer
		g := blob.Geometry{Size: int64(n) * blob.BlockSize, PieceLength: int64(perPiece) * blob.BlockSize}
		leaves := someLeaves(n)
		roots := pieceRootsOf(g, leaves)
		root := g.Root(roots)
		if got := g.RootOfLeaves(leaves); got != root {
			t.Fatalf("Root = %s, RootOfLeaves = %s", root, got)
		}
		width := blob.Width(g.Pieces())
		p := rapid.Uint32Range(0, g.Pieces()-1).Draw(t, "piece")
		proof, err := blob.Prove(roots, blob.Layer(g.BlocksPerPiece()), width, p, 1, blob.Layer(width))
		if err != nil {
			t.Fatal(err)
		}
		got, err := blob.ProofRoot(roots[p:p+1], p, proof)
		if err != nil || got != root {
			t.Fatalf("piece %d of %d leads to %s, %v; want %s", p, g.Pieces(), got, err, root)
		}
	})
}

func TestParseHash(t *testing.T) {
	h := blob.Leaf([]byte("pantala"))
	for _, s := range []string{h.String(), strings.ToUpper(h.String())} {
		if got, err := blob.ParseHash(s); err != nil || got != h {
			t.Errorf("ParseHash(%q) = %s, %v", s, got, err)
		}
	}
	good := h.String()
	for _, s := range []string{"", "00", good[:63], good + "0", good[:63] + "g", "g" + good[1:], strings.Repeat(" ", 64), strings.Repeat("é", 32)} {
		got, err := blob.ParseHash(s)
		if !errors.Is(err, blob.ErrInvalid) || !got.IsZero() {
			t.Errorf("ParseHash(%q) = %s, %v; want zero and ErrInvalid", s, got, err)
		}
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add(blob.Leaf(nil).String())
	f.Add("")
	f.Add("sha256:00")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := blob.ParseHash(s)
		if err != nil {
			if !errors.Is(err, blob.ErrInvalid) || !h.IsZero() {
				t.Fatalf("ParseHash(%q) = %s, %v", s, h, err)
			}
			return
		}
		if got := h.String(); got != strings.ToLower(s) {
			t.Fatalf("ParseHash(%q).String() = %q", s, got)
		}
	})
}

// FuzzTree compares Fold, Prove and ProofRoot with the naive tree for any shape.
func FuzzTree(f *testing.F) {
	f.Add(uint16(1), uint16(0), uint8(0))
	f.Add(uint16(300), uint16(257), uint8(3))
	f.Fuzz(func(t *testing.T, count, at uint16, up uint8) {
		n := int(count)%512 + 1
		leaves, width := someLeaves(n), blob.Width(uint32(n))
		rows := naive(leaves, width)
		if got := blob.Fold(leaves, 0, width); got != rows[len(rows)-1][0] {
			t.Fatalf("Fold of %d leaves differs", n)
		}
		index, layers := uint32(at)%width, int(up)%len(rows)
		proof, err := blob.Prove(leaves, 0, width, index, 1, layers)
		if err != nil {
			t.Fatal(err)
		}
		got, err := blob.ProofRoot(rows[0][index:index+1], index, proof)
		if err != nil || got != rows[layers][index>>layers] {
			t.Fatalf("leaf %d of %d, %d up: %s, %v", index, n, layers, got, err)
		}
	})
}

func TestHotPathAllocates(t *testing.T) {
	block := content(blob.BlockSize)
	full := content(blob.MaxBuffer*blob.BlockSize + 1)
	leaves := someLeaves(17)
	g := blob.GeometryFor(gib)
	var h blob.Hash
	var r blob.Run
	for _, c := range []struct {
		name string
		want float64
		f    func()
	}{
		{"Leaf", 0, func() { h = blob.Leaf(block) }},
		{"Leaves", 0, func() { blob.Leaves(leaves, full) }},
		{"PieceRoot", 1, func() { h = blob.GeometryFor(256 * kib).PieceRoot(leaves[:16]) }},
		{"Covering", 0, func() { r = g.Covering(12345678, 4096) }},
		{"Intersect", 0, func() { r = r.Intersect(g.PieceBlocks(7)) }},
	} {
		if got := testing.AllocsPerRun(100, c.f); got != c.want {
			t.Errorf("%s allocates %v times, want %v", c.name, got, c.want)
		}
	}
	_ = h
}
