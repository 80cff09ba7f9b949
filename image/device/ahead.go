package device

import "sync"

// Readahead follows regions of a device, as fetch does for blobs: the files of an image lie in it one after the
// other. The kernel reads up to 1 MiB ahead within a file by itself; what follows is for the spans behind that.
const (
	// maxStreams is how many sequential readers are followed at once.
	maxStreams = 32
	// near is how far from the expected offset, in bytes, a read may land and still continue a stream: the kernel's
	// readahead arrives from several threads, and headers lie between files.
	near = 256 << 10
	// steady is how many decoded bytes must have been read in order before anything is fetched ahead. A program that
	// starts reads its binaries in stretches that the kernel's own readahead joins to less than this; following them
	// brought a third more bytes of an image of 640 MB (36 instead of 27 MB) and the program was not up any sooner.
	steady = 1 << 20
	// firstAhead is how many stored bytes are fetched ahead of a reader at first; they double with each step up to
	// maxAhead: 4 MiB are 1 Gbit/s over 32 ms. Never more than a quarter of what has been read in order, so that a
	// small file does not bring a large one.
	firstAhead = 256 << 10
	maxAhead   = 4 << 20
)

// stream is one reader's movement.
type stream struct {
	pos    int64  // one past the last byte read
	sum    int64  // bytes read in order
	window int64  // stored bytes wanted ahead
	until  uint32 // spans before it have been asked for
	used   uint64
}

// streams recognises sequential readers.
type streams struct {
	mu    sync.Mutex
	clock uint64
	live  []stream
}

// note records a read of n bytes at off and returns the stream that it continues, nil if none. Needs mu.
func (t *streams) note(off, n int64) *stream {
	t.clock++
	oldest := -1
	for i := range t.live {
		s := &t.live[i]
		if d := off - s.pos; d >= -near && d <= near {
			s.used = t.clock
			if off+n <= s.pos { // once more, or a little late
				return nil
			}
			s.sum += off + n - max(s.pos, off)
			s.pos = off + n
			return s
		}
		if oldest < 0 || s.used < t.live[oldest].used {
			oldest = i
		}
	}
	fresh := stream{pos: off + n, sum: n, used: t.clock}
	if len(t.live) < maxStreams {
		t.live = append(t.live, fresh)
	} else {
		t.live[oldest] = fresh
	}
	return nil
}

// readAhead asks for the spans ahead of a reader, if it is sequential.
func (d *Device) readAhead(off, n int64) {
	t := &d.ahead
	if !t.mu.TryLock() {
		return // another read is being noted; this one will be followed by more
	}
	s := t.note(off, n)
	if s == nil || s.sum < steady {
		t.mu.Unlock()
		return
	}
	window := min(max(2*s.window, firstAhead), maxAhead, s.sum/4)
	first := d.spanAt(s.pos-1) + 1
	end, bytes := first, int64(0)
	for end < uint32(len(d.spans)) && bytes < window {
		bytes += d.spans[end].StoredLength
		end++
	}
	from := max(first, s.until)
	if from < end {
		s.until, s.window = end, window
	}
	t.mu.Unlock()
	if from >= end {
		return
	}
	p := d.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := from; i < end && !d.closed; i++ {
		if !d.present.get(i) && !d.loose.has(i) {
			d.jobFor(i, rankAhead)
		}
	}
	p.admit()
}
