package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// read is a read that waits for spans.
type read struct {
	d      *Device
	waiter blob.Waiter
	off    int64
	n      int

	// Guarded by Pool.mu until it has been taken out of Device.parked.
	jobs  []*job // the spans that it waits for
	timer *time.Timer
	buf   []byte // its bytes that are not in the file; nil: none
	err   error
}

// spanAt is the span that holds byte off, which lies inside the device.
func (d *Device) spanAt(off int64) uint32 {
	lo, hi := 0, len(d.spans)
	for hi-lo > 1 {
		mid := int(uint(lo+hi) >> 1)
		if d.spans[mid].Device <= off {
			lo = mid
		} else {
			hi = mid
		}
	}
	return uint32(lo)
}

// end is the first byte behind span i.
func (d *Device) end(i uint32) int64 { return d.spans[i].Device + d.spans[i].Length }

// inside checks a range of bytes.
func (d *Device) inside(off int64, n int) error {
	if off < 0 || n < 0 || off > d.size-int64(n) {
		return fmt.Errorf("%w: %d bytes at %d of %s, which has %d", blob.ErrInvalid, n, off, d.name, d.size)
	}
	return nil
}

// has reports whether the n bytes at off, which lie inside the device, are in the file. It takes no lock.
func (d *Device) has(off int64, n int) bool {
	if n == 0 || d.complete.Load() {
		return true
	}
	for i := d.spanAt(off); ; i++ {
		if !d.present.get(i) {
			return false
		}
		if d.end(i) >= off+int64(n) {
			return true
		}
	}
}

// WriteTo writes hdr and the n bytes at off to fd with one writev(2) straight from the mapped file, without a lock and
// without an allocation. blob.ErrAbsent: they are not, or no longer, present.
func (d *Device) WriteTo(fd int, hdr []byte, off int64, n int) (int, error) {
	if err := d.inside(off, n); err != nil {
		return 0, err
	}
	if d.has(off, n) {
		return d.region.WriteTo(fd, hdr, off, n)
	}
	if d.unkept.Load() == 0 {
		return 0, blob.ErrAbsent
	}
	p := d.loose.given(off, n)
	if p == nil {
		p = make([]byte, n)
		if err := d.copyPresent(p, off); err != nil {
			return 0, err
		}
	}
	return unix.Writev(fd, [][]byte{hdr, p})
}

// Touch tells of a read that was answered from present bytes.
func (d *Device) Touch(off int64, n int) {
	d.reads.Add(1)
	if d.complete.Load() || n <= 0 {
		return
	}
	d.follow(off, n)
}

// follow notes what a reader wants: for whoever records it, and for readahead.
func (d *Device) follow(off int64, n int) {
	first := d.spanAt(off)
	if d.onTouch != nil {
		for i := first; ; i++ {
			if !d.touched.get(i) && d.touched.set(i) {
				d.onTouch(i)
			}
			if d.end(i) >= off+int64(n) {
				break
			}
		}
	}
	d.readAhead(off, int64(n))
}

// Want asks for the n bytes at off; see fs.Blob.
func (d *Device) Want(off int64, n int, w blob.Waiter) bool {
	r := rankRead
	if n <= os.Getpagesize() {
		r = rankFault
	}
	return d.want(off, n, w, r, true)
}

func (d *Device) want(off int64, n int, w blob.Waiter, rank rank, follow bool) bool {
	if err := d.inside(off, n); err != nil {
		w.Ready(err)
		return false
	}
	if d.has(off, n) {
		return true
	}
	r := &read{d: d, waiter: w, off: off, n: n}
	p := d.pool
	p.mu.Lock()
	if d.closed {
		p.mu.Unlock()
		w.Ready(fmt.Errorf("%w: the layer is being closed", blob.ErrClosed))
		return false
	}
	first, end := d.spanAt(off), off+int64(n)
	absent := func(i uint32) bool { return !d.present.get(i) && !(d.unkept.Load() > 0 && d.loose.has(i)) }
	for i := first; ; i++ {
		if absent(i) {
			j := d.jobFor(i, rank)
			j.reads = append(j.reads, r)
			r.jobs = append(r.jobs, j)
		}
		if d.end(i) >= end {
			break
		}
	}
	if len(r.jobs) == 0 { // it came while we were not looking
		p.mu.Unlock()
		return true
	}
	if d.unkept.Load() > 0 {
		for i := first; i < uint32(len(d.spans)) && d.spans[i].Device < end; i++ {
			d.loose.copyTo(r, i) // it may be gone when the others come
		}
	}
	d.parked[w] = r
	if d.timeout > 0 {
		r.timer = time.AfterFunc(d.timeout, r.late)
	}
	p.admit()
	p.mu.Unlock()
	d.waits.Add(1)
	if follow {
		d.follow(off, n)
	}
	return false
}

// late fails a read whose time is up.
func (r *read) late() {
	if r.d.Cancel(r.waiter) {
		r.d.failures.Add(1)
		r.waiter.Ready(fmt.Errorf("%w: bytes %d to %d of %s did not come within %v", blob.ErrUnavailable, r.off, r.off+int64(r.n), r.d.name, r.d.timeout))
	}
}

// Cancel takes a parked read back; true means that its Ready will not be called. Spans that are on their way come.
func (d *Device) Cancel(w blob.Waiter) bool {
	p := d.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := d.parked[w]
	if !ok {
		return false
	}
	d.unpark(r)
	for _, j := range r.jobs {
		if i := slices.Index(j.reads, r); i >= 0 {
			j.reads = slices.Delete(j.reads, i, i+1)
		}
		if len(j.reads) == 0 && len(j.fans) == 0 && !j.admitted && j.rank <= rankRead {
			d.dropJob(j)
		}
	}
	return true
}

// unpark ends the waiting of a read. Needs Pool.mu.
func (d *Device) unpark(r *read) {
	delete(d.parked, r.waiter)
	if r.timer != nil {
		r.timer.Stop()
	}
}

// jobFor is the job of an absent span, new if need be, at least as urgent as r. Needs Pool.mu; the caller then calls
// Pool.admit.
func (d *Device) jobFor(span uint32, r rank) *job {
	p := d.pool
	if j := d.jobs[span]; j != nil {
		j.raise(r)
		return j
	}
	p.seq++
	j := &job{d: d, span: span, seq: p.seq, rank: r, cost: max(d.spans[span].StoredLength, leastCost)}
	d.jobs[span] = j
	d.flying.Add(1)
	p.waiting.add(j)
	return j
}

// dropJob forgets a job that was not admitted. Needs Pool.mu.
func (d *Device) dropJob(j *job) {
	j.leave()
	delete(d.jobs, j.span)
	for _, f := range j.fans {
		f.ended(fmt.Errorf("%w: the layer is being closed", blob.ErrClosed))
	}
	d.flying.Done()
}

// publish ends a job: data is the span, verified, or err says why not. there: it lies in the file already. last: with
// it all spans are present.
func (d *Device) publish(j *job, data []byte, there bool, err error) (last bool) {
	kept := false
	if err == nil {
		kept, last = d.keep(j.span, data, there)
		if !kept {
			d.loose.add(j.span, data)
		}
	} else {
		d.failed(j, err)
	}
	p := d.pool
	p.mu.Lock()
	delete(d.jobs, j.span)
	var ready []*read
	for _, r := range j.reads {
		if r.jobs = slices.DeleteFunc(r.jobs, func(o *job) bool { return o == j }); d.parked[r.waiter] != r {
			continue
		}
		if err != nil {
			r.err = err
		} else if !kept {
			r.hold(d, j.span, data)
		}
		if err != nil || len(r.jobs) == 0 {
			d.unpark(r)
			ready = append(ready, r)
		}
	}
	for _, f := range j.fans {
		f.ended(err)
	}
	p.mu.Unlock()
	if kept {
		p.buffers.put(data)
	}
	for _, r := range ready {
		r.answer()
	}
	return last
}

// failed counts and logs why a span is not there.
func (d *Device) failed(j *job, err error) {
	switch {
	case errors.Is(err, blob.ErrClosed):
	case errors.Is(err, blob.ErrCorrupt):
		d.corrupt.Add(1)
		d.log.Error("a span of a layer is corrupt", "layer", d.name, "span", j.span, "error", err)
	default:
		d.log.Debug("a span of a layer did not come", "layer", d.name, "span", j.span, "error", err)
	}
}

// answer calls the waiter of a read that is no longer parked.
func (r *read) answer() {
	if r.err != nil {
		r.d.failures.Add(1)
		r.waiter.Ready(r.err)
		return
	}
	if r.buf == nil {
		r.waiter.Ready(nil)
		return
	}
	r.d.loose.give(r)
	r.waiter.Ready(nil)
	r.d.loose.takeBack(r)
}

// reader is the Waiter of ReadAt.
type reader struct {
	d      *Device
	p      []byte
	off    int64
	copied bool // p has its bytes; read after done
	done   chan error
}

// Ready implements blob.Waiter. What is not kept is copied at once: when the reader runs it may be gone again.
func (r *reader) Ready(err error) {
	if err == nil && r.d.unkept.Load() > 0 {
		if p := r.d.loose.given(r.off, len(r.p)); p != nil {
			copy(r.p, p)
			r.copied = true
		}
	}
	r.done <- err
}

// ReadAt implements [blob.ReaderAt]. When ctx carries a class the read is made in that class, and is neither recorded
// nor followed by readahead.
func (d *Device) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.inside(off, len(p)); err != nil {
		return err
	}
	class, classed := blob.ClassIn(ctx)
	rank := rankOf(class)
	if !classed && len(p) > os.Getpagesize() {
		rank = rankRead
	}
	for {
		err := d.copyPresent(p, off)
		if err == nil {
			if !classed {
				d.Touch(off, len(p))
			}
			return nil
		}
		if !errors.Is(err, blob.ErrAbsent) {
			return err
		}
		w := &reader{d: d, p: p, off: off, done: make(chan error, 1)}
		if d.want(off, len(p), w, rank, !classed) {
			if err := ctx.Err(); err != nil {
				return err
			}
			continue
		}
		select {
		case err = <-w.done:
		case <-ctx.Done():
			if d.Cancel(w) {
				return ctx.Err()
			}
			err = <-w.done
		}
		if err != nil || w.copied {
			return err
		}
	}
}

// copyPresent fills p from the file and from loose spans. blob.ErrAbsent: not all is there.
func (d *Device) copyPresent(p []byte, off int64) error {
	if d.has(off, len(p)) {
		_, err := d.region.ReadAt(p, off)
		return err
	}
	if d.unkept.Load() == 0 {
		return blob.ErrAbsent
	}
	for len(p) > 0 {
		i := d.spanAt(off)
		n := int(min(int64(len(p)), d.end(i)-off))
		if d.present.get(i) {
			if _, err := d.region.ReadAt(p[:n], off); err != nil {
				return err
			}
		} else if !d.loose.read(i, off-d.spans[i].Device, p[:n]) {
			return blob.ErrAbsent
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}
