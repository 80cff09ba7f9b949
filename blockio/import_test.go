package blockio

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
)

func writeFile(t testing.TB, p []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "model.bin")
	if err := os.WriteFile(name, p, 0o400); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestImport(t *testing.T) {
	dir := t.TempDir()
	all := content(small.Size, 1)
	path := writeFile(t, all)
	for _, leaves := range [][]blob.Hash{nil, leavesOf(all)} {
		s := openStore(t, dir, Options{Quota: blob.BlockSize})
		b, err := s.Import(path, testID(1), small, Meta{Name: "model.bin"}, leaves)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if n := verify(t, b, all); n != int(small.Blocks()) || !b.Complete() {
				t.Fatal(n)
			}
			<-b.Completed()
			for p := range small.Pieces() {
				if h, trust := b.Root(p); h != rootOf(all, small, p) || trust != blob.Built {
					t.Fatalf("root of piece %d: %v", p, trust)
				}
				if l, ok := b.Leaves(p); !ok || small.PieceRoot(l) != rootOf(all, small, p) {
					t.Fatalf("leaves of piece %d", p)
				}
			}
			if _, err := os.Stat(b.path("data")); !os.IsNotExist(err) {
				t.Error("the file was copied")
			}
			if err := b.Put(run(0, 1), all[:blob.BlockSize], blob.Direct); err != nil {
				t.Error(err)
			}
			if err := b.Put(run(0, 1), make([]byte, blob.BlockSize), blob.Direct); !errors.Is(err, blob.ErrChanged) {
				t.Error(err)
			}
			i, ok := s.Lookup(testID(1))
			if !ok || i.Imported != path || !i.Complete || s.Usage().Bytes != 0 {
				t.Errorf("%+v", i)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openStore(t, dir, Options{Quota: blob.BlockSize})
			b = openBlob(t, s, 1, small)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, all) {
		t.Error("the imported file was touched")
	}
}

// Once the file has changed, nobody is given its bytes under the old name.
func TestImportChanges(t *testing.T) {
	all := content(small.Size, 1)
	for _, c := range []struct {
		name   string
		change func(t *testing.T, path string)
	}{
		{"written", func(t *testing.T, path string) { rewrite(t, path, content(small.Size, 2)) }},
		{"truncated", func(t *testing.T, path string) {
			if err := os.Truncate(path, 100); err != nil {
				t.Fatal(err)
			}
		}},
		{"replaced", func(t *testing.T, path string) {
			if err := os.Rename(writeFile(t, all), path); err != nil {
				t.Fatal(err)
			}
		}},
		{"removed", func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, path := t.TempDir(), writeFile(t, all)
			s := openStore(t, dir, Options{})
			b, err := s.Import(path, testID(1), small, Meta{Source: "file://x"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.ReadAt(make([]byte, 10), 0); err != nil {
				t.Fatal(err)
			}
			c.change(t, path)
			b.watch.last.Store(0) // a second later
			if err := b.ReadAt(make([]byte, 10), 0); !errors.Is(err, blob.ErrCorrupt) {
				t.Errorf("open: %v", err)
			}
			if _, ok := s.Lookup(testID(1)); ok || len(s.Find("file://x")) != 0 {
				t.Error("still listed")
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			b = openBlob(t, s, 1, small) // an empty blob of the cache in its place
			if b.Present() != 0 || b.File().Name() == path {
				t.Error("the changed file is still used")
			}
			putAll(t, b, all, 16, blob.Direct)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openStore(t, dir, Options{})
			if i, ok := s.Lookup(testID(1)); !ok || i.Imported != "" || !i.Complete {
				t.Errorf("%+v", i)
			}
		})
	}
	dir, path := t.TempDir(), writeFile(t, all)
	s := openStore(t, dir, Options{})
	if _, err := s.Import(path, testID(1), small, Meta{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	rewrite(t, path, content(small.Size, 2))
	if s = openStore(t, dir, Options{}); len(s.List()) != 0 {
		t.Error("an import that changed while the store was closed is still there")
	}
}

// rewrite changes a file in place, and its time with it.
func rewrite(t testing.TB, path string, p []byte) {
	t.Helper()
	if err := os.WriteFile(path, p, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
}

func TestImportErrors(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	all := content(small.Size, 1)
	path := writeFile(t, all)
	for _, c := range []struct {
		name   string
		path   string
		g      blob.Geometry
		leaves []blob.Hash
		want   error
	}{
		{"missing", path + "x", small, nil, blob.ErrNotFound},
		{"a folder", filepath.Dir(path), small, nil, blob.ErrInvalid},
		{"wrong size", path, blob.Geometry{Size: small.Size - 1, PieceLength: small.PieceLength}, nil, blob.ErrInvalid},
		{"wrong number of leaves", path, small, make([]blob.Hash, 3), blob.ErrInvalid},
	} {
		if _, err := s.Import(c.path, testID(1), c.g, Meta{}, c.leaves); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	b := openBlob(t, s, 1, small)
	if _, err := s.Import(path, testID(1), small, Meta{}, nil); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("while it is being downloaded: %v", err)
	}
	putAll(t, b, all, 16, blob.Direct)
	if b2, err := s.Import(path, testID(1), small, Meta{}, nil); err != nil || b2 != b {
		t.Errorf("while it is open and complete: %v", err)
	}
	b.Close()
	b.Close()
	// Closed, it is replaced by the file and its space is given back.
	b, err := s.Import(path, testID(1), small, Meta{}, nil)
	if err != nil || s.Usage().Bytes != 0 || b.File().Name() != path {
		t.Error(err, s.Usage().Bytes)
	}
}
