package swarm

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// TestHearsayIsBounded: one source fills its quota, many fill the share of hearsay, and there is still room for
// what a tracker names.
func TestHearsayIsBounded(t *testing.T) {
	b := newBook()
	at := time.Unix(1000, 0)
	n := uint32(0x0a000000)
	next := func() netip.AddrPort {
		n++
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], n)
		return netip.AddrPortFrom(netip.AddrFrom4(a), 1)
	}
	liar := netip.MustParseAddr("192.0.2.1")
	taken := 0
	for range 10 * maxHeard {
		if b.hear(next(), liar, at) {
			taken++
		}
	}
	if taken != maxHeard {
		t.Errorf("%d addresses of one source, want %d", taken, maxHeard)
	}
	for i := range byte(200) {
		for range maxHeard {
			b.hear(next(), netip.AddrFrom4([4]byte{198, 51, 100, i}), at)
		}
	}
	if len(b.entries) != maxHearsay {
		t.Errorf("%d entries, want %d", len(b.entries), maxHearsay)
	}
	good := next()
	if !b.add(good, at) {
		t.Error("no room for what a tracker names")
	}
	if due := b.due(at, maxDials); len(due) != 1+maxHearsayDials || due[0] != good {
		t.Errorf("dials %v: want the tracker's first and at most %d others", due, maxHearsayDials)
	}
	// What proves wrong makes room.
	for a, e := range b.entries {
		if e.src == liar {
			for range maxHearsayFails + 1 {
				b.failed(a, at)
			}
		}
	}
	if b.heard[liar] != 0 || !b.hear(next(), liar, at) {
		t.Errorf("%d addresses of the liar are left after all have failed", b.heard[liar])
	}
	// What a tracker confirms is no hearsay.
	last := next()
	b.hear(last, liar, at)
	before := b.hearsay
	b.add(last, at)
	if b.hearsay != before-1 || b.entries[last].src.IsValid() {
		t.Error("a confirmed address is still hearsay")
	}
	sum := 0
	for _, k := range b.heard {
		sum += k
	}
	if sum != b.hearsay {
		t.Errorf("counted %d, %d are there", b.hearsay, sum)
	}
}
