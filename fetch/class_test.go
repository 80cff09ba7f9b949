package fetch

import (
	"bytes"
	"context"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
)

// TestReadAtClass: a reader that names its class gets what it asks for in that class, and nothing behind it, however
// sequential it is.
func TestReadAtClass(t *testing.T) {
	data := content(4 << 20)
	src := source(data)
	classes := make(chan blob.Class, 64)
	src.before = func(ctx context.Context) error {
		classes <- blob.ClassOf(ctx)
		return nil
	}
	b := start(t, Options{}, Config{Store: open(t, data, blockio.Options{}), Origin: src, Fill: FillNever})
	const step = 128 << 10
	for i, class := range []blob.Class{blob.Fault, blob.Read, blob.Readahead, blob.Background} {
		p := make([]byte, step)
		off := int64(i * step)
		if err := b.ReadAt(blob.WithClass(t.Context(), class), p, off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, data[off:off+step]) {
			t.Fatalf("wrong bytes at %d", off)
		}
		if got := <-classes; got != class {
			t.Errorf("asked in class %v, want %v", got, class)
		}
	}
	src.mu.Lock()
	defer src.mu.Unlock()
	if want := 4 * step / blob.BlockSize; len(src.asked) != want {
		t.Errorf("%d blocks were fetched, want %d", len(src.asked), want)
	}
}
