package origin

import (
	"errors"
	"math"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/pantala/pantala/blob"
)

func TestParseContentRange(t *testing.T) {
	for s, want := range map[string]ContentRange{
		"bytes 0-0/1":        {0, 0, 1},
		"bytes 42-1233/1234": {42, 1233, 1234},
		"bytes 42-1233/*":    {42, 1233, -1},
		"Bytes 0-9/10":       {0, 9, 10},
		"bytes */1234":       {-1, -1, 1234},
		"bytes */0":          {-1, -1, 0},
		"bytes 00-09/010":    {0, 9, 10},
		"bytes 0-9223372036854775806/9223372036854775807": {0, math.MaxInt64 - 1, math.MaxInt64},
	} {
		got, err := ParseContentRange(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q: %s", s, d)
		}
	}
	for _, s := range []string{
		"", "bytes", "bytes ", "bytes /", "bytes 0-9", "0-9/10", "items 0-9/10", "bytes=0-9/10", "bytes  0-9/10", " bytes 0-9/10", "bytes 0-9/10 ",
		"bytes 0 - 9/10", "bytes +0-9/10", "bytes -1-9/10", "bytes 9-0/10", "bytes 0-10/10", "bytes 0-9/-10", "bytes 0-/10", "bytes -9/10", "bytes */*",
		"bytes 0-9/10/11", "bytes 0-9,20-29/30", "bytes 0x0-0x9/10", "bytes 0-9/9223372036854775808", "bytes 0-9223372036854775807/*", "bytes 0-9/1e9",
	} {
		if got, err := ParseContentRange(s); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%q: %v, %v; want invalid", s, got, err)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/10", "bytes */10", "bytes 5-9/*", "bytes 9-5/*", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseContentRange(s)
		if err != nil {
			return
		}
		if c.Len() < 0 || c.First > c.Last || c.Size >= 0 && c.Last >= c.Size || c.First < 0 && c.Size < 0 {
			t.Fatalf("%q gave %+v", s, c)
		}
		if again, err := ParseContentRange(c.String()); err != nil || again != c {
			t.Fatalf("%q gave %v, which gives %v, %v", s, c, again, err)
		}
	})
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"0": 0, "7": 7 * time.Second, "99999999": time.Hour,
		now.Add(9 * time.Second).Format(http.TimeFormat):  9 * time.Second,
		now.Add(-9 * time.Second).Format(http.TimeFormat): 0,
		now.AddDate(1, 0, 0).Format(http.TimeFormat):      time.Hour,
	} {
		if got, ok := ParseRetryAfter(s, now); !ok || got != want {
			t.Errorf("%q: %v, %v, want %v", s, got, ok, want)
		}
	}
	for _, s := range []string{"", "-1", "1.5", "soon", "99999999999999999999"} {
		if got, ok := ParseRetryAfter(s, now); ok {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120", int64(0))
	f.Add("Fri, 31 Dec 1999 23:59:59 GMT", int64(946684000))
	f.Fuzz(func(t *testing.T, s string, now int64) {
		if d, ok := ParseRetryAfter(s, time.Unix(now%(1<<40), 0)); d < 0 || d > maxRetryAfter || !ok && d != 0 {
			t.Fatalf("%q gave %v, %v", s, d, ok)
		}
	})
}

func TestParseDisposition(t *testing.T) {
	for s, want := range map[string]string{
		`attachment; filename="model.bin"`:               "model.bin",
		`attachment; filename=model.bin`:                 "model.bin",
		`inline; filename*=UTF-8''na%C3%AFve%20file.txt`: "naïve file.txt",
		`attachment; filename="/etc/passwd"`:             "passwd",
		`attachment; filename="C:\\dir\\x.exe"`:          "x.exe",
		`attachment; filename=".."`:                      "",
		`attachment; filename="a/"`:                      "",
		"attachment; filename=\"a\x00b\"":                "ab",
		`attachment; filename=" x "`:                     "x",
		"attachment; filename*=UTF-8''a%E2%80%AEtxt.exe": "atxt.exe",
		`attachment`: "", ``: "", `;;;`: "",
	} {
		if got := ParseDisposition(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
	if got := sanitise(strings.Repeat("é", 200)); len(got) != 254 {
		t.Errorf("a long name was cut to %d bytes", len(got))
	}
}

func FuzzDisposition(f *testing.F) {
	f.Add(`attachment; filename="x"`, "/a/b")
	f.Add(`attachment; filename*=UTF-8''%2e%2e`, "/")
	f.Fuzz(func(t *testing.T, s, p string) {
		names := []string{nameFor(&url.URL{Path: p}, s)}
		if got := ParseDisposition(s); got != "" {
			names = append(names, got)
		}
		for _, name := range names {
			if name == "" || name == "." || name == ".." || len(name) > maxName || name != path.Base(name) || strings.ContainsRune(name, '\\') ||
				!utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
				t.Fatalf("%q, %q gave %q", s, p, name)
			}
		}
	})
}

func TestCompareValidators(t *testing.T) {
	const one, two = "Fri, 02 Jan 2026 03:04:05 GMT", "Fri, 02 Jan 2026 03:04:06 GMT"
	v := func(etag, modified string) validator {
		return validatorOf(http.Header{"Etag": {etag}, "Last-Modified": {modified}})
	}
	for _, test := range []struct {
		was, is validator
		want    sameness
	}{
		{v(`"a"`, one), v(`"a"`, one), same},
		{v(`"a"`, one), v(`"a"`, two), same},
		{v(`"a"`, one), v(`"a"`, ""), same},
		{v(`"a"`, one), v(`"b"`, one), differs},
		{v(`"a"`, one), v(`W/"a"`, one), same},
		{v(`"a"`, one), v(`W/"a"`, two), unclear},
		{v(`"a"`, one), v(`W/"b"`, one), differs},
		{v(`"a"`, one), v("", one), unclear},
		{v(`W/"a"`, one), v(`"a"`, one), same},
		{v(`W/"a"`, one), v(`W/"a"`, two), differs},
		{v(`W/"a"`, one), v(`W/"b"`, one), differs},
		{v(`W/"a"`, one), v("", one), same},
		{v("", one), v("", one), same},
		{v("", one), v("", two), differs},
		{v("", one), v(`"a"`, one), same},
		{v("", one), v(`"a"`, ""), unclear},
		{v("", ""), v(`"a"`, one), same},
		{v(`W/"a"`, ""), v(`W/"b"`, ""), same},
	} {
		if got := test.was.compare(test.is); got != test.want {
			t.Errorf("%v then %v: %v, want %v", test.was, test.is, got, test.want)
		}
	}
	for _, tag := range []string{"", "a", `"`, `"a`, `W/a`, `"a"b"`, `w/"a"`, `"a b"`, "\"\x7f\"", `"` + strings.Repeat("a", 2000) + `"`} {
		if got := v(tag, ""); got.String() != "" || got.strong() {
			t.Errorf("ETag %q was taken for %v", tag, got)
		}
	}
	if v("", "yesterday").String() != "" {
		t.Error("a malformed date was taken for a validator")
	}
	if !v("", one).stable() {
		t.Error("an old date without Date is not stable")
	}
}

func TestSameOrigin(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"http://h/x", "http://h/y", true},
		{"http://h/x", "http://H:80/y", true},
		{"https://h:443/x", "https://h/y", true},
		{"http://h/x", "https://h/x", false},
		{"http://h/x", "http://h:8080/x", false},
		{"http://h/x", "http://sub.h/x", false},
		{"http://h:443/x", "https://h/x", false},
		{"http://[::1]/x", "http://[::1]:80/x", true},
	} {
		a, errA := url.Parse(test.a)
		b, errB := url.Parse(test.b)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if got := sameOrigin(a, b); got != test.want || sameOrigin(b, a) != got {
			t.Errorf("%s, %s: %v", test.a, test.b, got)
		}
	}
}
