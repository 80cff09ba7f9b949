package peerwire

import (
	"encoding/binary"

	"github.com/pantala/pantala/blob"
)

// IndexName names the exchange of claims about the index of a layer in the extended handshake: docs/wire.md.
const IndexName = "pantala_index"

// MaxIndexClaims is how many claims one message has at most: one is right, and a node that has another one may say so.
const MaxIndexClaims = 4

const (
	indexAsk    = 0 // what do you know?
	indexClaims = 1 // this
	claimLen    = 32 + 32 + 8 + 1
)

// IndexClaim says which file is the index of the layer that the torrent is: its BEP 52 root, its SHA-256, its length in
// bytes, and the trust of who says so. For who reads it it is Claimed, and no more.
type IndexClaim struct {
	Root   blob.Hash
	Digest blob.Hash
	Size   int64
	Trust  blob.Trust
}

// Check refuses what names no file, or what nobody vouches for.
func (c *IndexClaim) Check() error {
	if c.Size <= 0 || c.Size > blob.MaxSize || c.Root.IsZero() || c.Digest.IsZero() || c.Trust == blob.Unknown || c.Trust > blob.Built {
		return malformed(Extended, "%s: an index of %d bytes, trust %d", IndexName, c.Size, c.Trust)
	}
	return nil
}

// AppendIndexAsk asks which index a peer has; ext is the id under which it wants the exchange.
func AppendIndexAsk(b []byte, ext uint8) []byte {
	return append(frame(b, Extended, 2), ext, indexAsk)
}

// AppendIndexClaims says which index is here, if any: at most MaxIndexClaims.
func AppendIndexClaims(b []byte, ext uint8, claims []IndexClaim) []byte {
	b = append(frame(b, Extended, 2+len(claims)*claimLen), ext, indexClaims)
	for i := range claims {
		c := &claims[i]
		b = append(append(b, c.Root[:]...), c.Digest[:]...)
		b = append(binary.BigEndian.AppendUint64(b, uint64(c.Size)), byte(c.Trust))
	}
	return b
}

// ParseIndex reads the body of a message of the exchange: a question, or claims, of which there may be none. An op that
// is not known is neither.
func ParseIndex(body []byte) (ask bool, claims []IndexClaim, err error) {
	if len(body) == 0 {
		return false, nil, malformed(Extended, "%s: empty", IndexName)
	}
	op, body := body[0], body[1:]
	switch {
	case op == indexAsk && len(body) > 0, op == indexClaims && (len(body)%claimLen != 0 || len(body)/claimLen > MaxIndexClaims):
		return false, nil, malformed(Extended, "%s: %d bytes of op %d", IndexName, len(body), op)
	case op == indexAsk:
		return true, nil, nil
	case op != indexClaims:
		return false, nil, nil
	}
	for ; len(body) > 0; body = body[claimLen:] {
		c := IndexClaim{Root: blob.Hash(body), Digest: blob.Hash(body[32:]), Size: int64(binary.BigEndian.Uint64(body[64:])), Trust: blob.Trust(body[72])}
		if err := c.Check(); err != nil {
			return false, nil, err
		}
		claims = append(claims, c)
	}
	return false, claims, nil
}
