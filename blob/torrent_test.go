package blob_test

import (
	"testing"

	"github.com/anacrolix/torrent/bencode"
	"github.com/anacrolix/torrent/metainfo"

	"github.com/pantala/pantala/blob"
)

// TestCanonicalInfoParses: another implementation reads the info dictionary back, and writes the same bytes.
func TestCanonicalInfoParses(t *testing.T) {
	for _, size := range []int64{0, 1, 40_000, gib, blob.MaxSize} {
		digest, root := blob.Leaf([]byte("digest")), blob.Leaf([]byte("root"))
		raw := blob.CanonicalInfo(digest, size, root)
		var info metainfo.Info
		if err := bencode.Unmarshal(raw, &info); err != nil {
			t.Fatalf("%d bytes: %v in %q", size, err, raw)
		}
		name := "sha256:" + digest.String()
		if info.Name != name || info.PieceLength != blob.PieceLengthFor(size) || info.MetaVersion != 2 || !info.HasV2() || info.HasV1() {
			t.Errorf("%d bytes: read back as name %q, piece length %d, version %d", size, info.Name, info.PieceLength, info.MetaVersion)
		}
		file, ok := info.FileTree.Dir[name]
		if !ok || file.File.Length != size || info.FileTree.NumEntries() != 1 {
			t.Fatalf("%d bytes: file tree is %+v", size, info.FileTree)
		}
		if got := file.File.PiecesRoot; size > 0 && got != string(root[:]) || size == 0 && got != "" {
			t.Errorf("%d bytes: pieces root is %x", size, got)
		}
		// Decoded without a schema and encoded again it must be the same bytes: keys sorted, nothing trailing.
		var any map[string]any
		if err := bencode.Unmarshal(raw, &any); err != nil {
			t.Fatal(err)
		}
		again, err := bencode.Marshal(any)
		if err != nil {
			t.Fatal(err)
		}
		if string(again) != string(raw) {
			t.Errorf("%d bytes: not in canonical form:\n got %q\nwant %q", size, raw, again)
		}
	}
}

// TestCanonicalInfoNames: digest, size and root each give another infohash.
func TestCanonicalInfoNames(t *testing.T) {
	a, b := blob.Leaf([]byte("a")), blob.Leaf([]byte("b"))
	seen := map[blob.Hash]int{}
	for i, info := range [][]byte{blob.CanonicalInfo(a, 1, a), blob.CanonicalInfo(b, 1, a), blob.CanonicalInfo(a, 2, a), blob.CanonicalInfo(a, 1, b)} {
		h := blob.InfoHash(info)
		if j, ok := seen[h]; ok {
			t.Errorf("info dictionaries %d and %d have one infohash", i, j)
		}
		seen[h] = i
	}
}
