package fs

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/fs/erofs"
)

// broken is the Blob of a file whose metadata cannot be read: every read of it fails.
type broken struct{ err error }

func (b broken) Size() int64                                  { return 0 }
func (b broken) Want(int64, int, blob.Waiter) bool            { return true }
func (b broken) Cancel(blob.Waiter) bool                      { return false }
func (b broken) WriteTo(int, []byte, int64, int) (int, error) { return 0, b.err }
func (b broken) Touch(int64, int)                             {}
func (b broken) Complete() bool                               { return false }
func (b broken) Completed() <-chan struct{}                   { return nil }
func (b broken) File() *os.File                               { return nil }

// scattered is the Blob of a file that does not lie in one piece of one layer: a sparse one, or one whose bytes stand
// in the metadata. There are few of them, so it may allocate and copy.
type scattered struct {
	// Constant.
	size    int64
	extent  func(off int64) (erofs.Extent, error) // the stretch from off on, which is inside
	image   *erofs.Image
	devices []Blob

	mu    sync.Mutex
	waits map[blob.Waiter]*gather // guarded by mu
}

func newScattered(t *imageTree, i erofs.Inode) *scattered {
	extent := func(off int64) (erofs.Extent, error) { return t.extent(&i, off) }
	return &scattered{size: i.Size, extent: extent, image: t.img, devices: t.devices, waits: map[blob.Waiter]*gather{}}
}

// gather is a read that waits for pieces of several extents.
type gather struct {
	s *scattered
	w blob.Waiter

	mu    sync.Mutex
	left  int     // guarded by mu: pieces that are waited for, and one while they are being asked for
	err   error   // guarded by mu: the first
	parts []*part // guarded by mu: those that were parked
}

// part is a gather as the Blob of a layer sees it.
type part struct {
	g      *gather
	device Blob
}

// Ready implements blob.Waiter.
func (p *part) Ready(err error) {
	if last, err := p.g.less(err); last && p.g.s.take(p.g) {
		p.g.w.Ready(err)
	}
}

// less counts a piece as done and reports whether it was the last, and what has gone wrong.
func (g *gather) less(err error) (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
	g.left--
	return g.left == 0, g.err
}

// take reports whether g was still waited for; whoever gets true must tell its waiter.
func (s *scattered) take(g *gather) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waits[g.w] != g {
		return false
	}
	delete(s.waits, g.w)
	return true
}

// pieces calls do for the extents of n bytes from off on.
func (s *scattered) pieces(off int64, n int, do func(x erofs.Extent) error) error {
	for end := off + int64(n); off < end; {
		x, err := s.extent(off)
		if err != nil {
			return err
		}
		x.Length = min(x.Length, end-off)
		if err := do(x); err != nil {
			return err
		}
		off += x.Length
	}
	return nil
}

func (s *scattered) Size() int64 { return s.size }

// Want asks the layers for all pieces at once.
func (s *scattered) Want(off int64, n int, w blob.Waiter) bool {
	g := &gather{s: s, w: w, left: 1}
	s.mu.Lock()
	s.waits[w] = g
	s.mu.Unlock()
	err := s.pieces(off, n, func(x erofs.Extent) error {
		if x.Device <= 0 {
			return nil
		}
		p := &part{g, s.devices[x.Device-1]}
		g.mu.Lock()
		g.left++
		g.parts = append(g.parts, p)
		g.mu.Unlock()
		if p.device.Want(x.Offset, int(x.Length), p) {
			g.less(nil) // not the last: one is ours
		}
		return nil
	})
	last, err := g.less(err)
	if !last {
		s.mu.Lock()
		canceled := s.waits[w] != g
		s.mu.Unlock()
		if canceled {
			g.cancel() // what was asked for after Cancel had looked
		}
		return false
	}
	if !s.take(g) {
		return false // canceled
	}
	if err != nil {
		w.Ready(err)
		return false
	}
	return true
}

func (s *scattered) Cancel(w blob.Waiter) bool {
	s.mu.Lock()
	g := s.waits[w]
	delete(s.waits, w)
	s.mu.Unlock()
	if g == nil {
		return false
	}
	g.cancel()
	return true
}

// cancel takes the pieces back. Those that come nevertheless find nobody.
func (g *gather) cancel() {
	g.mu.Lock()
	parts := g.parts
	g.mu.Unlock()
	for _, p := range parts {
		p.device.Cancel(p)
	}
}

// WriteTo puts the answer together in memory. A layer writes its bytes to a descriptor only: that of a file in memory.
func (s *scattered) WriteTo(fd int, hdr []byte, off int64, n int) (int, error) {
	mem, err := unix.MemfdCreate("pantala", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("%w: memfd_create: %w", blob.ErrUnavailable, err)
	}
	defer unix.Close(mem)
	answer := make([]byte, len(hdr)+n)
	copy(answer, hdr)
	written := int64(0)
	err = s.pieces(off, n, func(x erofs.Extent) error {
		to := answer[len(hdr)+int(x.File-off):][:x.Length]
		switch {
		case x.Device == erofs.Hole:
			return nil
		case x.Device == 0:
			return s.image.ReadAt(to, x.Offset)
		}
		// The layer's header is one byte that is not looked at: writev(2) wants something there.
		if _, err := s.devices[x.Device-1].WriteTo(mem, []byte{0}, x.Offset, len(to)); err != nil {
			return err
		}
		if got, err := unix.Pread(mem, to, written+1); err != nil || got != len(to) {
			return fmt.Errorf("%w: %d of %d bytes came back from memory: %w", blob.ErrUnavailable, got, len(to), err)
		}
		written += 1 + x.Length
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(answer), send(fd, answer)
}

func (s *scattered) Touch(off int64, n int) {
	_ = s.pieces(off, n, func(x erofs.Extent) error { // the read was answered
		if x.Device > 0 {
			s.devices[x.Device-1].Touch(x.Offset, int(x.Length))
		}
		return nil
	})
}

func (s *scattered) Complete() bool             { return false }
func (s *scattered) Completed() <-chan struct{} { return nil }
func (s *scattered) File() *os.File             { return nil }
