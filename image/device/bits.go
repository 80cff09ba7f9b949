package device

import "sync/atomic"

// bits is a set of spans that is read without a lock.
type bits []atomic.Uint64

func newBits(n int) bits { return make(bits, (n+63)/64) }

func (b bits) get(i uint32) bool { return b[i/64].Load()>>(i%64)&1 != 0 }
func (b bits) clear(i uint32)    { b[i/64].And(^(uint64(1) << (i % 64))) }

// set reports whether i was not in the set.
func (b bits) set(i uint32) bool { return b[i/64].Or(1<<(i%64))>>(i%64)&1 == 0 }
