package peerwire

import (
	"net/netip"

	"github.com/anacrolix/torrent/bencode"
)

// PEXName is what peer exchange is called in the extended handshake (BEP 11).
const PEXName = "ut_pex"

// MaxPEX is how many addresses one peer exchange message adds, and how many it drops: BEP 11 allows 50 of each
// address family, and we count both together.
const MaxPEX = 50

// maxPEXMessage bounds what is given to the bencode parser, in bytes: 50 addresses of both families, added and
// dropped, with flags, are 2.6 KiB; clients that take the BEP less literally send up to 200.
const maxPEXMessage = 16 << 10

// PEXFlags says what the sender of a peer exchange message knows of a peer (BEP 11).
type PEXFlags uint8

const (
	PEXEncrypts  PEXFlags = 0x01 // prefers encryption
	PEXSeed      PEXFlags = 0x02 // has everything, or uploads only
	PEXUTP       PEXFlags = 0x04
	PEXHolepunch PEXFlags = 0x08
	PEXReachable PEXFlags = 0x10 // the sender has connected to it, not the other way round
)

// PEXPeer is one address of a peer exchange message.
type PEXPeer struct {
	Addr  netip.AddrPort
	Flags PEXFlags
}

// PEX is a peer exchange message: what has changed among the peers of the sender since the last one (BEP 11).
type PEX struct {
	Added   []PEXPeer
	Dropped []netip.AddrPort
}

// pexDict is a PEX as it travels: compact addresses, 6 bytes for IPv4 and 18 for IPv6.
type pexDict struct {
	Added    string `bencode:"added"`
	AddedF   string `bencode:"added.f"`
	Added6   string `bencode:"added6"`
	Added6F  string `bencode:"added6.f"`
	Dropped  string `bencode:"dropped"`
	Dropped6 string `bencode:"dropped6"`
}

// AppendPEX appends a peer exchange message under the id that the receiver has chosen. Of each list the first
// [MaxPEX] are sent.
func AppendPEX(b []byte, ext uint8, x PEX) []byte {
	var four, six, flags4, flags6, gone4, gone6 []byte
	for _, p := range x.Added[:min(len(x.Added), MaxPEX)] {
		if p.Addr.Addr().Unmap().Is4() {
			four, flags4 = AppendCompact(four, p.Addr), append(flags4, byte(p.Flags))
		} else {
			six, flags6 = AppendCompact(six, p.Addr), append(flags6, byte(p.Flags))
		}
	}
	for _, a := range x.Dropped[:min(len(x.Dropped), MaxPEX)] {
		if a.Addr().Unmap().Is4() {
			gone4 = AppendCompact(gone4, a)
		} else {
			gone6 = AppendCompact(gone6, a)
		}
	}
	return AppendExtended(b, ext, bencode.MustMarshal(pexDict{
		Added: string(four), AddedF: string(flags4), Added6: string(six), Added6F: string(flags6),
		Dropped: string(gone4), Dropped6: string(gone6),
	}))
}

// ParsePEX reads the body of a peer exchange message. Of more addresses than [MaxPEX] the rest is ignored, and so
// are keys we do not know and addresses that cannot be dialled; a list that is not whole addresses is an error.
func ParsePEX(body []byte) (x PEX, err error) {
	if len(body) > maxPEXMessage {
		return x, malformed(Extended, "peer exchange of %d bytes, at most %d are read", len(body), maxPEXMessage)
	}
	var d pexDict
	if err := unmarshal(body, &d); err != nil {
		return x, malformed(Extended, "peer exchange: %v", err)
	}
	for _, l := range []struct {
		addrs, flags string
		size         int
		dropped      bool
	}{{d.Added, d.AddedF, 6, false}, {d.Added6, d.Added6F, 18, false}, {d.Dropped, "", 6, true}, {d.Dropped6, "", 18, true}} {
		if len(l.addrs)%l.size != 0 {
			return PEX{}, malformed(Extended, "peer exchange: %d bytes are not addresses of %d", len(l.addrs), l.size)
		}
		for i := 0; i*l.size < len(l.addrs); i++ {
			a := ParseCompact([]byte(l.addrs[i*l.size : (i+1)*l.size]))
			if !a.IsValid() {
				continue
			}
			var flags PEXFlags
			if i < len(l.flags) {
				flags = PEXFlags(l.flags[i])
			}
			switch {
			case l.dropped && len(x.Dropped) < MaxPEX:
				x.Dropped = append(x.Dropped, a)
			case !l.dropped && len(x.Added) < MaxPEX:
				x.Added = append(x.Added, PEXPeer{a, flags})
			}
		}
	}
	return x, nil
}
