package mmap

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"unsafe"
)

// viaMap is the largest read, in bytes, that is copied from the map. Above it the fixed cost of a pread
// (about 0.5 µs) no longer counts beside the copy, and pread never stalls.
const viaMap = granule

// ReadAt copies mapped bytes to p, with the rules of [io.ReaderAt]: at the end of the region it is short and
// returns io.EOF. Bytes that are not in memory are read by pread(2).
func (r *Region) ReadAt(p []byte, off int64) (int, error) {
	if !r.enter() {
		return 0, r.closedErr()
	}
	defer r.leave()
	if off < 0 {
		return 0, r.rangeErr(off, len(p))
	}
	if off >= int64(len(r.mem)) {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	var end error
	if rest := int64(len(r.mem)) - off; int64(len(p)) > rest {
		p, end = p[:rest], io.EOF
	}
	if len(p) <= viaMap && r.seen.resident(r.mem, off, len(p)) {
		if err := copyOut(p, r.mem[off:]); err != nil {
			return 0, r.truncatedErr(off, len(p), err)
		}
		return len(p), end
	}
	switch n, err := r.file.ReadAt(p, off); {
	case err == nil:
		return n, end
	case errors.Is(err, os.ErrClosed):
		return n, r.closedErr()
	default:
		return n, r.truncatedErr(off, len(p), err)
	}
}

// copyOut copies len(p) bytes of mapped memory; a fault in it is returned as an error. The pages were
// resident a moment ago, so a fault means that the file was cut meanwhile.
func copyOut(p, src []byte) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		v := recover()
		if v == nil {
			return
		}
		// A fault is a runtime.Error that knows its address (runtime/debug.SetPanicOnFault).
		fault, ok := v.(interface{ Addr() uintptr })
		base := uintptr(unsafe.Pointer(unsafe.SliceData(src)))
		if !ok || fault.Addr() < base || fault.Addr() >= base+uintptr(len(src)) {
			panic(v)
		}
		err = fmt.Errorf("fault at byte %d of the map", fault.Addr()-base)
	}()
	copy(p, src)
	return nil
}
