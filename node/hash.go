package node

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/pantala/pantala/blob"
)

// hashChunk is how much of a file is read at once, in bytes: 64 leaves, long enough that the hand-over to
// the hashing goroutines (about 1 µs) vanishes beside hashing it (about 600 µs).
const hashChunk = 1 << 20

// sums is what one pass over all bytes of a blob computes.
type sums struct {
	digest blob.Hash
	leaves []blob.Hash
}

// root is the "pieces root" of BEP 52; zero for an empty blob.
func (s sums) root(g blob.Geometry) blob.Hash {
	if g.Size == 0 {
		return blob.Hash{}
	}
	return g.RootOfLeaves(s.leaves)
}

// Sum is the SHA-256 of the first size bytes of f.
func Sum(ctx context.Context, f *os.File, size int64) (digest blob.Hash, err error) {
	h, buf := sha256.New(), make([]byte, hashChunk)
	for at := int64(0); at < size; {
		if ctx.Err() != nil {
			return digest, context.Cause(ctx)
		}
		p := buf[:min(hashChunk, size-at)]
		if _, err := f.ReadAt(p, at); err != nil {
			return digest, fmt.Errorf("%s: read at %d: %w", f.Name(), at, err)
		}
		h.Write(p)
		at += int64(len(p))
	}
	h.Sum(digest[:0])
	return digest, nil
}

// hashFile reads f once, from its start, and computes the digest on one goroutine and the leaves on the
// others: SHA-256 of the whole cannot be split, leaves can. progress is called with the bytes done.
func hashFile(ctx context.Context, f *os.File, g blob.Geometry, progress func(done int64)) (sums, error) {
	s := sums{leaves: make([]blob.Hash, g.Blocks())}
	type chunk struct {
		first uint32
		data  []byte
		users atomic.Int32 // the goroutines that still read data
	}
	workers := max(1, runtime.GOMAXPROCS(0)-1)
	toLeaves, toDigest := make(chan *chunk, workers), make(chan *chunk, workers)
	free := make(chan *chunk, 2*workers+2)
	for range cap(free) {
		free <- &chunk{data: make([]byte, hashChunk)}
	}
	finish := func(c *chunk) {
		if c.users.Add(-1) == 0 {
			c.data = c.data[:hashChunk]
			free <- c
		}
	}
	var hashing sync.WaitGroup
	for range workers {
		hashing.Go(func() {
			for c := range toLeaves {
				blob.Leaves(s.leaves[c.first:], c.data)
				finish(c)
			}
		})
	}
	hashing.Go(func() {
		h := sha256.New()
		for c := range toDigest {
			h.Write(c.data)
			finish(c)
		}
		h.Sum(s.digest[:0])
	})
	err := func() error {
		defer close(toLeaves)
		defer close(toDigest)
		for at := int64(0); at < g.Size; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			c := <-free
			c.data = c.data[:min(hashChunk, g.Size-at)]
			if _, err := io.ReadFull(f, c.data); err != nil {
				return fmt.Errorf("%s: read at %d: %w: was the file changed meanwhile?", f.Name(), at, err)
			}
			c.first = uint32(at / blob.BlockSize)
			at += int64(len(c.data))
			c.users.Store(2)
			toLeaves <- c
			toDigest <- c
			progress(at)
		}
		return nil
	}()
	hashing.Wait()
	return s, err
}
