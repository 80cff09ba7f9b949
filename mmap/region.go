package mmap

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// Region is the first Size bytes of a file, mapped read-only and shared: it shows what is written to the file
// by pwrite(2) at once. The zero Region is not usable; see [Map].
type Region struct {
	file *os.File // for pread; owned by the caller of Map, must outlive the region
	fd   uintptr  // of file
	mem  []byte   // the mapping; nil for an empty region
	seen residency

	mapped  atomic.Bool  // WriteTo has touched pages since the page tables were last emptied
	users   atomic.Int64 // readers in flight, plus closing once Close was called
	drained chan struct{}
	once    sync.Once
}

// closing is added to users by Close; it makes the word negative, which every later reader sees.
const closing = math.MinInt64

// Map maps the first size bytes of f. The file must be at least that long and stay open until after Close.
// A region of size 0 is valid and has nothing mapped.
func Map(f *os.File, size int64) (*Region, error) {
	if size < 0 || size > math.MaxInt {
		return nil, fmt.Errorf("%w: cannot map %d bytes of %s", blob.ErrInvalid, size, f.Name())
	}
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	if st.Size() < size {
		return nil, fmt.Errorf("%w: %s has %d bytes, %d were to be mapped: it was truncated", blob.ErrCorrupt, f.Name(), st.Size(), size)
	}
	r := &Region{file: f, fd: f.Fd(), drained: make(chan struct{})}
	if size == 0 {
		return r, nil
	}
	r.mem, err = unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if errors.Is(err, unix.ENOMEM) {
		return nil, fmt.Errorf("map %d bytes of %s: %w: raise the address space limit (ulimit -v) or vm.max_map_count", size, f.Name(), err)
	}
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of %s: %w", size, f.Name(), err)
	}
	r.seen.init(size)
	tables.add(r)
	return r, nil
}

// Size is the number of bytes mapped.
func (r *Region) Size() int64 { return int64(len(r.mem)) }

// enter counts the caller as a reader; false means that the region is closed. Each enter that returned true
// is paired with one leave.
func (r *Region) enter() bool {
	if r.users.Add(1) > 0 {
		return true
	}
	r.leave()
	return false
}

func (r *Region) leave() {
	if r.users.Add(-1) == closing {
		r.once.Do(func() { close(r.drained) })
	}
}

// Close waits for the readers in flight and unmaps. It does not close the file. Every later use, a second
// Close included, returns blob.ErrClosed.
func (r *Region) Close() error {
	for {
		n := r.users.Load()
		if n < 0 {
			return r.closedErr()
		}
		if r.users.CompareAndSwap(n, n+closing) {
			break
		}
	}
	r.users.Add(1)
	r.leave() // closes drained when nobody is in flight; else the last reader does
	<-r.drained
	if r.mem == nil {
		return nil
	}
	tables.remove(r)
	if err := unix.Munmap(r.mem); err != nil {
		return fmt.Errorf("unmap %s: %w", r.file.Name(), err)
	}
	return nil
}

func (r *Region) closedErr() error {
	return fmt.Errorf("%w: the map of %s", blob.ErrClosed, r.file.Name())
}

func (r *Region) rangeErr(off int64, n int) error {
	return fmt.Errorf("%w: %d bytes at %d are outside the %d bytes mapped of %s", blob.ErrInvalid, n, off, len(r.mem), r.file.Name())
}

func (r *Region) truncatedErr(off int64, n int, cause error) error {
	return fmt.Errorf("%w: %s cannot be read at [%d,%d), it was truncated or its disk fails: %w",
		blob.ErrCorrupt, r.file.Name(), off, off+int64(n), cause)
}
