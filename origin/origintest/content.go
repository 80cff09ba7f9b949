package origintest

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
)

// Content is an object of any size.
type Content interface {
	io.ReaderAt
	Size() int64
}

// Bytes is n bytes that are the same for the same seed and do not repeat.
func Bytes(seed uint64, n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	p := make([]byte, n)
	rand.NewChaCha8(key).Read(p)
	return p
}

// Of is p as Content.
func Of(p []byte) Content { return bytes.NewReader(p) }

// Pattern is an object of Size bytes that needs no memory: byte i is a function of i.
type Pattern int64

// Size is its length.
func (p Pattern) Size() int64 { return int64(p) }

// ReadAt implements io.ReaderAt: each aligned word of 8 bytes holds a mix of its number.
func (p Pattern) ReadAt(b []byte, off int64) (n int, err error) {
	if off >= int64(p) {
		return 0, io.EOF
	}
	if rest := int64(p) - off; int64(len(b)) > rest {
		b, err = b[:rest], io.EOF
	}
	var word [8]byte
	for n < len(b) {
		at := off + int64(n)
		x := uint64(at/8)*0x9e3779b97f4a7c15 + 1 // the golden ratio, as in splitmix64
		x ^= x >> 29
		binary.LittleEndian.PutUint64(word[:], x)
		n += copy(b[n:], word[at%8:])
	}
	return n, err
}
