package origin

import (
	"context"
	"io"
	"net/http"

	"github.com/pantala/pantala/blob"
)

// streamBuffer is the length of the slices that Stream hands out: as long as the longest buffer of Fetch.
const streamBuffer = blob.MaxBuffer * blob.BlockSize

// streaming is one Stream call under way.
type streaming struct {
	w     *web
	to    func(p []byte) error
	buf   []byte
	got   int   // bytes in buf
	given int64 // bytes that to has taken
}

// stream implements backend.
func (w *web) stream(ctx context.Context, to func(p []byte) error) (int64, error) {
	if size := w.o.Size(); size == int64(len(w.o.first)) && w.o.first != nil || size == 0 {
		if size == 0 {
			return 0, nil
		}
		return size, to(w.o.first)
	}
	s := &streaming{w: w, to: to, buf: make([]byte, streamBuffer)}
	err := w.insist(ctx, func() {}, s.attempt)
	return s.given, err
}

// attempt asks one endpoint for all that follows what has been taken. A block more is progress.
func (s *streaming) attempt(wt *watch, e *endpoint) (progress bool, err error) {
	before := s.given + int64(s.got)
	if err = s.request(wt, e); err == nil && s.got > 0 {
		err = s.flush(wt)
	}
	return s.given+int64(s.got) >= before+blob.BlockSize, err
}

func (s *streaming) request(wt *watch, e *endpoint) error {
	off, size := s.given+int64(s.got), s.w.o.Size()
	var a ask
	if off > 0 {
		if s.w.valid.String() == "" && !s.w.known {
			return e.fail(blob.ErrUnavailable, never, "the connection broke after %d bytes, and without ETag or Last-Modified nothing tells whether the rest would be of the same object: try again from the start", off)
		}
		if s.w.o.Ranges() {
			a = s.w.ask(off, -1)
		}
	}
	n := int64(-1)
	if size >= 0 {
		n = size - off
	}
	resp, err := e.get(wt.ctx, a)
	if err != nil {
		return e.asFailure(wt, err)
	}
	defer resp.Body.Close()
	wt.touch()
	of, err := s.w.judge(resp, e, a, off, n)
	if err != nil {
		if resp.StatusCode >= 300 {
			discard(resp)
		}
		return err
	}
	if n < 0 && resp.StatusCode == http.StatusOK && resp.ContentLength >= 0 {
		of.n = resp.ContentLength - off
	}
	if of.n < 0 && len(resp.TransferEncoding) == 0 && resp.ProtoMajor == 1 {
		s.w.opt.Log.Warn("the end of this object is only told by the end of the connection; a broken one would cut it short", "url", s.w.o.shown)
	}
	if err := s.w.skip(wt, resp.Body, of.skip); err != nil {
		return s.cut(wt, e, err)
	}
	for left := of.n; left != 0; {
		p := s.buf[s.got:]
		if left > 0 {
			p = p[:min(left, int64(len(p)))]
		}
		k, err := s.w.read(wt, resp.Body, p)
		s.got += k
		if left > 0 {
			left -= int64(k)
		}
		if err == io.EOF && left < 0 {
			return nil
		}
		if err != nil {
			return s.cut(wt, e, err)
		}
		if s.got == len(s.buf) {
			if err := s.flush(wt); err != nil {
				return err
			}
		}
	}
	if size >= 0 && s.given+int64(s.got) < size {
		return errMore
	}
	return nil
}

// flush hands what is in the buffer over. The server is not to blame for the time that takes.
func (s *streaming) flush(wt *watch) error {
	wt.pause()
	err := s.to(s.buf[:s.got])
	wt.touch()
	if err != nil {
		return err
	}
	s.given += int64(s.got)
	s.got = 0
	return nil
}

// cut is the failure of a body that ended too early.
func (s *streaming) cut(wt *watch, e *endpoint, err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return e.fail(blob.ErrUnavailable, again, "the body ended early, after %d bytes: the server is broken or restarting, try again", s.given+int64(s.got))
	}
	return e.asFailure(wt, err)
}
