package peerwire

import (
	"encoding/binary"
	"fmt"

	"github.com/pantala/pantala/blob"
)

// ID is the first byte of a frame and says what the rest is.
type ID uint8

const (
	Choke         ID = 0 // BEP 3
	Unchoke       ID = 1
	Interested    ID = 2
	NotInterested ID = 3
	Have          ID = 4
	Bitfield      ID = 5
	Request       ID = 6
	Piece         ID = 7
	Cancel        ID = 8
	Port          ID = 9  // BEP 5
	Suggest       ID = 13 // BEP 6
	HaveAll       ID = 14
	HaveNone      ID = 15
	Reject        ID = 16
	AllowedFast   ID = 17
	Extended      ID = 20 // BEP 10
	HashRequest   ID = 21 // BEP 52
	Hashes        ID = 22
	HashReject    ID = 23
	// KeepAlive is a frame of length zero; it has no id byte, so it gets a number that no frame can carry
	// as a known message.
	KeepAlive ID = 255
)

var idNames = map[ID]string{
	Choke: "choke", Unchoke: "unchoke", Interested: "interested", NotInterested: "not interested", Have: "have",
	Bitfield: "bitfield", Request: "request", Piece: "piece", Cancel: "cancel", Port: "port", Suggest: "suggest",
	HaveAll: "have all", HaveNone: "have none", Reject: "reject", AllowedFast: "allowed fast", Extended: "extended",
	HashRequest: "hash request", Hashes: "hashes", HashReject: "hash reject", KeepAlive: "keep-alive",
}

// String is the name that the BEPs use.
func (id ID) String() string {
	if n, ok := idNames[id]; ok {
		return n
	}
	return fmt.Sprintf("message %d", uint8(id))
}

// Limits of one frame, in bytes. They bound what a stranger can make this process hold.
const (
	// MaxBlock is the longest payload of a request or piece: 16 KiB, as BEP 3 asks.
	MaxBlock = blob.BlockSize
	// MaxFrame is the longest frame of any kind. The largest legitimate ones are the bitfield of a blob
	// of 4 Mi pieces, and 512 hashes with a proof (16.9 KiB).
	MaxFrame = 512 << 10
	// MaxHashes is the most hashes that one hash request may ask of the base layer (BEP 52).
	MaxHashes = 512
	// maxProof is the tallest proof: a tree of 2^32 leaves has 32 layers.
	maxProof = 32
)

// Message is one frame, decoded. Which fields mean something depends on ID.
type Message struct {
	ID ID
	// Piece is the piece index of have, request, piece, cancel, suggest, reject and allowed fast.
	Piece uint32
	// Begin is the offset in the piece, and Length the number of bytes, of request, piece, cancel and
	// reject. For piece, Length bytes follow on the socket: see [Reader.Payload].
	Begin, Length uint32
	// UDPPort is what port carries: where the sender's node of the DHT listens.
	UDPPort uint16
	// Range is what hash request, hashes and hash reject are about.
	Range HashRange
	// Ext is the extended message id of an extended frame: 0 is the handshake, RunsID our extension.
	Ext uint8
	// Run is a message of our extension. For data, Length bytes follow on the socket as for piece.
	Run Run
	// Data is the bitfield, the body of an extended message, or the concatenated hashes. It is valid until
	// the next call of the Reader.
	Data []byte
}

// malformed is the error for a frame that breaks its BEP.
func malformed(id ID, format string, args ...any) error {
	return fmt.Errorf("%w: %s message: %s", blob.ErrInvalid, id, fmt.Sprintf(format, args...))
}

// decode parses the body of a complete frame, everything after the id byte. It is called for every kind but
// piece, whose payload stays on the socket.
func decode(id ID, b []byte) (Message, error) {
	m := Message{ID: id}
	want := -1 // the only length that is right, where there is one
	switch id {
	case Choke, Unchoke, Interested, NotInterested, HaveAll, HaveNone:
		want = 0
	case Have, Suggest, AllowedFast:
		want = 4
	case Request, Cancel, Reject:
		want = 12
	case Port:
		want = 2
	case HashRequest, HashReject:
		want = hashRangeLen
	}
	if want >= 0 && len(b) != want {
		return m, malformed(id, "body of %d bytes instead of %d", len(b), want)
	}
	switch id {
	case Have, Suggest, AllowedFast:
		m.Piece = binary.BigEndian.Uint32(b)
	case Request, Cancel, Reject:
		m.Piece, m.Begin, m.Length = binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
		// A reject may name a length of the asker's own that we would never serve; the asker judges it.
		if id == Request && (m.Length == 0 || m.Length > MaxBlock) {
			return m, malformed(id, "%d bytes asked, 1..%d are allowed", m.Length, MaxBlock)
		}
	case Port:
		m.UDPPort = binary.BigEndian.Uint16(b)
	case Bitfield:
		m.Data = b
	case Extended:
		if len(b) == 0 {
			return m, malformed(id, "no extended message id")
		}
		m.Ext = b[0]
		if m.Ext == RunsID {
			return decodeRun(m, b[1:])
		}
		m.Data = b[1:]
	case HashRequest, HashReject:
		m.Range = hashRange(b)
		return m, m.Range.check(id)
	case Hashes:
		return decodeHashes(m, b)
	}
	return m, nil
}
