package origin

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
)

const (
	// maxHops bounds a chain of redirects: the limit of curl is 30, of browsers 20, of net/http 10.
	maxHops = 10
	// maxDrain is how much of an unwanted body is read to save its connection. A TCP and TLS handshake
	// costs two to three round trips; 4 KiB fit in the first window of one.
	maxDrain = 4 << 10
)

// endpoint is one URL under which the object can be had.
type endpoint struct {
	url    *url.URL
	header http.Header // may hold secrets: only for the origin of url
	agent  string
	via    *transports
	auth   Authorizer // nil: none
	*health
	explain   func(*http.Response, error) string // nil: none; see Site
	mayFollow func(*url.URL) bool                // nil: nothing unusual; see Site

	resolved atomic.Pointer[resolved] // where redirects led to, nil: not known
	answered atomic.Bool              // it has answered something, so its name exists
	whole    atomic.Bool              // it has answered a range with the whole object
}

// resolved is where redirects led to.
type resolved struct {
	url   *url.URL
	until time.Time // when its signature expires; zero: it does not say
}

// health is how a server has been doing.
type health struct {
	mu      sync.Mutex
	fails   int       // in a row, guarded by mu
	holdoff time.Time // not before, unless nobody else is left; guarded by mu
}

func newEndpoint(u *url.URL, o Options, via *transports) *endpoint {
	e := &endpoint{url: u, header: o.Header.Clone(), agent: o.UserAgent, via: via, health: new(health)}
	if u.User != nil {
		if e.header == nil {
			e.header = http.Header{}
		}
		if e.header.Get("Authorization") == "" {
			pass, _ := u.User.Password()
			e.header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+pass)))
		}
		bare := *u
		bare.User = nil
		e.url = &bare
	}
	return e
}

// ask is what a request says beside its URL.
type ask struct {
	method  string   // "" for GET
	accept  []string // Accept, none for anything
	rng     string   // Range, "" for the whole object
	ifRange string   // If-Range, "" for none
}

// get sends one GET, following redirects. Where they led to is remembered, so that the next request saves
// the round trip (and a registry or hub the work of signing); it is forgotten when that place says no: a
// signed URL has expired, and the URL that was opened is asked once more.
func (e *endpoint) get(ctx context.Context, a ask) (*http.Response, error) {
	to := e.resolved.Load()
	if to != nil && !to.until.IsZero() && time.Now().After(to.until) {
		e.resolved.CompareAndSwap(to, nil)
		to = nil
	}
	if to != nil {
		resp, _, _, err := e.follow(ctx, to.url, a)
		switch {
		case ctx.Err() != nil:
			return resp, err
		case err == nil && !refused(resp.StatusCode):
			return resp, nil
		case err == nil:
			discard(resp)
		}
		e.resolved.CompareAndSwap(to, nil)
	}
	resp, last, until, err := e.follow(ctx, e.url, a)
	if err == nil && last != e.url && resp.StatusCode < 300 && a.method == "" {
		e.resolved.Store(&resolved{last, until})
	}
	return resp, err
}

// refused reports whether a status can be the word of an expired signature: 4xx but those which speak of the
// moment or of the range.
func refused(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusRequestedRangeNotSatisfiable, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return code >= 400 && code < 500
}

// follow sends one GET to u and goes where redirects point. It returns the last URL, u itself if there was no
// redirect, and until when it may be used (zero: nobody says).
func (e *endpoint) follow(ctx context.Context, u *url.URL, a ask) (resp *http.Response, last *url.URL, until time.Time, err error) {
	for range maxHops {
		for first := true; ; first = false {
			var repeat bool
			if resp, repeat, err = e.exchange(e.request(ctx, u, a), first); err != nil {
				return nil, u, until, err
			}
			if !repeat {
				break
			}
			discard(resp)
		}
		e.answered.Store(true)
		switch resp.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			return resp, u, until, nil
		}
		loc := resp.Header.Get("Location")
		if loc == "" {
			return resp, u, until, nil
		}
		discard(resp)
		next, err := u.Parse(loc)
		if err != nil || next.Scheme != "http" && next.Scheme != "https" || next.Hostname() == "" {
			return nil, u, until, e.fail(blob.ErrUnavailable, elsewhere, "redirected to something that is not an http or https URL: check the URL")
		}
		if e.mayFollow == nil || !e.mayFollow(next) {
			if err := e.refuse(ctx, u, next); err != nil {
				return nil, u, until, err
			}
		}
		next.Fragment, next.User = "", nil
		if t := expiry(next, resp.Header, time.Now()); until.IsZero() || !t.IsZero() && t.Before(until) {
			until = t
		}
		u = next
	}
	return nil, u, until, e.fail(blob.ErrUnavailable, elsewhere, "more than %d redirects: check the URL", maxHops)
}

// request builds one GET. The headers that the user gave go to the origin they were given for only.
func (e *endpoint) request(ctx context.Context, u *url.URL, a ask) *http.Request {
	h := make(http.Header, 8)
	method := a.method
	if method == "" {
		method = http.MethodGet
	}
	req := (&http.Request{Method: method, URL: u, Host: u.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: h}).WithContext(ctx)
	e.prepare(req)
	if len(a.accept) > 0 {
		h["Accept"] = []string{strings.Join(a.accept, ", ")}
	}
	if a.rng != "" {
		h["Range"] = []string{a.rng}
	}
	if a.ifRange != "" {
		h["If-Range"] = []string{a.ifRange}
	}
	return req
}

// prepare sets the headers of every request.
func (e *endpoint) prepare(req *http.Request) {
	h := req.Header
	h["User-Agent"] = []string{e.agent}
	if sameOrigin(req.URL, e.url) {
		for k, vs := range e.header {
			if k = http.CanonicalHeaderKey(k); k == "Host" && len(vs) > 0 {
				req.Host = vs[0]
			} else {
				h[k] = vs
			}
		}
	}
	// Any other coding would make the ranges those of other bytes.
	h["Accept-Encoding"] = []string{"identity"}
}

// exchange sends one request, with credentials if it goes to where they belong. repeat: the answer refuses them, and
// there are others now. mayRepeat: the caller can send the request again.
func (e *endpoint) exchange(req *http.Request, mayRepeat bool) (resp *http.Response, repeat bool, err error) {
	mine := e.auth != nil && sameOrigin(req.URL, e.url)
	if mine {
		if err := e.auth.Authorize(req); err != nil {
			return nil, false, e.failAuth(req, err)
		}
	}
	if resp, err = e.via.send(req); err != nil || !mine {
		return resp, false, err
	}
	again, err := e.auth.Answered(req, resp)
	if err != nil {
		discard(resp)
		return nil, false, e.failAuth(req, err)
	}
	return resp, again && mayRepeat, nil
}

// sameOrigin reports whether two URLs share scheme, host and port (RFC 6454 section 4).
func sameOrigin(a, b *url.URL) bool {
	if a.Scheme == b.Scheme && a.Host == b.Host {
		return true
	}
	port := func(u *url.URL) string {
		if p := u.Port(); p != "" {
			return p
		}
		return u.Scheme // a default port is as good as the scheme, which must be equal anyway
	}
	norm := func(u *url.URL) string {
		p := port(u)
		if u.Scheme == "http" && p == "80" || u.Scheme == "https" && p == "443" {
			p = u.Scheme
		}
		return fmt.Sprint(u.Scheme, "\x00", strings.ToLower(u.Hostname()), "\x00", p)
	}
	return norm(a) == norm(b)
}

// discard ends an answer whose body nobody wants, and keeps its connection when the rest is short.
func discard(resp *http.Response) {
	if resp.ContentLength <= maxDrain {
		io.CopyN(io.Discard, resp.Body, maxDrain+1)
	}
	resp.Body.Close()
}

const (
	// holdoffMin is how long an endpoint that failed stands behind the others; it doubles with each failure
	// in a row up to holdoffMax, the time after which an operator who repaired it expects it to be used.
	holdoffMin = time.Second
	holdoffMax = time.Minute
)

// worked notes that the endpoint gave bytes.
func (h *health) worked() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fails, h.holdoff = 0, time.Time{}
}

// failed notes that the endpoint did not.
func (h *health) failed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holdoff = time.Now().Add(min(holdoffMin<<min(h.fails, 10), holdoffMax))
	h.fails++
}

// rests is until when the endpoint stands behind the others; zero when it does not.
func (h *health) rests(now time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holdoff.After(now) {
		return h.holdoff
	}
	return time.Time{}
}

// asFailure is err as a failure of e.
func (e *endpoint) asFailure(w *watch, err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	return e.failTransport(w, err)
}
