package blockio

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pantala/pantala/blob"
)

func TestSetRoot(t *testing.T) {
	h1, h2 := blob.Hash{1}, blob.Hash{2}
	type step struct {
		h    blob.Hash
		t    blob.Trust
		want error
	}
	for _, c := range []struct {
		name  string
		steps []step
		h     blob.Hash
		t     blob.Trust
	}{
		{"unknown", []step{{h1, blob.Unknown, blob.ErrInvalid}, {h1, blob.Built + 1, blob.ErrInvalid}}, blob.Hash{}, blob.Unknown},
		{"raised", []step{{h1, blob.Claimed, nil}, {h1, blob.Pinned, nil}}, h1, blob.Pinned},
		{"not lowered", []step{{h1, blob.Signed, nil}, {h1, blob.Claimed, nil}}, h1, blob.Signed},
		{"two claims", []step{{h1, blob.Claimed, nil}, {h2, blob.Claimed, blob.ErrCorrupt}}, h1, blob.Claimed},
		{"claim against better", []step{{h1, blob.Pinned, nil}, {h2, blob.Claimed, blob.ErrCorrupt}}, h1, blob.Pinned},
		{"better against claim", []step{{h1, blob.Claimed, nil}, {h2, blob.Pinned, nil}, {h1, blob.Claimed, blob.ErrCorrupt}}, h2, blob.Pinned},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, dir, Options{})
			b := openBlob(t, s, 1, small)
			for i, st := range c.steps {
				if err := b.SetRoot(5, st.h, st.t); !errors.Is(err, st.want) {
					t.Errorf("step %d: %v, want %v", i, err, st.want)
				}
			}
			for range 2 { // also after reopening
				if h, trust := b.Root(5); h != c.h || trust != c.t {
					t.Errorf("root %v of trust %v, want %v of %v", h, trust, c.h, c.t)
				}
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
				b = openBlob(t, s, 1, small)
			}
		})
	}
	s := openStore(t, t.TempDir(), Options{})
	b := openBlob(t, s, 1, small)
	if err := b.SetRoot(6, h1, blob.Claimed); !errors.Is(err, blob.ErrInvalid) {
		t.Error(err)
	}
}

// claimLie has a blob believe piece p of lie on a claim, with all its blocks.
func claimLie(t testing.TB, b *Blob, lie []byte, p uint32) {
	t.Helper()
	g := b.Geometry()
	r := g.PieceBlocks(p)
	if err := b.SetRoot(p, rootOf(lie, g, p), blob.Claimed); err != nil {
		t.Fatal(err)
	}
	if err := b.SetLeaves(p, leavesOf(part(lie, g, r))); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(r, part(lie, g, r), blob.Claimed); err != nil {
		t.Fatal(err)
	}
}

// Direct bytes win over a claim: the piece is empty but for them, and stays closed to claims, also after a
// restart.
func TestDispute(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	b := openBlob(t, s, 1, small)
	all, lie := content(small.Size, 1), content(small.Size, 2)
	claimLie(t, b, lie, 1)
	if !b.PieceComplete(1) {
		t.Fatal("not complete")
	}
	if err := b.Put(run(3, 3), part(all, small, run(3, 3)), blob.Direct); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := members(b.present); got != "000111000000000000000" {
			t.Errorf("present %s", got)
		}
		if n := verify(t, b, all); n != 3 || b.PieceComplete(1) {
			t.Error(n)
		}
		if diff := cmp.Diff([]uint32{1}, b.Disputed()); diff != "" {
			t.Error(diff)
		}
		if _, trust := b.Root(1); trust != blob.Unknown {
			t.Error("the claimed root is still there")
		}
		if err := b.SetRoot(1, rootOf(lie, small, 1), blob.Claimed); !errors.Is(err, blob.ErrCorrupt) {
			t.Error(err)
		}
		if s.used.Load() != b.Present() {
			t.Errorf("used %d, present %d", s.used.Load(), b.Present())
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = openBlob(t, s, 1, small)
	}
	putAll(t, b, all, 16, blob.Direct)
	if h, trust := b.Root(1); h != rootOf(all, small, 1) || trust != blob.Direct || !b.Complete() {
		t.Error("not direct in the end")
	}
}

// A Put that spans two disputed pieces drops both claims.
func TestDisputeTwice(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	b := openBlob(t, s, 1, small)
	all, lie := content(small.Size, 1), content(small.Size, 2)
	for p := range uint32(4) {
		claimLie(t, b, lie, p)
	}
	if err := b.Put(run(0, 16), part(all, small, run(0, 16)), blob.Direct); err != nil {
		t.Fatal(err)
	}
	if n := verify(t, b, all); n != 16 || len(b.Disputed()) != 4 {
		t.Error(n, b.Disputed())
	}
}

// Even a machine that loses power right after a dispute does not believe the lie again, though data and log
// may be of different times on its disk.
func TestDisputeAndPowerLoss(t *testing.T) {
	dir := t.TempDir()
	s := reboot(openStore(t, dir, Options{}), 1)
	b := openBlob(t, s, 1, small)
	all, lie := content(small.Size, 1), content(small.Size, 2)
	claimLie(t, b, lie, 1)
	if err := b.sync(); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(run(4, 1), part(all, small, run(4, 1)), blob.Direct); err != nil {
		t.Fatal(err)
	}
	// The direct block never reached the disk: its data is the lie again.
	if _, err := b.data.WriteAt(part(lie, small, run(4, 1)), 4*blob.BlockSize); err != nil {
		t.Fatal(err)
	}
	crash(s)
	s = reboot(openStore(t, dir, Options{}), 2)
	b = openBlob(t, s, 1, small)
	if n := verify(t, b, all); n != 0 {
		t.Error(n)
	}
}

func TestDropClaim(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	b := openBlob(t, s, 1, small)
	all := content(small.Size, 1)
	claimLie(t, b, all, 1) // no lie, but disputed all the same
	if err := b.Put(run(5, 1), part(all, small, run(5, 1)), blob.Direct); err != nil {
		t.Fatal(err)
	}
	putDirect := run(0, 4)
	if err := b.Put(putDirect, part(all, small, putDirect), blob.Direct); err != nil {
		t.Fatal(err)
	}
	b.DropClaim(1)
	b.DropClaim(0) // direct: stays
	b.DropClaim(99)
	if got := members(b.present); got != "111101000000000000000" {
		t.Errorf("present %s", got)
	}
	if _, ok := b.Leaves(1); ok {
		t.Error("the leaves are still there")
	}
	if err := b.Put(run(4, 1), part(all, small, run(4, 1)), blob.Claimed); !errors.Is(err, blob.ErrAbsent) {
		t.Error(err)
	}
}

// The origin delivers other bytes than it did before.
func TestChanged(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	b := openBlob(t, s, 1, small)
	all, other := content(small.Size, 1), content(small.Size, 2)
	if err := b.Put(run(2, 1), part(all, small, run(2, 1)), blob.Direct); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(run(0, 4), part(other, small, run(0, 4)), blob.Direct); !errors.Is(err, blob.ErrChanged) {
		t.Fatal(err)
	}
	if n := verify(t, b, all); n != 1 {
		t.Error("something of the other version was kept")
	}
}

// A root that came with a torrent outranks what the origin says.
func TestPinnedRoot(t *testing.T) {
	all, other := content(small.Size, 1), content(small.Size, 2)
	for _, c := range []struct {
		name string
		do   func(t *testing.T, b *Blob) error
		want error
		n    int
	}{
		{"right bytes", func(t *testing.T, b *Blob) error {
			return b.Put(run(4, 4), part(all, small, run(4, 4)), blob.Direct)
		}, nil, 4},
		{"wrong bytes are seen when the piece is complete", func(t *testing.T, b *Blob) error {
			if err := b.Put(run(4, 3), part(other, small, run(4, 3)), blob.Direct); err != nil {
				t.Fatal(err)
			}
			return b.Put(run(7, 1), part(other, small, run(7, 1)), blob.Direct)
		}, blob.ErrChanged, 0},
		{"or when the leaves come", func(t *testing.T, b *Blob) error {
			if err := b.Put(run(4, 1), part(other, small, run(4, 1)), blob.Direct); err != nil {
				t.Fatal(err)
			}
			if err := b.Put(run(5, 1), part(all, small, run(5, 1)), blob.Direct); err != nil {
				t.Fatal(err)
			}
			return b.SetLeaves(1, leavesOf(all)[4:8])
		}, nil, 1},
		{"or at once when the leaves are there", func(t *testing.T, b *Blob) error {
			if err := b.SetLeaves(1, leavesOf(all)[4:8]); err != nil {
				t.Fatal(err)
			}
			return b.Put(run(4, 2), part(other, small, run(4, 2)), blob.Direct)
		}, blob.ErrChanged, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openStore(t, t.TempDir(), Options{})
			b := openBlob(t, s, 1, small)
			if err := b.SetRoot(1, rootOf(all, small, 1), blob.Pinned); err != nil {
				t.Fatal(err)
			}
			if err := c.do(t, b); !errors.Is(err, c.want) {
				t.Fatal(err)
			}
			for range 2 {
				if n := verify(t, b, all); n != c.n {
					t.Errorf("%d blocks, want %d", n, c.n)
				}
				if _, trust := b.Root(1); trust != blob.Pinned {
					t.Error(trust)
				}
				if s.used.Load() != b.Present() {
					t.Errorf("used %d, present %d", s.used.Load(), b.Present())
				}
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
				b = openBlob(t, s, 1, small)
			}
			if err := b.SetLeaves(1, leavesOf(all)[4:8]); err != nil {
				t.Fatal(err)
			}
			if err := b.Put(run(4, 4), part(all, small, run(4, 4)), blob.Pinned); err != nil || !b.PieceComplete(1) {
				t.Error(err)
			}
		})
	}
}

// A better root for direct bytes that are complete: kept when they fold to it, dropped when not.
func TestBetterRootLater(t *testing.T) {
	all := content(small.Size, 1)
	s := openStore(t, t.TempDir(), Options{})
	b := openBlob(t, s, 1, small)
	putAll(t, b, all, 16, blob.Direct)
	if err := b.SetRoot(0, rootOf(all, small, 0), blob.Built); err != nil || !b.PieceComplete(0) {
		t.Error(err)
	}
	if err := b.SetRoot(1, blob.Hash{1}, blob.Built); err != nil || b.present.any(run(4, 4)) || b.Complete() {
		t.Error(err)
	}
	select {
	case <-b.Completed():
	default:
		t.Error("Completed was closed once and for all")
	}
}

// When all blocks of a claimed piece turn out to be direct, the computed root replaces the claim.
func TestClaimConfirmed(t *testing.T) {
	all, lie := content(small.Size, 1), content(small.Size, 2)
	s := openStore(t, t.TempDir(), Options{})
	b := openBlob(t, s, 1, small)
	for p, from := range map[uint32][]byte{0: all, 1: lie} {
		if err := b.SetRoot(p, rootOf(from, small, p), blob.Claimed); err != nil {
			t.Fatal(err)
		}
	}
	putAll(t, b, all, 16, blob.Direct)
	want := map[uint32]blob.Hash{}
	for p := range small.Pieces() {
		want[p] = rootOf(all, small, p)
	}
	if diff := cmp.Diff(want, maps.Collect(b.Roots(blob.Direct))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]uint32{1}, b.Disputed()); diff != "" {
		t.Error(diff)
	}
}

func TestRootsInOrder(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	b := openBlob(t, s, 1, small)
	for p, trust := range map[uint32]blob.Trust{5: blob.Claimed, 0: blob.Pinned, 3: blob.Direct} {
		if err := b.SetRoot(p, blob.Hash{byte(p)}, trust); err != nil {
			t.Fatal(err)
		}
	}
	for lowest, want := range map[blob.Trust][]uint32{blob.Claimed: {0, 3, 5}, blob.Direct: {0, 3}, blob.Signed: nil} {
		var got []uint32
		for p := range b.Roots(lowest) {
			got = append(got, p)
		}
		if !slices.Equal(got, want) {
			t.Errorf("from %v: %v, want %v", lowest, got, want)
		}
	}
	for p := range b.Roots(blob.Claimed) {
		if p != 0 {
			t.Error("went on after the break")
		}
		break
	}
}

// The short last piece may be given padded to a whole one, as BEP 52 sends it, but only with zeros.
func TestLeavesOfLastPiece(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	b := openBlob(t, s, 1, small)
	all := content(small.Size, 1)
	last := leavesOf(all)[20:]
	if err := b.SetRoot(5, rootOf(all, small, 5), blob.Claimed); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		leaves []blob.Hash
		want   error
	}{
		{nil, blob.ErrCorrupt},
		{append(slices.Clone(last), blob.Hash{1}), blob.ErrCorrupt},
		{append(slices.Clone(last), make([]blob.Hash, 4)...), blob.ErrCorrupt},
		{append(slices.Clone(last), make([]blob.Hash, 3)...), nil},
		{last, nil},
	} {
		if err := b.SetLeaves(5, c.leaves); !errors.Is(err, c.want) {
			t.Errorf("%d leaves: %v", len(c.leaves), err)
		}
	}
	got, ok := b.Leaves(5)
	if diff := cmp.Diff(last, got); !ok || diff != "" {
		t.Error(ok, diff)
	}
	if err := b.SetLeaves(6, last); !errors.Is(err, blob.ErrInvalid) {
		t.Error(err)
	}
	if err := b.Put(run(20, 1), part(all, small, run(20, 1)), blob.Claimed); err != nil || !b.PieceComplete(5) {
		t.Error(err)
	}
}
