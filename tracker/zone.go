package tracker

import (
	"fmt"
	"strings"

	"github.com/pantala/pantala/blob"
)

// A zone says where a node stands: names from the widest to the narrowest, as in "eu/zone-a/rack-7/host-3". What
// the parts mean is the operator's business; two nodes are the nearer the more of them they share from the left.

// maxZoneParts is how many parts a zone may have.
const maxZoneParts = 8

// ParseZone reads a zone; "" is one too: nobody knows where. Parts are of letters, digits, "-", "_" and ".".
func ParseZone(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	parts := strings.Split(s, "/")
	ok := len(s) <= maxZone && len(parts) <= maxZoneParts
	for _, p := range parts {
		ok = ok && p != "" && strings.IndexFunc(p, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
		}) < 0
	}
	if !ok {
		return "", fmt.Errorf("%w: zone %s: at most %d parts of letters, digits, -, _ and . with / between them, and %d bytes, such as eu/zone-a/rack-7/host-3", blob.ErrInvalid, shown(s), maxZoneParts, maxZone)
	}
	return s, nil
}

// nearness counts the parts that two zones share from the left.
func nearness(a, b string) (n int) {
	for a != "" && b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, "/")
		if y, b, _ = strings.Cut(b, "/"); x != y {
			break
		}
		n++
	}
	return n
}

// zone is where m says that it stands.
func (m *member) zone() string {
	if m.plan == nil {
		return ""
	}
	return m.plan.zone
}
