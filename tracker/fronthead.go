package tracker

import (
	"bytes"
	"strings"
)

// The heads that the front answers itself: GET of an announce or a scrape, exactly as clients write them. Whatever
// differs, be it valid or not, is net/http's to judge: so this reads less than HTTP, and never more.

// maxHead is how long the head of a request may be: the 8 KiB that servers commonly accept. A scrape of 64 swarms
// takes 5.
const maxHead = 8 << 10

// verdict says what the bytes that have come are.
type verdict uint8

const (
	partial verdict = iota // the beginning of a head that may be ours: more is needed
	ours                   // a head of ours
	foreign                // net/http's
)

// head is a request of ours. It points into the bytes that it was read from.
type head struct {
	scrape bool
	query  []byte
	keep   bool // the connection is kept after the reply
	say    bool // … and the reply has to say so (HTTP/1.0)
	length int  // of the head, with the empty line
}

// kinds of bytes.
const (
	isToken byte = 1 << iota // of a field name (RFC 9110 5.6.2)
	isValue                  // of a field value, as net/http takes them (RFC 9110 5.5)
	isPath                   // of a path that means what it says
	isHost                   // of a Host
	isQuery                  // of a query: all that net/url takes
)

var kind = func() (t [256]byte) {
	const alnum = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	for i := range t {
		if i > ' ' && i != 0x7f {
			t[i] |= isQuery
		}
		if i >= ' ' && i != 0x7f || i == '\t' {
			t[i] |= isValue
		}
	}
	for of, chars := range map[byte]string{isToken: alnum + "!#$%&'*+-.^_`|~", isPath: alnum + "/_.-", isHost: alnum + ".:[]-_"} {
		for _, c := range []byte(chars) {
			t[c] |= of
		}
	}
	return t
}()

// all reports whether all of b is of one kind.
func all(b []byte, of byte) bool {
	for _, c := range b {
		if kind[c]&of == 0 {
			return false
		}
	}
	return true
}

const method = "GET /"

// readHead reads the head that b begins with.
func readHead(b []byte) (h head, v verdict) {
	if n := min(len(b), len(method)); string(b[:n]) != method[:n] {
		return h, foreign
	}
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		if len(b) >= maxHead {
			return h, foreign
		}
		return h, partial
	}
	line, ok := bytes.CutSuffix(b[:end], []byte("\r"))
	if !ok || len(line) < len(method)+len(" HTTP/1.x") {
		return h, foreign
	}
	target, version := line[len(method)-1:len(line)-len(" HTTP/1.x")], string(line[len(line)-len(" HTTP/1.x"):])
	old := version == " HTTP/1.0"
	if !old && version != " HTTP/1.1" {
		return h, foreign
	}
	path := target
	if i := bytes.IndexByte(target, '?'); i >= 0 {
		path, h.query = target[:i], target[i+1:]
	}
	switch base := path[bytes.LastIndexByte(path, '/')+1:]; string(base) {
	case "announce":
	case "scrape":
		h.scrape = true
	default:
		return h, foreign
	}
	if !all(path, isPath) || !all(h.query, isQuery) || bytes.HasPrefix(path, []byte("//")) {
		return h, foreign
	}
	h.keep = !old
	var hosts, connections int
	for at := end + 1; ; {
		rest := b[at:]
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			if len(b) >= maxHead {
				return h, foreign
			}
			return h, partial
		}
		line, ok := bytes.CutSuffix(rest[:end], []byte("\r"))
		if at += end + 1; !ok || at > maxHead {
			return h, foreign
		}
		if len(line) == 0 {
			h.length = at
			break
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 {
			return h, foreign
		}
		name, value := line[:colon], bytes.Trim(line[colon+1:], " \t")
		if !all(name, isToken) || !all(value, isValue) {
			return h, foreign
		}
		switch len(name) { // most fields are none of these
		case len("Host"):
			if is(name, "host") {
				if hosts++; len(value) == 0 || !all(value, isHost) {
					return h, foreign
				}
			}
		case len("Connection"):
			if is(name, "connection") {
				switch connections++; {
				case is(value, "close"):
					h.keep = false
				case is(value, "keep-alive"):
					h.keep, h.say = true, old
				default:
					return h, foreign
				}
			}
		case len("Content-Length"):
			if is(name, "content-length") {
				return h, foreign
			}
		case len("Transfer-Encoding"):
			if is(name, "transfer-encoding") {
				return h, foreign
			}
		case len("Expect"):
			if is(name, "expect") {
				return h, foreign
			}
		case len("Upgrade"):
			if is(name, "upgrade") || is(name, "trailer") {
				return h, foreign
			}
		}
	}
	if hosts > 1 || hosts == 0 && !old || connections > 1 {
		return h, foreign
	}
	return h, ours
}

// is compares without regard to case. lower is in lower case.
func is(b []byte, lower string) bool {
	return len(b) == len(lower) && strings.EqualFold(string(b), lower)
}
