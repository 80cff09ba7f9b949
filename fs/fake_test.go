package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// content is what every test blob holds: 8 bytes at offset 8i are a mix of i, so that any misplaced byte shows.
func content(size int64) []byte {
	b := make([]byte, (size+7)/8*8)
	for i := 0; i < len(b); i += 8 {
		x := uint64(i) + 0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		binary.LittleEndian.PutUint64(b[i:], (x^x>>27)*0x94d049bb133111eb)
	}
	return b[:size]
}

// fakeBlob is a Blob over a complete local file that pretends to have only some of its blocks.
type fakeBlob struct {
	file   *os.File
	size   int64
	mapped []byte

	have      []atomic.Bool // per block of blob.BlockSize
	completed chan struct{}
	touched   atomic.Uint64
	panics    atomic.Bool // WriteTo panics
	closed    atomic.Bool // WriteTo fails

	mu       sync.Mutex
	auto     time.Duration // guarded by mu: ≥ 0: absent bytes come that much later by themselves
	forget   bool          // guarded by mu: blocks are present for one answer only
	err      error         // guarded by mu: absent bytes fail with this
	waiting  map[blob.Waiter]blob.Run
	complete bool
	flights  sync.WaitGroup
}

func newFakeBlob(path string) (*fakeBlob, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := &fakeBlob{
		file: f, size: st.Size(), completed: make(chan struct{}), waiting: map[blob.Waiter]blob.Run{}, auto: -1,
		have: make([]atomic.Bool, blob.GeometryFor(st.Size()).Blocks()),
	}
	if b.size > 0 {
		b.mapped, err = unix.Mmap(int(f.Fd()), 0, int(b.size), unix.PROT_READ, unix.MAP_SHARED)
	}
	return b, err
}

func (b *fakeBlob) run(off int64, n int) blob.Run {
	return blob.GeometryFor(b.size).Covering(off, int64(n))
}

func (b *fakeBlob) has(r blob.Run) bool {
	for i := r.First; i < r.End(); i++ {
		if !b.have[i].Load() {
			return false
		}
	}
	return true
}

func (b *fakeBlob) Size() int64 { return b.size }

func (b *fakeBlob) Want(off int64, n int, w blob.Waiter) bool {
	r := b.run(off, n)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.has(r) {
		return true
	}
	b.waiting[w] = r
	if b.err != nil {
		err := b.err
		b.flights.Go(func() {
			if b.Cancel(w) {
				w.Ready(err)
			}
		})
	} else if b.auto >= 0 {
		auto := b.auto
		b.flights.Go(func() {
			time.Sleep(auto)
			b.present(r)
		})
	}
	return false
}

func (b *fakeBlob) Cancel(w blob.Waiter) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.waiting[w]
	delete(b.waiting, w)
	return ok
}

// present makes the blocks of r present and answers whoever waited for no more than is there now.
func (b *fakeBlob) present(r blob.Run) {
	for i := r.First; i < r.End(); i++ {
		b.have[i].Store(true)
	}
	b.mu.Lock()
	var ready []blob.Waiter
	for w, want := range b.waiting {
		if b.has(want) {
			ready = append(ready, w)
			delete(b.waiting, w)
		}
	}
	forget := b.forget
	b.mu.Unlock()
	for _, w := range ready {
		w.Ready(nil)
	}
	if forget {
		for i := r.First; i < r.End(); i++ {
			b.have[i].Store(false)
		}
	}
}

// finish makes everything present for good.
func (b *fakeBlob) finish() {
	b.present(blob.GeometryFor(b.size).Blob())
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.complete {
		b.complete = true
		close(b.completed)
	}
}

func (b *fakeBlob) fail(err error) {
	b.mu.Lock()
	b.err = err
	var all []blob.Waiter
	for w := range b.waiting {
		all = append(all, w)
		delete(b.waiting, w)
	}
	b.mu.Unlock()
	for _, w := range all {
		w.Ready(err)
	}
}

var errTest = errors.New("of the test")

func (b *fakeBlob) WriteTo(fd int, hdr []byte, off int64, n int) (int, error) {
	if b.panics.Load() {
		panic(errTest)
	}
	if b.closed.Load() {
		return 0, blob.ErrClosed
	}
	if !b.has(b.run(off, n)) {
		return 0, blob.ErrAbsent
	}
	iov := [2]unix.Iovec{
		{Base: &hdr[0], Len: uint64(len(hdr))},
		{Base: &b.mapped[off], Len: uint64(n)},
	}
	w, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), 2)
	if errno != 0 {
		return 0, errno
	}
	if int(w) != len(hdr)+n {
		return int(w), fmt.Errorf("short write %d: %w", w, syscall.EIO)
	}
	return int(w), nil
}

func (b *fakeBlob) Touch(int64, int)           { b.touched.Add(1) }
func (b *fakeBlob) Completed() <-chan struct{} { return b.completed }
func (b *fakeBlob) File() *os.File             { return b.file }

func (b *fakeBlob) Complete() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.complete
}

func (b *fakeBlob) Present() (n int64) {
	for i := range b.have {
		if b.have[i].Load() {
			n += int64(blob.GeometryFor(b.size).BlockLen(uint32(i)))
		}
	}
	return n
}

func (b *fakeBlob) wait() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting)
}

func (b *fakeBlob) close() {
	b.flights.Wait()
	if b.mapped != nil {
		unix.Munmap(b.mapped)
	}
	b.file.Close()
}
