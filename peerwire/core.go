package peerwire

import "encoding/binary"

// PieceHeader is the length in bytes of everything in a piece frame that is not payload: length prefix, id,
// piece index, begin.
const PieceHeader = 13

// frame appends length prefix and id of a frame whose body is n bytes.
func frame(b []byte, id ID, n int) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(1+n)), byte(id))
}

// AppendKeepAlive appends a keep-alive (BEP 3).
func AppendKeepAlive(b []byte) []byte { return append(b, 0, 0, 0, 0) }

// AppendBare appends a message without a body: choke, unchoke, interested, not interested (BEP 3), have all,
// have none (BEP 6).
func AppendBare(b []byte, id ID) []byte { return frame(b, id, 0) }

// AppendPort appends a port message: where our node of the DHT listens (BEP 5).
func AppendPort(b []byte, udp uint16) []byte {
	return binary.BigEndian.AppendUint16(frame(b, Port, 2), udp)
}

// AppendHave appends have (BEP 3).
func AppendHave(b []byte, piece uint32) []byte { return appendIndex(b, Have, piece) }

func appendIndex(b []byte, id ID, piece uint32) []byte {
	return binary.BigEndian.AppendUint32(frame(b, id, 4), piece)
}

// AppendRequest appends request (BEP 3): length bytes at offset begin of a piece.
func AppendRequest(b []byte, piece, begin, length uint32) []byte {
	return appendExtent(b, Request, piece, begin, length)
}

// AppendCancel appends cancel (BEP 3).
func AppendCancel(b []byte, piece, begin, length uint32) []byte {
	return appendExtent(b, Cancel, piece, begin, length)
}

func appendExtent(b []byte, id ID, piece, begin, length uint32) []byte {
	b = binary.BigEndian.AppendUint32(frame(b, id, 12), piece)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, begin), length)
}

// AppendPieceHeader appends the [PieceHeader] bytes of piece (BEP 3) that come before length bytes of payload.
func AppendPieceHeader(b []byte, piece, begin, length uint32) []byte {
	b = binary.BigEndian.AppendUint32(frame(b, Piece, 8+int(length)), piece)
	return binary.BigEndian.AppendUint32(b, begin)
}
