package device

import (
	"runtime"
	"sync"
)

// DefaultMemory bounds the buffers of a pool, in bytes. Half of it holds stored bytes under way: 16 MiB are the
// bandwidth-delay product of 1 Gbit/s over 128 ms. The other half holds decoded spans: four of 4 MiB.
const DefaultMemory = 32 << 20

// keepMemory is how much of the buffers stays allocated while nothing is to do, in bytes: one job of a span of
// 4 MiB, so that a single random read does not begin with clearing memory.
const keepMemory = 6 << 20

// leastCost is what a job is counted as at least, in bytes, so that many small spans do not become as many
// goroutines: 256 at [DefaultMemory].
const leastCost = 64 << 10

// Pool is what the devices of a node share: who may read stored bytes, and who may decode, next. It has no goroutines
// of its own and need not be closed.
type Pool struct {
	// Constant.
	half    int64 // bytes for stored, and again for decoded ones
	workers int
	busy    func(bool)

	mu       sync.Mutex
	seq      uint64
	waiting  queue // jobs that are not admitted; guarded by mu, as all below
	turns    queue // jobs that have their bytes and wait to decode
	reading  int64 // bytes of admitted jobs' stored buffers
	held     int64 // bytes of decoded buffers
	decoding int   // jobs that decode now

	buffers buffers
}

// PoolOptions may be left zero.
type PoolOptions struct {
	Memory  int64      // bytes of all buffers; 0: [DefaultMemory]. A single span that is larger is still read, alone
	Workers int        // spans decoded at the same time; 0: GOMAXPROCS
	Busy    func(bool) // true: the first job begins; false: the last has ended. It neither blocks nor calls the pool. nil: nobody wants to know
}

// NewPool makes a pool.
func NewPool(o PoolOptions) *Pool {
	if o.Memory <= 0 {
		o.Memory = DefaultMemory
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	p := &Pool{half: max(o.Memory/2, leastCost), workers: o.Workers, busy: o.Busy}
	if p.busy == nil {
		p.busy = func(bool) {}
	}
	p.buffers.limit = o.Memory
	return p
}

// allowance is how much of the memory for stored bytes jobs of a rank may fill: who is blocked always finds a quarter,
// and readahead another one, that the background has not taken.
func (p *Pool) allowance(r rank) int64 {
	switch {
	case r <= rankRead:
		return p.half
	case r < rankBackground:
		return p.half / 4 * 3
	}
	return p.half / 2
}

// admit starts waiting jobs while they fit. Needs mu. It is called when a job has come or memory has become free.
func (p *Pool) admit() {
	for {
		j := p.waiting.first()
		if j == nil || p.reading > 0 && p.reading+j.cost > p.allowance(j.rank) {
			return
		}
		j.leave()
		if p.reading == 0 {
			p.busy(true)
		}
		p.reading += j.cost
		j.admitted = true
		go j.run() // counted in j.d.flying since it was made
	}
}

// turn waits until a job may decode into n bytes. [Pool.decoded] ends it, [Pool.finish] frees the memory.
func (p *Pool) turn(j *job, n int64) {
	p.mu.Lock()
	go_ := make(chan struct{})
	p.held -= j.need // of an earlier turn, whose buffer is back
	j.need, j.go_ = n, go_
	p.turns.add(j)
	p.next()
	p.mu.Unlock()
	<-go_ // bounded: who decodes waits for nobody
}

// next gives turns away. Needs mu.
func (p *Pool) next() {
	for {
		j := p.turns.first()
		if j == nil || p.decoding == p.workers || p.held > 0 && p.held+j.need > p.half {
			return
		}
		j.leave()
		p.decoding++
		p.held += j.need
		close(j.go_)
	}
}

// decoded says that a job does not decode any more.
func (p *Pool) decoded() {
	p.mu.Lock()
	p.decoding--
	p.next()
	p.mu.Unlock()
}

// finish frees what an admitted job was counted for.
func (p *Pool) finish(j *job) {
	p.mu.Lock()
	p.reading -= j.cost
	p.held -= j.need
	if p.reading == 0 {
		p.busy(false)
	}
	p.admit()
	p.next()
	idle := p.reading == 0
	p.mu.Unlock()
	if idle {
		p.buffers.trim(keepMemory)
	}
}

// buffers lends memory and keeps some of what comes back.
type buffers struct {
	limit int64 // constant

	mu   sync.Mutex
	free [][]byte // guarded by mu
	size int64    // of free; guarded by mu
}

// get lends n bytes, of any content.
func (b *buffers) get(n int64) []byte {
	b.mu.Lock()
	best := -1
	for i, f := range b.free {
		if c := int64(cap(f)); c >= n && c <= 4*n+leastCost && (best < 0 || c < int64(cap(b.free[best]))) {
			best = i
		}
	}
	if best < 0 {
		b.mu.Unlock()
		return make([]byte, n, (n+leastCost-1)/leastCost*leastCost)
	}
	f := b.free[best]
	b.free[best] = b.free[len(b.free)-1]
	b.free[len(b.free)-1] = nil
	b.free = b.free[:len(b.free)-1]
	b.size -= int64(cap(f))
	b.mu.Unlock()
	return f[:n]
}

// put takes a buffer back.
func (b *buffers) put(f []byte) {
	c := int64(cap(f))
	if c == 0 || c > b.limit {
		return
	}
	b.trim(b.limit - c)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free = append(b.free, f)
	b.size += c
}

// trim forgets the oldest free buffers beyond n bytes: what is asked for next is most like what came back last.
func (b *buffers) trim(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.size > n {
		b.size -= int64(cap(b.free[0]))
		b.free[0] = nil
		b.free = b.free[1:]
	}
}
