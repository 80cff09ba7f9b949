package zstdspan

import "math/bits"

// pageSize is the unit in which the used parts of a window are kept, in bytes: matches come in clusters, and one page
// costs an allocation less than its neighbours do.
const pageSize = 4 << 10

// page is a stretch of a window.
type page struct {
	used  [pageSize / 64]uint64 // a bit for each byte that is there
	bytes [pageSize]byte
}

// pages are those bytes of the window before a point that matches after it copy. Places in it are distances: 1 is the
// byte just before the point.
type pages struct {
	list []*page // nearest first; nil where nothing is there
	free []*page
}

// reset forgets everything but the memory.
func (p *pages) reset() {
	for i, q := range p.list {
		if q != nil {
			clear(q.used[:])
			p.free = append(p.free, q)
			p.list[i] = nil
		}
	}
}

// locate says where the byte at that distance lies, counted in pages from the point, and in that page.
func locate(distance int) (int, int) {
	return (distance - 1) / pageSize, pageSize - 1 - (distance-1)%pageSize
}

// write keeps b, whose first byte is at that distance from the point, and whose last lies before it.
func (p *pages) write(b []byte, distance int) {
	for len(b) > 0 {
		i, at := locate(distance)
		for i >= len(p.list) {
			p.list = append(p.list, nil)
		}
		q := p.list[i]
		if q == nil {
			if n := len(p.free); n > 0 {
				q = p.free[n-1]
				p.free = p.free[:n-1]
			} else {
				q = new(page)
			}
			p.list[i] = q
		}
		n := copy(q.bytes[at:], b)
		for end := at + n; at < end; {
			bit := at & 63
			m := min(64-bit, end-at)
			q.used[at/64] |= (^uint64(0) >> (64 - m)) << bit
			at += m
		}
		b = b[n:]
		distance -= n
	}
}

// read fills b from that distance on, and reports false when a whole page of it is not there.
func (p *pages) read(b []byte, distance int) bool {
	for len(b) > 0 {
		i, at := locate(distance)
		if i >= len(p.list) || p.list[i] == nil {
			return false
		}
		n := copy(b, p.list[i].bytes[at:])
		b = b[n:]
		distance -= n
	}
	return true
}

// runs calls yield for each stretch of bytes within a page, farthest first.
func (p *pages) runs(yield func(distance int, b []byte)) {
	for i := len(p.list) - 1; i >= 0; i-- {
		q := p.list[i]
		if q == nil {
			continue
		}
		for at := 0; at < pageSize; {
			at = q.scan(at, 0)
			if at == pageSize {
				break
			}
			end := q.scan(at, ^uint64(0))
			yield(i*pageSize+pageSize-at, q.bytes[at:end])
			at = end
		}
	}
}

// scan returns the first place from at on whose bit differs from those of like, or pageSize.
func (q *page) scan(at int, like uint64) int {
	for at < pageSize {
		if w := (q.used[at/64] ^ like) >> (at & 63); w != 0 {
			return at + bits.TrailingZeros64(w)
		}
		at = at&^63 + 64
	}
	return pageSize
}
