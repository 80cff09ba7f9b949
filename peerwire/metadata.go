package peerwire

import (
	"github.com/pantala/pantala/bencode"
)

// MetadataName is the name of the metadata exchange in the extended handshake (BEP 9).
const MetadataName = "ut_metadata"

const (
	// MetadataPiece is the length in bytes of every piece of an info dictionary but its last one (BEP 9).
	MetadataPiece = 16 << 10
	// MaxMetadata is the largest info dictionary in bytes that is exchanged: one of 500 000 SHA-1 sums and 100 000
	// files has 20 MiB.
	MaxMetadata = 32 << 20
)

// MetadataType says what a message of the metadata exchange is.
type MetadataType uint8

const (
	MetadataRequest MetadataType = iota // the piece is asked for
	MetadataData                        // here it is
	MetadataReject                      // it will not come
)

// Metadata is a message of the metadata exchange (BEP 9).
type Metadata struct {
	Type  MetadataType
	Piece uint32
	Size  int    // of the whole dictionary, in data; 0: not said
	Data  []byte // the piece, in data; it aliases what was parsed
}

// AppendMetadata appends a message of the metadata exchange; ext is the id under which the receiver wants it.
func AppendMetadata(b []byte, ext uint8, m Metadata) []byte {
	body := bencode.AppendInt(bencode.AppendString([]byte{'d'}, "msg_type"), int64(m.Type))
	body = bencode.AppendInt(bencode.AppendString(body, "piece"), int64(m.Piece))
	if m.Type == MetadataData {
		body = bencode.AppendInt(bencode.AppendString(body, "total_size"), int64(m.Size))
	}
	body = append(body, 'e')
	b = append(append(frame(b, Extended, 1+len(body)+len(m.Data)), ext), body...)
	return append(b, m.Data...)
}

// ParseMetadata reads the body of an extended message of the metadata exchange. Types that BEP 9 does not know are
// passed on: it asks to ignore them.
func ParseMetadata(body []byte) (m Metadata, err error) {
	raw, rest, err := bencode.Cut(body, 2)
	if err != nil {
		return m, malformed(Extended, "%s: %v", MetadataName, err)
	}
	kind, piece := int64(-1), int64(-1)
	err = bencode.EachPair(raw, 2, func(key string, raw []byte) (err error) {
		switch key {
		case "msg_type":
			kind, err = bencode.Int(raw, 255)
		case "piece":
			piece, err = bencode.Int(raw, MaxMetadata/MetadataPiece)
		case "total_size":
			var n int64
			n, err = bencode.Int(raw, MaxMetadata)
			m.Size = int(n)
		}
		return err
	})
	if err != nil {
		return m, malformed(Extended, "%s: %v", MetadataName, err)
	}
	if kind < 0 || piece < 0 {
		return m, malformed(Extended, "%s: msg_type or piece is missing", MetadataName)
	}
	m.Type, m.Piece = MetadataType(kind), uint32(piece)
	if m.Type == MetadataData {
		if len(rest) == 0 || len(rest) > MetadataPiece {
			return m, malformed(Extended, "%s: piece of %d bytes, 1..%d are allowed", MetadataName, len(rest), MetadataPiece)
		}
		m.Data = rest
	}
	return m, nil
}

// MetadataPieces is how many pieces an info dictionary of size bytes has.
func MetadataPieces(size int) int { return (size + MetadataPiece - 1) / MetadataPiece }
