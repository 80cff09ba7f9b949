package blob_test

import (
	"encoding/hex"
	"errors"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

const digits = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestIDText(t *testing.T) {
	sum, err := blob.ParseHash(digits)
	if err != nil {
		t.Fatal(err)
	}
	short := sum
	clear(short[20:])
	for _, c := range []struct {
		id   blob.ID
		text string
	}{
		{blob.ID{Kind: blob.ByURL, Sum: sum}, "url:" + digits},
		{blob.DigestID(sum), "sha256:" + digits},
		{blob.ID{Kind: blob.ByInfoHash, Sum: sum}, "btmh:" + digits},
		{blob.ID{Kind: blob.ByInfoHashV1, Sum: short}, "btih:" + digits[:40]},
	} {
		if got := c.id.String(); got != c.text {
			t.Errorf("String() = %q, want %q", got, c.text)
		}
		if got, err := blob.ParseID(c.text); err != nil || got != c.id {
			t.Errorf("ParseID(%q) = %v, %v; want %v", c.text, got, err, c.id)
		}
	}
}

func TestParseIDRejects(t *testing.T) {
	for _, s := range []string{"", ":", digits, ":" + digits, "sha512:" + digits, "SHA256:" + digits, "sha256:", "sha256:" + digits[:63],
		"sha256:" + digits + "00", "btih:" + digits, "btih:" + digits[:39], "btih:" + strings.Repeat("x", 40), "url: " + digits[1:], "url:" + digits + "\n"} {
		if id, err := blob.ParseID(s); !errors.Is(err, blob.ErrInvalid) || id != (blob.ID{}) {
			t.Errorf("ParseID(%q) = %v, %v; want nothing and ErrInvalid", s, id, err)
		}
	}
}

func TestParseDigest(t *testing.T) {
	h, err := blob.ParseDigest("sha256:" + digits)
	if err != nil || h.String() != digits {
		t.Errorf("ParseDigest = %s, %v", h, err)
	}
	for _, s := range []string{"", digits, "sha512:" + digits, "sha256:" + digits[1:], "sha256 " + digits} {
		if _, err := blob.ParseDigest(s); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("ParseDigest(%q): %v, want ErrInvalid", s, err)
		}
	}
}

// TestURLID: URL, validator and size each name another blob, and their texts cannot run into each other.
func TestURLID(t *testing.T) {
	ids := map[blob.ID]string{}
	for _, c := range []struct {
		name, u, v string
		size       int64
	}{
		{"base", "http://h/a", `"1"`, 5},
		{"url", "http://h/b", `"1"`, 5},
		{"validator", "http://h/a", `"2"`, 5},
		{"no validator", "http://h/a", "", 5},
		{"size", "http://h/a", `"1"`, 6},
		{"shifted between size and validator", "http://h/a", `"1"5`, 0},
	} {
		id := blob.URLID(c.u, c.v, c.size)
		if id != blob.URLID(c.u, c.v, c.size) || id.Kind != blob.ByURL {
			t.Errorf("%s: not the same twice, or kind %d", c.name, id.Kind)
		}
		if other, ok := ids[id]; ok {
			t.Errorf("%s and %s share the id %v", c.name, other, id)
		}
		ids[id] = c.name
	}
	// Nodes of different versions meet by these values (here from printf and sha256sum): they must never change.
	const want = "url:074f9815a4947b32107e9d69c3fde857837666f9418062c81dc9aa6c31df96af"
	if got := blob.URLID("http://h/a", `"1"`, 5).String(); got != want {
		t.Errorf("URLID = %s, want %s", got, want)
	}
	const key = "343f34f56a3c7b8d2e7756892d68a640ee6f0682"
	if got := blob.URLID("http://h/a", `"1"`, 5).Key(); hex.EncodeToString(got[:]) != key {
		t.Errorf("Key = %x, want %s", got, key)
	}
}

func TestKey(t *testing.T) {
	sum, _ := blob.ParseHash(digits)
	for _, k := range []blob.Kind{blob.ByInfoHash, blob.ByInfoHashV1} {
		if got := (blob.ID{Kind: k, Sum: sum}).Key(); string(got[:]) != string(sum[:20]) {
			t.Errorf("key of kind %d = %x, want the truncated infohash", k, got)
		}
	}
	a, b := blob.DigestID(sum).Key(), blob.ID{Kind: blob.ByURL, Sum: sum}.Key()
	if a == b || string(a[:]) == string(sum[:20]) {
		t.Errorf("keys %x and %x must be derived from the whole id", a, b)
	}
}

func TestCanonicalURL(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"HTTPS://Example.COM/Model.bin", "https://example.com/Model.bin"},
		{"http://example.com:80/a", "http://example.com/a"},
		{"https://example.com:443/a", "https://example.com/a"},
		{"http://example.com:443/a", "http://example.com:443/a"},
		{"https://example.com:8443/a", "https://example.com:8443/a"},
		{"http://[2001:DB8::1]:80/a", "http://[2001:db8::1]/a"},
		{"https://user:secret@example.com/a#part", "https://example.com/a"},
		{"https://example.com/a?b=2&a=1&b=1", "https://example.com/a?a=1&b=2&b=1"},
		{"https://example.com/a%2Fb/c%20d", "https://example.com/a%2Fb/c%20d"},
		{"https://example.com/a?", "https://example.com/a"},
		{"file:///srv/Model.bin", "file:///srv/Model.bin"},
		// Signatures, of each scheme.
		{"https://s3.example.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=c&X-Amz-Date=d&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=s&versionId=7",
			"https://s3.example.com/k?versionId=7"},
		{"https://s3.example.com/k?AWSAccessKeyId=k&Expires=1&Signature=s", "https://s3.example.com/k"},
		{"https://cdn.example.com/k?Expires=1&Policy=p&Signature=s&Key-Pair-Id=i&x=1", "https://cdn.example.com/k?x=1"},
		{"https://storage.example.com/k?X-Goog-Algorithm=a&x-goog-signature=s", "https://storage.example.com/k"},
		{"https://storage.example.com/k?GoogleAccessId=g&Expires=1&Signature=s", "https://storage.example.com/k"},
		{"https://blob.example.com/k?sv=2024&st=a&se=b&sr=b&sp=r&sig=s&snapshot=9", "https://blob.example.com/k?snapshot=9"},
		// The same words without a signature beside them mean something else.
		{"https://example.com/k?sp=3&st=4", "https://example.com/k?sp=3&st=4"},
		{"https://example.com/k?policy=open&expires=never", "https://example.com/k?expires=never&policy=open"},
		// What does not parse still tells two objects apart.
		{"https://example.com/k?b=1&a;1", "https://example.com/k?b=1&a;1"},
		{"https://example.com/k?a;2", "https://example.com/k?a;2"},
		{"https://example.com/k?%zz&c=3", "https://example.com/k?c=3&%zz"},
	} {
		u, err := url.Parse(c.in)
		if err != nil {
			t.Fatal(err)
		}
		before := *u
		if got := blob.CanonicalURL(u); got != c.want {
			t.Errorf("CanonicalURL(%q)\n got %q\nwant %q", c.in, got, c.want)
		}
		if *u != before {
			t.Errorf("CanonicalURL(%q) changed its argument", c.in)
		}
	}
}

// TestCanonicalURLIsStable: it is its own canonical form, keeps no secret, and forgets only the signature.
func TestCanonicalURLIsStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[a-zA-Z0-9 ;%&=+/é]{0,8}`)
		q := url.Values{}
		for range rapid.IntRange(0, 4).Draw(t, "parameters") {
			q.Add("p"+word.Draw(t, "name"), word.Draw(t, "value"))
		}
		plain := &url.URL{Scheme: "https", Host: "h.example", Path: "/" + word.Draw(t, "path"), RawQuery: q.Encode()}
		once := blob.CanonicalURL(plain)
		u, err := url.Parse(once)
		if err != nil {
			t.Fatalf("%q does not parse: %v", once, err)
		}
		if twice := blob.CanonicalURL(u); twice != once {
			t.Fatalf("%q canonicalises again to %q", once, twice)
		}
		q.Set("X-Amz-Signature", "geheim")
		signed := *plain
		signed.RawQuery, signed.User = q.Encode(), url.UserPassword("user", "geheim")
		if got := blob.CanonicalURL(&signed); got != once {
			t.Fatalf("signed: %q, plain: %q", got, once)
		}
	})
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"sha256:" + digits, "url:" + digits, "btmh:" + digits, "btih:" + digits[:40], "btih:" + digits, ":"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := blob.ParseID(s)
		if err != nil {
			if !errors.Is(err, blob.ErrInvalid) || id != (blob.ID{}) {
				t.Fatalf("ParseID(%q) = %v, %v", s, id, err)
			}
			return
		}
		again, err := blob.ParseID(id.String())
		if err != nil || again != id {
			t.Fatalf("ParseID(%q) = %v, which reads back as %v, %v", s, id, again, err)
		}
		id.Key()
	})
}

func FuzzCanonicalURL(f *testing.F) {
	for _, s := range []string{"http://h:80/a?b=1&sig=x", "https://u:p@h/?a;b&%zz", "file:///x", "//", "http://[::1]:443/%2f?=&&"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil || u.Opaque != "" || u.Host == "" {
			return
		}
		once := blob.CanonicalURL(u)
		again, err := url.Parse(once)
		if err != nil {
			t.Fatalf("CanonicalURL(%q) = %q, which does not parse: %v", s, once, err)
		}
		if twice := blob.CanonicalURL(again); twice != once {
			t.Fatalf("CanonicalURL(%q) = %q, and of that %q", s, once, twice)
		}
	})
}
