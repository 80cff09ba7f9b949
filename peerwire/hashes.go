package peerwire

import (
	"encoding/binary"

	"github.com/pantala/pantala/blob"
)

// hashRangeLen is the length in bytes of a HashRange on the wire.
const hashRangeLen = 32 + 4*4

// HashRange names hashes of a tree (BEP 52): Length of them from Index on, in the layer Base layers above the
// leaves, and the uncles in the layers above up to Base+Proof.
type HashRange struct {
	Root   blob.Hash // the "pieces root" of the file
	Base   uint32    // 0: leaves
	Index  uint32    // a multiple of Length
	Length uint32    // a power of two, 1..MaxHashes
	Proof  uint32    // layers above Base whose uncles are included; 0: none
}

// Uncles is the number of proof hashes that answer the range: the layers below log2(Length) follow from the
// base hashes themselves and need none.
func (r HashRange) Uncles() int {
	return max(0, int(r.Proof)-blob.Layer(r.Length)+1) * min(1, int(r.Proof))
}

func (r HashRange) check(id ID) error {
	// Foreign clients ask for a single hash in a file of one block; BEP 52 says ≥ 2 but nothing breaks.
	if r.Length == 0 || r.Length > MaxHashes || r.Length&(r.Length-1) != 0 {
		return malformed(id, "%d hashes, a power of two up to %d is allowed", r.Length, MaxHashes)
	}
	if r.Index%r.Length != 0 {
		return malformed(id, "index %d is not a multiple of %d hashes", r.Index, r.Length)
	}
	if r.Base > maxProof || r.Proof > maxProof {
		return malformed(id, "layers %d and %d above are outside a tree of %d", r.Base, r.Proof, maxProof)
	}
	return nil
}

func hashRange(b []byte) (r HashRange) {
	copy(r.Root[:], b)
	u := func(i int) uint32 { return binary.BigEndian.Uint32(b[32+4*i:]) }
	r.Base, r.Index, r.Length, r.Proof = u(0), u(1), u(2), u(3)
	return r
}

func appendHashRange(b []byte, id ID, r HashRange, extra int) []byte {
	b = append(frame(b, id, hashRangeLen+extra), r.Root[:]...)
	for _, v := range [...]uint32{r.Base, r.Index, r.Length, r.Proof} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// AppendHashRequest appends hash request (BEP 52).
func AppendHashRequest(b []byte, r HashRange) []byte { return appendHashRange(b, HashRequest, r, 0) }

// AppendHashReject appends hash reject (BEP 52).
func AppendHashReject(b []byte, r HashRange) []byte { return appendHashRange(b, HashReject, r, 0) }

// AppendHashes appends hashes (BEP 52): the Length base hashes, then the uncles, lowest first.
func AppendHashes(b []byte, r HashRange, base, uncles []blob.Hash) []byte {
	b = appendHashRange(b, Hashes, r, 32*(len(base)+len(uncles)))
	for i := range base {
		b = append(b, base[i][:]...)
	}
	for i := range uncles {
		b = append(b, uncles[i][:]...)
	}
	return b
}

func decodeHashes(m Message, b []byte) (Message, error) {
	if len(b) < hashRangeLen || (len(b)-hashRangeLen)%32 != 0 {
		return m, malformed(m.ID, "body of %d bytes is not a range and whole hashes", len(b))
	}
	m.Range, m.Data = hashRange(b), b[hashRangeLen:]
	if err := m.Range.check(m.ID); err != nil {
		return m, err
	}
	// A tree may be lower than the proof that was asked for, so fewer uncles are legitimate.
	if n := len(m.Data) / 32; n < int(m.Range.Length) || n > int(m.Range.Length)+m.Range.Uncles() {
		return m, malformed(m.ID, "%d hashes for a range of %d and at most %d uncles", n, m.Range.Length, m.Range.Uncles())
	}
	return m, nil
}

// CopyHashes copies the hashes in the body of a hashes message into dst and returns how many there were.
func CopyHashes(dst []blob.Hash, data []byte) int {
	n := min(len(dst), len(data)/32)
	for i := range n {
		copy(dst[i][:], data[32*i:])
	}
	return n
}
