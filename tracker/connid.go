package tracker

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"time"
)

// Connection ids of UDP (BEP 15) prove that a sender receives what is sent to the address that it claims. None is
// kept: an id is a MAC of address and time under a key that is drawn at start.

const (
	// idUnit is the unit in which an id says when it was given out; it has eight bits for it, so that ids come
	// round after 17 minutes, long after they have become invalid.
	idUnit = 4 * time.Second
	// idUnits is how long an id is taken: two minutes (BEP 15; clients use one for one minute), and the unit that
	// has just begun.
	idUnits = uint64(2*time.Minute/idUnit) + 1
)

// connIDs gives connection ids out and takes them back. It belongs to one goroutine.
type connIDs struct {
	block cipher.Block
	began time.Time
	a, b  [aes.BlockSize]byte // scratch: what is passed to block escapes
}

func newConnIDs(key *[16]byte, began time.Time) *connIDs {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("BUG: " + err.Error()) // the key has a right length
	}
	return &connIDs{block: block, began: began}
}

// newConnKey draws a key.
func newConnKey() (key [16]byte) {
	rand.Read(key[:])
	return key
}

// unit counts from a thousand, so that nothing becomes negative.
func (c *connIDs) unit(now time.Time) uint64 { return 1000 + uint64(now.Sub(c.began)/idUnit) }

// make returns the id for ip at the time now: the last eight bits of the unit, then 56 bits of the MAC.
func (c *connIDs) make(ip *[16]byte, now time.Time) uint64 { return c.at(ip, c.unit(now)) }

// at is CBC-MAC with AES over the two blocks ip and unit: a fixed length, for which it is a good MAC.
func (c *connIDs) at(ip *[16]byte, unit uint64) uint64 {
	c.a = *ip
	c.block.Encrypt(c.b[:], c.a[:])
	binary.BigEndian.PutUint64(c.b[8:], binary.BigEndian.Uint64(c.b[8:])^unit)
	c.block.Encrypt(c.a[:], c.b[:])
	return unit<<56 | binary.BigEndian.Uint64(c.a[:])>>8
}

// check reports whether id was given to ip in the last two minutes.
func (c *connIDs) check(id uint64, ip *[16]byte, now time.Time) bool {
	unit := c.unit(now)
	age := (unit - id>>56) & 255
	return age <= idUnits && c.at(ip, unit-age) == id
}
