package origintest

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/pantala/pantala/blob"
)

// Sink takes the blocks of Fetch calls into memory, and fails the test when the rules of blob.Sink are
// broken.
type Sink struct {
	tb testing.TB
	g  blob.Geometry
	// OnDone, if set, decides what Done returns for a run and its bytes; set it before the first Fetch.
	OnDone func(r blob.Run, p []byte) error
	// OnBuffer, if set, decides what Buffer returns beside the buffer; set it before the first Fetch.
	OnBuffer func(ctx context.Context, r blob.Run) error

	mu    sync.Mutex // guards all below
	data  []byte
	have  []bool
	lent  map[blob.Run][]byte
	runs  []blob.Run
	drops int
}

// NewSink is a sink for an object of size bytes.
func NewSink(tb testing.TB, size int64) *Sink {
	g := blob.GeometryFor(size)
	return &Sink{tb: tb, g: g, data: make([]byte, size), have: make([]bool, g.Blocks()), lent: map[blob.Run][]byte{}}
}

// All is the run of all blocks.
func (s *Sink) All() blob.Run { return s.g.Blob() }

// Buffer implements blob.Sink.
func (s *Sink) Buffer(ctx context.Context, r blob.Run) ([]byte, error) {
	if s.OnBuffer != nil {
		if err := s.OnBuffer(ctx, r); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Count == 0 || r.Count > blob.MaxBuffer || r.End() > s.g.Blocks() {
		s.tb.Errorf("Buffer(%v): not 1 to %d blocks of the object", r, blob.MaxBuffer)
	}
	if s.lent[r] != nil {
		s.tb.Errorf("Buffer(%v): lent twice", r)
	}
	_, n := s.g.Bytes(r)
	s.lent[r] = bytes.Repeat([]byte{0xa5}, int(n))
	return s.lent[r], nil
}

// Done implements blob.Sink.
func (s *Sink) Done(r blob.Run) error {
	p := s.back(r, "Done")
	if s.OnDone != nil {
		if err := s.OnDone(r, p); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	off, _ := s.g.Bytes(r)
	copy(s.data[off:], p)
	for i := r.First; i < r.End(); i++ {
		s.have[i] = true
	}
	s.runs = append(s.runs, r)
	return nil
}

// Drop implements blob.Sink.
func (s *Sink) Drop(r blob.Run) {
	s.back(r, "Drop")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drops++
}

func (s *Sink) back(r blob.Run, by string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.lent[r]
	if p == nil {
		s.tb.Errorf("%s(%v): was not lent", by, r)
	}
	delete(s.lent, r)
	return p
}

// Check fails the test unless no buffer is lent out and all blocks of r are there and equal to want, the
// whole object.
func (s *Sink) Check(r blob.Run, want []byte) {
	s.tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lent) > 0 {
		s.tb.Errorf("%d buffers were not given back", len(s.lent))
	}
	for i := r.First; i < r.End(); i++ {
		off, n := s.g.Bytes(blob.Run{First: i, Count: 1})
		if !s.have[i] {
			s.tb.Fatalf("block %d has not been delivered", i)
		}
		if !bytes.Equal(s.data[off:off+n], want[off:off+n]) {
			s.tb.Fatalf("block %d has wrong bytes", i)
		}
	}
}

// Wrong is an error if any block that was delivered differs from want, or a buffer is still lent out.
func (s *Sink) Wrong(want []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lent) > 0 {
		return fmt.Errorf("%d buffers were not given back", len(s.lent))
	}
	for i, ok := range s.have {
		off, n := s.g.Bytes(blob.Run{First: uint32(i), Count: 1})
		if ok && !bytes.Equal(s.data[off:off+n], want[off:off+n]) {
			return fmt.Errorf("block %d has wrong bytes", i)
		}
	}
	return nil
}

// Runs is the runs that Done was called with, in order.
func (s *Sink) Runs() []blob.Run {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]blob.Run(nil), s.runs...)
}

// Drops is how many buffers were dropped.
func (s *Sink) Drops() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drops
}

var _ blob.Sink = (*Sink)(nil)
