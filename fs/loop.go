package fs

import (
	"errors"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// loop reads one request at a time from /dev/fuse and answers it on the same goroutine. It never waits for
// data: a READ of absent bytes is parked and the loop goes on.
type loop struct {
	m   *Mounted
	fd  int
	in  []byte
	out []byte
	hdr [outHeaderSize]byte // of the READ being answered
	hot hot
}

func newLoop(m *Mounted) *loop {
	l := &loop{m: m, fd: m.fd, in: make([]byte, requestSize), out: make([]byte, requestSize)}
	// The kernel fails a request that it cannot copy into memory, and it cannot if we are killed while the page has yet to
	// be made: those that requests need, the first ones, are made here.
	for i := 0; i < 2*4096; i += 4096 {
		l.in[i] = 1
	}
	return l
}

// maxReadErrors bounds errors of read(2) in a row that no kernel documents, so that a loop cannot spin.
const maxReadErrors = 100

// run ends when the connection is gone: unmounted, aborted, or not understood any more.
func (l *loop) run() {
	strange := 0
	for {
		n, err := unix.Read(l.fd, l.in)
		switch {
		case err == nil && n >= inHeaderSize:
			strange = 0
			if l.m.handed.Load() {
				l.giveBack()
				return
			}
			l.serve(l.in[:n])
		case err == unix.ENODEV || err == unix.ECONNABORTED:
			return
		case err == unix.EINTR || err == unix.EAGAIN:
		case err == unix.ENOENT:
			// The request was interrupted before we could read it.
		default:
			if strange++; strange >= maxReadErrors {
				l.m.log.Error("cannot read from /dev/fuse, giving the mount up", "dir", l.m.dir, "error", err, "length", n)
				l.m.Abort()
				return
			}
		}
	}
}

// serve answers one request. A panic in it becomes EIO for whoever asked.
func (l *loop) serve(in []byte) {
	h := header(in)
	defer func() {
		if v := recover(); v != nil {
			l.m.panicked(v)
			reply(l.fd, h.unique(), syscall.EIO)
		}
	}()
	l.hot.requests.Add(1)
	switch h.opcode() {
	case opRead:
		if len(in) < inHeaderSize+readInSize {
			reply(l.fd, h.unique(), syscall.EIO)
			return
		}
		l.read(h)
	case opInterrupt:
		if len(in) >= inHeaderSize+8 {
			l.m.interrupt(l.fd, h)
		}
	default:
		n := l.m.proto.handle(in, l.out)
		if l.m.handed.Load() { // perhaps the holder has not heard of it
			l.giveBack()
		} else if n > 0 {
			send(l.fd, l.out[:n])
		}
	}
}

// giveBack leaves a request to our successor, who has perhaps asked for what we had read before we read this.
func (l *loop) giveBack() { notifyResend(l.fd) }

// read answers a READ. Present bytes go out by one writev straight from the store's mapping, without an
// allocation or a lock; otherwise the read is parked.
func (l *loop) read(h header) {
	l.hot.reads.Add(1)
	unique, off, n := h.unique(), int64(h.readOffset()), int(h.readSize())
	f := l.m.leafOf(h.node())
	if f == nil {
		reply(l.fd, unique, syscall.EBADF)
		return
	}
	if off < 0 || off >= f.size {
		reply(l.fd, unique, 0)
		return
	}
	n = int(min(int64(n), f.size-off))
	off += f.offset
	putOutHeader(l.hdr[:], unique, n, 0)
	_, err := f.blob.WriteTo(l.fd, l.hdr[:], off, n)
	if err == nil {
		l.hot.bytes.Add(uint64(n))
		f.blob.Touch(off, n)
		return
	}
	if errors.Is(err, blob.ErrAbsent) {
		l.m.park(f, l.fd, unique, h.tid(), off, n)
		return
	}
	l.m.failRead(f, l.fd, unique, off, n, err)
}

// leafOf is the file that a node id names; nil: none.
func (m *Mounted) leafOf(node uint64) *leaf {
	if m.devices != nil {
		return m.devices.leafOf(node)
	}
	if m.image != nil {
		return m.image.leafOf(node)
	}
	if i := (node - nodeFirst) / 2; node >= nodeFirst && i < uint64(len(m.leaves)) {
		return m.leaves[i]
	}
	if node == nodeRoot && m.opt.AsFile {
		return m.leaves[0]
	}
	return nil
}

// failRead answers a READ that could not be answered with bytes. off is that in the blob.
func (m *Mounted) failRead(f *leaf, fd int, unique uint64, off int64, n int, err error) {
	if m.handed.Load() {
		return // the kernel sends it to our successor
	}
	errno := errnoOf(err)
	// ENOENT and ENODEV are what writing to /dev/fuse says when nobody waits for the answer any more.
	if errno != syscall.EINTR && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		log := m.log.Debug
		if m.rare.errors.Add(1) == 1 {
			log = m.log.Warn
		}
		log("a read failed", "dir", m.dir, "name", f.name, "offset", off-f.offset, "length", n, "errno", errno, "error", err)
	}
	reply(fd, unique, errno)
}

// panicked counts and logs a panic of a handler.
func (m *Mounted) panicked(v any) {
	m.rare.panics.Add(1)
	m.log.Error("BUG: panic while answering the kernel", "dir", m.dir, "panic", v, "stack", string(debug.Stack()))
}
