package device

import (
	"fmt"
	"sync"
	"time"
)

// looseMemory bounds the spans of one device that are held although they could not be written, in bytes; one is held
// whatever its length. It is for sequential readers, whose next read wants the same span: without it each would fetch
// and decode it again.
const looseMemory = 8 << 20

// loose holds what could not be written: the last spans, and the bytes of reads that are being answered. While the
// disk has room it is empty and nobody asks it.
type loose struct {
	mu    sync.Mutex
	spans []looseSpan       // the oldest first; guarded by mu
	size  int64             // of spans, bytes; guarded by mu
	reads map[extent][]byte // guarded by mu
}

type looseSpan struct {
	span uint32
	data []byte
}

// extent is a range of bytes that was asked for.
type extent struct {
	off int64
	n   int
}

// add takes data over.
func (l *loose) add(span uint32, data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(span)
	for len(l.spans) > 0 && l.size+int64(len(data)) > looseMemory {
		l.drop(l.spans[0].span)
	}
	l.spans = append(l.spans, looseSpan{span, data})
	l.size += int64(len(data))
}

// drop forgets a span. Needs mu.
func (l *loose) drop(span uint32) {
	for i, s := range l.spans {
		if s.span == span {
			l.size -= int64(len(s.data))
			l.spans = append(l.spans[:i], l.spans[i+1:]...)
			return
		}
	}
}

// get is the data of a span, nil if it is not held; it is never written to. Needs mu.
func (l *loose) get(span uint32) []byte {
	for _, s := range l.spans {
		if s.span == span {
			return s.data
		}
	}
	return nil
}

func (l *loose) has(span uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.get(span) != nil
}

// read copies len(p) bytes at within of a span to p, and reports whether it was held.
func (l *loose) read(span uint32, within int64, p []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	data := l.get(span)
	if data == nil {
		return false
	}
	copy(p, data[within:])
	return true
}

// copyTo gives a parked read its part of a span that is held.
func (l *loose) copyTo(r *read, span uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if data := l.get(span); data != nil {
		r.hold(r.d, span, data)
	}
}

// hold copies the read's part of a span.
func (r *read) hold(d *Device, span uint32, data []byte) {
	if r.buf == nil {
		r.buf = make([]byte, r.n)
	}
	at := d.spans[span].Device
	from, to := max(at, r.off), min(at+int64(len(data)), r.off+int64(r.n))
	copy(r.buf[from-r.off:to-r.off], data[from-at:])
}

// give shows the bytes of a read to whoever is about to be told that they are there. What is in the file is added.
func (l *loose) give(r *read) {
	d, end := r.d, r.off+int64(r.n)
	for i := d.spanAt(r.off); i < uint32(len(d.spans)) && d.spans[i].Device < end; i++ {
		if d.present.get(i) {
			from, to := max(d.spans[i].Device, r.off), min(d.end(i), end)
			if _, err := d.region.ReadAt(r.buf[from-r.off:to-r.off], from); err != nil {
				return // the waiter finds nothing and asks again
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reads == nil {
		l.reads = map[extent][]byte{}
	}
	l.reads[extent{r.off, r.n}] = r.buf
}

// takeBack ends give. Another read of the same bytes may have put its own there, and taken it back.
func (l *loose) takeBack(r *read) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.reads, extent{r.off, r.n})
}

// given are the n bytes at off of a read that is being answered; nil: none.
func (l *loose) given(off int64, n int) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reads[extent{off, n}]
}

// warnEvery is how often a full disk is spoken of.
const warnEvery = time.Minute

// notKept counts and logs that a span could not be written.
func (d *Device) notKept(span uint32, err error) {
	d.unkept.Add(1)
	now, last := time.Now().UnixNano(), d.warned.Load()
	if (last == 0 || now-last > int64(warnEvery)) && d.warned.CompareAndSwap(last, now) {
		d.log.Warn("decoded bytes cannot be kept and are delivered from memory; free space on the disk of the state directory",
			"layer", d.name, "span", span, "error", fmt.Errorf("write %s: %w", d.path, err))
	}
}
