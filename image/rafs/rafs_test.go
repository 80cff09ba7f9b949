package rafs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/rafs/rafstest"
)

// archive is an archive of one member that says it has size bytes.
func archive(t *testing.T, name string, body []byte, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: size}); err != nil {
		t.Fatal(err)
	}
	w.Write(body)
	w.Flush()
	return b.Bytes()
}

func packed(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

// TestExtract: the bootstrap is found in its layer, compressed or not, and what is no such layer is refused.
func TestExtract(t *testing.T) {
	i := rafstest.Write([]rafstest.File{{Mode: 0o040755}}, rafstest.Options{})
	stored, plain := i.Layer()
	for _, layer := range [][]byte{stored, plain, archive(t, "./image/image.boot", i.Boot, int64(len(i.Boot)))} {
		if boot, err := Extract(layer); err != nil || !bytes.Equal(boot, i.Boot) {
			t.Errorf("%d bytes of a bootstrap of %d: %v", len(boot), len(i.Boot), err)
		}
	}
	var many bytes.Buffer
	for n := range 2 * maxMembers {
		many.Write(archive(t, fmt.Sprint("other", n), nil, 0))
	}
	for name, c := range map[string]struct {
		layer []byte
		class error
		says  string
	}{
		"nothing":     {nil, blob.ErrCorrupt, "no file image/image.boot"},
		"noise":       {bytes.Repeat([]byte("noise"), 1000), blob.ErrCorrupt, "its layer"},
		"cut short":   {stored[:len(stored)/2], blob.ErrCorrupt, "its layer"},
		"cut, plain":  {plain[:len(plain)-3000], blob.ErrCorrupt, "ends after"},
		"another":     {archive(t, "image/image.bot", nil, 0), blob.ErrCorrupt, "no file"},
		"huge":        {archive(t, "image/image.boot", nil, MaxBoot+1), ErrUnsupported, "no more than"},
		"zeros":       {packed(make([]byte, 4<<20)), blob.ErrCorrupt, "no file"},
		"far behind":  {append(many.Bytes(), plain...), blob.ErrCorrupt, "no file"},
		"zstd":        {[]byte("\x28\xb5\x2f\xfd and more"), ErrUnsupported, "Zstandard"},
		"broken gzip": {[]byte("\x1f\x8b\x08"), blob.ErrCorrupt, "its layer"},
	} {
		if _, err := Extract(c.layer); !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestName: a byte of all blobs is found in its own.
func TestName(t *testing.T) {
	blobs := []Blob{{blob.Hash{1}, 10}, {blob.Hash{2}, 5}}
	for at, says := range map[int64]string{0: "at 0 of blob sha256:01", 9: "at 9 of blob sha256:01", 10: "at 0 of blob sha256:02", 14: "at 4 of blob sha256:02", 15: "no chunk"} {
		if got := Name(blobs, at); !strings.Contains(got, says) {
			t.Errorf("byte %d: %s", at, got)
		}
	}
}
