// Package erofslayertest has layers that are EROFS images, made by mkfs.erofs (testdata/README.md).
//
// # Place
//
// Beside image/erofslayer; tests only.
//
// # Goroutines
//
// None.
//
// # Locks
//
// None.
//
// # Errors
//
// They end the test.
package erofslayertest

import (
	"compress/gzip"
	"embed"
	"io"
	"path"
	"strings"
	"testing"
)

//go:embed testdata/*.gz
var images embed.FS

const suffix = ".erofs.gz"

// Golden is an image, by its name in testdata/README.md.
func Golden(t testing.TB, name string) []byte {
	t.Helper()
	f, err := images.Open(path.Join("testdata", name+suffix))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Names are those of all images.
func Names(t testing.TB) (all []string) {
	t.Helper()
	files, err := images.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		all = append(all, strings.TrimSuffix(f.Name(), suffix))
	}
	return all
}
