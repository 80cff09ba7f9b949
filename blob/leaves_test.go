package blob_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/pantala/pantala/blob"
	"pgregory.net/rapid"
)

// buffer is the largest run of blocks that is lent, and what the wide kernel takes at once.
const buffer = blob.MaxBuffer * blob.BlockSize

// checkLeaves compares Leaves of data with crypto/sha256 block by block, and makes sure that it writes nothing but
// the leaves of data.
func checkLeaves(tb testing.TB, data []byte) {
	tb.Helper()
	blocks := (len(data) + blob.BlockSize - 1) / blob.BlockSize
	before := bytes.Clone(data)
	dst := make([]blob.Hash, blocks+2)
	guard := blob.Hash(bytes.Repeat([]byte{0xa5}, 32))
	for i := range dst {
		dst[i] = guard
	}
	blob.Leaves(dst[1:], data)
	for i := range blocks {
		block := before[i*blob.BlockSize : min((i+1)*blob.BlockSize, len(before))]
		if want := sha256.Sum256(block); dst[1+i] != want {
			tb.Fatalf("%d bytes: leaf %d is %s, want %s", len(data), i, dst[1+i], blob.Hash(want))
		}
	}
	if dst[0] != guard || dst[1+blocks] != guard {
		tb.Fatalf("%d bytes: wrote beside the %d leaves", len(data), blocks)
	}
	if !bytes.Equal(data, before) {
		tb.Fatalf("%d bytes: changed the data", len(data))
	}
}

// bothWays runs a test as this machine hashes, and without the wide kernel.
func bothWays(t *testing.T, f func(t *testing.T)) {
	t.Run(fmt.Sprintf("wide=%v", blob.Wide()), f)
	t.Run("narrow", func(t *testing.T) {
		blob.Narrow(t)
		f(t)
	})
}

func TestLeaves(t *testing.T) {
	bothWays(t, func(t *testing.T) {
		all := content(2*buffer + 2*blob.BlockSize)
		for _, blocks := range []int{0, 1, 2, 7, 15, 16, 17, 31, 32, 33} {
			for _, more := range []int{-blob.BlockSize + 1, -4097, -64, -1, 0, 1, 55, 56, 64, 4096} {
				if n := blocks*blob.BlockSize + more; n >= 0 {
					checkLeaves(t, all[:n])
				}
			}
		}
	})
}

// TestLeavesAlignment begins at each byte of a cache line, and beside a page boundary.
func TestLeavesAlignment(t *testing.T) {
	all := content(buffer + 4096 + 64)
	for at := range 65 {
		checkLeaves(t, all[at:at+buffer])
		checkLeaves(t, all[4096-at:4096-at+buffer])
	}
}

// TestLeavesPatterns hashes bytes in which a carry or a sign goes wrong first, and blocks of which one differs from
// the others by a bit, once in each lane, at each word of the first and of the last 64 bytes.
func TestLeavesPatterns(t *testing.T) {
	data := make([]byte, buffer)
	for _, b := range []byte{0x00, 0xff, 0x80, 0x7f, 0x01} {
		for i := range data {
			data[i] = b
		}
		checkLeaves(t, data)
	}
	var got [blob.MaxBuffer]blob.Hash
	clear(data)
	rest := sha256.Sum256(data[:blob.BlockSize])
	for lane := range blob.MaxBuffer {
		for word := range 32 {
			at := lane*blob.BlockSize + word*4
			if word >= 16 {
				at += blob.BlockSize - 128
			}
			data[at+word%4] ^= 1 << (word % 8)
			blob.Leaves(got[:], data)
			for i, h := range got {
				want := blob.Hash(rest)
				if i == lane {
					want = sha256.Sum256(data[i*blob.BlockSize : (i+1)*blob.BlockSize])
				}
				if h != want {
					t.Fatalf("bit in lane %d at byte %d: leaf %d is %s, want %s", lane, at, i, h, want)
				}
			}
			data[at+word%4] = 0
		}
	}
}

func TestLeavesProperty(t *testing.T) {
	all := content(3 * buffer)
	bothWays(t, func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			from := rapid.IntRange(0, buffer).Draw(t, "from")
			n := rapid.OneOf(
				rapid.IntRange(0, 2*buffer),
				rapid.Map(rapid.IntRange(0, 2*blob.MaxBuffer), func(blocks int) int { return blocks * blob.BlockSize }),
			).Draw(t, "n")
			data := all[from : from+n]
			dst := make([]blob.Hash, (n+blob.BlockSize-1)/blob.BlockSize)
			blob.Leaves(dst, data)
			for i, h := range dst {
				if want := sha256.Sum256(data[i*blob.BlockSize : min((i+1)*blob.BlockSize, n)]); h != want {
					t.Fatalf("leaf %d is %s, want %s", i, h, blob.Hash(want))
				}
			}
		})
	})
}

// TestLeavesRoom: too few places for the leaves are a mistake of the caller that must not go unnoticed.
func TestLeavesRoom(t *testing.T) {
	data := content(buffer + 1)
	bothWays(t, func(t *testing.T) {
		for _, n := range []int{1, blob.BlockSize + 1, buffer, buffer + 1} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("no panic for %d bytes and a leaf too few", n)
					}
				}()
				blob.Leaves(make([]blob.Hash, (n-1)/blob.BlockSize), data[:n])
			}()
		}
	})
}

// TestLeavesParallel hashes on more goroutines than processors, beside a garbage collector that stops them all the
// time: what assembly leaves in a register or on a stack must not be believed, or lost, by others.
func TestLeavesParallel(t *testing.T) {
	data := content(buffer)
	var want [blob.MaxBuffer]blob.Hash
	for i := range want {
		want[i] = sha256.Sum256(data[i*blob.BlockSize : (i+1)*blob.BlockSize])
	}
	var wg sync.WaitGroup
	for range 2*runtime.GOMAXPROCS(0) + 1 {
		wg.Go(func() {
			var got [blob.MaxBuffer]blob.Hash
			for range 200 {
				clear(got[:])
				blob.Leaves(got[:], data)
				if got != want {
					t.Error("wrong leaves")
					return
				}
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			runtime.GC()
		}
	})
	wg.Wait()
}

// FuzzLeaves compares with crypto/sha256. The input is repeated to size bytes, changed a little each time, because a
// fuzzer does not find inputs as long as a full buffer.
func FuzzLeaves(f *testing.F) {
	for _, blocks := range []uint32{0, 1, 15, 16, 17, 32} {
		f.Add([]byte("pantala"), blocks*blob.BlockSize, uint8(blocks))
		f.Add([]byte{0xff, 0}, blocks*blob.BlockSize+77, uint8(1))
	}
	room := make([]byte, 3*buffer+256)
	f.Fuzz(func(t *testing.T, pattern []byte, size uint32, offset uint8) {
		data := room[offset:][:size%(3*buffer)]
		for at, turn := 0, byte(0); at < len(data); turn++ {
			if len(pattern) == 0 {
				clear(data)
				break
			}
			n := copy(data[at:], pattern)
			data[at+int(turn)%n] ^= turn
			at += n
		}
		checkLeaves(t, data)
	})
}
