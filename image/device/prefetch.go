package device

import (
	"context"
	"fmt"
	"slices"

	"github.com/pantala/pantala/blob"
)

// prefetch is a call of Prefetch that waits.
type prefetch struct {
	// Guarded by Pool.mu.
	left int
	err  error
	done chan struct{}
}

// ended says that one of its spans is there, or is not. Needs Pool.mu.
func (f *prefetch) ended(err error) {
	if f.err == nil {
		f.err = err
	}
	if f.left--; f.left == 0 {
		close(f.done)
	}
}

// Prefetch makes spans present in the order given, below all reads: blob.Background for what nobody waits for, any
// other class for what a reader is expected to want soon. It returns when all are there, with the first error when
// some are not, or when ctx ends, and then leaves those that are not on their way.
func (d *Device) Prefetch(ctx context.Context, spans []uint32, class blob.Class) error {
	r := rankPrefetch
	if class >= blob.Background {
		r = rankBackground
	}
	f := &prefetch{left: 1, done: make(chan struct{})}
	p := d.pool
	p.mu.Lock()
	if d.closed {
		p.mu.Unlock()
		return fmt.Errorf("%w: the layer is being closed", blob.ErrClosed)
	}
	var mine []*job
	for _, i := range spans {
		if i >= uint32(len(d.spans)) || d.present.get(i) {
			continue // a profile may be older than the index
		}
		j := d.jobFor(i, r)
		if slices.Contains(j.fans, f) {
			continue
		}
		j.fans = append(j.fans, f)
		f.left++
		mine = append(mine, j)
	}
	f.ended(nil)
	p.admit()
	p.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, j := range mine {
		if i := slices.Index(j.fans, f); i >= 0 && !j.admitted && j.in != nil {
			j.fans = slices.Delete(j.fans, i, i+1)
			if len(j.fans) == 0 && len(j.reads) == 0 {
				d.dropJob(j)
			}
		}
	}
	return ctx.Err()
}
