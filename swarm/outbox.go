package swarm

import (
	"errors"
	"slices"
	"sync"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// Bounds of what waits to be sent to one peer. Whoever asks faster than it reads runs into them.
const (
	// maxRequests is how many block requests of a peer are queued (8 MiB of payload); it is told so in the
	// extended handshake ("reqq"), and what exceeds it is rejected.
	maxRequests = 512
	// maxControl is how many bytes of small messages wait for a peer that does not read. The most that one
	// that does read can make us queue are answers to hash requests: 60 of 16.9 KiB.
	maxControl = 1 << 20
	// burst is the longest chain of neighbouring blocks that still counts as somebody's read, and is served
	// before bulk transfer: 64 KiB.
	burst = 4
)

// request is a block request of a peer.
type request struct{ piece, begin, length uint32 }

// follows reports whether r continues o.
func (r request) follows(o request) bool { return r.piece == o.piece && r.begin == o.begin+o.length }

// errFlood ends a connection whose peer makes us queue without bound.
var errFlood = errors.New("peer asks for answers and does not read them")

// outbox is what is to be sent to one peer: small messages, which always go first, and requested blocks.
//
// A peer of ours says how urgent a run is. The wire of BEP 3 has no priorities, so the shape of a request tells:
// a lone chain of up to four blocks is somebody's read or page fault, longer chains are bulk transfer. Urgent ones
// are served first; they cannot starve bulk for long, as the asker's queue is bounded.
type outbox struct {
	wake chan struct{}

	mu      sync.Mutex // guards what follows
	control []byte
	spare   []byte
	short   fifo
	bulk    fifo
	batch   []request // requests of the current burst of the reader
	runs    [blob.Background + 1][]*served
	tags    map[uint32]*served
	closed  bool // takes no runs any more
	flood   bool
}

// job is what the writer sends next, besides small messages: a block for BEP 3, or blocks of a run.
type job struct {
	kind    jobKind
	class   blob.Class
	request request

	run     *served
	blocks  blob.Run
	last    bool // the run ends with them
	drained bool // no more of the run is ready
}

type jobKind uint8

const (
	noJob jobKind = iota
	blockJob
	runJob
)

// fifo is a queue of requests that reuses its memory.
type fifo struct {
	q    []request
	head int
}

func (f *fifo) len() int { return len(f.q) - f.head }

func (f *fifo) push(rs ...request) {
	if f.head == len(f.q) {
		f.q, f.head = f.q[:0], 0
	} else if f.head > maxRequests {
		f.q = append(f.q[:0], f.q[f.head:]...)
		f.head = 0
	}
	f.q = append(f.q, rs...)
}

func (f *fifo) pop() request {
	f.head++
	return f.q[f.head-1]
}

// remove takes r out and reports whether it was there.
func (f *fifo) remove(r request) bool {
	for i := f.head; i < len(f.q); i++ {
		if f.q[i] == r {
			f.q = append(f.q[:i], f.q[i+1:]...)
			return true
		}
	}
	return false
}

func newOutbox() *outbox {
	return &outbox{
		wake: make(chan struct{}, 1), control: make([]byte, 0, 4<<10), spare: make([]byte, 0, 4<<10),
		tags: make(map[uint32]*served),
	}
}

// send queues what f appends. f must not block.
func (o *outbox) send(f func(b []byte) []byte) {
	o.mu.Lock()
	if len(o.control) > maxControl {
		o.flood = true
	} else {
		o.control = f(o.control)
	}
	o.mu.Unlock()
	o.kick()
}

func (o *outbox) kick() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// request queues a block request of the peer until flushRequests; false: there are too many.
func (o *outbox) request(r request) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.short.len()+o.bulk.len()+len(o.batch) >= maxRequests {
		return false
	}
	o.batch = append(o.batch, r)
	return true
}

// flushRequests is called when the reader has parsed all it has read: the requests that arrived together
// are sorted by urgency and given to the writer.
func (o *outbox) flushRequests() {
	o.mu.Lock()
	if len(o.batch) == 0 {
		o.mu.Unlock()
		return
	}
	for b := o.batch; len(b) > 0; {
		n := 1
		for n < len(b) && b[n].follows(b[n-1]) {
			n++
		}
		if n <= burst {
			o.short.push(b[:n]...)
		} else {
			o.bulk.push(b[:n]...)
		}
		b = b[n:]
	}
	o.batch = o.batch[:0]
	o.mu.Unlock()
	o.kick()
}

// cancel takes a request of the peer back; false: it was served, or never made.
func (o *outbox) cancel(r request) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, q := range o.batch {
		if q == r {
			o.batch = append(o.batch[:i], o.batch[i+1:]...)
			return true
		}
	}
	return o.short.remove(r) || o.bulk.remove(r)
}

// dropRequests forgets all requests, as a choke does, and returns them.
func (o *outbox) dropRequests() (rs []request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	rs = append(append(append(rs, o.short.q[o.short.head:]...), o.bulk.q[o.bulk.head:]...), o.batch...)
	o.short, o.bulk, o.batch = fifo{}, fifo{}, o.batch[:0]
	return rs
}

// next returns what is to be sent now: small messages, and at most one block, or up to most blocks of a run. The
// slice is valid until the next call.
func (o *outbox) next(most uint32) (control []byte, j job, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.flood {
		return nil, j, errFlood
	}
	control, o.control, o.spare = o.control, o.spare[:0], o.control
	switch {
	case o.nextRun(&j, blob.Fault, most), o.nextRun(&j, blob.Read, most):
	case o.short.len() > 0:
		j = job{kind: blockJob, class: blob.Read, request: o.short.pop()}
	case o.nextRun(&j, blob.Readahead, most):
	case o.bulk.len() > 0:
		j = job{kind: blockJob, class: blob.Background, request: o.bulk.pop()}
	default:
		o.nextRun(&j, blob.Background, most)
	}
	return control, j, nil
}

// nextRun takes up to most blocks of the first run of a class.
func (o *outbox) nextRun(j *job, c blob.Class, most uint32) bool {
	if len(o.runs[c]) == 0 {
		return false
	}
	s := o.runs[c][0]
	n := min(most, blob.MaxBuffer, s.ready-s.next)
	*j = job{kind: runJob, class: c, run: s, blocks: blob.Run{First: s.next, Count: n}}
	s.next += n
	j.last, j.drained = s.next == s.end, s.next == s.ready
	if j.drained {
		o.runs[c] = slices.Delete(o.runs[c], 0, 1)
	}
	if j.last {
		s.ended = true
		delete(o.tags, s.tag)
	}
	return true
}

// admit makes room for a run whose tag is not in use; false: there is none.
func (o *outbox) admit(s *served) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || len(o.tags) >= maxRuns {
		return false
	}
	o.tags[s.tag] = s
	return true
}

// queueRun says that the blocks of a run below ready can be sent.
func (o *outbox) queueRun(s *served, ready uint32) {
	o.mu.Lock()
	if !s.ended {
		s.ready = ready
		o.runs[s.class] = append(o.runs[s.class], s)
	}
	o.mu.Unlock()
	o.kick()
}

// tagged is the run with a tag; nil: none, any more.
func (o *outbox) tagged(tag uint32) *served {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.tags[tag]
}

// over reports whether a run has ended.
func (o *outbox) over(s *served) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return s.ended
}

// end ends a run and reports whether it had not ended before.
func (o *outbox) end(s *served) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.endLocked(s)
}

func (o *outbox) endLocked(s *served) bool {
	if s.ended {
		return false
	}
	s.ended = true
	delete(o.tags, s.tag)
	if i := slices.Index(o.runs[s.class], s); i >= 0 {
		o.runs[s.class] = slices.Delete(o.runs[s.class], i, i+1)
	}
	return true
}

// dropRuns ends all runs, and takes no others any more, or those that need a slot.
func (o *outbox) dropRuns(all bool) (dropped []*served) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = o.closed || all
	for _, s := range o.tags {
		if all || s.class > blob.Read && !s.wait {
			o.endLocked(s)
			dropped = append(dropped, s)
		}
	}
	return dropped
}

// reject queues reject messages (BEP 6).
func (o *outbox) reject(rs ...request) {
	if len(rs) == 0 {
		return
	}
	o.send(func(b []byte) []byte {
		for _, r := range rs {
			b = peerwire.AppendReject(b, r.piece, r.begin, r.length)
		}
		return b
	})
}
