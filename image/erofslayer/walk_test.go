package erofslayer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/erofslayer/erofslayertest"
	"github.com/pantala/pantala/image/index"
)

// walked is what Walk tells of an image. It fails the test where an extent lies outside, or out of order.
func walked(t testing.TB, b []byte) (all []index.Entry, err error) {
	space := int64(len(b))
	err = Walk(bytes.NewReader(b), int64(len(b)), func(at, length int64) (int64, error) {
		if at < 0 || length <= 0 || at > int64(len(b))-length {
			t.Errorf("inline content [%d,+%d) of %d bytes", at, length, len(b))
		}
		space = (space + 511) &^ 511
		space += length
		return space - length, nil
	}, func(e index.Entry) error {
		end := int64(0)
		for _, x := range e.Extents {
			if x.File < end || x.Length <= 0 || x.File > e.Size-x.Length || x.Device < 0 || x.Device > space-x.Length {
				t.Errorf("%q of %d bytes, address space %d: %+v", e.Name, e.Size, space, e.Extents)
				break
			}
			end = x.File + x.Length
		}
		if strings.IndexByte(e.Name, 0) >= 0 || len(e.Name) > maxPath || e.Mode&^0o7777 != 0 {
			t.Errorf("entry %q, %o", e.Name, e.Mode)
		}
		if len(all) < 1<<20 {
			all = append(all, e)
		}
		return nil
	})
	return all, err
}

// FuzzLayer: whatever an image says, Walk ends, with an error of a class or with entries that lie in it.
func FuzzLayer(f *testing.F) {
	for _, name := range []string{"upper", "blocks512"} { // small ones: what is changed at random is rarely content
		f.Add(erofslayertest.Golden(f, name))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := walked(t, b); err != nil && !errors.Is(err, blob.ErrInvalid) && !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("class of %v", err)
		}
	})
}

// TestDamaged: every golden image, with bytes changed at random, in the superblock most often.
func TestDamaged(t *testing.T) {
	names := erofslayertest.Names(t)
	if len(names) < 8 {
		t.Fatal(names)
	}
	for _, name := range names {
		plain := erofslayertest.Golden(t, name)
		r := rand.New(rand.NewPCG(1, 2))
		for range 100 {
			b := bytes.Clone(plain)
			for range 1 + r.IntN(6) {
				at := superOffset + r.IntN(superSize)
				if r.IntN(4) > 0 {
					at = r.IntN(len(b))
				}
				b[at] = byte(r.Uint32())
			}
			if _, err := walked(t, b); err != nil && !errors.Is(err, blob.ErrInvalid) && !errors.Is(err, blob.ErrCorrupt) {
				t.Errorf("%s: class of %v", name, err)
			}
		}
	}
}

// find is the inode of a name in an image, by its offset.
func find(t *testing.T, b []byte, path string) int {
	t.Helper()
	m, err := open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	w := &walk{image: m, linked: map[uint64]name{}, seen: map[uint64]bool{}}
	w.place = func(at, _ int64) (int64, error) { return at, nil }
	found := -1
	w.entry = func(e index.Entry) error {
		if e.Name == path {
			found = len(w.dirs) - 1
		}
		return nil
	}
	if err := w.run(); err != nil || found < 0 {
		t.Fatal(found, err)
	}
	return int(m.base + int64(w.dirs[found].inode.nid)<<nidShift)
}

// TestHostile: what would take long, lead in a circle or point outside is refused.
func TestHostile(t *testing.T) {
	plain := erofslayertest.Golden(t, "lower")
	if all, err := walked(t, plain); err != nil || len(all) < 150 {
		t.Fatal(len(all), err)
	}
	empty := find(t, plain, "empty")
	le := binary.LittleEndian
	for what, change := range map[string]func(b []byte){
		"two names": func(b []byte) { // the top directory, below itself
			m, err := open(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			i, err := m.inode(m.root)
			if err != nil {
				t.Fatal(err)
			}
			block := make([]byte, i.size)
			if err := m.content(i, block, 0); err != nil {
				t.Fatal(err)
			}
			at, n := bytes.Index(b, block[:direntSize]), int(le.Uint16(block[8:]))/direntSize
			for k := range n {
				if base, _ := direntName(block, k, n); base == "empty" {
					le.PutUint64(b[at+direntSize*k:], m.root)
				}
			}
		},
		"larger than all of it": func(b []byte) { le.PutUint32(b[empty+8:], 1<<31-1) },
		"no type":               func(b []byte) { le.PutUint16(b[empty+4:], 0o770) },
		"negative size":         func(b []byte) { le.PutUint64(b[find(t, b, "many")+8:], 1<<63) },
		"lies outside of it":    func(b []byte) { le.PutUint16(b[superOffset+14:], 0xffff) },
		"points to":             func(b []byte) { le.PutUint32(b[superOffset+40:], 1<<31) },
	} {
		b := bytes.Clone(plain)
		change(b)
		if _, err := walked(t, b); !errors.Is(err, blob.ErrCorrupt) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Cut anywhere, it is refused or told in full.
	for n := 0; n < len(plain); n += 1000 {
		if _, err := walked(t, plain[:n]); err != nil && !errors.Is(err, blob.ErrInvalid) && !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}
