package lz4block

import (
	"fmt"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
)

var _ codec.Span = Span

const (
	minMatch = 4  // of a match: its length field counts from here
	more     = 15 // a length field that goes on in the next bytes
)

// Span decodes the beginning of a block, as long as dst: see codec.Span. Blocks have no points inside, so bit and window
// are of none.
func Span(dst, src []byte, bit uint8, window []byte) error {
	if bit != 0 || len(window) > 0 {
		return damage("no point is inside of a block")
	}
	at, in := 0, 0
	for at < len(dst) {
		if in == len(src) {
			return damage("it ends after %d bytes of %d", at, len(dst))
		}
		token := src[in]
		in++
		literals, ok := length(src, &in, int(token>>4))
		if !ok || literals > len(src)-in {
			return damage("literals reach beyond its end")
		}
		at += copy(dst[at:], src[in:in+literals])
		in += literals
		if at == len(dst) {
			return nil
		}
		if len(src)-in < 2 { // the last sequence has no match
			return damage("it ends after %d bytes of %d", at, len(dst))
		}
		back := int(src[in]) | int(src[in+1])<<8
		in += 2
		match, ok := length(src, &in, int(token&15))
		if !ok {
			return damage("it ends inside of a length")
		}
		if back == 0 || back > at {
			return damage("a match %d bytes before byte %d", back, at)
		}
		end := at + min(match+minMatch, len(dst)-at)
		// A match may reach into itself, which repeats what lies between: each round copies twice as much.
		for from := at - back; at < end; {
			at += copy(dst[at:end], dst[from:at])
		}
	}
	return nil
}

// length reads the rest of a length field: bytes of 255 and one of less. Its sum is below 256 times the source.
func length(src []byte, in *int, n int) (int, bool) {
	if n < more {
		return n, true
	}
	for *in < len(src) {
		b := src[*in]
		*in++
		n += int(b)
		if b < 255 {
			return n, true
		}
	}
	return 0, false
}

func damage(format string, a ...any) error {
	return fmt.Errorf("%w LZ4 block: %s", blob.ErrCorrupt, fmt.Sprintf(format, a...))
}
