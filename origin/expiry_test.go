package origin

import (
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"
)

// TestExpiry: how long the URLs of signers are used: until shortly before they end, by the signer's clock.
func TestExpiry(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	at := func(d time.Duration) time.Time { return now.Add(d) }
	amz := func(t time.Time) string { return t.UTC().Format("20060102T150405Z") }
	for _, test := range []struct {
		query string
		date  time.Time // of the answer; zero: none
		want  time.Duration
	}{
		{"X-Amz-Date=" + amz(now) + "&X-Amz-Expires=600", time.Time{}, 590 * time.Second},
		{"x-amz-date=" + amz(at(-5*time.Minute)) + "&x-amz-expires=600", time.Time{}, 290 * time.Second},
		// The signer's clock is an hour ahead of ours, and the URL was signed just now by it.
		{"X-Amz-Date=" + amz(at(time.Hour)) + "&X-Amz-Expires=600", at(time.Hour), 590 * time.Second},
		{"X-Goog-Date=" + amz(now) + "&X-Goog-Expires=60", time.Time{}, 50 * time.Second},
		{"X-Goog-Date=" + amz(now) + "&X-Goog-Expires=10", time.Time{}, 5 * time.Second},
		{"Expires=" + itoa(at(time.Hour).Unix()) + "&Signature=x", time.Time{}, time.Hour - 10*time.Second},
		{"se=" + url.QueryEscape(at(time.Hour).UTC().Format(time.RFC3339)) + "&sig=x", time.Time{}, time.Hour - 10*time.Second},
		{"X-Amz-Date=" + amz(at(-time.Hour)) + "&X-Amz-Expires=60", time.Time{}, -59 * time.Minute},
		{"Expires=" + itoa(at(-time.Hour).Unix()), time.Time{}, -time.Hour},
	} {
		h := http.Header{}
		if !test.date.IsZero() {
			h.Set("Date", test.date.UTC().Format(http.TimeFormat))
		}
		if got := expiry(&url.URL{RawQuery: test.query}, h, now); got.Sub(now) != test.want {
			t.Errorf("%s: %v, want %v", test.query, got.Sub(now), test.want)
		}
	}
	for _, query := range []string{"", "a=b", "X-Amz-Expires=5", "X-Amz-Date=x&X-Amz-Expires=5", "X-Amz-Date=" + amz(now) + "&X-Amz-Expires=-5", "Expires=tomorrow", "Expires=0", "se=2030-01-01", "sig=x&se=soon", "%zz=1", "X-Goog-Date=" + amz(now) + "&X-Goog-Expires=99999999999999999999"} {
		if got := expiry(&url.URL{RawQuery: query}, http.Header{}, now); !got.IsZero() {
			t.Errorf("%s: %v", query, got)
		}
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// TestMayLead: nobody from elsewhere sends us to this machine or its link.
func TestMayLead(t *testing.T) {
	for _, near := range []string{"127.0.0.1", "127.9.9.9:80", "localhost:5000", "LOCALHOST.", "a.localhost", "[::1]:443", "169.254.169.254", "[fe80::1]", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "224.0.0.1"} {
		to := &url.URL{Scheme: "https", Host: near}
		if MayLead(t.Context(), &url.URL{Scheme: "https", Host: "192.0.2.1"}, to) {
			t.Errorf("192.0.2.1 leads to %s", near)
		}
		if !MayLead(t.Context(), &url.URL{Scheme: "http", Host: "127.0.0.1:5000"}, to) || !MayLead(t.Context(), &url.URL{Scheme: "http", Host: "localhost:5000"}, to) {
			t.Errorf("this machine does not lead to %s", near)
		}
	}
	for _, far := range []string{"192.0.2.1", "bucket.example", "10.0.0.1:9000", "[2001:db8::1]", "localhost.example"} {
		if !MayLead(t.Context(), &url.URL{Scheme: "https", Host: "192.0.2.9"}, &url.URL{Scheme: "https", Host: far}) {
			t.Errorf("192.0.2.9 does not lead to %s", far)
		}
	}
}
