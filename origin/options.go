package origin

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/pantala/pantala/blob"
)

// Options say how an origin is asked. Those given to [NewClient] are the defaults of those given to
// [Client.Open]: a field that is zero there is taken from here.
type Options struct {
	// Header is sent with every request to the scheme, host and port of the URL that was opened (and of each
	// mirror), and never anywhere else: it may hold credentials. "Host" replaces the Host header.
	Header http.Header
	// CACert is a PEM file of certificates to trust beside those of the system.
	CACert string
	// Mirrors are other URLs of the same object, tried in order when the first fails. One that ends in "/"
	// is a folder: the last element of the opened URL's path is appended. A mirror is used only while it
	// gives the same size and validator.
	Mirrors []string
	// Retries is how often in a row a range may fail without progress before its error is returned; 0 means
	// 5, which with the waits of this package is about 3 s; less than 0 means none.
	Retries int
	// Stall is how long nothing may arrive before a connection is given up; 0 means 10 s.
	Stall time.Duration
	// Prefix is how many bytes of an object Open asks for, so that the first read needs no request of its own;
	// 0 means 128 KiB.
	Prefix int64
	// UserAgent is the User-Agent header; "" means "pantala".
	UserAgent string
	// Log takes retries and changes; nil discards them.
	Log *slog.Logger
	// OnBytes is told of every n payload bytes taken from the wire, from any goroutine.
	OnBytes func(n int)
}

const (
	defaultRetries = 5
	// defaultStall: TCP retransmits a lost segment after 0.2, 0.4, … s; 10 s without a byte are at least
	// five lost retransmissions in a row, longer than a route takes to come back.
	defaultStall = 10 * time.Second
)

// over returns o with its zero fields taken from def, which has none left to fill.
func (o Options) over(def Options) Options {
	if o.Header == nil {
		o.Header = def.Header
	}
	if o.CACert == "" {
		o.CACert = def.CACert
	}
	if o.Mirrors == nil {
		o.Mirrors = def.Mirrors
	}
	if o.Retries == 0 {
		o.Retries = def.Retries
	}
	if o.Stall <= 0 {
		o.Stall = def.Stall
	}
	if o.Prefix <= 0 {
		o.Prefix = def.Prefix
	}
	if o.UserAgent == "" {
		o.UserAgent = def.UserAgent
	}
	if o.Log == nil {
		o.Log = def.Log
	}
	if o.OnBytes == nil {
		o.OnBytes = def.OnBytes
	}
	return o
}

// builtin are the defaults of the package.
func builtin() Options {
	return Options{
		Retries:   defaultRetries,
		Stall:     defaultStall,
		Prefix:    defaultPrefix,
		UserAgent: "pantala",
		Log:       slog.New(slog.DiscardHandler),
		OnBytes:   func(int) {},
	}
}

// check refuses headers that could not be sent, or that would change what an answer means.
func (o Options) check() error {
	for k, vs := range o.Header {
		switch http.CanonicalHeaderKey(k) {
		case "Range", "If-Range", "Accept-Encoding", "If-Match", "If-None-Match", "If-Modified-Since",
			"If-Unmodified-Since", "Connection", "Content-Length", "Transfer-Encoding":
			return fmt.Errorf("origin: %w: header %q is set by pantala itself: leave it out of -H", blob.ErrInvalid, k)
		}
		if !httpguts.ValidHeaderFieldName(k) {
			return fmt.Errorf("origin: %w: %q is not a header name: write -H 'Name: value'", blob.ErrInvalid, k)
		}
		for _, v := range vs {
			if !httpguts.ValidHeaderFieldValue(v) {
				return fmt.Errorf("origin: %w: the value of header %q has characters that HTTP does not allow", blob.ErrInvalid, k)
			}
		}
	}
	return nil
}

// schemes are the ones that parseURL accepts.
const schemes = "http, https, file"

// parseURL reads a URL that this package can open.
func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// The text of a url.Error quotes the URL, which may hold a password.
		return nil, fmt.Errorf("origin: %w: not a URL: expected SCHEME://HOST/PATH, with one of %s", blob.ErrInvalid, schemes)
	}
	u.Scheme, u.Fragment, u.RawFragment = strings.ToLower(u.Scheme), "", ""
	switch u.Scheme {
	case "http", "https":
		if u.Hostname() == "" {
			return nil, fmt.Errorf("origin: %w: %s has no host: expected %s://HOST/PATH", blob.ErrInvalid, display(u), u.Scheme)
		}
	case "file":
		if h := u.Host; h != "" && !strings.EqualFold(h, "localhost") {
			return nil, fmt.Errorf("origin: %w: %s names a host: local files are file:///PATH, with three slashes", blob.ErrInvalid, display(u))
		}
		if !path.IsAbs(u.Path) {
			return nil, fmt.Errorf("origin: %w: %s is not absolute: expected file:///PATH", blob.ErrInvalid, display(u))
		}
		u.Host = ""
	case "":
		return nil, fmt.Errorf("origin: %w: %q has no scheme: use one of %s", blob.ErrInvalid, display(u), schemes)
	default:
		return nil, fmt.Errorf("origin: %w: scheme %q is not supported: use one of %s", blob.ErrInvalid, u.Scheme, schemes)
	}
	return u, nil
}

// parseMirror reads one of Options.Mirrors for the object at u.
func parseMirror(raw string, u *url.URL) (*url.URL, error) {
	m, err := parseURL(raw)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	if m.Scheme == "file" {
		return nil, fmt.Errorf("origin: %w: mirror %s is a file: mirrors are http or https", blob.ErrInvalid, display(m))
	}
	if strings.HasSuffix(m.Path, "/") {
		m = m.JoinPath(path.Base(u.EscapedPath()))
	}
	return m, nil
}

// display is a URL as it may stand in a log or an error: without user, password and query.
func display(u *url.URL) string {
	d := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath, Opaque: u.Opaque}
	if u.RawQuery != "" {
		return d.String() + "?…"
	}
	return d.String()
}
