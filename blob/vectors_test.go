package blob_test

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/pantala/pantala/blob"
)

// vectors are trees of the stream of [content], made by another implementation: libtorrent 2.0.8,
// create_torrent(v2_only) with pieces of 256 KiB, of a file called "sha256:<digest>". layer is the SHA-256 of the
// concatenated piece layer, infohash that of the info dictionary.
var vectors = []struct {
	size                          int64
	digest, root, layer, infohash string
	pieces                        int // 0: one piece, for which BEP 52 has no piece layer
}{
	{
		size:     1,
		digest:   "149488d869cbef080602a371ab0d39d97af103fb726aaeb02ccd36c06f494e5d",
		root:     "149488d869cbef080602a371ab0d39d97af103fb726aaeb02ccd36c06f494e5d",
		infohash: "6531b63b1842c7c42cb1b9ebe0eb3debfc537bec00400bd5fd17265e43174c90",
	},
	{
		size:     16383,
		digest:   "7176a60dab0bc6c82c5b2a5db279df47fb9da7bc5f7b33eeb5200bf427cb179b",
		root:     "7176a60dab0bc6c82c5b2a5db279df47fb9da7bc5f7b33eeb5200bf427cb179b",
		infohash: "de4498e8e9a6ab9764507de69e838e1a4f684b1ec43f44bafd0e332f32622517",
	},
	{
		size:     16384,
		digest:   "6c780253689e2fc41916753adaf8001957c88e0ab98358d4c031689c942b5d15",
		root:     "6c780253689e2fc41916753adaf8001957c88e0ab98358d4c031689c942b5d15",
		infohash: "636c15d99340c1b5623a3b0fad4fae4402ea8a2fb7a117fc81f41d119ff3f3c8",
	},
	{
		size:     16385,
		digest:   "d242b12aaf09be3ae24d48ffa64a5a544ea668de2526e6957ac84d19ad2a5065",
		root:     "63e2550a478970865ac08412f3b00f82190a055cd4cdf50cb9a25de341b82b07",
		infohash: "f3dd83ccea21f23c8a7c0f3c7989e5c2336ed3dabc5e4689e7b05d7a3a5d5ab5",
	},
	{
		size:     40000,
		digest:   "3254f05f1ed85a99f1760d5a868908a0eb9b6eda998c80d85cf082154790b946",
		root:     "820f182e94fb52cd86161b877f7c2e0fcea14c59065995cf532ef971dc1b518e",
		infohash: "84560d664135007e7470e38f3c08c816941ac750beebf41e7f8e6cf113bb1d14",
	},
	{
		size:     262143,
		digest:   "b81977c37d8b6dbb2e5c41baa8255e3e3e932328030c857d99489b89fb524c1f",
		root:     "b395be1e8d1c8e38ce6d9740757d4c80bd46a0c06fd961c4e97cb3996c8387a6",
		infohash: "8034a1dbb17cfc6fb4439f8799a970b127e68ab41919afa48eb7846ca911c706",
	},
	{
		size:     262144,
		digest:   "311a43e87b2cba93e86f66dd82d5b5ae14190e2a56defaadbaae664dbd2e054b",
		root:     "9ca760dae134ff8ca70df1df76e2235e70741d6b762f0194bda4cb5e324a7db9",
		infohash: "69b6e13dc4aea3190207765a35a1b5d0eeffa1e5e2b8307cef5e552a7e60334f",
	},
	{
		size:     262145,
		digest:   "e99d16fa03df91ffcdb2c756302bf59b7abb1e020dd20d2f28fe4bff37659774",
		root:     "e2d8f3a45cc2c2029b869edb98cbcf51a814985163b43904841bf3a7fbce2663",
		pieces:   2,
		layer:    "e2d8f3a45cc2c2029b869edb98cbcf51a814985163b43904841bf3a7fbce2663",
		infohash: "3afcc8eabebc3541251d3083cbdef95a22007899ba0fde7f8283071b52d3a3b8",
	},
	{
		size:     786432,
		digest:   "c49e1dc613fec9a0307b29be499fac477e90821057cb35871d6d49da0a31015d",
		root:     "a432f0bd3db03cc7ea91d65f9938116bbdb03845222e3dcb61d0188e2fa3f647",
		pieces:   3,
		layer:    "91b35fca86cfd203ab0986216daddf13e1e0fe9bc8d4aa8d85c3021cb12c2e9d",
		infohash: "dc71b1e098c2e3332f63b41520da01e419d0ce61558f3f9092cd957c5d64c1d5",
	},
	{
		size:     1327111,
		digest:   "2351632855e8924fe24f9e2e3af6c1613f67d282e54ee927a775fd82c0e79630",
		root:     "fe4795098704ae0d9b44796270e14dcf82ee1a6f452e1784505f95f070dc836b",
		pieces:   6,
		layer:    "b43ad029353864dc704c2bbc4871fce36f0b0d27685b19c8ceaac2318f3df5d4",
		infohash: "d3a6de78a7611496557ccb3971db6500e49fbce5bfc60e4605f2efb994c76f22",
	},
	{
		size:     1048576,
		digest:   "e537b29574c711ff5546c6b8a22bb04f49f66b062d1dfe4a439c7d01268792b8",
		root:     "a54a17bfdfaf297ec2d912c92ff447f0962850d0a23830c73200d65f1bebd64e",
		pieces:   4,
		layer:    "bc6784fb42e9d998d097fb80ffec779cb7434ac653c2824be9ac4717256ee573",
		infohash: "6d0a8657c080d31fb45b5fcd6f759f860c0d3a5552778fa0aa6b575b5b4c7b38",
	},
	{
		size:     4206649,
		digest:   "952931aa5621ae1ffa6078001f6639acab07e619d92969bde48ff12275199deb",
		root:     "9dc0d8eb2a4b129cb218d59e5e547a3bea30d9eb64cfdcb9d307e727d6304d62",
		pieces:   17,
		layer:    "72a6789e74dc48d5386251b16ce3b18542ce48fce8e37652e91c5650c40c0b51",
		infohash: "8db89503c8301eef41f538af49bf4fc468ae31f558b28219c867f082764f4bfd",
	},
}

// content is the first n bytes of a fixed stream: SHA-256 of a label and a 64-bit big-endian counter, for each counter.
func content(n int64) []byte {
	out := make([]byte, 0, n+sha256.Size)
	for k := uint64(0); int64(len(out)) < n; k++ {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("pantala test vector"), k))
		out = append(out, sum[:]...)
	}
	return out[:n]
}

// leavesOf hashes each block of data.
func leavesOf(data []byte) []blob.Hash {
	g := blob.GeometryFor(int64(len(data)))
	leaves := make([]blob.Hash, g.Blocks())
	for i := range leaves {
		off, n := g.Bytes(blob.Run{First: uint32(i), Count: 1})
		leaves[i] = blob.Leaf(data[off : off+n])
	}
	return leaves
}

// pieceRootsOf folds the leaves of each piece.
func pieceRootsOf(g blob.Geometry, leaves []blob.Hash) []blob.Hash {
	roots := make([]blob.Hash, g.Pieces())
	for p := range roots {
		r := g.PieceBlocks(uint32(p))
		roots[p] = g.PieceRoot(leaves[r.First:r.End()])
	}
	return roots
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		data := content(v.size)
		digest := blob.Hash(sha256.Sum256(data))
		if digest.String() != v.digest {
			t.Fatalf("%d: the test's content changed: digest %s, want %s", v.size, digest, v.digest)
		}
		g := blob.GeometryFor(v.size)
		leaves := leavesOf(data)
		root := g.RootOfLeaves(leaves)
		if root.String() != v.root {
			t.Errorf("%d: RootOfLeaves = %s, want %s", v.size, root, v.root)
		}
		if v.pieces > 0 {
			layer := pieceRootsOf(g, leaves)
			if len(layer) != v.pieces {
				t.Errorf("%d: piece layer of %d hashes, want %d", v.size, len(layer), v.pieces)
			}
			h := sha256.New()
			for i := range layer {
				h.Write(layer[i][:])
			}
			if got := blob.Hash(h.Sum(nil)).String(); got != v.layer {
				t.Errorf("%d: piece layer sums to %s, want %s", v.size, got, v.layer)
			}
			if got := g.Root(layer); got != root {
				t.Errorf("%d: Root of the piece layer = %s, RootOfLeaves = %s", v.size, got, root)
			}
		}
		if got := blob.InfoHash(blob.CanonicalInfo(digest, v.size, root)).String(); got != v.infohash {
			t.Errorf("%d: infohash %s, want %s", v.size, got, v.infohash)
		}
	}
}
