package origin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pantala/pantala/blob"
)

// Site is one place where something can be had whose bytes are known beforehand, by their digest: one server of
// several that hold the same, each with its own certificates and its own way to log in. See [Client.Known],
// [Client.Read] and [Client.Do].
type Site struct {
	// URL is what is asked for, http or https.
	URL *url.URL
	// Header is sent to the scheme, host and port of URL only: it may hold credentials.
	Header http.Header
	// Auth adds credentials to each request, and says what to do when they are refused; nil: none. It is never
	// asked about a request to another scheme, host or port than URL's.
	Auth Authorizer
	// TLS is how to speak to https.
	TLS TLS
	// Follow says that a redirect is fine which is refused otherwise: from https to http, or from elsewhere to an
	// address of this machine; nil: none is.
	Follow func(to *url.URL) bool
	// Explain puts an answer that is no success (resp) or an error of the transport (err) into words that say what
	// to do; exactly one of both is given. "" leaves the words of this package. It may read some of resp.Body.
	Explain func(resp *http.Response, err error) string
}

// Authorizer adds credentials to requests. It is safe for concurrent use.
type Authorizer interface {
	// Authorize sets headers of a request that is about to be sent. It may have to ask somebody, bounded by the
	// request's context. Its error wraps a class of package blob, or the context's.
	Authorize(req *http.Request) error
	// Answered is told of the answer to a request that Authorize has seen. again: the answer was a refusal (401, or
	// 403) that other credentials may undo, and these are there now: authorize the request anew and send it once
	// more. It does not read the body.
	Answered(req *http.Request, resp *http.Response) (again bool, err error)
}

// TLS says whom to believe. The zero value is the certificates of the system (and of Options.CACert).
type TLS struct {
	CACerts     []string    // PEM files of authorities to trust as well
	Clients     [][2]string // PEM files of certificates and their keys to show; a key of "" is in the certificate's file
	SkipVerify  bool        // believe everybody: who listens on the way can read and change all
	DialTimeout time.Duration
}

// key tells whether two are the same.
func (t TLS) key() string {
	if t.CACerts == nil && t.Clients == nil && !t.SkipVerify && t.DialTimeout == 0 {
		return ""
	}
	return fmt.Sprintf("%q %q %v %v", t.CACerts, t.Clients, t.SkipVerify, t.DialTimeout)
}

// config is t for crypto/tls, on top of base.
func (t TLS) config(base *tls.Config) (*tls.Config, error) {
	conf := base.Clone()
	conf.InsecureSkipVerify = t.SkipVerify
	for _, file := range t.CACerts {
		if err := trust(conf, file); err != nil {
			return nil, fmt.Errorf("origin: %w: certificate authority: %v", blob.ErrInvalid, err)
		}
	}
	for _, pair := range t.Clients {
		key := pair[1]
		if key == "" {
			key = pair[0]
		}
		cert, err := tls.LoadX509KeyPair(pair[0], key)
		if err != nil {
			return nil, fmt.Errorf("origin: %w: client certificate %s: %v", blob.ErrInvalid, pair[0], err)
		}
		conf.Certificates = append(conf.Certificates, cert)
	}
	return conf, nil
}

// at are sites as endpoints. Sites of the same server share its health, so that a server that is down is not waited
// for by each object anew.
func (c *Client) at(sites []Site, o Options) ([]*endpoint, error) {
	if len(sites) == 0 {
		return nil, fmt.Errorf("origin: %w: nobody to ask", blob.ErrInvalid)
	}
	var at []*endpoint
	for _, s := range sites {
		if s.URL == nil || s.URL.Scheme != "http" && s.URL.Scheme != "https" || s.URL.Hostname() == "" || s.URL.User != nil {
			return nil, fmt.Errorf("origin: %w: a site needs an http or https URL without a user", blob.ErrInvalid)
		}
		if err := (Options{Header: s.Header}).check(); err != nil {
			return nil, err
		}
		via, err := c.transports(o.CACert, s.TLS)
		if err != nil {
			return nil, err
		}
		e := newEndpoint(s.URL, Options{Header: s.Header, UserAgent: o.UserAgent}, via)
		e.auth, e.explain, e.mayFollow = s.Auth, s.Explain, s.Follow
		e.health = c.healthOf(s.URL)
		at = append(at, e)
	}
	return at, nil
}

// healthOf is the health of a server that several objects share.
func (c *Client) healthOf(u *url.URL) *health {
	key := u.Scheme + "://" + strings.ToLower(u.Host)
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.healths[key]
	if h == nil {
		h = new(health)
		c.healths[key] = h
	}
	return h
}

// Known is an object whose size is known, and whose bytes are checked by whoever receives them: an object that is
// named by its digest. It asks nobody yet. The sites are tried in their order; the last is the one whose word counts
// when none of them delivers. An answer is not asked for a validator. name is for texts.
func (c *Client) Known(name string, size int64, sites []Site, opt Options) (*Object, error) {
	opt = opt.over(c.def)
	if size < 0 || size > blob.MaxSize {
		return nil, fmt.Errorf("origin: %w: %s: a size of %d bytes", blob.ErrInvalid, name, size)
	}
	at, err := c.at(sites, opt)
	if err != nil {
		return nil, err
	}
	o := &Object{c: c, canonical: blob.CanonicalURL(sites[len(sites)-1].URL), shown: name, name: sanitise(name), nonce: newNonce()}
	o.from = &web{o: o, c: c, opt: opt, at: at, known: true, chief: len(at) - 1}
	o.size.Store(size)
	o.ranges.Store(true)
	return o, nil
}

// Query is what [Client.Read] asks for.
type Query struct {
	Method string   // "" means GET; or HEAD
	Accept []string // media types
	Limit  int64    // a longer body is refused with ErrInvalid; 0: any body is
	// Check decides whether an answer is believed; one that is not counts as a failure of its site (ErrInvalid
	// if it wraps that, else ErrCorrupt), and the next is asked. nil: each is.
	Check func(Document) error
}

// Document is a short answer.
type Document struct {
	Site   int // which site gave it, by its place in the list
	Header http.Header
	Body   []byte
}

// Read asks the sites in turn for a short document, with the patience of [Object.Fetch]. Once the last site has said
// a definite no, and the others have said anything, that is the error.
func (c *Client) Read(ctx context.Context, sites []Site, q Query, opt Options) (Document, error) {
	opt = opt.over(c.def)
	at, err := c.at(sites, opt)
	if err != nil {
		return Document{}, err
	}
	if err := c.enter(); err != nil {
		return Document{}, err
	}
	defer c.calls.Done()
	var doc Document
	w := &web{c: c, opt: opt, at: at, known: true, brief: true, chief: len(at) - 1}
	err = w.insist(ctx, func() {}, func(wt *watch, e *endpoint) (bool, error) {
		d, err := w.document(wt, e, q)
		if err == nil {
			d.Site = slices.Index(at, e)
			doc = d
		}
		return false, err
	})
	return doc, err
}

// document is one attempt of Read.
func (w *web) document(wt *watch, e *endpoint, q Query) (d Document, err error) {
	resp, err := e.get(wt.ctx, ask{method: q.Method, accept: q.Accept})
	if err != nil {
		return d, e.asFailure(wt, err)
	}
	defer resp.Body.Close()
	wt.touch()
	if resp.StatusCode != http.StatusOK {
		f := e.failStatus(resp)
		discard(resp)
		return d, f
	}
	d.Header = resp.Header
	if q.Method != http.MethodHead {
		if resp.ContentLength > q.Limit {
			return d, e.fail(blob.ErrInvalid, elsewhere, "it has %d bytes, and at most %d are read", resp.ContentLength, q.Limit)
		}
		n := q.Limit + 1
		if resp.ContentLength >= 0 {
			n = resp.ContentLength
		}
		d.Body, err = w.body(wt, resp.Body, n)
		if err == io.ErrUnexpectedEOF {
			return d, e.fail(blob.ErrUnavailable, again, "the body ended early, after %d bytes: the server is broken or restarting, try again", len(d.Body))
		}
		if err != nil {
			return d, e.asFailure(wt, err)
		}
		if int64(len(d.Body)) > q.Limit {
			return d, e.fail(blob.ErrInvalid, elsewhere, "it has more than %d bytes, the most that is read", q.Limit)
		}
	}
	if q.Check != nil {
		if err := q.Check(d); err != nil {
			class := blob.ErrCorrupt
			if errors.Is(err, blob.ErrInvalid) {
				class = blob.ErrInvalid
			}
			return d, e.fail(class, elsewhere, "%v", err)
		}
	}
	return d, nil
}

// body reads up to n bytes of a body, in steps, so that memory is only taken for what has arrived.
func (w *web) body(wt *watch, from io.Reader, n int64) (all []byte, err error) {
	for int64(len(all)) < n {
		all = slices.Grow(all, int(min(n-int64(len(all)), max(4<<10, int64(len(all))))))
		p := all[len(all):cap(all)]
		k, err := w.read(wt, from, p[:min(int64(len(p)), n-int64(len(all)))])
		if all = all[:len(all)+k]; err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// doStall is how long nothing may move in a request of Do, unless Options.Stall is longer: a registry that has taken an
// upload may work on it for a while before it answers.
const doStall = time.Minute

// Do sends one request to a site, authorized, and once more if the site's Authorizer says so; it follows no redirect
// and does not retry. A body that is to be sent again is taken from req.GetBody. The caller closes the answer's body.
func (c *Client) Do(req *http.Request, s Site, opt Options) (*http.Response, error) {
	opt = opt.over(c.def)
	at, err := c.at([]Site{s}, opt)
	if err != nil {
		return nil, err
	}
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.calls.Done()
	wt := c.watches.start(req.Context(), max(opt.Stall, doStall))
	resp, err := at[0].do(wt, req)
	if err != nil {
		wt.stop()
		if ctx := req.Context(); ctx.Err() != nil {
			return nil, fmt.Errorf("origin: %s %s: %w", req.Method, display(req.URL), ctx.Err())
		}
		return nil, err
	}
	resp.Body = &watched{resp.Body, wt, wt.stop}
	return resp, nil
}

// do is Do as one that wt watches.
func (e *endpoint) do(wt *watch, req *http.Request) (*http.Response, error) {
	for first := true; ; first = false {
		r := req.Clone(wt.ctx)
		if !first && req.GetBody != nil {
			var err error
			if r.Body, err = req.GetBody(); err != nil {
				return nil, fmt.Errorf("origin: %w: the body cannot be sent again: %v", blob.ErrInvalid, err)
			}
		}
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = &watched{r.Body, wt, func() {}}
		}
		e.prepare(r)
		resp, repeat, err := e.exchange(r, first && (req.Body == nil || req.GetBody != nil))
		if err != nil {
			return nil, e.asFailure(wt, err)
		}
		if !repeat {
			return resp, nil
		}
		discard(resp)
	}
}

// watched tells a watch of every byte that moves.
type watched struct {
	io.ReadCloser
	wt   *watch
	stop func()
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.wt.touch()
	return n, err
}

func (w *watched) Close() error {
	err := w.ReadCloser.Close()
	w.stop()
	return err
}

// Fail is the error that an answer to Do which is no success means.
func (s Site) Fail(resp *http.Response) error {
	e := &endpoint{url: s.URL, explain: s.Explain, header: s.Header}
	return e.failStatus(resp)
}
