package metainfo

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"

	"github.com/pantala/pantala/blob"
)

// Limits of what is read. A .torrent of 1 TiB in pieces of 4 MiB has 8 MiB of piece layers and, if it is a hybrid,
// 5 MiB of SHA-1 sums.
const (
	// MaxSize is the largest .torrent in bytes.
	MaxSize = 24 << 20
	// MaxInfo is the largest info dictionary in bytes.
	MaxInfo = 16 << 20
	// MaxFiles bounds the files of a torrent; about 200 bytes of memory each.
	MaxFiles = 100_000
	// MaxDepth is how many names a path may have.
	MaxDepth = 64
	// MaxPath is the longest path in bytes (PATH_MAX, limits.h).
	MaxPath = 4096
	// maxPieceLength is the largest piece in bytes; see [blob.Geometry.Check].
	maxPieceLength = 1 << 30
)

// Info is an info dictionary: what a torrent is made of, and what its infohashes are the hashes of.
type Info struct {
	// Name is the file's name, or that of the directory of all files; safe to use as a file name.
	Name        string
	PieceLength int64 // bytes
	// Private: peers may come from the torrent's own trackers only (BEP 27).
	Private bool
	// Single: the torrent is one file called Name, and not a directory of that name.
	Single bool
	// Files are in the order of the piece space, without pads.
	Files []File
	// Pieces are the SHA-1 sums of v1; nil without v1.
	Pieces [][20]byte
	HasV1  bool
	HasV2  bool
	// Length is that of the piece space in bytes, including pads between files.
	Length int64
	// V1Length is Length as v1 peers count it: that of a hybrid may end with a pad.
	V1Length int64
	// Raw is the dictionary as it was hashed.
	Raw        []byte
	InfoHashV1 [20]byte  // SHA-1 of Raw; zero without v1
	InfoHashV2 blob.Hash // SHA-256 of Raw; zero without v2

	entries int // while it is parsed: see count
}

// File is one file of a torrent.
type File struct {
	// Path are the names that lead to it from the torrent's directory, each safe to use as a file name; a Single
	// file has its Name only.
	Path   []string
	Length int64 // bytes
	Offset int64 // in the piece space; of an empty file: where it would be
	// Root is the root of its hash tree (BEP 52 "pieces root"); zero without v2, and for an empty file.
	Root       blob.Hash
	Executable bool     // BEP 47 attribute x
	Symlink    []string // where a symbolic link leads, from the torrent's directory (BEP 47 attribute l); nil: no link
}

// Geometry is how the file is cut into blocks and pieces in v2.
func (i *Info) Geometry(file int) blob.Geometry {
	return blob.Geometry{Size: i.Files[file].Length, PieceLength: i.PieceLength}
}

// V1Geometry is how all of a v1 torrent is cut as one blob: pieces of the largest power of two that divides those
// of the torrent.
func (i *Info) V1Geometry() blob.Geometry {
	return blob.Geometry{Size: i.Length, PieceLength: i.PieceLength & -i.PieceLength}
}

// Bytes is the sum of the lengths of all files.
func (i *Info) Bytes() (n int64) {
	for f := range i.Files {
		n += i.Files[f].Length
	}
	return n
}

// Keys are the infohashes as peers and trackers use them, v2 (truncated) first.
func (i *Info) Keys() (keys [][20]byte) {
	if i.HasV2 {
		keys = append(keys, [20]byte(i.InfoHashV2[:20]))
	}
	if i.HasV1 {
		keys = append(keys, i.InfoHashV1)
	}
	return keys
}

// Is reports whether the dictionary has one of the infohashes; a zero one counts as not given.
func (i *Info) Is(v1 [20]byte, v2 blob.Hash) bool {
	if v2 != (blob.Hash{}) {
		return i.InfoHashV2 == v2
	}
	return v1 != [20]byte{} && i.InfoHashV1 == v1
}

// Kind is "v1", "v2" or "hybrid".
func (i *Info) Kind() string {
	switch {
	case i.HasV1 && i.HasV2:
		return "hybrid"
	case i.HasV1:
		return "v1"
	}
	return "v2"
}

// ID names the torrent as a whole: btmh:<hex>, or btih:<hex> without v2.
func (i *Info) ID() blob.ID {
	if i.HasV2 {
		return blob.ID{Kind: blob.ByInfoHash, Sum: i.InfoHashV2}
	}
	return V1ID(i.InfoHashV1)
}

// V1ID names a v1 torrent.
func V1ID(infohash [20]byte) blob.ID {
	id := blob.ID{Kind: blob.ByInfoHashV1}
	copy(id.Sum[:], infohash[:])
	return id
}

// SpaceID names the bytes of a v1 torrent, all files one after the other, as one blob. It must never change.
func SpaceID(infohash [20]byte) blob.ID {
	return blob.ID{Kind: blob.ByRoot, Sum: sha256.Sum256(append([]byte("pantala-space-v1\x00"), infohash[:]...))}
}

// FileID names the bytes of one file of a v2 torrent, the same in every torrent that has the file in pieces of the
// same length. It must never change.
func FileID(root blob.Hash, g blob.Geometry) blob.ID {
	b := append([]byte("pantala-file-v1\x00"), root[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(g.Size))
	b = binary.BigEndian.AppendUint64(b, uint64(g.PieceLength))
	return blob.ID{Kind: blob.ByRoot, Sum: sha256.Sum256(b)}
}

// String is the path with slashes.
func (f *File) String() string { return strings.Join(f.Path, "/") }

// hex20 is a v1 infohash in hexadecimal.
func hex20(h [20]byte) string { return hex.EncodeToString(h[:]) }
