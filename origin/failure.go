package origin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/pantala/pantala/blob"
)

// verdict says what a failed request means for the next one.
type verdict uint8

const (
	again     verdict = iota // the same endpoint may do better in a moment
	elsewhere                // this endpoint will not do better, another one may
	never                    // the object is lost: nobody may go on
)

// failure is why one request to one endpoint gave no bytes, or not all of them. Its class is the only thing
// that can be unwrapped: what is below it, a cancelled internal context for example, is only text.
type failure struct {
	class error
	verdict
	after time.Duration // the server asked for this much patience (Retry-After)
	text  string
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.class }

// fail builds a failure: "origin: GET URL: class: what, and what to do".
func (e *endpoint) fail(class error, v verdict, format string, args ...any) *failure {
	return &failure{class: class, verdict: v, text: fmt.Sprintf("origin: GET %s: %v: %s", display(e.url), class, fmt.Sprintf(format, args...))}
}

// failStatus judges an answer that is neither 200 nor 206.
func (e *endpoint) failStatus(resp *http.Response) *failure {
	what := "the server answered " + resp.Status
	said := ""
	if e.explain != nil && (resp.Request == nil || sameOrigin(resp.Request.URL, e.url)) {
		said = e.explain(resp, nil)
	}
	// or is what the endpoint's own words are, if it has any.
	or := func(words string) string {
		if said != "" {
			return said
		}
		return words
	}
	switch code := resp.StatusCode; {
	case code == http.StatusNotFound || code == http.StatusGone:
		return e.fail(blob.ErrNotFound, elsewhere, "%s: %s", what, or("check the URL"))
	case code == http.StatusUnauthorized || code == http.StatusForbidden || code == http.StatusUnavailableForLegalReasons:
		hint := or("pass credentials with -H 'Authorization: …', or a URL that is signed anew")
		if e.explain != nil && said == "" && resp.Request != nil {
			hint = "it was redirected to " + display(resp.Request.URL) + ", which refuses the URL that it was given: try again"
		} else if len(e.header) > 0 && resp.Request != nil && !sameOrigin(resp.Request.URL, e.url) {
			hint = "it was redirected to " + display(resp.Request.URL) + ", where -H headers are not sent: pass that URL instead"
		}
		return e.fail(blob.ErrDenied, elsewhere, "%s: %s", what, hint)
	case code == http.StatusProxyAuthRequired:
		return e.fail(blob.ErrDenied, elsewhere, "%s: put the proxy's user and password into HTTPS_PROXY or HTTP_PROXY", what)
	case code == http.StatusRequestTimeout || code == http.StatusTooEarly || code == http.StatusTooManyRequests || code >= 500:
		after, _ := ParseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
		when := "later"
		if after > 0 {
			when = "in " + after.Round(time.Second).String()
		}
		f := e.fail(blob.ErrUnavailable, again, "%s: try again %s, %s", what, when, or("or add a --mirror"))
		f.after = after
		return f
	case code >= 300 && code < 400:
		return e.fail(blob.ErrUnavailable, elsewhere, "%s without a Location that can be followed: %s", what, or("check the URL"))
	default:
		return e.fail(blob.ErrUnavailable, elsewhere, "%s: %s", what, or("check the URL and the -H headers"))
	}
}

// failTransport judges an error of the transport, where stalled says that our watch ended the request.
func (e *endpoint) failTransport(w *watch, err error) *failure {
	switch cause := context.Cause(w.ctx); {
	case errors.Is(cause, errStalled):
		return e.fail(blob.ErrUnavailable, again, "nothing arrived for %v: check the network, or add a --mirror", w.every)
	case errors.Is(cause, blob.ErrClosed):
		return e.fail(blob.ErrClosed, never, "this node is stopping")
	}
	return e.judgeTransport(err)
}

// judgeTransport judges an error of the transport that no watch caused.
func (e *endpoint) judgeTransport(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	or := func(words string) string {
		if e.explain != nil {
			if said := e.explain(nil, err); said != "" {
				return said
			}
		}
		return words
	}
	var (
		cert *tls.CertificateVerificationError
		rec  tls.RecordHeaderError
		dns  *net.DNSError
	)
	switch {
	case errors.As(err, &cert):
		return e.fail(blob.ErrUnavailable, elsewhere, "%v: %s", cert.Err, or("if the server's own CA is to be trusted, pass --cacert FILE"))
	case errors.As(err, &rec), errors.Is(err, http.ErrSchemeMismatch):
		return e.fail(blob.ErrUnavailable, elsewhere, "the server does not speak TLS on this port: %s", or("use http:// if that is right"))
	case errors.As(err, &dns) && dns.IsNotFound && !e.answered.Load():
		return e.fail(blob.ErrUnavailable, elsewhere, "no such host: check the name and the DNS of this machine")
	}
	return e.fail(blob.ErrUnavailable, again, "%s: %s", strings.TrimPrefix(err.Error(), "net/http: "), or("check that the server can be reached from here"))
}

// failAuth is an error of the endpoint's Authorizer. A context's stays what it is.
func (e *endpoint) failAuth(req *http.Request, err error) error {
	if req.Context().Err() != nil {
		return req.Context().Err()
	}
	f := &failure{class: blob.ErrUnavailable, verdict: again, text: err.Error()}
	for _, class := range []error{blob.ErrDenied, blob.ErrNotFound, blob.ErrInvalid, blob.ErrCorrupt} {
		if errors.Is(err, class) {
			f.class, f.verdict = class, elsewhere
		}
	}
	if errors.Is(err, blob.ErrClosed) {
		f.class, f.verdict = blob.ErrClosed, never
	}
	return f
}
