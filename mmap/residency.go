package mmap

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// granule is the unit, in bytes, in which residency is asked and remembered: 16 pages of 4 KiB, what the
// kernel maps around a fault (fault_around_bytes); one bit for it costs 2 MiB per TiB of file.
const granule = 64 << 10

// remember is how long an answer of mincore(2) is believed. mincore costs about as much as the pread that it
// saves, so asking before every read would gain nothing. A page that is reclaimed meanwhile costs one
// stalled thread, not a wrong byte; under pressure the kernel takes pages used in the last second last.
const remember = time.Second

// residency remembers which granules were found in memory less than [remember] ago.
type residency struct {
	bits  []atomic.Uint64
	since atomic.Int64 // nanoseconds after epoch at which bits was last emptied
}

var epoch = time.Now()

func (s *residency) init(size int64) {
	s.bits = make([]atomic.Uint64, (size+64*granule-1)/(64*granule))
}

// resident reports whether the n bytes of mem at off, at most a granule, are in memory.
func (s *residency) resident(mem []byte, off int64, n int) bool {
	now := int64(time.Since(epoch))
	if since := s.since.Load(); now-since > int64(remember) && s.since.CompareAndSwap(since, now) {
		for i := range s.bits {
			s.bits[i].Store(0)
		}
	}
	for g := off / granule; g*granule < off+int64(n); g++ {
		word, bit := &s.bits[g/64], uint64(1)<<(g%64)
		if word.Load()&bit != 0 {
			continue
		}
		if !inCore(mem[g*granule : min((g+1)*granule, int64(len(mem)))]) {
			return false
		}
		word.Or(bit)
	}
	return true
}

// inCore asks mincore(2) about at most one granule that starts on a page boundary.
func inCore(mem []byte) bool {
	var vec [granule / 4096]byte // pages are at least 4 KiB
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(mem))), uintptr(len(mem)), uintptr(unsafe.Pointer(&vec[0])))
	if errno != 0 {
		return false // pread is always right
	}
	page := unix.Getpagesize()
	for i := range (len(mem) + page - 1) / page {
		if vec[i]&1 == 0 {
			return false
		}
	}
	return true
}
