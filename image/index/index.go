package index

import (
	"crypto/sha256"
	"fmt"

	"lukechampine.com/blake3"

	"github.com/pantala/pantala/blob"
)

// Entry is one member of a layer's archive, as it stands there: names are neither cleaned nor interpreted, so a
// whiteout is an entry like any other. What they mean together is for image/tree to say.
type Entry struct {
	Name    string // raw bytes, perhaps not UTF-8
	Link    string // target of a symbolic link, name of the first entry of a hard link; raw bytes
	Type    byte   // typeflag of ustar: '0' file, '1' hard link, '2' symbolic link, '3' and '4' devices, '5' directory, '6' fifo; 's' socket
	Mode    uint32 // permissions, set-id and sticky bits: 07777
	UID     uint32 // 2^32-1, as in chown(2): as it was
	GID     uint32
	Size    int64 // of a file, in bytes, holes included
	Sec     int64 // modification time since 1970
	Nsec    uint32
	Major   uint32 // of a device
	Minor   uint32
	Xattrs  []Xattr  // sorted by name
	Extents []Extent // where the content of a file lies, by File; what none covers is a hole
}

// Xattr is an extended attribute with its full name ("user.x", "security.capability", …) and raw value.
type Xattr struct{ Name, Value string }

// Extent says that Length bytes of a file, from offset File on, lie at Device in the layer's address space.
type Extent struct {
	File, Device, Length int64
}

// ErrFormat is what the readers of formats (estargz, zstdchunked, soci) return for a layer that is of another: read it as
// a whole. Its class is blob.ErrNotFound.
var ErrFormat = fmt.Errorf("%w: a table of contents in this format", blob.ErrNotFound)

// Codec says how the stored bytes of a span become its decoded bytes.
type Codec uint8

const (
	Stored  Codec = iota // as they are
	Deflate              // gzip, RFC 1952, or a stretch of it
	Zstd                 // RFC 8878
	LZ4                  // a block of LZ4 (lz4_Block_format.md); only in indexes that are not given on
)

// DigestKind says what the digest of a span is of.
type DigestKind uint8

const (
	Merkle      DigestKind = iota // Root of the decoded bytes
	Chunk                         // SHA-256 of the decoded bytes: eStargz, zstd:chunked
	StoredChunk                   // SHA-256 of the stored bytes, all StoredLength of them: SOCI
	Blake3                        // BLAKE3 of the decoded bytes: Nydus; only in indexes that are not given on
)

// Span is a stretch of a layer that is decoded, and verified, as a whole. Spans follow each other without gaps in the
// address space, Device 0 first.
type Span struct {
	Device       int64 // offset of its first byte in the layer's address space
	Length       int64 // bytes of the address space: what is decoded, then Pad zeros
	Stored       int64 // offset of its first stored byte in the layer's blob
	StoredLength int64 // stored bytes that decoding may look at
	Skip         int64 // decoded bytes before those of the span, which belong to others
	Pad          int64 // zeros at its end, less than 2048: where chunks are laid out so that files begin at blocks
	Codec        Codec
	Bit          uint8  // see codec.Point
	Window       Window // what codec.Span needs beside the stored bytes
	Kind         DigestKind
	Digest       blob.Hash // of the decoded bytes, without Skip and Pad, or of the stored ones
}

// Decoded is how many bytes of the span come out of decoding: all but its padding.
func (s *Span) Decoded() int64 { return s.Length - s.Pad }

// Verify reports whether the digest matches. stored are StoredLength bytes, decoded the Decoded bytes behind Skip.
func (s *Span) Verify(stored, decoded []byte) bool {
	switch s.Kind {
	case Merkle:
		return Root(decoded) == s.Digest
	case Chunk:
		return sha256.Sum256(decoded) == s.Digest
	case StoredChunk:
		return sha256.Sum256(stored) == s.Digest
	case Blake3:
		return blake3.Sum256(decoded) == s.Digest
	}
	return false
}

// Window is an extent of the index file. Length 0: none is needed.
type Window struct{ Offset, Length int64 }

// Root is the digest of a span of an index of ours: the BEP 52 merkle root over its leaves of 16 KiB, counted from its first byte.
func Root(decoded []byte) blob.Hash {
	n := uint32((len(decoded) + blob.BlockSize - 1) / blob.BlockSize)
	leaves := make([]blob.Hash, n)
	blob.Leaves(leaves, decoded)
	return blob.Fold(leaves, 0, blob.Width(n))
}

// Facts are what an index says of its layer as a whole.
type Facts struct {
	Format string      // "gzip", "zstd", "tar", "estargz", "zstd:chunked", …
	Layer  blob.Hash   // SHA-256 of the stored blob: the digest of its descriptor (OCI image spec, descriptors)
	Stored int64       // its length in bytes
	DiffID blob.Hash   // SHA-256 of the uncompressed archive (OCI image spec, rootfs.diff_ids); zero: not known
	Size   int64       // length in bytes of the layer's address space: the sum of all spans
	Root   blob.Hash   // root of the stored blob (BEP 52, pieces root), by which its swarm is found; zero: not known
	Roots  []blob.Hash // piece roots of the stored blob in its canonical geometry, so that peers' bytes can be checked; nil: not known
}
