package build

import (
	"encoding/binary"
	"io"

	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/codec/inflate"
	"github.com/pantala/pantala/codec/lz4block"
	"github.com/pantala/pantala/codec/zstdspan"
	"github.com/pantala/pantala/image/index"
)

// kind is how a layer is stored.
type kind struct {
	format  string // of index.Facts
	codec   index.Codec
	scan    codec.Scan
	span    codec.Span
	spacing codec.Spacing
	late    int64 // how many decoded bytes behind a point scan may have handed out before it marks it
}

// How far apart points are: a boot moves the fewest bytes with about 128 KiB stored, since what shorter spans save goes
// into windows and a longer head, and longer ones bring along what nobody reads. zstd's windows are twenty times those
// of gzip, so there it is 256 KiB. No stretch of more than about 1 MiB shall have to be decoded for one page. Figures:
// docs/decisions/0018-layer-index.md.
var (
	dense  = codec.Spacing{Stored: 128 << 10, Decoded: 1 << 20}
	sparse = codec.Spacing{Stored: 256 << 10, Decoded: 1 << 20}
)

var (
	plainTar = kind{"tar", index.Stored, plain, nil, dense, 0}
	// A point waits for the 32 KiB that may refer to what is before it, and they for a buffer of 256 KiB.
	gzipped = kind{"gzip", index.Deflate, inflate.Scan, inflate.Span, dense, 512 << 10}
	// A point waits for the next one, which may be any block of up to 128 KiB once it is due.
	zstandard = kind{"zstd", index.Zstd, zstdspan.Scan, zstdspan.Span, sparse, sparse.Decoded + 256<<10}
	// No layer is one block of LZ4; chunks of Nydus images are.
	lz4Block = kind{"lz4", index.LZ4, nil, lz4block.Span, codec.Spacing{}, 0}
)

// kinds are all of them, by index.Codec.
var kinds = [...]kind{index.Stored: plainTar, index.Deflate: gzipped, index.Zstd: zstandard, index.LZ4: lz4Block}

// kindOf tells the kind of a layer from its first four bytes, as runtimes do, who do not trust media types. What is not
// known to be compressed is an archive.
func kindOf(first []byte) kind {
	var magic [4]byte
	copy(magic[:], first)
	switch n := binary.LittleEndian.Uint32(magic[:]); {
	case magic[0] == 0x1f && magic[1] == 0x8b:
		return gzipped
	case n == 0xfd2fb528, n&^0xf == 0x184d2a50:
		return zstandard
	}
	return plainTar
}

// plain "decodes" what is stored as it is. Its points lie at multiples of 512 bytes, where headers and contents of an
// archive begin.
func plain(r io.Reader, s codec.Spacing, emit func([]byte) error, mark func(codec.Point) error) error {
	every := max(512, min(s.Stored, s.Decoded)&^511)
	buf := make([]byte, min(every, buffer))
	for at := int64(0); ; {
		if at%every == 0 {
			if err := mark(codec.Point{Out: at, In: at}); err != nil {
				return err
			}
		}
		n, err := io.ReadFull(r, buf[:min(int64(len(buf)), every-at%every)])
		if n > 0 {
			at += int64(n)
			if err := emit(buf[:n]); err != nil {
				return err
			}
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return nil
		default:
			return err
		}
	}
}
