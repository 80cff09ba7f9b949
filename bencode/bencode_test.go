package bencode_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pantala/pantala/bencode"
	"github.com/pantala/pantala/blob"
)

func TestReadWhatWasWritten(t *testing.T) {
	b := []byte("d")
	b = bencode.AppendPair(b, "a", 7)
	b = bencode.AppendPair(b, "absent", 0)
	b = bencode.AppendText(b, "b", "x:y")
	b = bencode.AppendString(b, "c")
	b = append(bencode.AppendInt(append(b, 'l'), 3), "ee"...)
	var got []string
	err := bencode.EachPair(b, 2, func(k string, raw []byte) error {
		got = append(got, fmt.Sprintf("%s=%s", k, raw))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"a=i7e", "b=3:x:y", "c=li3ee"}, got); d != "" {
		t.Error(d)
	}
}

func TestRefused(t *testing.T) {
	for _, s := range []string{
		"", "x", "i", "i12", "i" + strings.Repeat("1", 30) + "e", "5:abc", "99999999999999999999:", "3", "l", "li1e", "d1:a", "d1:ae", "di1ei2ee",
		"lllle", strings.Repeat("l", 100_000), strings.Repeat("d1:a", 100_000),
	} {
		if _, _, err := bencode.Cut([]byte(s), 3); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%.30q: %v", s, err)
		}
	}
}

func FuzzCut(f *testing.F) {
	for _, s := range []string{"d1:ai1e1:bl1:xee", "i-3e", "4:spam", "lllleeee", "d3:keyd1:a0:ee"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		raw, rest, err := bencode.Cut(b, 8)
		if err != nil {
			return
		}
		if string(raw)+string(rest) != string(b) {
			t.Fatalf("cut %q and %q of %q", raw, rest, b)
		}
		bencode.EachPair(raw, 8, func(k string, val []byte) error {
			if v, rest, err := bencode.Cut(val, 8); err != nil || len(rest) != 0 || string(v) != string(val) {
				t.Fatalf("value %q of %q: %v", val, k, err)
			}
			return nil
		})
		bencode.EachItem(raw, 8, func(v []byte) error { bencode.Int(v, 1<<62); bencode.String(v); return nil })
	})
}
