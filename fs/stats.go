package fs

import "sync/atomic"

// Stats counts what a mount has done since it was made.
type Stats struct {
	Requests         uint64 // requests of every kind
	Reads            uint64 // READ requests; those of passthrough files never reach us
	Bytes            uint64 // bytes asked for by answered READ requests
	Parked           uint64 // READ requests whose bytes were absent
	Waiting          int    // of these, how many wait now
	Interrupted      uint64 // parked reads given up because their reader was killed
	Errors           uint64 // READ requests answered with an error other than EINTR
	Panics           uint64 // panics in handlers; always 0 unless there is a bug
	PassthroughOpens uint64 // opens that were handed to the kernel
	Passthrough      bool   // new opens (of a tree: of some of its files) are handed to the kernel
}

// hot are the counters of one loop: on their own cache lines, so that loops do not share any.
type hot struct {
	_                      [64]byte
	requests, reads, bytes atomic.Uint64
	_                      [64]byte
}

// rare are the counters that any goroutine may touch.
type rare struct {
	parked, interrupted, errors, panics, passthroughOpens atomic.Uint64
	lateBytes                                             atomic.Uint64 // READs answered by Ready
}

// Stats is a snapshot; counters are read one by one.
func (m *Mounted) Stats() Stats {
	s := Stats{
		Parked:           m.rare.parked.Load(),
		Waiting:          m.lot.len(),
		Interrupted:      m.rare.interrupted.Load(),
		Errors:           m.rare.errors.Load(),
		Panics:           m.rare.panics.Load(),
		PassthroughOpens: m.rare.passthroughOpens.Load(),
		Passthrough:      m.passing.Load(),
		Bytes:            m.rare.lateBytes.Load(),
	}
	for _, l := range m.loops {
		s.Requests += l.hot.requests.Load()
		s.Reads += l.hot.reads.Load()
		s.Bytes += l.hot.bytes.Load()
	}
	return s
}
