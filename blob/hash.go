package blob

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/bits"
)

// Hash is a SHA-256 sum: a leaf, an inner node or a root of the tree of BEP 52.
type Hash [32]byte

// String is 64 hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero reports whether h is the all-zero hash, which BEP 52 uses for leaves beyond the end of a file.
func (h Hash) IsZero() bool { return h == Hash{} }

// ParseHash reads 64 hexadecimal digits.
func ParseHash(s string) (h Hash, err error) {
	if len(s) != 2*len(h) {
		return h, fmt.Errorf("%w: %q is not a SHA-256 sum (64 hexadecimal digits)", ErrInvalid, s)
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return Hash{}, fmt.Errorf("%w: %q is not a SHA-256 sum: %v", ErrInvalid, s, err)
	}
	return h, nil
}

// Leaf is the hash of one block; a short last block is hashed as it is, without padding (BEP 52).
func Leaf(block []byte) Hash { return sha256.Sum256(block) }

// pair is the parent of two nodes.
func pair(l, r *Hash) Hash {
	var b [64]byte
	copy(b[:32], l[:])
	copy(b[32:], r[:])
	return sha256.Sum256(b[:])
}

// pads[k] is the root of a subtree of 2^k zero leaves.
var pads = func() (p [33]Hash) {
	for k := 1; k < len(p); k++ {
		p[k] = pair(&p[k-1], &p[k-1])
	}
	return p
}()

// Pad is the root of a subtree of 1<<layer zero leaves: what stands at that layer beyond the end of a file.
func Pad(layer int) Hash { return pads[layer] }

// Layer is log2 of a power of two: the height of the layer at which one node covers n leaves.
func Layer(n uint32) int { return bits.TrailingZeros32(n) }

// Width is the smallest power of two ≥ n, at least 1.
func Width(n uint32) uint32 {
	if n <= 1 {
		return 1
	}
	return 1 << bits.Len32(n-1)
}

// Fold is the root over nodes that stand at height layer, padded on the right to width nodes (a power of
// two ≥ len(nodes)) with the pad of that layer. It allocates once.
func Fold(nodes []Hash, layer int, width uint32) Hash {
	if len(nodes) == 0 {
		return pads[layer+Layer(width)]
	}
	row := append(make([]Hash, 0, len(nodes)+1), nodes...)
	for w := width; w > 1; w /= 2 {
		if len(row)%2 == 1 {
			row = append(row, pads[layer])
		}
		for i := 0; i < len(row); i += 2 {
			row[i/2] = pair(&row[i], &row[i+1])
		}
		row = row[:len(row)/2]
		layer++
	}
	return row[0]
}

// PieceRoot is the root of one piece from its leaves: a full subtree of BlocksPerPiece leaves, zero leaves
// beyond the end, as it stands in the "piece layers" of BEP 52.
func (g Geometry) PieceRoot(leaves []Hash) Hash { return Fold(leaves, 0, g.BlocksPerPiece()) }

// Root is the "pieces root" of BEP 52 of the whole blob from its piece roots. A blob of one piece is a tree
// over its own leaves only, so there it takes the leaves instead: see [Geometry.RootOfLeaves].
func (g Geometry) Root(pieceRoots []Hash) Hash {
	return Fold(pieceRoots, Layer(g.BlocksPerPiece()), Width(g.Pieces()))
}

// RootOfLeaves is the "pieces root" of BEP 52 from all leaves.
func (g Geometry) RootOfLeaves(leaves []Hash) Hash {
	return Fold(leaves, 0, Width(g.Blocks()))
}

// ProofRoot climbs from nodes, an aligned power of two of siblings that start at index in their layer,
// through the uncle hashes in proof (lowest first, BEP 52 "hashes") to the node they lead to.
func ProofRoot(nodes []Hash, index uint32, proof []Hash) (Hash, error) {
	n := uint32(len(nodes))
	if n == 0 || n&(n-1) != 0 || index%n != 0 {
		return Hash{}, fmt.Errorf("%w: %d hashes at index %d are not an aligned subtree", ErrInvalid, n, index)
	}
	at, h := index/n, Fold(nodes, 0, n)
	for i := range proof {
		if at&1 == 0 {
			h = pair(&h, &proof[i])
		} else {
			h = pair(&proof[i], &h)
		}
		at /= 2
	}
	return h, nil
}

// Prove returns the uncle hashes that [ProofRoot] needs to climb from the aligned subtree of n nodes at
// index up by count layers. row is the complete row of nodes at height layer (without padding) of a tree
// that is width nodes wide there.
func Prove(row []Hash, layer int, width, index, n uint32, count int) ([]Hash, error) {
	if n == 0 || n&(n-1) != 0 || index%n != 0 || n > width || index > width-n {
		return nil, fmt.Errorf("%w: %d nodes at index %d are not an aligned subtree of a row of %d", ErrInvalid, n, index, width)
	}
	if count < 0 || count > Layer(width)-Layer(n) {
		return nil, fmt.Errorf("%w: proof of %d layers asked of a tree with %d above", ErrInvalid, count, Layer(width)-Layer(n))
	}
	proof := make([]Hash, 0, count)
	for range count {
		at := (index / n) ^ 1
		first, end := min(at*n, uint32(len(row))), min((at+1)*n, uint32(len(row)))
		proof = append(proof, Fold(row[first:end], layer, n))
		n *= 2
	}
	return proof, nil
}
