package tracker

import (
	"github.com/pantala/pantala/bencode"
)

// What arrives here are flat dictionaries of integers and strings of at most a few mebibytes, from anybody.

// maxDepth is how deep dictionaries and lists may nest; BEP 3 replies need three (dict, peers, one peer).
const maxDepth = 8

func eachPair(b []byte, f func(key string, raw []byte) error) error {
	return bencode.EachPair(b, maxDepth, f)
}

func eachItem(raw []byte, f func(raw []byte) error) error {
	return bencode.EachItem(raw, maxDepth, f)
}

func asInt(raw []byte, limit int64) (int64, error) { return bencode.Int(raw, limit) }
func asString(raw []byte) ([]byte, error)          { return bencode.String(raw) }

func appendString[T string | []byte](b []byte, s T) []byte { return bencode.AppendString(b, s) }
func appendInt(b []byte, n int64) []byte                   { return bencode.AppendInt(b, n) }

func appendPair(b []byte, key string, n int64) []byte { return bencode.AppendPair(b, key, n) }

func appendText[T string | []byte](b []byte, key string, s T) []byte {
	return bencode.AppendText(b, key, s)
}

func malformed(what string, b []byte) error { return bencode.Malformed(what, b) }
