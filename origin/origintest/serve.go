package origintest

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pantala/pantala/origin"
)

// version is one state of the object.
type version struct {
	content  Content
	etag     string
	modified time.Time
}

// stall waits until the client goes away or the server closes.
func (s *Server) stall(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-s.quit:
	}
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	at, f, v := s.begin(r)
	if f.Stall < 0 {
		s.stall(r)
		panic(http.ErrAbortHandler)
	}
	h := w.Header()
	for k, vs := range f.Header {
		h[k] = vs
	}
	answer := func(status int) {
		s.note(at, status)
		w.WriteHeader(status)
	}
	if f.RedirectTo != "" {
		h.Set("Location", f.RedirectTo)
		answer(http.StatusFound)
		return
	}
	if f.Status != 0 {
		if f.RetryAfter != "" {
			h.Set("Retry-After", f.RetryAfter)
		}
		answer(f.Status)
		return
	}
	v.stamp(h, f)
	size := v.content.Size()
	first, last, ranged := int64(0), size-1, false
	if rng := r.Header.Get("Range"); rng != "" && !f.IgnoreRange && !f.Chunked && v.ifRange(r, f) {
		var ok bool
		if first, last, ok = parseRange(rng, size); !ok {
			h.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
			answer(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		ranged = true
	}
	if !f.Chunked {
		h.Set("Accept-Ranges", "bytes")
	}
	if f.IgnoreRange {
		h.Del("Accept-Ranges")
	}
	if ranged {
		if f.Shorten > 0 {
			last = min(last, first+f.Shorten-1)
		}
		first, last = min(first+f.ShiftRange, size-1), min(last+f.ShiftRange, size-1)
		c := origin.ContentRange{First: first, Last: last, Size: size + f.WrongTotal}
		if f.StarTotal {
			c.Size = -1
		}
		if !f.NoRangeLine {
			h.Set("Content-Range", c.String())
		}
	}
	n := last - first + 1
	if !f.Chunked {
		h.Set("Content-Length", strconv.FormatInt(n, 10))
	}
	h.Set("Content-Type", "application/octet-stream")
	if ranged {
		answer(http.StatusPartialContent)
	} else {
		answer(http.StatusOK)
	}
	s.body(w, r, f, v, first, n)
}

// stamp sets the validators.
func (v version) stamp(h http.Header, f Faults) {
	switch {
	case f.NoETag:
	case f.WeakETag:
		h.Set("ETag", "W/"+v.etag)
	default:
		h.Set("ETag", v.etag)
	}
	if !f.NoLastModified {
		m := v.modified
		if f.Fresh {
			m = time.Now()
		}
		h.Set("Last-Modified", m.UTC().Format(http.TimeFormat))
	}
}

// ifRange reports whether the condition of a range holds.
func (v version) ifRange(r *http.Request, f Faults) bool {
	c := r.Header.Get("If-Range")
	return c == "" || f.IgnoreIfRange || !f.BadIfRange && !f.WeakETag && !f.NoETag && c == v.etag
}

// parseRange reads a range of one span that begins inside the object.
func parseRange(s string, size int64) (first, last int64, ok bool) {
	a, b, ok := strings.Cut(strings.TrimPrefix(s, "bytes="), "-")
	first, err := strconv.ParseInt(a, 10, 64)
	if !ok || err != nil || first >= size {
		return 0, 0, false
	}
	last = size - 1
	if b != "" {
		if last, err = strconv.ParseInt(b, 10, 64); err != nil || last < first {
			return 0, 0, false
		}
	}
	return first, min(last, size-1), true
}

// body sends n bytes from first on, as far as the faults let it.
func (s *Server) body(w http.ResponseWriter, r *http.Request, f Faults, v version, first, n int64) {
	buf := make([]byte, 256<<10)
	if f.Rate > 0 {
		buf = buf[:min(int64(len(buf)), max(f.Rate/20, 1))]
	}
	sent := int64(0)
	for _, limit := range []int64{f.ShortBody, f.Reset, f.Stall} {
		if limit > 0 {
			n = min(n, limit)
		}
	}
	for sent < n {
		p := buf[:min(int64(len(buf)), n-sent)]
		from := min(first+sent+f.LieRange, max(v.content.Size()-int64(len(p)), 0))
		if k, err := v.content.ReadAt(p, from); k < len(p) {
			s.tb.Errorf("origintest: content ends at %d: %v", from+int64(k), err)
			panic(http.ErrAbortHandler)
		}
		for _, at := range f.Corrupt {
			if i := at - (first + sent); i >= 0 && i < int64(len(p)) {
				p[i] ^= 0xff
			}
		}
		k, err := w.Write(p)
		s.sent(k)
		if err != nil {
			return
		}
		sent += int64(k)
		if f.Rate > 0 {
			w.(http.Flusher).Flush()
			select {
			case <-time.After(time.Duration(int64(time.Second) * int64(k) / f.Rate)):
			case <-r.Context().Done():
				return
			case <-s.quit:
				return
			}
		}
	}
	switch {
	case f.Stall > 0:
		w.(http.Flusher).Flush()
		s.stall(r)
		panic(http.ErrAbortHandler)
	case f.ShortBody > 0:
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	case f.Reset > 0:
		w.(http.Flusher).Flush()
		s.reset(w)
	}
}

// reset ends the connection with RST.
func (s *Server) reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.tb.Errorf("origintest: hijack: %v", err)
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}
