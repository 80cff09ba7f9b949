package blockio

import (
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// readable checks that n bytes at off lie in the blob and are present.
func (b *Blob) readable(off int64, n int) error {
	if off < 0 || n < 0 || off > b.geo.Size-int64(n) {
		return fmt.Errorf("%w: %d bytes at %d of %s, which has %d", blob.ErrInvalid, n, off, b.id, b.geo.Size)
	}
	if r := b.geo.Covering(off, int64(n)); !b.present.has(r) {
		return fmt.Errorf("%w: blocks %v of %s", blob.ErrAbsent, r, b.id)
	}
	if b.imported != nil {
		return b.unchanged()
	}
	return nil
}

// ReadAt fills p with the bytes at off. All of them must be present: else blob.ErrAbsent. blob.ErrCorrupt:
// the data file was damaged by somebody else.
func (b *Blob) ReadAt(p []byte, off int64) error {
	if err := b.readable(off, len(p)); err != nil {
		return err
	}
	_, err := b.region.ReadAt(p, off)
	return err
}

// WriteTo writes hdr and the n bytes at off, which must be present (else blob.ErrAbsent and nothing is
// written), to fd with one writev(2) from the map. It allocates nothing. See [mmap.Region.WriteTo] for what
// it returns.
func (b *Blob) WriteTo(fd int, hdr []byte, off int64, n int) (int, error) {
	if err := b.readable(off, n); err != nil {
		return 0, err
	}
	return b.region.WriteTo(fd, hdr, off, n)
}

// SendTo sends the n bytes at off, which must be present, to a socket with sendfile(2): they go from the page
// cache to the network without passing through this program. It waits while the socket takes no more, up to
// its write deadline. What is no socket gets a copy.
func (b *Blob) SendTo(c syscall.Conn, off int64, n int) error {
	if err := b.readable(off, n); err != nil {
		return err
	}
	to, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("send %s: %w", b.id, err)
	}
	from, err := b.data.SyscallConn()
	if err != nil {
		return fmt.Errorf("send %s: %w", b.id, err)
	}
	s := sending{blob: b, off: off, left: n}
	// Control keeps the data file open while it is in use.
	if err := from.Control(func(in uintptr) { err = to.Write(func(out uintptr) bool { return s.some(int(out), int(in)) }) }); err != nil {
		return b.closedErr()
	}
	if err == nil {
		err = s.err
	}
	if err != nil {
		return fmt.Errorf("send %d bytes of %s at %d: %w", n, b.id, off, err)
	}
	return nil
}

// sending is one SendTo under way.
type sending struct {
	blob *Blob
	off  int64
	left int
	copy bool // sendfile does not know this kind of descriptor
	err  error
}

// some sends until all is sent (true), it failed (true) or the socket is full (false).
func (s *sending) some(out, in int) bool {
	for s.left > 0 {
		n, err := s.send(out, in)
		switch {
		case err == nil && n > 0:
			s.left -= n
		case err == nil:
			s.err = fmt.Errorf("%w: the data file ends at %d", blob.ErrCorrupt, s.off)
			return true
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return false
		case !s.copy && (err == unix.EINVAL || err == unix.ENOSYS):
			s.copy = true
		default:
			s.err = err
			return true
		}
	}
	return true
}

var copies = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// send moves some bytes and advances off.
func (s *sending) send(out, in int) (int, error) {
	if !s.copy {
		return unix.Sendfile(out, in, &s.off, s.left)
	}
	buf := copies.Get().(*[64 << 10]byte)
	defer copies.Put(buf)
	p := buf[:min(len(buf), s.left)]
	if err := s.blob.ReadAt(p, s.off); err != nil {
		return 0, err
	}
	n, err := unix.Write(out, p)
	n = max(n, 0)
	s.off += int64(n)
	return n, err
}

// unchanged checks that the file of an import still is what was imported.
func (b *Blob) unchanged() error {
	if err := b.watch.check(b.imported); err != nil {
		return fmt.Errorf("%w: %w", blob.ErrCorrupt, err)
	}
	return nil
}
