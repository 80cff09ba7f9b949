package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/tree"
)

// imageOf is the metadata of layers, and an Image of it.
func imageOf(t testing.TB, layers ...[]byte) ([]byte, *Image) {
	t.Helper()
	merged, err := merge(layers...)
	if err != nil {
		t.Fatal(err)
	}
	return writeTree(t, merged, Options{})
}

func writeTree(t testing.TB, merged *tree.Tree, o Options) ([]byte, *Image) {
	t.Helper()
	var b bytes.Buffer
	if _, err := Write(&b, merged, o); err != nil {
		t.Fatal(err)
	}
	img, err := Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), img
}

// TestReadNasty: the reader sees in every nasty image what its tree holds: without root, kernel or umoci.
func TestReadNasty(t *testing.T) {
	for _, c := range append(nasty(), sparse()...) {
		merged, err := merge(c.layers...)
		if err != nil {
			continue // TestFidelity knows whether it should be
		}
		t.Run(c.name, func(t *testing.T) {
			for _, bits := range []uint{9, 12} {
				m, layers := merged, c.layers
				if bits == 12 {
					if m, err = merge4096(c.layers); err != nil {
						t.Fatal(err)
					}
					layers = nil // content was only moved in thought
				}
				_, img := writeTree(t, m, Options{BlockBits: bits})
				if len(img.Devices()) != len(c.layers) || img.Inodes() != uint64(m.Len()) {
					t.Fatalf("%d devices, %d inodes", len(img.Devices()), img.Inodes())
				}
				sameTree(t, m, img, layers)
			}
		})
	}
}

// sameTree walks a tree and its image side by side.
func sameTree(t *testing.T, m *tree.Tree, img *Image, layers [][]byte) {
	t.Helper()
	nids := map[tree.ID]uint64{}
	var walk func(id tree.ID, nid uint64)
	walk = func(id tree.ID, nid uint64) {
		if seen, ok := nids[id]; ok {
			if seen != nid {
				t.Fatalf("inode %d is %d and %d", id, seen, nid)
			}
			return
		}
		nids[id] = nid
		i, err := img.Inode(nid)
		if err != nil {
			t.Fatal(err)
		}
		w := m.Inode(id)
		if i.Mode != w.Mode || i.UID != w.UID || i.GID != w.GID || i.Links != w.Links || i.Major != w.Major || i.Minor != w.Minor || i.Sec != w.Sec || i.Nsec != w.Nsec {
			t.Fatalf("%+v, want %+v", i, w)
		}
		xattrs, err := img.Xattrs(&i)
		if err != nil || !slices.Equal(xattrs, w.Xattrs) {
			t.Fatalf("%v, %v, want %v", xattrs, err, w.Xattrs)
		}
		switch i.Mode & tree.TypeMask {
		case tree.Symlink:
			if to, err := img.Readlink(&i); to != w.Target || err != nil {
				t.Fatalf("%q, %v, want %q", to, err, w.Target)
			}
		case tree.File:
			sameExtents(t, img, &i, w.Layer, m.Extents(id, nil))
		case tree.Directory:
			var got []Dirent
			if err := img.Readdir(&i, 0, func(e Dirent) bool { got = append(got, e); return true }); err != nil {
				t.Fatal(err)
			}
			resume(t, img, &i, got)
			got = slices.DeleteFunc(got, func(e Dirent) bool {
				if e.Name == ".." && e.Nid != nids[m.Parent(id)] || e.Name == "." && e.Nid != nid {
					t.Fatalf("%+v", e)
				}
				return e.Name == "." || e.Name == ".."
			})
			n := 0
			for name, child := range m.Children(id) {
				if n == len(got) || got[n].Name != string(name) || got[n].Type != m.Type(child) {
					t.Fatalf("entry %d of %d: %+v, want %q", n, len(got), got[n], name)
				}
				if found, err := img.Lookup(&i, string(name)); err != nil || found != got[n].Nid {
					t.Fatalf("lookup %q: %d, %v", name, found, err)
				}
				if _, err := img.Lookup(&i, string(name)+"\x01"); !errors.Is(err, blob.ErrNotFound) {
					t.Fatalf("what is not there: %v", err)
				}
				walk(child, got[n].Nid)
				n++
			}
			if n != len(got) {
				t.Fatalf("%d entries, want %d", len(got), n)
			}
		}
	}
	walk(tree.Root, img.Root())
	if len(nids) != m.Len() {
		t.Fatalf("%d inodes reached, %d are there", len(nids), m.Len())
	}
}

// resume reads a directory on from every position.
func resume(t *testing.T, img *Image, i *Inode, all []Dirent) {
	t.Helper()
	for n, e := range all[:min(len(all), 100)] {
		var next *Dirent
		if err := img.Readdir(i, e.Next, func(e Dirent) bool { next = &e; return false }); err != nil {
			t.Fatal(err)
		}
		switch {
		case n+1 == len(all) && next != nil:
			t.Fatalf("after the last one comes %+v", next)
		case n+1 < len(all) && (next == nil || *next != all[n+1]):
			t.Fatalf("after %+v comes %+v", e, next)
		}
	}
}

func sameExtents(t *testing.T, img *Image, i *Inode, layer int, want []index.Extent) {
	t.Helper()
	var got []index.Extent
	for off := int64(0); off < i.Size; {
		x, err := img.Extent(i, off)
		if err != nil || x.File != off || x.Length <= 0 || x.Device == 0 || x.Device > 0 && x.Device != layer+1 {
			t.Fatalf("%+v, %v", x, err)
		}
		if half, err := img.Extent(i, off+x.Length/2); err != nil || half.Device != x.Device || x.Device != Hole && half.Offset != x.Offset+x.Length/2 {
			t.Fatalf("from the middle of %+v: %+v, %v", x, half, err)
		}
		if off += x.Length; x.Device == Hole {
			continue
		}
		if n := len(got); n > 0 && got[n-1].File+got[n-1].Length == x.File && got[n-1].Device+got[n-1].Length == x.Offset {
			got[n-1].Length += x.Length // told in parts: there are many pieces
			continue
		}
		got = append(got, index.Extent{File: x.File, Device: x.Offset, Length: x.Length})
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%v, want %v", got, want)
	}
}

// TestHuge: files, holes and layers of terabytes cost nothing in the metadata, and are found again.
func TestHuge(t *testing.T) {
	const tib = 1 << 40
	one := func(size int64, e index.Entry) tree.Layer {
		return tree.Layer{Name: "sha256:" + strings.Repeat("ab", 32), Size: size, Entries: func(yield func(index.Entry, error) bool) { yield(e, nil) }}
	}
	m, err := tree.Merge([]tree.Layer{
		one(tib, index.Entry{Name: "whole", Type: '0', Size: tib - 512, Extents: []index.Extent{{File: 0, Device: 512, Length: tib - 512}}}),
		one(tib/2, index.Entry{Name: "holes", Type: '0', Size: 1 << 50, Extents: []index.Extent{{File: 1 << 49, Device: 1 << 30, Length: 1 << 38}}}),
		one(0, index.Entry{Name: "nothing", Type: '0', Size: 1 << 60}),
	})
	if err != nil {
		t.Fatal(err)
	}
	b, img := writeTree(t, m, Options{})
	// 2^60 bytes of nothing in chunks of at most 2^40 are 2^20 addresses.
	if len(b) > 5<<20 {
		t.Errorf("%d bytes of metadata", len(b))
	}
	sameTree(t, m, img, nil)
	if tag := img.Devices()[0].Tag; tag != strings.Repeat("ab", 32) {
		t.Errorf("tag %q", tag)
	}
	full := make([]tree.Layer, 3)
	for i := range full {
		full[i] = one(tib, index.Entry{Name: "x", Type: '5'})
	}
	if m, err = tree.Merge(full); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(&bytes.Buffer{}, m, Options{}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("3 TiB of layers: %v", err)
	}
}

// TestOptions: what cannot be written is refused; the UUID lands where blkid(8) looks.
func TestOptions(t *testing.T) {
	m, err := merge(twoLayers...)
	if err != nil {
		t.Fatal(err)
	}
	for _, bits := range []uint{8, 13} {
		if _, err := Write(&bytes.Buffer{}, m, Options{BlockBits: bits}); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("blocks of 2^%d: %v", bits, err)
		}
	}
	// The content of an ordinary layer is not aligned to 4096 bytes.
	if _, err := Write(&bytes.Buffer{}, m, Options{BlockBits: 12}); !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), "layer0") {
		t.Errorf("%v", err)
	}
	b, _ := writeTree(t, m, Options{UUID: [16]byte{1, 2, 3, 15: 16}})
	if !bytes.Equal(b[superOffset+48:superOffset+64], []byte{1, 2, 3, 15: 16}) {
		t.Error("no UUID")
	}
	broken := errors.New("disk full")
	if _, err := Write(failing{broken}, m, Options{}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if Name("a", "b") == Name("ab") || Name("a", "b") == Name("b", "a") || len(Name()) != 64 {
		t.Error("names")
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestReader errors: each class.
func TestReaderErrors(t *testing.T) {
	b, img := imageOf(t, twoLayers...)
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		want   error
	}{
		"short":    {func(b []byte) []byte { return b[:1100] }, blob.ErrInvalid},
		"magic":    {func(b []byte) []byte { b[superOffset]++; return b }, blob.ErrInvalid},
		"block":    {func(b []byte) []byte { b[superOffset+12] = 40; return b }, blob.ErrInvalid},
		"feature":  {func(b []byte) []byte { b[superOffset+81] = 1; return b }, blob.ErrInvalid},
		"checksum": {func(b []byte) []byte { b[superOffset+20]++; return b }, blob.ErrCorrupt},
	} {
		changed := c.change(bytes.Clone(b))
		if _, err := Open(bytes.NewReader(changed), int64(len(changed))); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	root, err := img.Inode(img.Root())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.Readlink(&root); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("a directory as a link: %v", err)
	}
	nid, err := img.Lookup(&root, "x")
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.Inode(nid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.Lookup(&file, "x"); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("a file as a directory: %v", err)
	}
	if _, err := img.Extent(&file, file.Size); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("beyond the end: %v", err)
	}
	for _, nid := range []uint64{1 << 20, 1 << 58, 1<<64 - 1} {
		if _, err := img.Inode(nid); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("inode %d: %v", nid, err)
		}
	}
}

// FuzzImage: whatever an image holds, its reader ends, with an error of the right class or without.
func FuzzImage(f *testing.F) {
	for _, c := range append(nasty(), sparse()...) {
		m, err := merge(c.layers...)
		if err != nil || m.Len() > 100 {
			continue
		}
		var b bytes.Buffer
		if _, err := Write(&b, m, Options{}); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > superOffset+superSize {
			b[superOffset+8] &^= compatChecksum // nobody would get far
		}
		img, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			checkClass(t, err)
			return
		}
		todo, seen := []uint64{img.Root()}, map[uint64]bool{}
		for len(todo) > 0 && len(seen) < 50 {
			nid := todo[0]
			todo = todo[1:]
			if seen[nid] {
				continue
			}
			seen[nid] = true
			i, err := img.Inode(nid)
			if err != nil {
				checkClass(t, err)
				continue
			}
			_, err = img.Xattrs(&i)
			checkClass(t, err)
			_, err = img.Readlink(&i)
			checkClass(t, err)
			for off, n := int64(0), 0; off < i.Size && n < 20; n++ {
				x, err := img.Extent(&i, off)
				if err != nil {
					checkClass(t, err)
					break
				}
				if x.File != off || x.Length <= 0 || x.Length > i.Size-off || x.Device > len(img.Devices()) || x.Device >= 0 && x.Offset < 0 {
					t.Fatalf("%+v of %+v", x, i)
				}
				off += x.Length
			}
			n := 0
			err = img.Readdir(&i, 0, func(e Dirent) bool {
				if n++; len(e.Name) == 0 || len(e.Name) > maxName {
					t.Fatalf("%+v", e)
				}
				if n < 5 {
					_, err := img.Lookup(&i, e.Name)
					checkClass(t, err)
				}
				todo = append(todo, e.Nid)
				return n < 100
			})
			checkClass(t, err)
		}
	})
}

func checkClass(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for _, class := range []error{blob.ErrCorrupt, blob.ErrInvalid, blob.ErrNotFound} {
		if errors.Is(err, class) {
			return
		}
	}
	t.Fatal(fmt.Errorf("an error of no class: %w", err))
}
