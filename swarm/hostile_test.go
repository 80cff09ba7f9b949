package swarm

import (
	"errors"
	"io"
	"log/slog"
	"testing"

	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// hashStore keeps roots and leaves, as strictly as a store must.
type hashStore struct {
	Store
	geo    blob.Geometry
	roots  map[uint32]blob.Hash
	leaves map[uint32][]blob.Hash
}

func newHashStore(g blob.Geometry) *hashStore {
	return &hashStore{geo: g, roots: make(map[uint32]blob.Hash), leaves: make(map[uint32][]blob.Hash)}
}

func (s *hashStore) Geometry() blob.Geometry { return s.geo }

func (s *hashStore) Root(p uint32) (blob.Hash, blob.Trust) {
	if h, ok := s.roots[p]; ok {
		return h, blob.Pinned
	}
	return blob.Hash{}, blob.Unknown
}

func (s *hashStore) SetRoot(p uint32, h blob.Hash, _ blob.Trust) error {
	if old, ok := s.roots[p]; ok && old != h {
		return blob.ErrCorrupt
	}
	s.roots[p] = h
	return nil
}

func (s *hashStore) Leaves(p uint32) ([]blob.Hash, bool) { l, ok := s.leaves[p]; return l, ok }

func (s *hashStore) SetLeaves(p uint32, leaves []blob.Hash) error {
	if s.geo.PieceRoot(leaves) != s.roots[p] {
		return blob.ErrCorrupt
	}
	s.leaves[p] = leaves
	return nil
}

// TestHostileProofs: of hashes that lead to the root of the file, each in its place, every single changed bit, and
// every exchanged piece, is refused, and nothing of it is kept.
func TestHostileProofs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := blob.Geometry{
			Size:        rapid.Int64Range(2, 100).Draw(t, "blocks") * blockSize,
			PieceLength: blob.BlockSize << rapid.IntRange(0, 4).Draw(t, "piece"),
		}
		full := fakeStore{geo: g}
		for i := range g.Blocks() {
			full.leaves = append(full.leaves, blob.Hash{1, byte(i)})
		}
		root := g.RootOfLeaves(full.leaves)
		// The file is the second one of its torrent, so that places in the file differ from places in the torrent.
		torrent := func(s Store) *Torrent {
			c := Config{Files: []File{{newHashStore(blob.Geometry{Size: 1, PieceLength: g.PieceLength}), blob.Hash{7}}, {s, root}}}
			space, files, err := layOut(&c)
			if err != nil {
				t.Fatal(err)
			}
			tor := &Torrent{cfg: c, geo: space, files: files, log: slog.New(slog.NewTextHandler(io.Discard, nil)), named: make(map[blob.Hash]*file)}
			for _, f := range files {
				f.t = tor
				tor.named[f.root] = f
			}
			return tor
		}
		from := torrent(full)
		answer := func(to *Torrent, piece uint32) *leafTry {
			try := to.newTry(nil, piece, true)
			for i, r := range try.ranges {
				base, uncles, ok := from.lookup(r)
				if !ok {
					t.Fatalf("%+v rejected", r)
				}
				copy(try.hashes[r.Index-try.ranges[0].Index:], base)
				if i == 0 {
					try.uncles = uncles
				}
			}
			return try
		}
		piece := 1 + rapid.Uint32Range(0, g.Pieces()-1).Draw(t, "piece number")
		kept := newHashStore(g)
		to := torrent(kept)
		refused := func(try *leafTry, what string) {
			if _, err := to.acceptLeaves(try); err == nil || !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) {
				t.Fatalf("%s: %v", what, err)
			}
			if len(kept.leaves)+len(kept.roots) > 0 {
				t.Fatalf("%s: something was kept", what)
			}
		}
		bit := func(h *blob.Hash) {
			h[rapid.IntRange(0, 31).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		}
		bad := answer(to, piece)
		bit(&bad.hashes[rapid.IntRange(0, len(bad.hashes)-1).Draw(t, "hash")])
		refused(bad, "a bit of a hash")
		if bad = answer(to, piece); len(bad.uncles) > 0 {
			bit(&bad.uncles[rapid.IntRange(0, len(bad.uncles)-1).Draw(t, "uncle")])
			refused(bad, "a bit of an uncle")
			bad = answer(to, piece)
			bad.uncles = bad.uncles[:len(bad.uncles)-1]
			refused(bad, "an uncle less")
			bad = answer(to, piece)
			bad.uncles = append(bad.uncles, blob.Hash{})
			refused(bad, "an uncle more")
		}
		if other := 1 + rapid.Uint32Range(0, g.Pieces()-1).Draw(t, "other piece"); other != piece {
			bad, mine := answer(to, other), to.newTry(nil, piece, true)
			if bad.ranges[0] != mine.ranges[0] && len(bad.hashes) == len(mine.hashes) {
				bad.piece, bad.ranges = piece, mine.ranges
				refused(bad, "hashes of another piece")
			}
		}
		if _, err := to.acceptLeaves(answer(to, piece)); err != nil {
			t.Fatalf("the right ones: %v", err)
		}
		if got, ok := kept.leaves[piece-1]; !ok || g.PieceRoot(got) != kept.roots[piece-1] {
			t.Fatal("the right ones were not kept")
		}
	})
}

// TestHostileRanges asks for what does not exist: no panic, an answer is never longer than what was asked for,
// and nothing is answered about what lies elsewhere.
func TestHostileRanges(t *testing.T) {
	g := blob.Geometry{Size: 37*blockSize + 5, PieceLength: 4 * blockSize}
	full := fakeStore{geo: g}
	for i := range g.Blocks() {
		full.leaves = append(full.leaves, blob.Hash{1, byte(i)})
	}
	root := g.RootOfLeaves(full.leaves)
	c := Config{Files: []File{{full, root}, {full, blob.Hash{3}}}}
	_, files, err := layOut(&c)
	if err != nil {
		t.Fatal(err)
	}
	tor := &Torrent{cfg: c, named: map[blob.Hash]*file{root: files[0], {3}: files[1]}}
	rapid.Check(t, func(t *rapid.T) {
		edge := rapid.OneOf(rapid.Uint32Range(0, 64), rapid.SampledFrom([]uint32{1 << 31, 1<<32 - 1, 1<<32 - 512, 1 << 20}))
		r := peerwire.HashRange{
			Root: rapid.SampledFrom([]blob.Hash{root, {3}, {}, {9}}).Draw(t, "root"),
			Base: rapid.Uint32Range(0, 32).Draw(t, "base"), Length: 1 << rapid.IntRange(0, 9).Draw(t, "length"),
			Proof: rapid.Uint32Range(0, 32).Draw(t, "proof"),
		}
		r.Index = edge.Draw(t, "index") / r.Length * r.Length // the wire lets nothing else through
		base, uncles, ok := tor.lookup(r)
		if !ok {
			return
		}
		if len(base) != int(r.Length) || len(uncles) > r.Uncles() || r.Root != root && r.Root != (blob.Hash{3}) {
			t.Fatalf("%+v: %d hashes, %d uncles", r, len(base), len(uncles))
		}
		if r.Base == 0 && r.Index >= g.Blocks() || r.Base > 0 && (r.Base != 2 || r.Index >= g.Pieces()) {
			t.Fatalf("%+v is answered", r)
		}
		// The second file's root is not that of its leaves, so nothing can be proven about it.
		if r.Root == (blob.Hash{3}) && r.Uncles() > 2 {
			t.Fatalf("%+v: proven", r)
		}
	})
}
