package fetch

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/pantala/pantala/blob"
)

// DefaultMemory is the bound, in bytes, on buffers that hold bytes between socket and cache file. 64 MiB is
// the bandwidth-delay product of 10 Gbit/s over 50 ms.
const DefaultMemory = 64 << 20

// MinMemory is the smallest budget that still lets one bulk and one urgent transfer run beside each other.
const MinMemory = 4 << 20

// bufferSize is the length of a full transfer buffer in bytes.
const bufferSize = blob.MaxBuffer * blob.BlockSize

// Options configure an Engine.
type Options struct {
	Memory  int64         // bytes of transfer buffers; 0 = DefaultMemory
	Timeout time.Duration // how long a read waits for somebody who can deliver; 0 = blob.DefaultTimeout
	Hard    bool          // a read waits for ever instead
	Log     *slog.Logger  // nil = discard
}

// Engine holds what all open blobs of a node share: the memory budget and the deadline.
type Engine struct {
	timeout time.Duration
	hard    bool
	log     *slog.Logger
	memory  memory

	mu    sync.Mutex
	blobs map[*Blob]struct{}
}

// New returns an Engine without open blobs.
func New(o Options) *Engine {
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	o.Memory = max(o.Memory, MinMemory)
	if o.Timeout == 0 {
		o.Timeout = blob.DefaultTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Engine{
		timeout: o.Timeout,
		hard:    o.Hard,
		log:     o.Log,
		memory:  newMemory(o.Memory),
		blobs:   map[*Blob]struct{}{},
	}
}

// Close closes all blobs and waits for their flights.
func (e *Engine) Close() {
	e.mu.Lock()
	open := make([]*Blob, 0, len(e.blobs))
	for b := range e.blobs {
		open = append(open, b)
	}
	e.mu.Unlock()
	for _, b := range open {
		b.Close()
	}
}

// Trim forgets spent buffers: the next transfers make new ones.
func (e *Engine) Trim() {
	for {
		select {
		case <-e.memory.free:
		default:
			return
		}
	}
}

// memory is the budget of transfer buffers. Bulk transfers may take three quarters of it, so that a blocked
// reader never waits for a download that nobody is blocked on.
type memory struct {
	all, bulk *semaphore.Weighted
	size      int64
	free      chan []byte // spent buffers of bufferSize bytes; at most all of the budget
}

func newMemory(size int64) memory {
	return memory{
		all:  semaphore.NewWeighted(size),
		bulk: semaphore.NewWeighted(size * 3 / 4),
		size: size,
		free: make(chan []byte, size/bufferSize),
	}
}

// get lends n ≤ bufferSize bytes. A whole buffer is charged even for a few blocks once more than a quarter of
// it is used, because that is what is allocated.
func (m *memory) get(ctx context.Context, n int, class blob.Class) ([]byte, error) {
	if n <= 0 || n > bufferSize {
		return nil, fmt.Errorf("%w: transfer buffer of %d bytes asked, at most %d are lent", blob.ErrInvalid, n, bufferSize)
	}
	charge := charged(n)
	if class > blob.Read {
		if err := m.bulk.Acquire(ctx, charge); err != nil {
			return nil, err
		}
	}
	if err := m.all.Acquire(ctx, charge); err != nil {
		if class > blob.Read {
			m.bulk.Release(charge)
		}
		return nil, err
	}
	if charge < bufferSize {
		return make([]byte, n, charge), nil
	}
	select {
	case b := <-m.free:
		return b[:n], nil
	default:
		return make([]byte, n, bufferSize), nil
	}
}

// put takes a buffer back that get lent for the same class.
func (m *memory) put(b []byte, class blob.Class) {
	charge := charged(len(b))
	if charge == bufferSize {
		select {
		case m.free <- b[:bufferSize]:
		default:
		}
	}
	m.all.Release(charge)
	if class > blob.Read {
		m.bulk.Release(charge)
	}
}

// charged is what a buffer of n bytes costs the budget.
func charged(n int) int64 {
	if n <= bufferSize/4 {
		return int64(n)
	}
	return bufferSize
}
