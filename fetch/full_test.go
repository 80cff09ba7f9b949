package fetch

import (
	"bytes"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
)

// delivered is how many bytes a script has delivered.
func (s *script) delivered() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, times := range s.asked {
		n += int64(times) * int64(s.geo.BlockLen(i))
	}
	return n
}

// TestFullCacheManyReaders: the bytes of more reads than memory holds arrive at the same time.
func TestFullCacheManyReaders(t *testing.T) {
	data := content(64 << 20)
	for _, memory := range []int64{MinMemory, 16 << 20} {
		store := open(t, data, blockio.Options{Quota: 1})
		origin := source(data)
		b := start(t, Options{Memory: memory, Timeout: 20 * time.Second}, Config{Store: store, Origin: origin, Fill: FillNever})
		var wg sync.WaitGroup
		for i := range 48 {
			wg.Go(func() {
				off := i*(4<<20)/3 + 100 // not at a block: the read touches one more
				if p, err := read(t, b, off, 1<<20); err != nil || !bytes.Equal(p, data[off:off+1<<20]) {
					t.Errorf("at %d: %v", off, err)
				}
			})
		}
		wg.Wait()
		if got, most := origin.delivered(), int64(3*48<<20); got > most {
			t.Errorf("memory %d: %d bytes from the origin for 48 reads of 1 MiB", memory, got)
		}
	}
}

// TestFullCacheSequential: readahead must not push out of memory what the reader comes to next.
func TestFullCacheSequential(t *testing.T) {
	data := content(32 << 20)
	for _, memory := range []int64{MinMemory, DefaultMemory} {
		store := open(t, data, blockio.Options{Quota: 1})
		origin := source(data)
		b := start(t, Options{Memory: memory}, Config{Store: store, Origin: origin, Fill: FillNever})
		for off := 0; off < len(data); off += 128 << 10 {
			if p, err := read(t, b, off, 128<<10); err != nil || !bytes.Equal(p, data[off:off+128<<10]) {
				t.Fatalf("at %d: %v", off, err)
			}
		}
		if got := origin.delivered(); got > int64(len(data))*3/2 {
			t.Errorf("memory %d: %d bytes from the origin to read %d in order", memory, got, len(data))
		}
	}
}

// TestFullCacheAsksForWhatIsMissing: a read of which a part is in memory asks for the rest.
func TestFullCacheAsksForWhatIsMissing(t *testing.T) {
	data := content(1 << 20)
	store := open(t, data, blockio.Options{Quota: 1})
	origin := source(data)
	b := start(t, Options{}, Config{Store: store, Origin: origin, Fill: FillNever})
	for _, blocks := range []int{4, 12} {
		if _, err := read(t, b, 0, blocks*blob.BlockSize); err != nil {
			t.Fatal(err)
		}
	}
	origin.mu.Lock()
	defer origin.mu.Unlock()
	if origin.asked[0] != 1 || origin.asked[11] != 1 {
		t.Errorf("blocks were delivered %v times", origin.asked)
	}
}

// TestFullCacheIsNotFilled: completing a blob that cannot be kept must not download it for ever.
func TestFullCacheIsNotFilled(t *testing.T) {
	data := content(64 << 20)
	store := open(t, data, blockio.Options{Quota: 1})
	synctest.Test(t, func(t *testing.T) {
		origin := source(data)
		e := New(Options{})
		defer e.Close()
		e.Open(Config{Store: store, Origin: origin, Fill: FillEager}).Wake()
		time.Sleep(time.Minute)
		if got := origin.delivered(); got == 0 || got > 16<<20 {
			t.Errorf("%d bytes in a minute for nobody", got)
		}
	})
}
