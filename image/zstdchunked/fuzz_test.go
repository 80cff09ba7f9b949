package zstdchunked

import (
	"context"
	"errors"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/toc/toctest"
)

// FuzzParse: whatever bytes a layer has and wherever its table is said to be, Parse gives an error of class, or spans
// that lie in the layer.
func FuzzParse(f *testing.F) {
	stored, annotations := containers(f, toctest.Archive()[:20*512])
	f.Add(stored, annotations[Position])
	f.Add(stored, "")
	f.Fuzz(func(t *testing.T, b []byte, position string) {
		a := map[string]string{}
		if position != "" {
			a[Position] = position
		}
		layer := &toctest.Layer{Bytes: b}
		_, _, spans, _, err := Parse(context.Background(), layer, a)
		if err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) && err != index.ErrFormat {
			t.Fatalf("class of %v", err)
		}
		for _, s := range spans {
			if s.Stored < 0 || s.StoredLength < 0 || s.Stored+s.StoredLength > layer.Size() {
				t.Fatalf("%+v", s)
			}
		}
	})
}
