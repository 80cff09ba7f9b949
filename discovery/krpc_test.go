package discovery

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pantala/pantala/blob"
)

var (
	idA = nodeID([]byte("abcdefghij0123456789"))
	idM = nodeID([]byte("mnopqrstuvwxyz123456"))
)

// TestExamplesOfBEP5 reads and writes the messages that BEP 5 gives as examples.
func TestExamplesOfBEP5(t *testing.T) {
	addr := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	for text, want := range map[string]krpc{
		"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe":                                                                                         {kind: 'q', tx: "aa", method: qPing, id: idA},
		"d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re":                                                                                                  {kind: 'r', tx: "aa", id: idM},
		"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node1:t2:aa1:y1:qe":                                                     {kind: 'q', tx: "aa", method: qFind, id: idA, target: idM},
		"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe":                                                  {kind: 'q', tx: "aa", method: qGet, id: idA, target: idM},
		"d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re":                                                       {kind: 'r', tx: "aa", id: idA, token: []byte("aoeusnth"), values: []netip.AddrPort{addr("97.120.106.101:11893"), addr("105.100.104.116:28269")}},
		"d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee":                                                                                              {kind: 'e', tx: "aa", code: 201, text: "A Generic Error Ocurred"},
		"d1:rd2:id20:abcdefghij01234567895:nodes26:mnopqrstuvwxyz123456axje.u5:token1:xe1:t2:aa1:y1:re":                                                    {kind: 'r', tx: "aa", id: idA, token: []byte("x"), nodes: []contact{{idM, addr("97.120.106.101:11893")}}},
		"d1:ad2:id20:abcdefghij012345678912:implied_porti1e9:info_hash20:mnopqrstuvwxyz1234564:porti0e5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe": {kind: 'q', tx: "aa", method: qAnnounce, id: idA, target: idM, token: []byte("aoeusnth")},
		"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234564:porti6881e5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe":                {kind: 'q', tx: "aa", method: qAnnounce, id: idA, target: idM, port: 6881, token: []byte("aoeusnth")},
	} {
		got, err := parseKRPC([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(krpc{}, contact{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
			t.Errorf("%s: %s", text, d)
		}
		if back := string(appendKRPC(nil, got)); back != text {
			t.Errorf("written as\n%s\nread from\n%s", back, text)
		}
	}
}

func TestKRPCRefused(t *testing.T) {
	for _, text := range []string{
		"", "i1e", "de", "d1:y1:qe", "d1:q4:ping1:t2:aa1:y1:qe", "d1:ade1:q4:ping1:t2:aa1:y1:qe",
		"d1:ad2:id3:abce1:q4:ping1:t2:aa1:y1:qe",
		"d1:ad2:id20:abcdefghij0123456789e1:q9:find_node1:t2:aa1:y1:qe",
		"d1:rd2:id20:abcdefghij01234567895:nodes25:mnopqrstuvwxyz123456axje.e1:t2:aa1:y1:re",
		"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234564:porti0e5:token1:xe1:q13:announce_peer1:t2:aa1:y1:qe",
		"d1:rd2:id20:abcdefghij01234567895:token" + "65:" + strings.Repeat("x", 65) + "e1:t2:aa1:y1:re",
		"d1:r" + strings.Repeat("l", 700) + strings.Repeat("e", 700) + "1:t2:aa1:y1:re",
		strings.Repeat("d1:a", 400),
	} {
		if m, err := parseKRPC([]byte(text)); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%q: %+v, %v", text, m, err)
		}
	}
	m, err := parseKRPC([]byte("d1:ad2:id20:abcdefghij0123456789e1:q3:xyz1:t2:aa1:y1:qe"))
	if err != nil || !m.unknown {
		t.Errorf("an unknown query: %+v, %v", m, err)
	}
}

// FuzzKRPC: a packet never panics, errors are of class ErrInvalid, and what is accepted is bounded and means the
// same when it is sent again.
func FuzzKRPC(f *testing.F) {
	for _, s := range []string{
		"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe",
		"d1:rd2:id20:abcdefghij01234567895:nodes26:mnopqrstuvwxyz123456axje.u5:token1:x6:valuesl6:axje.uee1:t2:aa1:y1:re",
		"d1:ad2:id20:abcdefghij012345678912:implied_porti1e9:info_hash20:mnopqrstuvwxyz1234564:porti0e5:token8:aoeusnthe1:q13:announce_peer2:roi1e1:t2:aa1:y1:qe",
		"d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee",
		"d1:ellee1:t2:aa1:y1:ee",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseKRPC(b)
		if err != nil {
			if !errors.Is(err, blob.ErrInvalid) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		if len(m.nodes) > maxKRPCNodes || len(m.values) > maxKRPCValues || len(m.token) > maxToken || len(m.tx) > 32 {
			t.Fatalf("%+v", m)
		}
		again, err := parseKRPC(appendKRPC(nil, m))
		if err != nil {
			if len(appendKRPC(nil, m)) > maxKRPC {
				return
			}
			t.Fatalf("%+v: %v", m, err)
		}
		if again.kind != m.kind || again.tx != m.tx || again.id != m.id || len(again.nodes) != len(m.nodes) || len(again.values) != len(m.values) {
			t.Fatalf("%+v became %+v", m, again)
		}
	})
}
