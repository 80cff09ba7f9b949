package metainfo_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/metainfo"
)

const (
	btmh   = "magnet:?xt=urn:btmh:1220caf1e1c30e81cb361b9ee167c4aa64228a7fa4fa9f6105232b28ad099f3a302e"
	btih   = "magnet:?xt=urn:btih:631a31dd0a46257d5078c0dee4e66e26f73e42ac"
	base32 = "magnet:?xt=urn:btih:MMNDDXIKIYSX2UDYYDPOJZTOE33T4QVM"
)

func TestMagnet(t *testing.T) {
	m, err := metainfo.ParseMagnet(btmh + "&xt=urn:btih:631A31DD0A46257D5078C0DEE4E66E26F73E42AC&dn=a%2Fb%20c&xl=12" +
		"&tr=http%3A%2F%2Ft%2Fannounce&tr.1=udp%3A%2F%2Fu%3A1&tr=wss%3A%2F%2Fno&ws=http%3A%2F%2Fw%2F&xs=https%3A%2F%2Fx%2Fx.torrent&x.pe=%5B%3A%3A1%5D%3A5&x.pe=bad&so=0,2,4-6&unknown=1")
	if err != nil {
		t.Fatal(err)
	}
	v2, _ := blob.ParseHash("caf1e1c30e81cb361b9ee167c4aa64228a7fa4fa9f6105232b28ad099f3a302e")
	want := metainfo.Magnet{
		V1: m.V1, V2: v2, Name: "a_b c", Size: 12,
		Trackers: []string{"http://t/announce", "udp://u:1"}, WebSeeds: []string{"http://w/"}, Sources: []string{"https://x/x.torrent"},
		Peers: []string{"[::1]:5"}, Only: []metainfo.Range{{0, 0}, {2, 2}, {4, 6}},
	}
	if d := cmp.Diff(want, m); d != "" {
		t.Error(d)
	}
	for i, wanted := range []bool{true, false, true, false, true, true, true, false} {
		if m.Wants(i) != wanted {
			t.Errorf("so: file %d", i)
		}
	}
	again, err := metainfo.ParseMagnet(m.String())
	if d := cmp.Diff(m, again); d != "" || err != nil {
		t.Error(d, err)
	}
	if s := m.Source(); strings.Contains(s, "announce") || strings.Contains(s, "ws=") || strings.Contains(s, "x.pe") {
		t.Error(s)
	}
	hex, err := metainfo.ParseMagnet(btih)
	if err != nil || hex.V1 != m.V1 || hex.Size != -1 || hex.ID().String() != "btih:631a31dd0a46257d5078c0dee4e66e26f73e42ac" {
		t.Errorf("%+v %v", hex, err)
	}
	b32, err := metainfo.ParseMagnet(base32)
	if err != nil || b32.V1 != hex.V1 {
		t.Errorf("base32: %x, hex: %x, %v", b32.V1, hex.V1, err)
	}
}

func TestMagnetRefuses(t *testing.T) {
	for s, want := range map[string]string{
		"magnet:?dn=x":                    "no infohash",
		"magnet:?xt=urn:sha1:x":           "no infohash",
		"http://x":                        "magnet link",
		btih[:len(btih)-1]:                "not a v1 infohash",
		btih[:len(btih)-1] + "x":          "not a v1 infohash",
		btmh[:len(btmh)-1]:                "64 hexadecimal",
		"magnet:?xt=urn:btmh:1114aa":      "multihash",
		btih + "&xl=-1":                   "not a size",
		btih + "&xl=99999999999999999999": "not a size",
		btih + "&so=3-1":                  "BEP 53",
		btih + "&so=x":                    "BEP 53",
		btih + "&dn=%zz":                  "single quotes",
		btih + "&xt=urn:btih:" + strings.Repeat("0", 39) + "1":     "two different",
		btmh + "&xt=urn:btmh:1220" + strings.Repeat("0", 63) + "1": "two different",
		btih + "&dn=" + strings.Repeat("x", 1<<17):                 "longer than",
		btmh + "&xl=1&x.pt.digest=zz&x.pt.root=zz":                 "x.pt.digest",
	} {
		if m, err := metainfo.ParseMagnet(s); !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %+v, %v; want %q", s, m, err, want)
		}
	}
	altered := btmh + "&xl=1&x.pt.digest=" + strings.Repeat("00", 32) + "&x.pt.root=" + strings.Repeat("00", 32)
	if _, err := metainfo.ParseMagnet(altered); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("altered: %v", err)
	}
}

func FuzzMagnet(f *testing.F) {
	f.Add(btmh + "&xl=5&so=1-2&tr=http://t/&dn=x")
	f.Add(btih)
	f.Add(base32)
	f.Fuzz(func(t *testing.T, s string) {
		m, err := metainfo.ParseMagnet(s)
		if err != nil {
			if !errors.Is(err, blob.ErrInvalid) && !errors.Is(err, blob.ErrCorrupt) {
				t.Fatalf("no class: %v", err)
			}
			return
		}
		again, err := metainfo.ParseMagnet(m.String())
		if err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		if d := cmp.Diff(m, again); d != "" {
			t.Fatal(d)
		}
	})
}
