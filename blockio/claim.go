package blockio

import (
	"sync"
	"sync/atomic"

	"github.com/pantala/pantala/blob"
)

// claims lets one goroutine at a time change what is known about a block, while different blocks are changed
// in parallel. It is a bitmap of taken blocks; nobody waits unless two want the same block.
//
// Words are taken in ascending order and kept, so two overlapping claims cannot wait for each other. A
// goroutine holds at most one claim.
type claims struct {
	taken bitmap

	waiters atomic.Int32
	mu      sync.Mutex // only for sleeping
	freed   sync.Cond
}

func (c *claims) init(blocks uint32) {
	c.taken = newBitmap(blocks)
	c.freed.L = &c.mu
}

// claim returns when every block of r belongs to the caller. The wait is as long as another Put of the same
// block writes to disk.
func (c *claims) claim(r blob.Run) {
	first, end := uint64(r.First), uint64(r.First)+uint64(r.Count)
	for w := first / 64; w*64 < end; w++ {
		if m := maskOf(w, first, end); !c.try(w, m) {
			c.wait(w, m)
		}
	}
}

func (c *claims) try(w, mask uint64) bool {
	for {
		old := c.taken[w].Load()
		if old&mask != 0 {
			return false
		}
		if c.taken[w].CompareAndSwap(old, old|mask) {
			return true
		}
	}
}

// wait sleeps until the blocks could be taken. waiters is raised before the try: either that try sees what
// release cleared, or release sees the waiter.
func (c *claims) wait(w, mask uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiters.Add(1)
	defer c.waiters.Add(-1)
	for !c.try(w, mask) {
		c.freed.Wait()
	}
}

func (c *claims) release(r blob.Run) {
	c.taken.clear(r)
	if c.waiters.Load() > 0 {
		c.mu.Lock()
		c.freed.Broadcast()
		c.mu.Unlock()
	}
}
