package peerwire

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pantala/pantala/blob"
)

var comparable = cmpopts.EquateComparable(netip.AddrPort{})

// TestPEXBytes pins the message of BEP 11.
func TestPEXBytes(t *testing.T) {
	x := PEX{
		Added:   []PEXPeer{{netip.MustParseAddrPort("10.1.2.3:6881"), PEXSeed | PEXReachable}, {netip.MustParseAddrPort("[2001:db8::1]:80"), 0}},
		Dropped: []netip.AddrPort{netip.MustParseAddrPort("10.1.2.4:1")},
	}
	got := AppendPEX(nil, 7, x)
	body := "d5:added6:\x0a\x01\x02\x03\x1a\xe17:added.f1:\x12" +
		"6:added618:\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x508:added6.f1:\x00" +
		"7:dropped6:\x0a\x01\x02\x04\x00\x018:dropped60:e"
	want := append([]byte{0, 0, 0, byte(2 + len(body)), 20, 7}, body...)
	if !bytes.Equal(got, want) {
		t.Fatalf("got  %q\nwant %q", got, want)
	}
	back, err := ParsePEX(got[6:])
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(x, back, comparable); d != "" {
		t.Error(d)
	}
}

func TestPEXRefused(t *testing.T) {
	for name, body := range map[string]string{
		"no dictionary":            "i1e",
		"nothing":                  "",
		"half an address":          "d5:added5:aaaaae",
		"half an IPv6 address":     "d6:added66:aaaaaae",
		"half a dropped one":       "d7:dropped1:ae",
		"string longer than it is": "d5:added99999999:aaaaaae",
		"too long":                 "d5:added" + strings.Repeat("1", maxPEXMessage),
	} {
		if x, err := ParsePEX([]byte(body)); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, x, err)
		}
	}
	x, err := ParsePEX([]byte("d5:added18:\x0a\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\xe0\x00\x00\x01\x00\x01e"))
	if err != nil || len(x.Added) != 0 {
		t.Errorf("addresses that nobody can have: %+v, %v", x, err)
	}
	x, err = ParsePEX([]byte("d5:added1200:" + strings.Repeat("\x0a\x00\x00\x01\x00\x01", 200) + "e"))
	if err != nil || len(x.Added) != MaxPEX {
		t.Errorf("of 200 addresses %d are taken, %v", len(x.Added), err)
	}
}

// TestStringsAreBounded: a string that claims to be long costs no memory.
func TestStringsAreBounded(t *testing.T) {
	body := []byte("d1:v134217000:abce")
	allocated := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			if _, err := ParseExtendedHandshake(body); err == nil {
				b.Fatal("accepted")
			}
		}
	}).AllocedBytesPerOp()
	if allocated > 1<<20 {
		t.Errorf("%d bytes were allocated for a message of %d", allocated, len(body))
	}
}

// FuzzPEX: a peer exchange message never panics, its errors are of class ErrInvalid, what is accepted is bounded
// and can be dialled, and survives being sent on.
func FuzzPEX(f *testing.F) {
	f.Add([]byte("d5:added6:\x0a\x01\x02\x03\x1a\xe17:added.f1:\x12e"))
	f.Add([]byte("d6:added618:aaaaaaaaaaaaaaaaaa8:dropped618:bbbbbbbbbbbbbbbbbb7:dropped6:cccccce"))
	f.Add([]byte("d5:addedi-1ee"))
	f.Add([]byte("llllllllll"))
	f.Fuzz(func(t *testing.T, body []byte) {
		x, err := ParsePEX(body)
		if err != nil {
			if !errors.Is(err, blob.ErrInvalid) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		if len(x.Added) > MaxPEX || len(x.Dropped) > MaxPEX {
			t.Fatalf("%d added, %d dropped", len(x.Added), len(x.Dropped))
		}
		for _, p := range x.Added {
			if a := p.Addr; !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() || a.Addr().Is4In6() {
				t.Fatalf("accepted %v", a)
			}
		}
		again, err := ParsePEX(AppendPEX(nil, 1, x)[6:])
		if err != nil || len(again.Added) != len(x.Added) || len(again.Dropped) != len(x.Dropped) {
			t.Fatalf("%+v became %+v, %v", x, again, err)
		}
	})
}
