package fs

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pantala/pantala/blob"
)

// parked is a READ whose bytes are absent. It is answered exactly once: by Ready, or by whoever wins
// [Blob.Cancel].
type parked struct {
	m      *Mounted
	f      *leaf
	fd     int
	unique uint64
	tid    uint32 // thread that reads; 0: not visible from our pid namespace
	off    int64  // in the blob, bytes
	n      int
	since  time.Time
	hdr    [outHeaderSize]byte
	wants  int // how often the blob was asked; touched only by who is asking

	refs        atomic.Int32 // one for the request, one for everybody who looks at it; 0: back to the pool
	interrupted atomic.Bool  // the kernel sent INTERRUPT
}

// lot holds the parked reads of a mount by the unique number of the request.
type lot struct {
	mu    sync.Mutex
	reads map[uint64]*parked // guarded by mu
}

func (l *lot) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.reads)
}

// add parks p and reports whether it is the only one.
func (l *lot) add(p *parked) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads[p.unique] = p
	return len(l.reads) == 1
}

// remove reports whether the read was there.
func (l *lot) remove(unique uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.reads[unique]
	delete(l.reads, unique)
	return ok
}

// get returns a parked read that will not be reused before the caller calls its release.
func (l *lot) get(unique uint64) *parked {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.reads[unique]
	if p != nil {
		p.refs.Add(1)
	}
	return p
}

// all is get for every parked read.
func (l *lot) all() []*parked {
	l.mu.Lock()
	defer l.mu.Unlock()
	ps := make([]*parked, 0, len(l.reads))
	for _, p := range l.reads {
		p.refs.Add(1)
		ps = append(ps, p)
	}
	return ps
}

var parkedPool = sync.Pool{New: func() any { return new(parked) }}

// park makes a READ wait for its bytes. It is registered before the blob hears of it, so that an INTERRUPT
// that another loop reads meanwhile finds it.
func (m *Mounted) park(f *leaf, fd int, unique uint64, tid uint32, off int64, n int) {
	m.rare.parked.Add(1)
	p := parkedPool.Get().(*parked)
	p.m, p.f, p.fd, p.unique, p.tid, p.off, p.n, p.since = m, f, fd, unique, tid, off, n, time.Now()
	p.wants = 0
	p.interrupted.Store(false)
	p.refs.Store(1)
	putOutHeader(p.hdr[:], unique, n, 0)
	if m.lot.add(p) {
		m.wakeKeeper()
	}
	p.want()
}

// maxWants bounds how often a read is told that its bytes are present and then does not find them, parked in
// between or not. It happens when the cache disk is full and many readers share the little that memory holds; more
// than that is a bug that must not spin, and each time the deadline of the read begins anew.
const maxWants = 64

// want asks for the bytes until they are written or the read is parked. The caller owns the request's
// reference and must not touch p afterwards.
func (p *parked) want() {
	p.refs.Add(1) // p outlives Ready, which may run before Want returns
	defer p.release()
	defer p.recovered()
	m := p.m
	for ; p.wants < maxWants; p.wants++ {
		if !p.f.blob.Want(p.off, p.n, p) {
			// Ready may already have answered. If not, an INTERRUPT that came before Want was in vain.
			if p.interrupted.Load() && m.hopeless(p.tid) && p.f.blob.Cancel(p) {
				m.rare.interrupted.Add(1)
				p.fail(syscall.EINTR)
			}
			return
		}
		if p.write() {
			return
		}
	}
	p.failWith(fmt.Errorf("%w: present bytes were evicted %d times before they could be read; free space on the cache disk", blob.ErrNoSpace, maxWants))
}

// write answers p with its bytes, or reports that they are absent again.
func (p *parked) write() bool {
	_, err := p.f.blob.WriteTo(p.fd, p.hdr[:], p.off, p.n)
	if errors.Is(err, blob.ErrAbsent) {
		return false
	}
	if err != nil {
		p.failWith(err)
		return true
	}
	p.m.rare.lateBytes.Add(uint64(p.n))
	p.done()
	return true
}

// Ready answers the read; it is called by the goroutine that made the bytes present, or gave them up.
func (p *parked) Ready(err error) {
	p.refs.Add(1)
	defer p.release()
	defer p.recovered()
	if err != nil {
		p.failWith(err)
		return
	}
	if !p.write() {
		p.wants++
		p.want()
	}
}

func (p *parked) failWith(err error) {
	p.m.failRead(p.f, p.fd, p.unique, p.off, p.n, err)
	p.done()
}

func (p *parked) fail(errno syscall.Errno) {
	reply(p.fd, p.unique, errno)
	p.done()
}

// done ends the request, which has been answered; it does so once.
func (p *parked) done() {
	if p.m.lot.remove(p.unique) {
		p.release()
	}
}

// recovered is deferred where foreign code runs for p: a panic there becomes EIO for whoever reads.
func (p *parked) recovered() {
	if v := recover(); v != nil {
		p.m.panicked(v)
		p.fail(syscall.EIO)
	}
}

func (p *parked) release() {
	if p.refs.Add(-1) == 0 {
		p.m, p.f = nil, nil
		parkedPool.Put(p)
	}
}
