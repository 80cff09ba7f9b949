package swarm

import (
	"crypto/sha1"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/pantala/pantala/peerwire"
)

// allowedPieces is how many pieces a peer may have although it is choked. BEP 6 proposes 10: what a peer needs to have
// something to give in return.
const allowedPieces = 10

// allowedFast is the canonical set of BEP 6: k of n pieces, which follow from where a peer is, so that it gains
// nothing by connecting again. Addresses of one network (IPv4 /24, IPv6 /48) count as one.
func allowedFast(peer netip.Addr, key [20]byte, n uint32, k int) (pieces []uint32) {
	bits := 24
	if peer = peer.Unmap(); peer.Is6() {
		bits = 48
	}
	network, err := peer.WithZone("").Prefix(bits)
	if err != nil || !network.IsValid() {
		return nil
	}
	x := append(network.Addr().AsSlice(), key[:]...)
	for k = min(k, int(n)); len(pieces) < k; {
		sum := sha1.Sum(x)
		x = sum[:]
		for i := 0; i < len(x) && len(pieces) < k; i += 4 {
			if p := binary.BigEndian.Uint32(x[i:]) % n; !slices.Contains(pieces, p) {
				pieces = append(pieces, p)
			}
		}
	}
	return pieces
}

// allow tells a foreign peer that is not served which pieces it may ask for all the same. Peers of ours have their
// urgent reads served in any case.
func (l *loop) allow(p *peer) {
	n := l.t.geo.Pieces()
	if !p.fast || p.slot || p.ours() || n == 0 || p.allowed.Load() != nil {
		return
	}
	var allowed []uint32
	for _, piece := range allowedFast(p.addr.Addr(), l.t.cfg.Keys[0], n, allowedPieces) {
		if l.ours.has(piece) {
			allowed = append(allowed, piece)
		}
	}
	p.out.send(func(b []byte) []byte {
		for _, piece := range allowed {
			b = peerwire.AppendAllowedFast(b, piece)
		}
		return b
	})
	p.allowed.Store(&allowed)
}

// allowedNow reports whether a block of a piece may be sent to a peer that is choked: each about twice. It runs on the
// reader's goroutine.
func (p *peer) allowedNow(piece uint32) bool {
	allowed := p.allowed.Load()
	if allowed == nil || !slices.Contains(*allowed, piece) || p.alms >= 2*len(*allowed)*int(p.t.geo.bpp) {
		return false
	}
	p.alms++
	return true
}
