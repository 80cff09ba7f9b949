package estargz

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/toc/toctest"
)

// FuzzParse: whatever bytes a layer has, Parse gives an error of class, or spans
// that lie in the layer.
func FuzzParse(f *testing.F) {
	layer, annotations := build(f, toctest.Archive())
	// The table alone, behind one byte.
	at, _ := field(layer.Bytes[layer.Size()-footerSize:], "SG\x16\x00")
	short := bytes.Clone(layer.Bytes[at-1:])
	copy(short[len(short)-footerSize+16:], fmt.Sprintf("%016x", 1))
	f.Add(short, true)
	f.Add(short, false)
	f.Fuzz(func(t *testing.T, b []byte, pinned bool) {
		a := annotations
		if !pinned {
			a = nil
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
