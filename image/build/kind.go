package build

import (
	"bytes"
	"encoding/binary"
	"io"

	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/image/index"
)

// kind is how a layer is stored.
type kind struct {
	format  string // of index.Facts
	codec   index.Codec
	scan    codec.Scan
	spacing codec.Spacing
	late    int64 // how many decoded bytes behind a point scan may have handed out before it marks it
}

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

func newPrefix(p []byte) io.Reader { return bytes.NewReader(p) }
