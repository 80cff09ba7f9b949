package fetch

import (
	"sync"

	"github.com/pantala/pantala/blob"
)

// transient keeps verified blocks that the store could not keep (cache disk full or failing) just long enough
// to answer the reads that asked for them. The oldest go first.
type transient struct {
	mu     sync.Mutex
	limit  int // blocks
	blocks map[uint32][]byte
	order  []uint32
}

func newTransient(bytes int64) *transient {
	return &transient{limit: max(int(bytes/blob.BlockSize), blob.MaxBuffer), blocks: map[uint32][]byte{}}
}

// add copies the blocks of r out of data.
func (t *transient) add(r blob.Run, data []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range r.Count {
		block := r.First + i
		if _, ok := t.blocks[block]; ok {
			continue
		}
		for len(t.order) >= t.limit {
			delete(t.blocks, t.order[0])
			t.order = t.order[1:]
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
