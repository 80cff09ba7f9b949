package fetch

import (
	"slices"
	"sync"

	"github.com/pantala/pantala/blob"
)

// transient keeps verified blocks that the store could not keep (cache disk full or failing) just long enough
// to answer the reads that asked for them. The oldest go first, but not before the reads that wait for them.
type transient struct {
	limit int // blocks; constant; exceeded when more are needed at once

	mu     sync.Mutex
	blocks map[uint32][]byte
	order  []uint32
}

func newTransient(bytes int64) *transient {
	return &transient{limit: max(int(bytes/blob.BlockSize), blob.MaxBuffer), blocks: map[uint32][]byte{}}
}

// add copies the blocks of r out of data. Blocks of the runs in needed stay.
func (t *transient) add(r blob.Run, data []byte, needed []blob.Run) {
	t.mu.Lock()
	defer t.mu.Unlock()
	excess := len(t.order) + int(r.Count) - t.limit
	t.order = slices.DeleteFunc(t.order, func(block uint32) bool {
		if excess <= 0 || slices.ContainsFunc(needed, func(n blob.Run) bool { return n.Contains(block) }) {
			return false
		}
		excess--
		delete(t.blocks, block)
		return true
	})
	for i := range r.Count {
		block := r.First + i
		if _, ok := t.blocks[block]; ok {
			continue
		}
		from := int(i) * blob.BlockSize
		t.blocks[block] = append([]byte(nil), data[from:min(from+blob.BlockSize, len(data))]...)
		t.order = append(t.order, block)
	}
}

// has reports whether block i is held.
func (t *transient) has(i uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.blocks[i]
	return ok
}

// read copies bytes of block i from offset within it to p and returns how many.
func (t *transient) read(i uint32, within int, p []byte) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.blocks[i]
	if within >= len(b) {
		return 0
	}
	return copy(p, b[within:])
}
