package bencode

import (
	"fmt"
	"strconv"

	"github.com/pantala/pantala/blob"
)

// Malformed is an ErrInvalid that quotes the beginning of b.
func Malformed(what string, b []byte) error {
	return fmt.Errorf("%w: bencoding: %s at %.20q", blob.ErrInvalid, what, b)
}

// Cut returns the first value of b, still encoded, and what follows it. Lists and dictionaries may nest depth
// deep.
func Cut(b []byte, depth int) (raw, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, Malformed("value missing", b)
	}
	switch c := b[0]; {
	case c >= '0' && c <= '9':
		_, rest, err := CutString(b)
		return b[:len(b)-len(rest)], rest, err
	case c == 'i':
		for i := 1; i < len(b) && i < 24; i++ { // 20 digits, a sign, i and e
			if b[i] == 'e' {
				return b[:i+1], b[i+1:], nil
			}
		}
		return nil, nil, Malformed("integer without end", b)
	case c == 'l' || c == 'd':
		if depth == 0 {
			return nil, nil, Malformed("nested too deep", b)
		}
		at := b[1:]
		for {
			if len(at) == 0 {
				return nil, nil, Malformed("list or dictionary without end", b)
			}
			if at[0] == 'e' {
				return b[:len(b)-len(at)+1], at[1:], nil
			}
			if c == 'd' {
				if _, at, err = CutString(at); err != nil {
					return nil, nil, err
				}
			}
			if _, at, err = Cut(at, depth-1); err != nil {
				return nil, nil, err
			}
		}
	}
	return nil, nil, Malformed("unknown type", b)
}

// CutString reads the string that b starts with; s aliases b.
func CutString(b []byte) (s, rest []byte, err error) {
	n, i := 0, 0
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		if n = n*10 + int(b[i]-'0'); n > len(b) {
			return nil, nil, Malformed("string longer than the message", b)
		}
	}
	if i == 0 || i == len(b) || b[i] != ':' || len(b)-i-1 < n {
		return nil, nil, Malformed("string expected", b)
	}
	return b[i+1 : i+1+n], b[i+1+n:], nil
}

// EachPair calls f for every pair of the dictionary that is all of b; values may nest depth deep. The value is
// still encoded, and aliases b. Keys come in the order of b, which need not be sorted, and may repeat.
func EachPair(b []byte, depth int, f func(key string, raw []byte) error) error {
	raw, rest, err := Cut(b, depth)
	if err != nil {
		return err
	}
	if raw[0] != 'd' || len(rest) != 0 {
		return Malformed("one dictionary expected", b)
	}
	for at := raw[1:]; at[0] != 'e'; {
		var key, val []byte
		key, at, _ = CutString(at)
		val, at, _ = Cut(at, depth)
		if err := f(string(key), val); err != nil {
			return err
		}
	}
	return nil
}

// EachItem calls f for every item of the list raw, which Cut has returned.
func EachItem(raw []byte, depth int, f func(raw []byte) error) error {
	if len(raw) == 0 || raw[0] != 'l' {
		return Malformed("list expected", raw)
	}
	for at := raw[1:]; at[0] != 'e'; {
		var val []byte
		var err error
		if val, at, err = Cut(at, depth); err != nil {
			return err
		}
		if err := f(val); err != nil {
			return err
		}
		if len(at) == 0 {
			return Malformed("list without end", raw)
		}
	}
	return nil
}

// Int reads an encoded integer that must lie in 0..limit.
func Int(raw []byte, limit int64) (int64, error) {
	if len(raw) < 3 || raw[0] != 'i' {
		return 0, Malformed("integer expected", raw)
	}
	n, err := strconv.ParseInt(string(raw[1:len(raw)-1]), 10, 64)
	if err != nil || n < 0 || n > limit {
		return 0, Malformed(fmt.Sprintf("integer outside 0..%d", limit), raw)
	}
	return n, nil
}

// String reads an encoded string; it aliases raw.
func String(raw []byte) ([]byte, error) {
	s, rest, err := CutString(raw)
	if err == nil && len(rest) != 0 {
		err = Malformed("string expected", raw)
	}
	return s, err
}
