package tracker

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"time"
)

/*
The exchange over UDP (BEP 15), as the tracker sees it. All integers are big endian.

	connect   0 magic u64 | 8 action u32 = 0 | 12 transaction u32
	      ->  0 action | 4 transaction | 8 connection id u64
	announce  0 connection id | 8 action = 1 | 12 transaction | 16 info hash [20] | 36 peer id [20] | 56 downloaded i64 |
	          64 left i64 | 72 uploaded i64 | 80 event u32 | 84 ip u32 | 88 key u32 | 92 numwant i32 | 96 port u16 |
	          98 options (BEP 41)
	      ->  0 action | 4 transaction | 8 interval u32 | 12 leechers u32 | 16 seeders u32 | 20 n × 6, or n × 18 over IPv6
	scrape    0 connection id | 8 action = 2 | 12 transaction | 16 n × info hash [20], n ≤ 74
	      ->  0 action | 4 transaction | 8 n × (seeders u32 | completed u32 | leechers u32)
	error ->  0 action = 3 | 4 transaction | 8 text

A sender that has not proved its address by a connection id never gets more bytes than it has sent.
*/

const (
	udpMagic = 0x41727101980 // what a connect begins with instead of a connection id

	actConnect  = 0
	actAnnounce = 1
	actScrape   = 2
	actError    = 3

	connectLen  = 16
	announceLen = 98
	scrapeMin   = 16
	maxUDPHashs = 74 // of one scrape: BEP 15

	// maxReplyUDP keeps replies within one packet of Ethernet: 1500 less the headers of IPv6 and UDP, less 52 for
	// tunnels.
	maxReplyUDP = 1400
	// maxRequestUDP is the longest request that means something: a scrape of 74 is 1496, an announce with a long
	// URL less. What is longer is cut, and then malformed or only its options are.
	maxRequestUDP = 2048
)

// udpDoor answers packets. It belongs to one goroutine, and allocates nothing for an announce.
type udpDoor struct {
	s     *Server
	ids   *connIDs
	r     announceRequest
	f     found
	wrong int // packets that were not answered; for tests
}

// answer appends the reply to the packet q from ip to b; nothing when there is none. ip is IPv4 (mapped into IPv6) or
// IPv6.
func (d *udpDoor) answer(b, q []byte, ip *[16]byte, now time.Time) []byte {
	if len(q) < connectLen {
		d.wrong++
		return b
	}
	action, transaction := binary.BigEndian.Uint32(q[8:]), q[12:16]
	if action == actConnect {
		if binary.BigEndian.Uint64(q) != udpMagic {
			d.wrong++
			return b
		}
		b = append(binary.BigEndian.AppendUint32(b, actConnect), transaction...)
		return binary.BigEndian.AppendUint64(b, d.ids.make(ip, now))
	}
	if !d.ids.check(binary.BigEndian.Uint64(q), ip, now) {
		// Said, so that a client that knows a tracker from before its restart need not wait for a timeout; and cut,
		// so that it pays nobody to ask in the name of others.
		return udpError(b, transaction, "connection id is not valid: connect again", len(q))
	}
	switch {
	case action == actAnnounce && len(q) >= announceLen:
		return d.announce(b, q, ip, now)
	case action == actScrape && len(q) > scrapeMin && (len(q)-scrapeMin)%20 == 0 && (len(q)-scrapeMin)/20 <= maxUDPHashs:
		b = append(binary.BigEndian.AppendUint32(b, actScrape), transaction...)
		for q = q[scrapeMin:]; len(q) > 0; q = q[20:] {
			complete, incomplete, ended, _ := d.s.scrape((*key)(q))
			b = binary.BigEndian.AppendUint32(b, u32(complete))
			b = binary.BigEndian.AppendUint32(b, u32(ended))
			b = binary.BigEndian.AppendUint32(b, u32(incomplete))
		}
		return b
	}
	d.s.refused.Add(1)
	switch action {
	case actAnnounce:
		return udpError(b, transaction, "announce is shorter than 98 bytes", maxReplyUDP)
	case actScrape:
		return udpError(b, transaction, "scrape wants 1 to 74 info hashes of 20 bytes", maxReplyUDP)
	}
	return udpError(b, transaction, "unknown action", maxReplyUDP)
}

func u32(n int64) uint32 { return uint32(min(n, 1<<32-1)) }

// udpError appends an error of at most limit bytes.
func udpError(b, transaction []byte, text string, limit int) []byte {
	b = append(binary.BigEndian.AppendUint32(b, actError), transaction...)
	return append(b, text[:min(len(text), max(0, limit-8))]...)
}

func (d *udpDoor) announce(b, q []byte, ip *[16]byte, now time.Time) []byte {
	r := &d.r
	*r = announceRequest{
		key: key(q[16:]), peer: peerID(q[36:]), port: binary.BigEndian.Uint16(q[96:]), secret: binary.BigEndian.Uint32(q[88:]),
		left: max(-1, int64(binary.BigEndian.Uint64(q[64:]))), numwant: int(max(-1, int32(binary.BigEndian.Uint32(q[92:])))),
	}
	if e := binary.BigEndian.Uint32(q[80:]); e <= uint32(stopped) {
		r.event = event(e)
	}
	from := netip.AddrFrom16(*ip).Unmap()
	which, size := only6, 18
	if from.Is4() {
		which, size = only4, 6
		if said := [4]byte(q[84:88]); said != [4]byte{} {
			r.ip = netip.AddrFrom4(said)
		}
	}
	if len(q) > announceLen {
		r.readOptions(q[announceLen:])
	}
	if most := (maxReplyUDP - 20) / size; r.numwant < 0 || r.numwant > most {
		r.numwant = most // the rules of the server cut it further
	}
	d.f.reset(false)
	if err := d.s.blocked.Load().refuses(&r.key, &r.peer, from); err != nil {
		d.s.refused.Add(1)
		return udpError(b, q[12:16], err.Error(), maxReplyUDP)
	}
	if err := d.s.announce(now, r, whence(from, r.ip, r.port), &d.f, which); err != nil {
		d.s.refused.Add(1)
		return udpError(b, q[12:16], err.Error(), maxReplyUDP)
	}
	b = append(binary.BigEndian.AppendUint32(b, actAnnounce), q[12:16]...)
	b = binary.BigEndian.AppendUint32(b, u32(int64(d.s.interval/time.Second)))
	b = binary.BigEndian.AppendUint32(b, u32(d.f.incomplete))
	b = binary.BigEndian.AppendUint32(b, u32(d.f.complete))
	return append(append(b, d.f.four...), d.f.six...)
}

// readOptions reads what may follow an announce (BEP 41): 0 ends, 1 is filler, any other has a length byte; 2 is a part
// of the URL's path and query. Of those the ip of the query is honoured, as over HTTP. What is malformed ends the
// reading: the announce itself is complete without.
func (r *announceRequest) readOptions(q []byte) {
	var url []byte
	for len(q) > 0 && q[0] != 0 {
		if q[0] == 1 {
			q = q[1:]
			continue
		}
		if len(q) < 2 || len(q) < 2+int(q[1]) {
			break
		}
		if q[0] == 2 {
			url = append(url, q[2:2+int(q[1])]...)
		}
		q = q[2+int(q[1]):]
	}
	_, query, _ := bytes.Cut(url, []byte{'?'})
	_ = eachParam(query, nil, func(k, v []byte) error { // an error ends it: see above
		if strings.EqualFold(string(k), "ip") && len(v) <= 45 {
			if said, err := netip.ParseAddr(string(v)); err == nil {
				r.ip = said
			}
		}
		return nil
	})
}
