package peerwire

import (
	"fmt"
	"io"

	"github.com/pantala/pantala/blob"
)

// HandshakeLen is the length of the handshake in bytes (BEP 3).
const HandshakeLen = 1 + len(protocol) + 8 + 20 + 20

const protocol = "BitTorrent protocol"

// Reserved are the 8 reserved bytes of the handshake, each bit an ability.
type Reserved [8]byte

// Handshake opens a connection in both directions (BEP 3).
type Handshake struct {
	Reserved Reserved
	InfoHash [20]byte // for v2 the truncated SHA-256 infohash
	PeerID   [20]byte
}

// The abilities this package speaks. A feature is in use when both sides set its bit.
var Abilities = Reserved{5: 0x10, 7: 0x04 | 0x10}

// Extended reports the extension protocol: bit 20 from the right (BEP 10).
func (r Reserved) Extended() bool { return r[5]&0x10 != 0 }

// Fast reports the fast extension: the third least significant bit of the last byte (BEP 6).
func (r Reserved) Fast() bool { return r[7]&0x04 != 0 }

// DHT reports a node of the distributed hash table: the last bit (BEP 5).
func (r Reserved) DHT() bool { return r[7]&0x01 != 0 }

// WithDHT is r with that bit set.
func (r Reserved) WithDHT() Reserved {
	r[7] |= 0x01
	return r
}

// V2 reports an upgrade path to v2: the fourth most significant bit of the last byte (BEP 52).
func (r Reserved) V2() bool { return r[7]&0x10 != 0 }

// WithoutV2 is r without the upgrade path to v2.
func (r Reserved) WithoutV2() Reserved {
	r[7] &^= 0x10
	return r
}

// AppendHandshake appends the handshake.
func AppendHandshake(b []byte, h Handshake) []byte {
	b = append(append(b, byte(len(protocol))), protocol...)
	b = append(append(b, h.Reserved[:]...), h.InfoHash[:]...)
	return append(b, h.PeerID[:]...)
}

// ReadHandshake reads exactly one handshake from r, which should carry a deadline. ErrInvalid: the other
// side does not speak (plain) BitTorrent.
func ReadHandshake(r io.Reader) (h Handshake, err error) {
	var b [HandshakeLen]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return h, err
	}
	if int(b[0]) != len(protocol) {
		return h, fmt.Errorf("%w: first byte %d is not a BitTorrent handshake", blob.ErrInvalid, b[0])
	}
	if _, err := io.ReadFull(r, b[1:]); err != nil {
		return h, err
	}
	if string(b[1:1+len(protocol)]) != protocol {
		return h, fmt.Errorf("%w: protocol %q is not BitTorrent", blob.ErrInvalid, b[1:1+len(protocol)])
	}
	rest := b[1+len(protocol):]
	copy(h.Reserved[:], rest)
	copy(h.InfoHash[:], rest[8:])
	copy(h.PeerID[:], rest[28:])
	return h, nil
}
