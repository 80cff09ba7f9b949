package blockio

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pantala/pantala/blob"
)

// chunk is the bytes of the largest Put: what a sequential download hands in.
const chunk = blob.MaxBuffer * blob.BlockSize

// cycle is how many bytes a benchmark writes to a file before it starts another: enough to leave the caches
// of the processor, little enough to stay in the page cache.
const cycle = 256 << 20

// BenchmarkPut compares Put with its two parts on the same disk: hashing alone, as it does and with crypto/sha256
// block by block, and writing alone. Run with -cpu 1,2.
func BenchmarkPut(b *testing.B) {
	data := content(chunk, 1)
	b.Run("sha256", func(b *testing.B) {
		b.SetBytes(chunk)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				for at := 0; at < chunk; at += blob.BlockSize {
					sha256.Sum256(data[at : at+blob.BlockSize])
				}
			}
		})
	})
	b.Run("leaves", func(b *testing.B) {
		b.SetBytes(chunk)
		b.RunParallel(func(pb *testing.PB) {
			var leaves [blob.MaxBuffer]blob.Hash
			for pb.Next() {
				blob.Leaves(leaves[:], data)
			}
		})
	})
	b.Run("pwrite", func(b *testing.B) {
		b.SetBytes(chunk)
		turns(b, func(n uint32) (func(uint32) error, func()) {
			f, err := os.Create(filepath.Join(b.TempDir(), "data"))
			if err != nil {
				b.Fatal(err)
			}
			return func(i uint32) error {
				_, err := f.WriteAt(data, int64(i)*chunk)
				return err
			}, func() { f.Close(); os.Remove(f.Name()) }
		})
	})
	b.Run("put", func(b *testing.B) {
		b.SetBytes(chunk)
		b.ReportAllocs()
		s := openStore(b, b.TempDir(), Options{})
		turns(b, func(n uint32) (func(uint32) error, func()) {
			id := testID(byte(n))
			blob1, err := s.Open(id, blob.Geometry{Size: cycle, PieceLength: 1 << 20}, Meta{})
			if err != nil {
				b.Fatal(err)
			}
			return func(i uint32) error {
				return blob1.Put(run(i*blob.MaxBuffer, blob.MaxBuffer), data, blob.Direct)
			}, func() { blob1.Close(); s.Remove(id) }
		})
	})
}

// turns runs do(0), do(1), … in parallel, and begins again with a fresh target after each cycle.
func turns(b *testing.B, fresh func(n uint32) (do func(uint32) error, end func())) {
	const per = cycle / chunk
	type target struct {
		do   func(uint32) error
		end  func()
		busy sync.WaitGroup
	}
	targets := make([]*target, (b.N+per-1)/per)
	var next atomic.Int64
	var mu sync.Mutex
	open := func(n int) *target {
		mu.Lock()
		defer mu.Unlock()
		if targets[n] == nil {
			t := new(target)
			t.do, t.end = fresh(uint32(n))
			t.busy.Add(min(per, b.N-n*per))
			targets[n] = t
			if n > 0 { // the one before is about to end
				old := targets[n-1]
				go func() { old.busy.Wait(); old.end() }()
			}
		}
		return targets[n]
	}
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := int(next.Add(1) - 1)
			t := open(i / per)
			if err := t.do(uint32(i % per)); err != nil {
				b.Error(err)
			}
			t.busy.Done()
		}
	})
	b.StopTimer()
	last := targets[len(targets)-1]
	last.busy.Wait()
	last.end()
}

// BenchmarkOpen is what a mount waits for: a blob of 1 GiB created, opened again when it is complete, and
// hashed first because the machine went down.
func BenchmarkOpen(b *testing.B) {
	g := blob.GeometryFor(1 << 30)
	b.Run("create", func(b *testing.B) {
		s := openStore(b, b.TempDir(), Options{})
		for b.Loop() {
			x := openBlob(b, s, 1, g)
			b.StopTimer()
			x.Close()
			s.Remove(testID(1))
			b.StartTimer()
		}
	})
	s := openStore(b, b.TempDir(), Options{})
	x := openBlob(b, s, 1, g)
	data := content(chunk, 1)
	for at := uint32(0); at < g.Blocks(); at += blob.MaxBuffer {
		if err := x.Put(run(at, blob.MaxBuffer), data, blob.Direct); err != nil {
			b.Fatal(err)
		}
	}
	if err := x.Close(); err != nil {
		b.Fatal(err)
	}
	again := func(b *testing.B, doubt bool) {
		for b.Loop() {
			x := openBlob(b, s, 1, g)
			b.StopTimer()
			if !x.Complete() {
				b.Fatal("not complete")
			}
			if doubt { // as if nothing of the log had been synced, before another boot
				if err := os.WriteFile(x.path("log"), x.unsyncedLog(), 0o600); err != nil {
					b.Fatal(err)
				}
				reboot(s, byte(b.N))
			}
			x.Close()
			b.StartTimer()
		}
	}
	b.Run("complete", func(b *testing.B) { again(b, false) })
	b.Run("rehash", func(b *testing.B) {
		b.SetBytes(g.Size)
		again(b, true)
	})
}

// unsyncedLog is a log of the complete blob without a word about syncs.
func (b *Blob) unsyncedLog() []byte {
	p := appendRecord(nil, b.seed, session{}.record())
	p = appendRecord(p, b.seed, record{kind: kindPresent, arg: flagFirm, b: b.geo.Blocks()})
	return p
}
