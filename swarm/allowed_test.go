package swarm

import (
	"net/netip"
	"slices"
	"testing"
)

// TestAllowedFast has the examples of BEP 6.
func TestAllowedFast(t *testing.T) {
	var key [20]byte
	for i := range key {
		key[i] = 0xaa
	}
	peer := netip.MustParseAddr("80.4.4.200")
	want := []uint32{1059, 431, 808, 1217, 287, 376, 1188, 353, 508}
	for _, k := range []int{7, 9} {
		if got := allowedFast(peer, key, 1313, k); !slices.Equal(got, want[:k]) {
			t.Errorf("%d pieces: %v, want %v", k, got, want[:k])
		}
	}
	if got := allowedFast(netip.MustParseAddr("80.4.4.9"), key, 1313, 9); !slices.Equal(got, want) {
		t.Errorf("a neighbour: %v", got)
	}
	if got := allowedFast(netip.MustParseAddr("::ffff:80.4.4.200"), key, 1313, 9); !slices.Equal(got, want) {
		t.Errorf("mapped: %v", got)
	}
	if got := allowedFast(netip.MustParseAddr("2001:db8::1%eth0"), key, 3, 10); len(got) != 3 {
		t.Errorf("a short torrent: %v", got)
	}
	if got := allowedFast(netip.Addr{}, key, 3, 10); got != nil {
		t.Errorf("no address: %v", got)
	}
}
