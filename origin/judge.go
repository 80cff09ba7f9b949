package origin

import (
	"net/http"

	"github.com/pantala/pantala/blob"
)

// maxSkip is how many bytes Fetch reads and forgets when a server answers a range with the whole object. At
// 100 MB/s they cost 80 ms, about as much as a small range from far away; beyond it the object is one that
// can only be streamed.
const maxSkip = 8 << 20

// offer is what the body of a good answer holds: the bytes that were asked for, behind skip others.
type offer struct {
	skip int64
	n    int64 // < 0: until the end of the body
}

// judge decides whether an answer holds the n bytes at off of the object that was opened (n < 0: all bytes
// from off on, and their number is not known), or some first part of them. It does not touch the body.
func (w *web) judge(resp *http.Response, e *endpoint, a ask, off, n int64) (offer, error) {
	size := w.o.Size()
	switch {
	case resp.StatusCode == http.StatusPartialContent && a.rng != "":
		c, f := e.contentRange(resp)
		if f != nil {
			return offer{}, f
		}
		if f := w.sameVersion(resp, e, c.Size); f != nil {
			return offer{}, f
		}
		if c.First != off || n >= 0 && c.Last >= off+n || size >= 0 && c.Last >= size {
			return offer{}, e.fail(blob.ErrUnavailable, again, "asked for %s, the server answered with %q: it is broken, add a --mirror", a.rng, c)
		}
		return offer{n: c.Len()}, nil

	case resp.StatusCode == http.StatusOK:
		if f := w.sameVersion(resp, e, resp.ContentLength); f != nil {
			return offer{}, f
		}
		if a.ifRange != "" {
			// It took the validator for another one, but it is not: some servers know If-Range for dates only.
			w.noIfRange.Store(true)
			return offer{}, errMore
		}
		if a.rng != "" && n >= 0 && off > maxSkip {
			w.ignoresRange(e)
			return offer{}, e.fail(blob.ErrUnavailable, elsewhere, "the server ignores Range: only reading the object from its start works")
		}
		return offer{skip: off, n: n}, nil

	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && a.rng != "":
		if c, err := ParseContentRange(resp.Header.Get("Content-Range")); err == nil && c.Size >= 0 && size >= 0 && c.Size != size {
			if w.known {
				return offer{}, w.sameVersion(resp, e, c.Size)
			}
			return offer{}, w.otherVersion(e, "the object now has %d bytes, not %d", c.Size, size)
		}
		return offer{}, e.fail(blob.ErrUnavailable, again, "the server answered %s to %s of %d bytes: it is broken, add a --mirror", resp.Status, a.rng, size)
	}
	return offer{}, e.failStatus(resp)
}

// ignoresRange notes that an endpoint gives nothing but the whole object.
func (w *web) ignoresRange(e *endpoint) {
	e.whole.Store(true)
	for _, other := range w.at {
		if w.known && !other.whole.Load() {
			return
		}
	}
	if w.known || e == w.home {
		w.o.ranges.Store(false)
	}
}

// contentRange is the range that a 206 answer says it holds, if it is consistent in itself.
func (e *endpoint) contentRange(resp *http.Response) (ContentRange, *failure) {
	values := resp.Header.Values("Content-Range")
	if len(values) != 1 {
		return ContentRange{}, e.fail(blob.ErrUnavailable, again, "206 with %d Content-Range headers: the server is broken, add a --mirror", len(values))
	}
	c, err := ParseContentRange(values[0])
	switch {
	case err != nil || c.First < 0:
		return c, e.fail(blob.ErrUnavailable, again, "206 with Content-Range %.64q: the server is broken, add a --mirror", values[0])
	case resp.ContentLength >= 0 && resp.ContentLength != c.Len():
		return c, e.fail(blob.ErrUnavailable, again, "%q with %d bytes of body: the server is broken, add a --mirror", c, resp.ContentLength)
	}
	return c, nil
}

// sameVersion compares what an answer says of the whole object, its size (-1: nothing) and validator, with
// what Open learned.
func (w *web) sameVersion(resp *http.Response, e *endpoint, size int64) *failure {
	if w.known {
		if have := w.o.Size(); size >= 0 && size != have {
			return e.fail(blob.ErrCorrupt, elsewhere, "it has %d bytes, and %d were announced", size, have)
		}
		return nil
	}
	got := validatorOf(resp.Header)
	if e != w.home && w.valid.String() == "" {
		return e.fail(blob.ErrUnavailable, elsewhere, "without ETag or Last-Modified nothing tells whether this mirror has the same object")
	}
	switch w.valid.compare(got) {
	case differs:
		return w.otherVersion(e, "the validator was %s and is %s", w.valid.shown(), got.shown())
	case unclear:
		return e.fail(blob.ErrUnavailable, again, "the answer does not carry the validator (%s, now %s) by which the object can be recognised: add a --mirror", w.valid.shown(), got.shown())
	}
	if have := w.o.Size(); size >= 0 && have >= 0 && size != have {
		return w.otherVersion(e, "the size was %d bytes and is %d", have, size)
	}
	return nil
}

// otherVersion is the verdict on an endpoint that has another version: final when it is the one that was
// opened, while a mirror is only passed over.
func (w *web) otherVersion(e *endpoint, format string, args ...any) *failure {
	if e != w.home {
		return e.fail(blob.ErrUnavailable, elsewhere, "it has another version than was opened: "+format, args...)
	}
	f := e.fail(blob.ErrChanged, never, format+": mount it again to get the new version", args...)
	if !w.o.changed.Swap(true) {
		w.opt.Log.Warn("object changed at the origin", "err", f)
	}
	return f
}
