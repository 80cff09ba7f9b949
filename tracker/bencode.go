package tracker

import (
	"fmt"
	"strconv"

	"github.com/pantala/pantala/blob"
)

// Bencoding (BEP 3) of what arrives here: flat dictionaries of integers and strings of at most a few
// mebibytes, from anybody. A value is found by its extent first (skip) and read where it is needed, so
// nothing is allocated for it, and nesting is bounded: a reader that recurses once per "l" of a hostile body
// ends the process, because Go does not recover from the end of a stack.

// maxDepth is how deep dictionaries and lists may nest; BEP 3 replies need three (dict, peers, one peer).
const maxDepth = 8

func malformed(what string, b []byte) error {
	return fmt.Errorf("%w: bencoding: %s at %.20q", blob.ErrInvalid, what, b)
}

// skip returns the first value of b, still encoded, and what follows it.
func skip(b []byte, depth int) (raw, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, malformed("value missing", b)
	}
	switch c := b[0]; {
	case c >= '0' && c <= '9':
		_, rest, err := cutString(b)
		return b[:len(b)-len(rest)], rest, err
	case c == 'i':
		for i := 1; i < len(b) && i < 24; i++ { // 20 digits, a sign, i and e
			if b[i] == 'e' {
				return b[:i+1], b[i+1:], nil
			}
		}
		return nil, nil, malformed("integer without end", b)
	case c == 'l' || c == 'd':
		if depth == 0 {
			return nil, nil, malformed("nested too deep", b)
		}
		at := b[1:]
		for {
			if len(at) == 0 {
				return nil, nil, malformed("list or dictionary without end", b)
			}
			if at[0] == 'e' {
				return b[:len(b)-len(at)+1], at[1:], nil
			}
			if c == 'd' {
				if _, at, err = cutString(at); err != nil {
					return nil, nil, err
				}
			}
			if _, at, err = skip(at, depth-1); err != nil {
				return nil, nil, err
			}
		}
	}
	return nil, nil, malformed("unknown type", b)
}

// cutString reads the string that b starts with.
func cutString(b []byte) (s, rest []byte, err error) {
	n, i := 0, 0
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		if n = n*10 + int(b[i]-'0'); n > len(b) {
			return nil, nil, malformed("string longer than the message", b)
		}
	}
	if i == 0 || i == len(b) || b[i] != ':' || len(b)-i-1 < n {
		return nil, nil, malformed("string expected", b)
	}
	return b[i+1 : i+1+n], b[i+1+n:], nil
}

// eachPair calls f for every pair of the dictionary that is all of b. The value is still encoded.
func eachPair(b []byte, f func(key string, raw []byte) error) error {
	raw, rest, err := skip(b, maxDepth)
	if err != nil {
		return err
	}
	if raw[0] != 'd' || len(rest) != 0 {
		return malformed("one dictionary expected", b)
	}
	for at := raw[1:]; at[0] != 'e'; {
		var key, val []byte
		key, at, _ = cutString(at)
		val, at, _ = skip(at, maxDepth)
		if err := f(string(key), val); err != nil {
			return err
		}
	}
	return nil
}

// eachItem calls f for every item of the list raw, which skip has returned.
func eachItem(raw []byte, f func(raw []byte) error) error {
	if len(raw) == 0 || raw[0] != 'l' {
		return malformed("list expected", raw)
	}
	for at := raw[1:]; at[0] != 'e'; {
		var val []byte
		val, at, _ = skip(at, maxDepth)
		if err := f(val); err != nil {
			return err
		}
	}
	return nil
}

// asInt reads an encoded integer that must lie in 0..limit.
func asInt(raw []byte, limit int64) (int64, error) {
	if len(raw) < 3 || raw[0] != 'i' {
		return 0, malformed("integer expected", raw)
	}
	n, err := strconv.ParseInt(string(raw[1:len(raw)-1]), 10, 64)
	if err != nil || n < 0 || n > limit {
		return 0, malformed(fmt.Sprintf("integer outside 0..%d", limit), raw)
	}
	return n, nil
}

// asString reads an encoded string; it aliases raw.
func asString(raw []byte) ([]byte, error) {
	s, rest, err := cutString(raw)
	if err == nil && len(rest) != 0 {
		err = malformed("string expected", raw)
	}
	return s, err
}

func appendString[T string | []byte](b []byte, s T) []byte {
	b = strconv.AppendInt(b, int64(len(s)), 10)
	b = append(b, ':')
	return append(b, s...)
}

func appendInt(b []byte, n int64) []byte {
	b = append(b, 'i')
	b = strconv.AppendInt(b, n, 10)
	return append(b, 'e')
}

// appendPair writes a key and an integer; zero is left out, it is what an absent key means.
func appendPair(b []byte, key string, n int64) []byte {
	if n == 0 {
		return b
	}
	return appendInt(appendString(b, key), n)
}

// appendText writes a key and a string; the empty string is left out.
func appendText[T string | []byte](b []byte, key string, s T) []byte {
	if len(s) == 0 {
		return b
	}
	return appendString(appendString(b, key), s)
}
