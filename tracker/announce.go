package tracker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/netip"
	"strconv"
	"time"
	"unicode"

	"github.com/pantala/pantala/blob"
)

// The exchange that any BitTorrent client understands: announce (BEP 3), compact peers (BEP 23), peers6
// (BEP 7), scrape (BEP 48). Requests are queries of a GET; replies are bencoded; an error is a reply of status
// 200 with the one key "failure reason".

// maxScrape is how many swarms one scrape may ask for: 64 × ~60 B of query stay below the 8 KiB that
// servers commonly accept in a request line.
const maxScrape = 64

type announceRequest struct {
	key     key
	peer    peerID
	port    uint16
	secret  uint32     // the peer's "key", or 32 bits of it; 0: none
	ip      netip.Addr // what the peer says; invalid: nothing
	left    int64      // -1: not told
	event   event
	numwant int // -1: not told
	compact bool
}

// event is why a peer announces; the numbers are those of BEP 15, and paused of BEP 21.
type event uint8

const (
	none event = iota
	completed
	started
	stopped
	paused
)

var eventNames = [...]string{none: "", completed: "completed", started: "started", stopped: "stopped", paused: "paused"}

// eachParam calls f for every parameter of a query. Values are bytes, not text: info hashes. v is valid during
// the call; room is where it is decoded.
func eachParam(query, room []byte, f func(k, v []byte) error) error {
	for len(query) > 0 {
		pair := query
		if i := bytes.IndexByte(query, '&'); i >= 0 {
			pair, query = query[:i], query[i+1:]
		} else {
			query = nil
		}
		k, v := pair, []byte(nil)
		if i := bytes.IndexByte(pair, '='); i >= 0 {
			k, v = pair[:i], pair[i+1:]
		}
		v, ok := unescape(room[:0], v)
		if !ok {
			return fmt.Errorf("%w: %s is not percent-encoded correctly", blob.ErrInvalid, shown(k))
		}
		if err := f(k, v); err != nil {
			return err
		}
	}
	return nil
}

// unescape decodes a value of a query as [url.QueryUnescape] does, into b when that is needed.
func unescape(b, v []byte) ([]byte, bool) {
	if bytes.IndexByte(v, '%') < 0 && bytes.IndexByte(v, '+') < 0 {
		return v, true
	}
	for i := 0; i < len(v); i++ {
		c := v[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			if i+2 >= len(v) {
				return nil, false
			}
			high, low := hexDigit[v[i+1]], hexDigit[v[i+2]]
			if high|low > 15 {
				return nil, false
			}
			c, i = high<<4|low, i+2
		}
		b = append(b, c)
	}
	return b, true
}

// hexDigit is the value of a digit; 255 for what is none.
var hexDigit = func() (t [256]byte) {
	for i := range t {
		t[i] = 255
	}
	for i, c := range "0123456789abcdef" {
		t[c] = byte(i)
		t[byte(unicode.ToUpper(c))] = byte(i)
	}
	return t
}()

// shown is something from outside as it may stand in a message.
func shown[T string | []byte](s T) string { return strconv.QuoteToASCII(string(s[:min(len(s), 20)])) }

// number reads a decimal number of at most max, as strconv does, without allocating for it.
func number(v []byte, max int64) (n int64, ok bool) {
	if len(v) > 1 && v[0] == '+' {
		v = v[1:]
	}
	if len(v) == 0 || len(v) > 20 {
		return 0, false
	}
	for _, c := range v {
		d := int64(c) - '0'
		if d < 0 || d > 9 || n > (max-d)/10 {
			return 0, false
		}
		n = 10*n + d
	}
	return n, true
}

// parseAnnounce reads the query of an announce into r. room is for values while they are decoded: 64 bytes are more
// than any that means something.
func parseAnnounce(query, room []byte, r *announceRequest) error {
	*r = announceRequest{left: -1, numwant: -1, compact: true}
	var keyed, named, ported bool
	err := eachParam(query, room, func(k, v []byte) error {
		switch string(k) {
		case "info_hash":
			if len(v) != 20 {
				return fmt.Errorf("%w: info_hash has %d bytes, not 20", blob.ErrInvalid, len(v))
			}
			keyed = true
			copy(r.key[:], v)
		case "peer_id":
			if len(v) != 20 {
				return fmt.Errorf("%w: peer_id has %d bytes, not 20", blob.ErrInvalid, len(v))
			}
			named = true
			copy(r.peer[:], v)
		case "port":
			n, ok := number(v, 65535)
			if !ok {
				return fmt.Errorf("%w: port %s", blob.ErrInvalid, shown(v))
			}
			ported, r.port = true, uint16(n)
		case "left":
			n, ok := number(v, maxInt)
			if !ok {
				return fmt.Errorf("%w: left %s", blob.ErrInvalid, shown(v))
			}
			r.left = n
		case "numwant":
			n, ok := number(v, 1<<31-1)
			if !ok {
				if len(v) < 2 || v[0] != '-' {
					return fmt.Errorf("%w: numwant %s", blob.ErrInvalid, shown(v))
				}
				n = -1
			}
			r.numwant = int(n)
		case "event":
			for e, name := range eventNames {
				if string(v) == name {
					r.event = event(e)
					return nil
				}
			}
			return fmt.Errorf("%w: event %s", blob.ErrInvalid, shown(v))
		case "compact":
			r.compact = string(v) != "0"
		case "key":
			r.secret = secretOf(v)
		case "ip":
			if len(v) <= 45 { // what an IPv6 address takes as text at most; names are passed over
				r.ip, _ = netip.ParseAddr(string(v))
			}
		}
		return nil
	})
	if err == nil && !(keyed && named && ported) {
		err = fmt.Errorf("%w: announce needs info_hash, peer_id and port", blob.ErrInvalid)
	}
	return err
}

// secretOf makes a number of a "key". What is one in hexadecimal stays what it is: over UDP the same client says it in
// binary.
func secretOf(v []byte) (n uint32) {
	for _, c := range v {
		if hexDigit[c] > 15 || len(v) > 8 {
			return uint32(maphash.Bytes(idSeed, v)) | 1
		}
		n = n<<4 | uint32(hexDigit[c])
	}
	return n
}

// append writes the reply to an announce behind b: compact as BEP 23 and BEP 7 say, else as a list of
// dictionaries (BEP 3).
func (f *found) append(b []byte, interval time.Duration) []byte {
	b = append(b, "d8:completei"...)
	b = strconv.AppendInt(b, f.complete, 10)
	b = append(b, "e10:incompletei"...)
	b = strconv.AppendInt(b, f.incomplete, 10)
	b = append(b, "e8:intervali"...)
	b = strconv.AppendInt(b, int64(interval/time.Second), 10)
	b = append(b, "e5:peers"...)
	if f.named {
		b = append(b, 'l')
		for i := range f.list {
			p := &f.list[i]
			var text [64]byte
			b = append(b, "d2:ip"...)
			b = appendString(b, p.addr.Addr().AppendTo(text[:0]))
			b = append(b, "7:peer id20:"...)
			b = append(b, p.id[:]...)
			b = append(b, "4:porti"...)
			b = strconv.AppendUint(b, uint64(p.addr.Port()), 10)
			b = append(b, "ee"...)
		}
		return append(b, "ee"...)
	}
	b = appendString(b, f.four)
	b = appendText(b, "peers6", f.six)
	return append(b, 'e')
}

// announceReply is what a client sees of a swarm.
type announceReply struct {
	failure              string
	interval             time.Duration
	complete, incomplete int64
	peers                []planPeer // ids are zero in compact replies
}

// appendFailure writes a reply that says why there is none.
func appendFailure(b []byte, reason string) []byte {
	return append(appendText(append(b, 'd'), "failure reason", reason), 'e')
}

// parseAnnounceReply reads the reply of any tracker.
func parseAnnounceReply(body []byte) (*announceReply, error) {
	r := new(announceReply)
	err := eachPair(body, func(k string, raw []byte) (err error) {
		switch k {
		case "failure reason":
			var s []byte
			if s, err = asString(raw); err == nil {
				r.failure = strconv.QuoteToASCII(string(s[:min(len(s), 200)]))
			}
		case "interval":
			var n int64
			n, err = asInt(raw, 1<<31)
			r.interval = time.Duration(n) * time.Second
		case "complete":
			r.complete, err = asInt(raw, maxInt)
		case "incomplete":
			r.incomplete, err = asInt(raw, maxInt)
		case "peers":
			if raw[0] == 'l' {
				return eachItem(raw, r.addPeer)
			}
			err = r.addCompact(raw, 4)
		case "peers6":
			err = r.addCompact(raw, 16)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("announce reply: %w", err)
	}
	return r, nil
}

// maxAnnounced is how many peers of an announce reply are taken: more than trackers tell, who stop at 50 to 200 whatever is
// asked for, while the longest reply has room for 1.4 million, of 56 bytes each in memory.
const maxAnnounced = 4096

// addCompact reads addresses of size bytes with a port each.
func (r *announceReply) addCompact(raw []byte, size int) error {
	s, err := asString(raw)
	if err != nil {
		return err
	}
	return r.addAddresses(s, size)
}

func (r *announceReply) addAddresses(s []byte, size int) error {
	if len(s)%(size+2) != 0 {
		return malformed("compact peers of uneven length", s)
	}
	for ; len(s) > 0 && len(r.peers) < maxAnnounced; s = s[size+2:] {
		ip, _ := netip.AddrFromSlice(s[:size])
		r.peers = append(r.peers, planPeer{addr: netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(s[size:]))})
	}
	return nil
}

// addPeer reads one peer of a list. A name instead of an address (BEP 3 allows it) is passed over.
func (r *announceReply) addPeer(raw []byte) error {
	var p planPeer
	var ip netip.Addr
	var port int64
	err := eachPair(raw, func(k string, raw []byte) (err error) {
		var s []byte
		switch k {
		case "ip":
			if s, err = asString(raw); err == nil {
				ip, _ = netip.ParseAddr(string(s))
			}
		case "peer id":
			if s, err = asString(raw); err == nil && len(s) == len(p.id) {
				copy(p.id[:], s)
			}
		case "port":
			port, err = asInt(raw, 65535)
		}
		return err
	})
	if p.addr = netip.AddrPortFrom(ip.Unmap().WithZone(""), uint16(port)); err == nil && p.addr.IsValid() && len(r.peers) < maxAnnounced {
		r.peers = append(r.peers, p)
	}
	return err
}
