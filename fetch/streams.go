package fetch

import "sync"

// Readahead follows regions of a blob, not file handles: loaders map one file from many threads, and one
// handle reads many tensors.
const (
	maxStreams = 64

	// near is how far from the expected offset, in bytes, a read may land and still continue a stream: the
	// kernel's own readahead arrives from several threads, a little out of order.
	near = 256 << 10

	// firstWindow is what is fetched ahead of a reader at the second read in a row, in bytes; the window
	// doubles with every further one up to maxWindow: 32 MiB is 1 Gbit/s over 250 ms.
	// A window is at most maxRamp times what has been read in order: a random reader whose next read happens to
	// fall near an earlier one gets a few blocks.
	firstWindow = 1 << 20
	maxWindow   = 32 << 20
	maxRamp     = 8

	// maxStride bounds the distance of strided reads that are followed, and maxStrideAhead how many of
	// them are fetched ahead.
	maxStride      = 64 << 20
	maxStrideAhead = 8
)

// extent is a range of bytes.
type extent struct{ off, end int64 }

// stream is one reader's movement through a region.
type stream struct {
	pos    int64 // one past the last byte read
	window int64 // bytes wanted ahead of pos; 0 while the pattern is not sequential
	sum    int64 // bytes read in order
	last   int64 // offset and length of the last read
	n      int64
	stride int64 // distance of the last two reads when they were not adjacent
	hits   int   // reads in a row that kept the stride
	used   uint64
}

// streams recognises sequential, strided and random readers.
type streams struct {
	mu    sync.Mutex
	clock uint64
	live  []stream
}

// note records a read of n bytes at off and reports whether more should be fetched ahead than before.
func (t *streams) note(off, n int64) (ahead bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clock++
	var fresh *stream // the most recently used one that follows no pattern
	for i := range t.live {
		s := &t.live[i]
		if d := off - s.pos; d >= -near && d <= near && (d > -near || off > s.last) {
			return s.advance(off, n, t.clock)
		}
		if s.stride != 0 && off-s.last == s.stride && n <= 2*s.n {
			s.last, s.n, s.pos, s.used = off, n, off+n, t.clock
			s.hits++
			return s.hits >= 2
		}
		if s.window == 0 && s.hits < 2 && (fresh == nil || s.used > fresh.used) {
			fresh = s
		}
	}
	if fresh != nil && len(t.live) >= 2 {
		stride := off - fresh.last
		*fresh = stream{pos: off + n, last: off, n: n, sum: n, used: t.clock}
		if stride > -maxStride && stride < maxStride {
			fresh.stride = stride
		}
		return false
	}
	s := stream{pos: off + n, last: off, n: n, sum: n, used: t.clock}
	if len(t.live) < maxStreams {
		t.live = append(t.live, s)
		return false
	}
	oldest := 0
	for i := range t.live {
		if t.live[i].used < t.live[oldest].used {
			oldest = i
		}
	}
	t.live[oldest] = s
	return false
}

// advance moves a sequential stream.
func (s *stream) advance(off, n int64, clock uint64) bool {
	s.used = clock
	if off+n <= s.pos { // once more, or a little late
		return false
	}
	s.last, s.n, s.stride, s.hits = off, n, 0, 0
	s.pos = off + n
	s.sum += n
	s.window = min(max(2*s.window, firstWindow), maxWindow, maxRamp*s.sum)
	return true
}

// follows returns the end of what is wanted ahead for a read at off, in bytes, and 0 when the reader is random.
func (t *streams) follows(off int64) (end int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.live {
		s := &t.live[i]
		if s.window > 0 && off >= s.last-near && off <= s.pos+s.window {
			end = max(end, s.pos+s.window)
		}
	}
	return end
}

// extents appends what is wanted ahead of all streams, the most recently used first, to dst.
func (t *streams) extents(dst []extent, size int64) []extent {
	t.mu.Lock()
	defer t.mu.Unlock()
	type dated struct {
		extent
		used uint64
	}
	var found [maxStreams * 2]dated
	all := found[:0]
	add := func(off, end int64, used uint64) {
		off, end = max(off, 0), min(end, size)
		if off < end {
			all = append(all, dated{extent{off, end}, used})
		}
	}
	for i := range t.live {
		s := &t.live[i]
		if s.window > 0 {
			add(s.pos, s.pos+s.window, s.used)
		} else if s.hits >= 2 {
			for k := 1; k <= min(s.hits, maxStrideAhead); k++ {
				off := s.last + int64(k)*s.stride
				add(off, off+s.n, s.used)
			}
		}
	}
	// Insertion sort: the list is short and nearly always one long.
	for i := 1; i < len(all); i++ {
		for j := i; j > 0 && all[j].used > all[j-1].used; j-- {
			all[j], all[j-1] = all[j-1], all[j]
		}
	}
	for _, d := range all {
		dst = append(dst, d.extent)
	}
	return dst
}
