package tracker

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rootOf is the right root of a piece in all tests.
func rootOf(piece uint32) blob.Hash {
	return sha256.Sum256(binary.BigEndian.AppendUint32([]byte("piece"), piece))
}

// trusted is a root and who vouches for it.
type trusted struct {
	root blob.Hash
	t    blob.Trust
}

// memory is a Store without bytes.
type memory struct {
	mu      sync.Mutex
	have    bitmap
	roots   map[uint32]trusted
	dropped map[uint32]int
	watch   map[int]func(uint32)
	next    int
}

var _ Store = (*memory)(nil)

func newMemory(g blob.Geometry) *memory {
	return &memory{have: newBitmap(g.Pieces()), roots: map[uint32]trusted{}, dropped: map[uint32]int{}, watch: map[int]func(uint32){}}
}

// put completes a piece; t says where its bytes came from.
func (m *memory) put(piece uint32, root blob.Hash, t blob.Trust) {
	m.mu.Lock()
	m.have.put(piece, true)
	if t > m.roots[piece].t {
		m.roots[piece] = trusted{root, t}
	}
	watch := maps.Clone(m.watch)
	m.mu.Unlock()
	for _, f := range watch {
		f(piece)
	}
}

func (m *memory) Pieces() []uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append(bitmap(nil), m.have...)
}

func (m *memory) PieceComplete(i uint32) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.have.has(i)
}

func (m *memory) OnPiece(f func(uint32)) func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.next
	m.next++
	m.watch[id] = f
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watch, id)
	}
}

func (m *memory) Root(i uint32) (blob.Hash, blob.Trust) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.roots[i].root, m.roots[i].t
}

func (m *memory) Roots(min blob.Trust) iter.Seq2[uint32, blob.Hash] {
	m.mu.Lock()
	roots := maps.Clone(m.roots)
	m.mu.Unlock()
	return func(yield func(uint32, blob.Hash) bool) {
		for i, r := range roots {
			if r.t >= min && !yield(i, r.root) {
				return
			}
		}
	}
}

func (m *memory) SetRoot(i uint32, root blob.Hash, t blob.Trust) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.roots[i]; ok && old.root != root && old.t >= t {
		return fmt.Errorf("%w: root of piece %d", blob.ErrCorrupt, i)
	}
	if t > m.roots[i].t {
		m.roots[i] = trusted{root, t}
	}
	return nil
}

func (m *memory) DropClaim(i uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dropped[i]++
	if m.roots[i].t <= blob.Claimed {
		delete(m.roots, i)
	}
}
