package fs

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// aligned is memory for O_DIRECT.
func aligned(n int) []byte {
	const page = 4096
	raw := make([]byte, n+page)
	shift := -int(uintptr(unsafe.Pointer(&raw[0]))) & (page - 1)
	return raw[shift : shift+n]
}

// BenchmarkMount reads a mount whose bytes are all present, past the page cache of the kernel: every read is a
// READ request that the loops answer, except with passthrough.
func BenchmarkMount(b *testing.B) {
	const size = 256 << 20
	for _, mode := range []string{"through us", "passthrough"} {
		m := serve(b, setup{size: size, noPass: mode == "through us", serverConfig: serverConfig{Complete: true}})
		for _, readers := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/random 4K/readers=%d", mode, readers), func(b *testing.B) {
				b.SetBytes(4096)
				var wg sync.WaitGroup
				for r := range readers {
					wg.Go(func() {
						f, err := os.OpenFile(m.path, os.O_RDONLY|flagFor(mode), 0)
						if err != nil {
							b.Error(err)
							return
						}
						defer f.Close()
						rng, page := rand.New(rand.NewPCG(uint64(r), 0)), aligned(4096)
						for range b.N/readers + 1 {
							if _, err := unix.Pread(int(f.Fd()), page, rng.Int64N(size/4096)*4096); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			})
		}
		b.Run(mode+"/sequential", func(b *testing.B) {
			f, err := os.Open(m.path)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			b.SetBytes(size)
			buf := aligned(1 << 20)
			for b.Loop() {
				if mode == "through us" {
					dropCaches(b, f)
				}
				for off := int64(0); off < size; off += int64(len(buf)) {
					if _, err := unix.Pread(int(f.Fd()), buf, off); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// flagFor keeps the kernel's page cache out of reads that are to be answered by us.
func flagFor(mode string) int {
	if mode == "through us" {
		return unix.O_DIRECT
	}
	return 0
}
