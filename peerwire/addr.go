package peerwire

import (
	"encoding/binary"
	"net/netip"
)

// AppendCompact appends an address as 4 or 16 bytes and the port (BEP 5, 7, 11, 23).
func AppendCompact(b []byte, a netip.AddrPort) []byte {
	return binary.BigEndian.AppendUint16(append(b, a.Addr().Unmap().AsSlice()...), a.Port())
}

// ParseCompact reads an address of 6 or 18 bytes. The zero value says that nobody can be reached there: port 0,
// no address at all, or one of a group.
func ParseCompact(b []byte) netip.AddrPort {
	if len(b) != 6 && len(b) != 18 {
		return netip.AddrPort{}
	}
	n := len(b) - 2
	ip, _ := netip.AddrFromSlice(b[:n])
	port := binary.BigEndian.Uint16(b[n:])
	if ip = ip.Unmap(); port == 0 || ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip, port)
}

// Scope says how far an address means the same host: 0 everywhere, 1 in one site, 2 on one machine. Somebody far
// away who names a nearer address would make us connect to a host of our own network, so a stranger is told of,
// and believed about, addresses whose scope is at most that of its own.
func Scope(a netip.Addr) int {
	switch {
	case a.IsLoopback():
		return 2
	case a.IsPrivate(), a.IsLinkLocalUnicast():
		return 1
	}
	return 0
}
