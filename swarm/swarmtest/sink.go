package swarmtest

import (
	"context"
	"fmt"
	"sync"

	"github.com/pantala/pantala/blob"
)

// Sink stores what a source delivers into a MemStore, and checks that the source keeps the contract of
// blob.Sink: every buffer lies inside what was asked, is at most MaxBuffer long, does not overlap another
// one that is out, and is given back exactly once. What breaks it panics.
type Sink struct {
	store *MemStore
	asked blob.Run
	trust blob.Trust
	fault func(blob.Run) error

	mu   sync.Mutex
	out  map[blob.Run][]byte
	over bool
	most int
	pool [][]byte
}

// NewSink returns a sink for one Fetch of asked.
func NewSink(s *MemStore, asked blob.Run) *Sink {
	return &Sink{store: s, asked: asked, trust: blob.Claimed, out: make(map[blob.Run][]byte)}
}

// FailDone makes Done return what f returns, when that is not nil.
func (k *Sink) FailDone(f func(blob.Run) error) { k.fault = f }

// Buffer lends memory.
func (k *Sink) Buffer(ctx context.Context, r blob.Run) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over || r.Empty() || r.Count > blob.MaxBuffer || r.Intersect(k.asked) != r {
		panic(fmt.Sprintf("buffer %s of %s, over %v", r, k.asked, k.over))
	}
	for o := range k.out {
		if !o.Intersect(r).Empty() {
			panic(fmt.Sprintf("buffer %s while %s is out", r, o))
		}
	}
	_, n := k.store.geo.Bytes(r)
	var b []byte
	if i := len(k.pool) - 1; i >= 0 {
		b, k.pool = k.pool[i][:n], k.pool[:i]
	} else {
		b = make([]byte, n, blob.MaxBuffer*blob.BlockSize)
	}
	k.out[r] = b
	k.most = max(k.most, len(k.out))
	return b, nil
}

// Done verifies and stores.
func (k *Sink) Done(r blob.Run) error {
	b := k.back(r, "done")
	defer k.put(b)
	if k.fault != nil {
		if err := k.fault(r); err != nil {
			return err
		}
	}
	return k.store.Put(r, b, k.trust)
}

// Drop takes a buffer back.
func (k *Sink) Drop(r blob.Run) { k.put(k.back(r, "drop")) }

func (k *Sink) put(b []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pool = append(k.pool, b)
}

func (k *Sink) back(r blob.Run, what string) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, ok := k.out[r]
	if !ok || k.over {
		panic(fmt.Sprintf("%s of %s, which is not out (over %v)", what, r, k.over))
	}
	delete(k.out, r)
	return b
}

// Finish says that Fetch has returned: nothing may be out, and nothing may come any more. It returns how
// many buffers were out at the same time.
func (k *Sink) Finish() (most int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = true
	if len(k.out) > 0 {
		panic(fmt.Sprintf("%d buffers were not given back", len(k.out)))
	}
	return k.most
}
