package tracker

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

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
	ip      string
	left    int64 // -1: not told
	event   string
	numwant int // -1: not told
	compact bool
}

// eachParam calls f for every parameter of a query. Values are bytes, not text: info hashes.
func eachParam(query string, f func(k, v string) error) error {
	for len(query) > 0 {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		k, v, _ := strings.Cut(pair, "=")
		v, err := url.QueryUnescape(v)
		if err != nil {
			return fmt.Errorf("%w: %s is not percent-encoded correctly", blob.ErrInvalid, shown(k))
		}
		if err := f(k, v); err != nil {
			return err
		}
	}
	return nil
}

// shown is a name from outside as it may stand in a message.
func shown(s string) string { return strconv.QuoteToASCII(s[:min(len(s), 20)]) }

func parseAnnounce(query string) (*announceRequest, error) {
	r := &announceRequest{left: -1, numwant: -1, compact: true}
	var keyed, named, ported bool
	err := eachParam(query, func(k, v string) error {
		switch k {
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
			n, err := strconv.ParseUint(v, 10, 16)
			if err != nil {
				return fmt.Errorf("%w: port %s", blob.ErrInvalid, shown(v))
			}
			ported, r.port = true, uint16(n)
		case "left":
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n < 0 {
				return fmt.Errorf("%w: left %s", blob.ErrInvalid, shown(v))
			}
			r.left = n
		case "numwant":
			n, err := strconv.ParseInt(v, 10, 32)
			if err != nil {
				return fmt.Errorf("%w: numwant %s", blob.ErrInvalid, shown(v))
			}
			r.numwant = int(max(n, -1))
		case "event":
			switch v {
			case "", "started", "stopped", "completed", "paused": // BEP 21
				r.event = v
			default:
				return fmt.Errorf("%w: event %s", blob.ErrInvalid, shown(v))
			}
		case "compact":
			r.compact = v != "0"
		case "ip":
			r.ip = v
		}
		return nil
	})
	if err == nil && !(keyed && named && ported) {
		err = fmt.Errorf("%w: announce needs info_hash, peer_id and port", blob.ErrInvalid)
	}
	return r, err
}

// announceReply is what both sides of BEP 3 see of a swarm.
type announceReply struct {
	failure              string
	interval             time.Duration
	complete, incomplete int64
	peers                []planPeer // ids are zero in compact replies
}

// append writes the reply behind b; compact as BEP 23 and BEP 7 say, else as a list of dictionaries (BEP 3).
func (r *announceReply) append(b []byte, compact bool) []byte {
	b = append(b, 'd')
	b = appendInt(appendString(b, "complete"), r.complete)
	b = appendInt(appendString(b, "incomplete"), r.incomplete)
	b = appendInt(appendString(b, "interval"), int64(r.interval/time.Second))
	b = appendString(b, "peers")
	if !compact {
		b = append(b, 'l')
		for _, p := range r.peers {
			b = append(b, 'd')
			b = appendString(appendString(b, "ip"), p.addr.Addr().String())
			b = appendString(appendString(b, "peer id"), p.id[:])
			b = appendInt(appendString(b, "port"), int64(p.addr.Port()))
			b = append(b, 'e')
		}
		return append(b, 'e', 'e')
	}
	var four, six []byte
	for _, p := range r.peers {
		if p.addr.Addr().Is4() {
			four = append(four, p.addr.Addr().AsSlice()...)
			four = binary.BigEndian.AppendUint16(four, p.addr.Port())
		} else {
			six = append(six, p.addr.Addr().AsSlice()...)
			six = binary.BigEndian.AppendUint16(six, p.addr.Port())
		}
	}
	b = appendString(b, four)
	b = appendText(b, "peers6", six)
	return append(b, 'e')
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

// addCompact reads addresses of size bytes with a port each.
func (r *announceReply) addCompact(raw []byte, size int) error {
	s, err := asString(raw)
	if err != nil {
		return err
	}
	if len(s)%(size+2) != 0 {
		return malformed("compact peers of uneven length", raw)
	}
	for ; len(s) > 0; s = s[size+2:] {
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
	if p.addr = netip.AddrPortFrom(ip.Unmap().WithZone(""), uint16(port)); err == nil && p.addr.IsValid() {
		r.peers = append(r.peers, p)
	}
	return err
}

// announce applies a foreign (BEP 3) announce at the time now.
func (s *swarm) announce(now time.Time, r *announceRequest, addr netip.AddrPort) (*announceReply, error) {
	s.gen++
	m := s.byID[r.peer]
	switch {
	case r.event == "stopped":
		if m != nil && m.plan == nil {
			s.remove(now, m)
			m = nil
		}
	case m == nil || m.plan == nil && m.addr != addr:
		var err error
		if m, err = s.join(now, r.peer, addr, false); err != nil {
			return nil, err
		}
	default:
		m.seen = now
	}
	if r.event == "completed" {
		s.downloaded++
	}
	if m != nil && m.plan == nil && r.left >= 0 {
		s.own(m, r.left == 0)
	}
	reply := &announceReply{interval: s.interval}
	reply.complete, reply.incomplete = s.count()
	if r.event != "stopped" {
		reply.peers = s.sample(r, m)
	}
	return reply, nil
}

// sample picks peers for an announce; a seed has no use for other seeds.
func (s *swarm) sample(r *announceRequest, m *member) (list []planPeer) {
	limit := s.maxPeers
	if r.numwant >= 0 {
		limit = min(limit, r.numwant)
	}
	for k := range s.members {
		if len(list) >= limit {
			break
		}
		o := s.members[(s.turn+k)%len(s.members)]
		if o != m && o.addr.Port() != 0 && !(m.seed && o.seed) {
			list = append(list, planPeer{o.addr, o.id})
		}
	}
	s.turn += max(1, len(list))
	return list
}

// count returns how many members have all, and how many do not.
func (s *swarm) count() (complete, incomplete int64) {
	return int64(s.whole), int64(len(s.members) - s.whole)
}
