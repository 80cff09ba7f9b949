package origin

import (
	"net/http"
	"time"
)

// maxRetryAfter bounds what a server may ask for; nobody reads so patiently, and it keeps sums in range.
const maxRetryAfter = time.Hour

// ParseRetryAfter reads a Retry-After header (RFC 9110 section 10.2.3): seconds, or a date, counted from
// now. The result lies in 0..1 h. false: there is none, or it is malformed.
func ParseRetryAfter(s string, now time.Time) (time.Duration, bool) {
	if n, ok := decimal(s); ok {
		return time.Duration(min(n, int64(maxRetryAfter/time.Second))) * time.Second, true
	}
	t, err := http.ParseTime(s)
	if err != nil {
		return 0, false
	}
	return min(max(t.Sub(now), 0), maxRetryAfter), true
}
