package origin

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/pantala/pantala/blob"
)

// expiryMargin is how long before its end a signed URL is no longer used: a request that is on its way, or waits in a
// queue of the server, must not find it expired. One stall (10 s) is as long as a request may wait.
const expiryMargin = 10 * time.Second

// expiry is when the signature in a URL that a redirect pointed to stops being good; zero when the URL does not say.
// Signers write their own clock: what counts is the time that is left by the Date of the answer with the redirect.
// Known are the parameters of S3 (version 4 and 2), Google Cloud Storage, CloudFront and Azure.
func expiry(u *url.URL, h http.Header, now time.Time) time.Time {
	if u.RawQuery == "" {
		return time.Time{}
	}
	q := map[string]string{}
	for k, vs := range u.Query() {
		q[strings.ToLower(k)] = vs[0]
	}
	var end time.Time
	signed := func(date, seconds string) {
		t, err := time.Parse("20060102T150405Z", q[date])
		n, ok := decimal(q[seconds])
		if err == nil && ok && n < 1<<31 {
			end = t.Add(time.Duration(n) * time.Second)
		}
	}
	switch {
	case q["x-amz-expires"] != "":
		signed("x-amz-date", "x-amz-expires")
	case q["x-goog-expires"] != "":
		signed("x-goog-date", "x-goog-expires")
	case q["sig"] != "" && q["se"] != "":
		for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z", time.DateOnly} {
			if t, err := time.Parse(layout, q["se"]); err == nil {
				end = t
				break
			}
		}
	case q["expires"] != "":
		if n, err := strconv.ParseInt(q["expires"], 10, 64); err == nil && n > 0 && n < 1<<40 {
			end = time.Unix(n, 0)
		}
	}
	if end.IsZero() {
		return end
	}
	clock := now
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		clock = date
	}
	left := end.Sub(clock)
	return now.Add(left - min(expiryMargin, max(left, 0)/2))
}

// refuse judges a redirect: nil when it may be followed.
func (e *endpoint) refuse(ctx context.Context, from, to *url.URL) error {
	advice := "pass that URL if you trust the network"
	if e.explain != nil {
		advice = "list that host with --plain-http if you trust the network"
	}
	switch {
	case from.Scheme == "https" && to.Scheme == "http":
		return e.fail(blob.ErrUnavailable, elsewhere, "redirected from https to %s, which nobody vouches for: %s", display(to), advice)
	case !MayLead(ctx, from, to):
		return e.fail(blob.ErrDenied, elsewhere, "redirected to %s, an address of this machine or of its link, where no server from elsewhere may send us: %s", display(to), advice)
	}
	return nil
}

// MayLead reports whether a server at from may send us to to: one that is elsewhere must not point at this machine or
// at its link, where services listen that trust whoever reaches them (RFC 3927, cloud metadata at 169.254.169.254).
// Names are taken as they are written: what a name of to resolves to is not looked at, and what comes from there is
// believed only if it is what was asked for. Credentials do not travel in either case.
func MayLead(ctx context.Context, from, to *url.URL) bool {
	if !isNear(to.Hostname()) || isNear(from.Hostname()) {
		return true
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", from.Hostname())
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if nearAddr(a) {
			return true
		}
	}
	return false
}

// isNear reports whether a host is this machine or its link by what is written.
func isNear(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && nearAddr(a)
}

func nearAddr(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast()
}
