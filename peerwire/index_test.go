package peerwire

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pantala/pantala/blob"
)

func indexClaim(n byte) IndexClaim {
	c := IndexClaim{Size: 0x41424344, Trust: blob.Built}
	for i := range c.Root {
		c.Root[i], c.Digest[i] = 'r', 's'
	}
	c.Root[0] += n
	return c
}

// TestIndexBytes pins the messages of docs/wire.md.
func TestIndexBytes(t *testing.T) {
	if got := AppendIndexAsk(nil, 9); !bytes.Equal(got, []byte{0, 0, 0, 3, 20, 9, 0}) {
		t.Errorf("ask: %q", got)
	}
	want := "\x00\x00\x00\x4c\x14\x09\x01" + strings.Repeat("r", 32) + strings.Repeat("s", 32) + "\x00\x00\x00\x00ABCD\x05"
	got := AppendIndexClaims(nil, 9, []IndexClaim{indexClaim(0)})
	if string(got) != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for _, claims := range [][]IndexClaim{nil, {indexClaim(0)}, {indexClaim(0), indexClaim(1), indexClaim(2), indexClaim(3)}} {
		m := AppendIndexClaims(nil, 9, claims)[6:]
		ask, back, err := ParseIndex(m)
		if ask || err != nil || !slices.Equal(back, claims) {
			t.Errorf("%v became %v, %v, %v", claims, ask, back, err)
		}
		for cut := range m {
			if _, back, err := ParseIndex(m[:cut]); err == nil && (cut-1)%claimLen != 0 || len(back) > len(claims) {
				t.Errorf("%d of %d bytes: %v, %v", cut, len(m), back, err)
			}
		}
	}
	if ask, claims, err := ParseIndex([]byte{0}); !ask || claims != nil || err != nil {
		t.Errorf("ask: %v, %v, %v", ask, claims, err)
	}
	if ask, claims, err := ParseIndex([]byte("\x07later")); ask || claims != nil || err != nil {
		t.Errorf("an op that is not known: %v, %v, %v", ask, claims, err)
	}
	five := AppendIndexClaims(nil, 9, make([]IndexClaim, 5))[6:]
	none := AppendIndexClaims(nil, 9, make([]IndexClaim, 1))[6:]
	for _, bad := range [][]byte{nil, {0, 1}, five, none} {
		if _, _, err := ParseIndex(bad); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// FuzzIndex: what is accepted is within the bounds, and is written as it was read.
func FuzzIndex(f *testing.F) {
	f.Add([]byte{0})
	f.Add(AppendIndexClaims(nil, 1, []IndexClaim{indexClaim(0), indexClaim(1)})[6:])
	f.Fuzz(func(t *testing.T, body []byte) {
		ask, claims, err := ParseIndex(body)
		switch {
		case err != nil && !errors.Is(err, blob.ErrInvalid):
			t.Fatal(err)
		case err == nil && ask && !bytes.Equal(AppendIndexAsk(nil, 1)[6:], body):
			t.Fatalf("%q", body)
		case err == nil && body[0] == indexClaims && !bytes.Equal(AppendIndexClaims(nil, 1, claims)[6:], body) || len(claims) > MaxIndexClaims:
			t.Fatalf("%q: %v", body, claims)
		}
	})
}
