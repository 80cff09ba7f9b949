package tracker

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/pantala/pantala/blob"
)

// Blocklist is what a tracker has nothing to do with: addresses, peers by the beginning of their id, torrents. It is
// for emergencies: a client that runs wild, a blob that must not spread. It does not change once it is made.
type Blocklist struct {
	nets     map[netip.Prefix]bool
	bits     []int // lengths of the prefixes in nets: IPv4 as 96 more
	peers    map[string]bool
	lengths  []int // of peers
	torrents map[key]bool
}

// Bounds of a blocklist.
const (
	maxBlockLine  = 200
	maxBlockLines = 1 << 20 // about 100 MiB of memory
)

// ParseBlocklist reads one entry a line: an address or a range of them (192.0.2.7, 192.0.2.0/24, 2001:db8::/32), an
// info hash of 40 or 64 hexadecimal digits, or peer:PREFIX, the first characters of a peer id (BEP 20: peer:-XX).
// Blank lines and what follows a # are passed over. An error names the line.
func ParseBlocklist(r io.Reader) (*Blocklist, error) {
	b := &Blocklist{nets: map[netip.Prefix]bool{}, peers: map[string]bool{}, torrents: map[key]bool{}}
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 4096), 4096)
	n := 0
	for in.Scan() {
		n++
		line, _, _ := strings.Cut(in.Text(), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if n > maxBlockLines || len(line) > maxBlockLine || !b.enter(line) {
			return nil, fmt.Errorf("%w: blocklist: line %d: %s: write an address or range (192.0.2.0/24), an info hash of 40 or 64 hexadecimal digits, or peer:PREFIX of a peer id; at most %d lines", blob.ErrInvalid, n, shown(line), maxBlockLines)
		}
	}
	if err := in.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("%w: blocklist: line %d is longer than %d bytes", blob.ErrInvalid, n+1, maxBlockLine)
	} else if err != nil {
		return nil, fmt.Errorf("blocklist: %w", err)
	}
	slices.Sort(b.bits)
	b.bits = slices.Compact(b.bits)
	slices.Sort(b.lengths)
	b.lengths = slices.Compact(b.lengths)
	return b, nil
}

// enter adds one line; false: it is malformed.
func (b *Blocklist) enter(line string) bool {
	if prefix, ok := strings.CutPrefix(line, "peer:"); ok {
		if len(prefix) == 0 || len(prefix) > len(peerID{}) {
			return false
		}
		b.peers[prefix] = true
		b.lengths = append(b.lengths, len(prefix))
		return true
	}
	if raw, err := hex.DecodeString(line); err == nil && (len(raw) == 20 || len(raw) == 32) {
		b.torrents[key(raw[:20])] = true // BEP 52: trackers know the first 20 bytes
		return true
	}
	p, err := netip.ParsePrefix(line)
	if err != nil {
		var ip netip.Addr
		if ip, err = netip.ParseAddr(line); err != nil || ip.Zone() != "" {
			return false
		}
		p = netip.PrefixFrom(ip, ip.BitLen())
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	p = p.Masked()
	b.nets[p] = true
	b.bits = append(b.bits, prefixBits(p.Addr(), p.Bits()))
	return true
}

// prefixBits keeps the lengths of both families apart in one list.
func prefixBits(ip netip.Addr, bits int) int {
	if ip.Is4() {
		return 1000 + bits
	}
	return bits
}

// Len is how many entries there are.
func (b *Blocklist) Len() int { return len(b.nets) + len(b.peers) + len(b.torrents) }

// addr reports whether an address is blocked.
func (b *Blocklist) addr(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	for _, n := range b.bits {
		if (n >= 1000) != ip.Is4() {
			continue
		}
		if p, err := ip.Prefix(n % 1000); err == nil && b.nets[p] {
			return true
		}
	}
	return false
}

// peer reports whether a peer is blocked by its id.
func (b *Blocklist) peer(id *peerID) bool {
	for _, n := range b.lengths {
		if b.peers[string(id[:n])] {
			return true
		}
	}
	return false
}

// refuses says why somebody is turned away; nil: he is not.
func (b *Blocklist) refuses(k *key, id *peerID, ips ...netip.Addr) error {
	const why = "%w: this tracker does not serve this %s: its operator has blocked it"
	switch {
	case b == nil:
		return nil
	case b.torrents[*k]:
		return fmt.Errorf(why, blob.ErrDenied, "torrent")
	case b.peer(id):
		return fmt.Errorf(why, blob.ErrDenied, "client")
	case slices.ContainsFunc(ips, b.addr):
		return fmt.Errorf(why, blob.ErrDenied, "address")
	}
	return nil
}

// Block replaces the blocklist; nil: nothing is blocked. Nodes that are on it are forgotten, plain peers are not told
// to others any more. Connections that peers have already are not the tracker's to cut.
func (s *Server) Block(b *Blocklist) {
	s.blocked.Store(b)
	if b == nil {
		return
	}
	for k, r := range s.allRooms() {
		r.mu.Lock()
		r.swarm.expel(func(id *peerID, ip netip.Addr) bool { return b.refuses(&k, id, ip) != nil })
		r.wake()
		r.mu.Unlock()
	}
}
