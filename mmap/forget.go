package mmap

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// forgetAfter bounds, in bytes, what all regions together add to the resident set of the process: pages of files that
// were mapped to be written somewhere. An image has three files for each layer, so a bound of each would bound nothing.
// Emptying the page tables costs about 1 ms per 64 MiB, which the next touch of each 64 KiB (the kernel's fault-around)
// doubles: 2 % of what it takes to move them, however often it is done.
const forgetAfter = 16 << 20

// tables are the page tables of all regions of the process.
var tables pageTables

type pageTables struct {
	touched atomic.Int64 // bytes since they were last emptied

	mu      sync.Mutex
	regions map[*Region]struct{} // that are open; guarded by mu
}

func (t *pageTables) add(r *Region) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.regions == nil {
		t.regions = map[*Region]struct{}{}
	}
	t.regions[r] = struct{}{}
}

// remove is for a region that nobody uses any more: after it, its memory is not looked at.
func (t *pageTables) remove(r *Region) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.regions, r)
}

// touch counts n mapped bytes of r and empties all page tables when there are too many. The pages stay in the page
// cache, as part of nobody's memory. madvise(2): MADV_DONTNEED on a shared file mapping loses nothing.
func (t *pageTables) touch(r *Region, n int) {
	if !r.mapped.Load() {
		r.mapped.Store(true)
	}
	if t.touched.Add(int64(n)) >= forgetAfter && t.mu.TryLock() { // somebody else's turn is as good
		defer t.mu.Unlock()
		t.empty()
	}
}

// empty needs mu: no region is unmapped meanwhile.
func (t *pageTables) empty() {
	t.touched.Store(0)
	for r := range t.regions {
		if r.mapped.Swap(false) {
			_ = unix.Madvise(r.mem, unix.MADV_DONTNEED) // advice: nothing depends on it
		}
	}
}

// Forget empties the page tables of all regions: what was written from them does not count as memory of the process
// any more. It is for a process that has come to rest.
func Forget() {
	tables.mu.Lock()
	defer tables.mu.Unlock()
	tables.empty()
}
