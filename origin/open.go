package origin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pantala/pantala/blob"
)

const (
	// defaultPrefix is how much of the object the first request asks for: the magic numbers and headers of most
	// file formats, and a first kernel readahead (128 KiB), so that the next read needs no request.
	defaultPrefix = 128 << 10
	// prefixWait is how long Open waits for it once the header of the answer is there. On a path of 200 ms,
	// TCP's slow start brings 128 KiB in 4 round trips, 0.8 s; what has arrived by then is kept, and it is
	// better to mount now and read the rest as it is asked for.
	prefixWait = time.Second
)

// errEnough is the cause of a context that ended because Open has waited for prefixWait.
var errEnough = errors.New("enough of the prefix")

// openWeb asks for the start of an object over HTTP.
func openWeb(ctx context.Context, c *Client, u *url.URL, opt Options) (*Object, error) {
	w, err := newWeb(c, u, opt)
	if err != nil {
		return nil, err
	}
	o := &Object{c: c, from: w, canonical: blob.CanonicalURL(u), shown: display(u)}
	w.o = o
	o.size.Store(-1)
	err = w.insist(ctx, func() {}, func(wt *watch, e *endpoint) (bool, error) { return false, w.first(ctx, wt, e, u) })
	if err != nil {
		return nil, err
	}
	return o, nil
}

// first learns the object from the first answer of an endpoint.
func (w *web) first(ctx context.Context, wt *watch, e *endpoint, u *url.URL) error {
	prefix := w.opt.Prefix
	a := w.ask(0, prefix)
	resp, err := e.get(wt.ctx, a)
	if err != nil {
		return e.asFailure(wt, err)
	}
	size, ranges, n := int64(-1), false, prefix
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		// An empty object has no byte 0: RFC 9110 section 14.1.2. Some servers then tell its size.
		if c, err := ParseContentRange(resp.Header.Get("Content-Range")); err == nil && c.Size == 0 {
			size, ranges, n = 0, true, 0
		} else {
			discard(resp)
			if resp, err = e.get(wt.ctx, ask{}); err != nil {
				return e.asFailure(wt, err)
			}
		}
	}
	defer resp.Body.Close()
	wt.touch()
	switch resp.StatusCode {
	case http.StatusPartialContent:
		c, f := e.contentRange(resp)
		if f != nil {
			return f
		}
		if c.First != 0 || c.Last >= prefix {
			return e.fail(blob.ErrUnavailable, again, "asked for %s, the server answered with %q: it is broken, add a --mirror", a.rng, c)
		}
		// Without a size there is nothing to cut into blocks: such an object is streamed.
		size, ranges, n = c.Size, c.Size >= 0, c.Len()
	case http.StatusOK:
		size = resp.ContentLength
		n = prefix
		if size >= 0 {
			n = min(n, size)
		}
	case http.StatusRequestedRangeNotSatisfiable:
		if size != 0 {
			return e.failStatus(resp)
		}
	default:
		f := e.failStatus(resp)
		discard(resp)
		return f
	}
	if size > blob.MaxSize {
		return e.fail(blob.ErrInvalid, elsewhere, "it has %d bytes, and the most that can be mounted is %d", size, blob.MaxSize)
	}
	start, all := w.prefix(wt, resp.Body, n)
	if err := ctx.Err(); err != nil {
		return err // insist knows
	}
	if all && size < 0 && resp.StatusCode == http.StatusOK {
		size = int64(len(start))
	}
	if resp.StatusCode == http.StatusOK && size == int64(len(start)) {
		// Fetch can live with a server that answers small objects as a whole, if it knows ranges at all.
		ranges = size == 0 || strings.Contains(strings.ToLower(resp.Header.Get("Accept-Ranges")), "bytes")
	}
	o := w.o
	o.size.Store(size)
	o.ranges.Store(ranges)
	o.first = start
	o.name = nameFor(u, resp.Header.Get("Content-Disposition"))
	w.home, w.valid = e, validatorOf(resp.Header)
	if o.validator = w.valid.String(); !w.valid.stable() {
		o.nonce = newNonce()
		w.opt.Log.Info("object cannot be shared: the origin gives neither a strong ETag nor a settled Last-Modified", "url", o.shown)
	}
	return nil
}

// prefix reads up to n bytes of a body, for as long as prefixWait. all: it came to the end of the body.
func (w *web) prefix(wt *watch, body io.Reader, n int64) (p []byte, all bool) {
	enough := time.AfterFunc(prefixWait, func() { wt.cancel(errEnough) })
	defer enough.Stop()
	p = make([]byte, n)
	k, err := w.read(wt, body, p)
	if k == 0 {
		return nil, err == io.EOF || n == 0
	}
	if err == nil && n == w.opt.Prefix {
		// The body may end exactly here; of a body without a length only the next read can tell. One byte
		// more is lost, but such a body is read to its end or not at all.
		var one [1]byte
		_, err = io.ReadFull(body, one[:])
	}
	return p[:k:k], err == io.EOF
}
