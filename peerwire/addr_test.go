package peerwire

import (
	"net/netip"
	"testing"
)

func TestScope(t *testing.T) {
	order := []string{"203.0.113.7", "10.0.0.1", "127.0.0.1"}
	for i, a := range order {
		for j, b := range order {
			if (Scope(netip.MustParseAddr(a)) <= Scope(netip.MustParseAddr(b))) != (i <= j) {
				t.Errorf("%s beside %s", a, b)
			}
		}
	}
	for a, want := range map[string]int{"::1": 2, "fe80::1": 1, "fd00::1": 1, "2001:db8::1": 0, "169.254.1.1": 1} {
		if got := Scope(netip.MustParseAddr(a)); got != want {
			t.Errorf("scope of %s is %d", a, got)
		}
	}
}
