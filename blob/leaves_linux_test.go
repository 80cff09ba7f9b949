package blob_test

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pantala/pantala/blob"
)

// TestLeavesEdge hashes bytes that end, and begin, at a page that cannot be read: no load may leave the data.
func TestLeavesEdge(t *testing.T) {
	const page = 65536 // a multiple of any page size
	m, err := syscall.Mmap(-1, 0, page+buffer+page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(m); err != nil {
			t.Error(err)
		}
	})
	data := m[page : page+buffer]
	copy(data, content(buffer))
	for _, fence := range [][]byte{m[:page], m[page+buffer:]} {
		if err := syscall.Mprotect(fence, syscall.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	for _, cut := range []int{0, 1, 63, 64, blob.BlockSize} {
		checkLeaves(t, data[cut:])
		checkLeaves(t, data[:buffer-cut])
	}
}

// TestWide compares what we ask the processor with what the kernel says about it.
func TestWide(t *testing.T) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	flags := strings.Fields(string(info))
	want := runtime.GOARCH == "amd64" && !pureGo
	for _, flag := range []string{"avx512f", "avx512bw", "avx512vl"} {
		want = want && slices.Contains(flags, flag)
	}
	if blob.Wide() != want {
		t.Errorf("wide is %v, /proc/cpuinfo says %v", blob.Wide(), want)
	}
}
