package fetch

import (
	"slices"
	"sync"

	"github.com/pantala/pantala/blob"
)

// transient keeps verified blocks that the store could not keep (cache disk full or failing) just long enough
// to answer the reads that asked for them. The oldest go first, but not before the reads that wait for them.
type transient struct {
	limit int                                        // blocks; constant; exceeded when more are needed at once
	valid func(block uint32, claimed blob.Hash) bool // whether a claim still holds; constant

	mu     sync.Mutex
	blocks map[uint32]held
	order  []uint32
}

// held is a verified block.
type held struct {
	data    []byte
	claimed blob.Hash // the root by which a peer's block was believed; zero: it is no claim
}

func newTransient(bytes int64, valid func(uint32, blob.Hash) bool) *transient {
	return &transient{limit: max(int(bytes/blob.BlockSize), blob.MaxBuffer), valid: valid, blocks: map[uint32]held{}}
}

// add copies the blocks of r out of data; claimed is the root by which they were believed, zero when they are
// no claim. Blocks of the runs in needed stay.
func (t *transient) add(r blob.Run, data []byte, claimed blob.Hash, needed []blob.Run) {
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
		if _, ok := t.get(block); ok {
			continue
		}
		if _, ok := t.blocks[block]; !ok {
			t.order = append(t.order, block)
		}
		from := int(i) * blob.BlockSize
		t.blocks[block] = held{append([]byte(nil), data[from:min(from+blob.BlockSize, len(data))]...), claimed}
	}
}

// get returns block i unless it was believed because of a claim that was dropped since. Needs mu.
func (t *transient) get(i uint32) ([]byte, bool) {
	b, ok := t.blocks[i]
	return b.data, ok && (b.claimed.IsZero() || t.valid(i, b.claimed))
}

// has reports whether block i is held.
func (t *transient) has(i uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.get(i)
	return ok
}

// read copies bytes of block i from offset within it to p and returns how many.
func (t *transient) read(i uint32, within int, p []byte) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, ok := t.get(i)
	if !ok || within >= len(b) {
		return 0
	}
	return copy(p, b[within:])
}
