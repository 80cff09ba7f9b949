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

// pageSize is the granularity of mincore(2) and readahead(2), in bytes.
var pageSize = int64(unix.Getpagesize())

// resident reports whether the n bytes of mem at off are in memory. Granules that were found a moment ago are
// not asked about again; a run of others is asked about at once.
func (s *residency) resident(mem []byte, off int64, n int) bool {
	now := int64(time.Since(epoch))
	if since := s.since.Load(); now-since > int64(remember) && s.since.CompareAndSwap(since, now) {
		for i := range s.bits {
			s.bits[i].Store(0)
		}
	}
	first, end := off/granule, (off+int64(n)+granule-1)/granule
	for first < end && s.seen(first) {
		first++
	}
	for first < end && s.seen(end-1) {
		end--
	}
	for first < end {
		some := min(end-first, atOnce)
		if !inCore(mem[first*granule : min((first+some)*granule, int64(len(mem)))]) {
			return false
		}
		for range some {
			s.bits[first/64].Or(1 << (first % 64))
			first++
		}
	}
	return true
}

// seen reports whether granule g was found in memory a moment ago.
func (s *residency) seen(g int64) bool { return s.bits[g/64].Load()&(1<<(g%64)) != 0 }

// atOnce is how many granules one mincore is asked about: 1 MiB, the longest read of /dev/fuse.
const atOnce = 16

// inCore asks mincore(2) about at most atOnce granules that start on a page boundary.
func inCore(mem []byte) bool {
	var vec [atOnce * granule / 4096]byte // pages are at least 4 KiB
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(mem))), uintptr(len(mem)), uintptr(unsafe.Pointer(&vec[0])))
	if errno != 0 {
		return false // pread is always right
	}
	for i := range (int64(len(mem)) + pageSize - 1) / pageSize {
		if vec[i]&1 == 0 {
			return false
		}
	}
	return true
}
