package blockio

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

func TestLock(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	_, err := Open(dir, Options{})
	if !errors.Is(err, ErrLocked) || !errors.Is(err, blob.ErrUnavailable) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openStore(t, dir, Options{})
}

func TestSharedOpen(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	a, b := openBlob(t, s, 1, small), openBlob(t, s, 1, small)
	if a != b {
		t.Fatal("two blobs of one id")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(run(0, 1), make([]byte, blob.BlockSize), blob.Direct); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(testID(1)); !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), "in use") {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1)
	for what, err := range map[string]error{
		"Close": b.Close(), "ReadAt": b.ReadAt(p, 0), "Put": b.Put(run(0, 1), make([]byte, blob.BlockSize), blob.Direct),
		"SetRoot": b.SetRoot(0, blob.Hash{1}, blob.Claimed), "SetLeaves": b.SetLeaves(0, make([]blob.Hash, 4)),
	} {
		if !errors.Is(err, blob.ErrClosed) {
			t.Errorf("%s after the last Close: %v", what, err)
		}
	}
	b.DropClaim(0)
	if _, ok := b.Leaves(0); ok {
		t.Error("Leaves after the last Close")
	}
	if err := s.Remove(testID(1)); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Lookup(testID(1)); ok || s.Usage().Bytes != 0 {
		t.Error("still there")
	}
	if err := s.Remove(testID(1)); !errors.Is(err, blob.ErrNotFound) {
		t.Error(err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	b := openBlob(t, s, 1, small)
	other := blob.Geometry{Size: small.Size + 1, PieceLength: small.PieceLength}
	for range 2 { // open, then closed
		if _, err := s.Open(testID(1), other, Meta{}); !errors.Is(err, blob.ErrInvalid) {
			t.Error(err)
		}
		_ = b.Close()
	}
	for _, c := range []struct {
		id blob.ID
		g  blob.Geometry
	}{{testID(1), blob.Geometry{Size: -1, PieceLength: 1 << 18}}, {testID(1), blob.Geometry{Size: 1, PieceLength: 3}}, {blob.ID{}, small}, {blob.ID{Kind: 99}, small}} {
		if _, err := s.Open(c.id, c.g, Meta{}); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%v %v: %v", c.id, c.g, err)
		}
	}
	if _, err := s.Open(testID(2), small, Meta{Name: strings.Repeat("x", maxMeta)}); !errors.Is(err, blob.ErrInvalid) {
		t.Error(err)
	}
	if len(s.List()) != 1 {
		t.Error("a failed open left an entry")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(testID(1), small, Meta{}); !errors.Is(err, blob.ErrClosed) {
		t.Error(err)
	}
	if err := s.Close(); !errors.Is(err, blob.ErrClosed) {
		t.Error(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, Options{}); err == nil {
		t.Error("a store in a file")
	}
}

// A size beyond what the file system takes (ext4: 16 TiB) must be refused, and leave nothing.
func TestHugeBlob(t *testing.T) {
	dir := t.TempDir()
	probe, err := os.Create(filepath.Join(t.TempDir(), "probe"))
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	if probe.Truncate(blob.MaxSize) == nil {
		return // tmpfs and xfs take everything
	}
	s := openStore(t, dir, Options{})
	g := blob.Geometry{Size: blob.MaxSize, PieceLength: 1 << 30}
	if _, err := s.Open(testID(1), g, Meta{}); !errors.Is(err, blob.ErrNoSpace) {
		t.Error(err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Errorf("left behind: %v", list)
	}
}

func TestEmptyBlob(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	g := blob.Geometry{PieceLength: 1 << 18}
	b := openBlob(t, s, 1, g)
	<-b.Completed()
	if !b.Complete() || b.Present() != 0 || !b.Has(run(0, 0)) || b.Has(run(0, 1)) || len(b.Pieces()) != 0 {
		t.Error("an empty blob is complete")
	}
	if err := b.ReadAt(nil, 0); err != nil {
		t.Error(err)
	}
	if err := b.ReadAt(make([]byte, 1), 0); !errors.Is(err, blob.ErrInvalid) {
		t.Error(err)
	}
	if _, ok := b.NextAbsent(0, 1<<32-1); ok {
		t.Error("something is absent")
	}
}

func TestCatalog(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	for n, m := range []Meta{
		{Source: "http://origin.example/a", Name: "a", Validator: `"1"`, ModTime: at},
		{Source: "http://origin.example/a", Name: "a", Validator: `"2"`, ModTime: at.Add(time.Hour)},
		{Source: "http://origin.example/b"},
	} {
		b, err := s.Open(testID(byte(n)), small, m)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Put(run(0, 2), content(2*blob.BlockSize, byte(n)), blob.Direct); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			if err := b.Pin(true); err != nil {
				t.Fatal(err)
			}
		}
		if n == 2 { // still open
			continue
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	look := func(open bool) {
		t.Helper()
		ids := func(list []Info) (out []byte) {
			for _, i := range list {
				out = append(out, i.ID.Sum[0])
			}
			return out
		}
		if diff := cmp.Diff([]byte{2, 1, 0}, ids(s.List())); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]byte{1, 0}, ids(s.Find("http://origin.example/a"))); diff != "" {
			t.Error(diff)
		}
		i, ok := s.Lookup(testID(0))
		if !ok || !i.Pinned || i.Open || i.Complete || i.Present != 2*blob.BlockSize || i.Allocated < i.Present || i.Meta.Validator != `"1"` ||
			!i.Meta.ModTime.Equal(at) || i.Geometry != small || i.Meta.Created.IsZero() || i.Used.IsZero() {
			t.Errorf("%+v", i)
		}
		if i, _ := s.Lookup(testID(2)); i.Open != open || i.Pinned {
			t.Errorf("%+v", i)
		}
		if u := s.Usage(); u.Bytes != 6*blob.BlockSize || u.Blobs != 3 || u.Free <= 0 {
			t.Errorf("%+v", u)
		}
	}
	look(true)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, Options{})
	look(false)
	// What was empty is filled in, what was known stays.
	b, err := s.Open(testID(2), small, Meta{Source: "http://elsewhere.example/", Name: "b", Digest: "sha256:00"})
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if i, _ := s.Lookup(testID(2)); i.Meta.Name != "b" || i.Meta.Source != "http://origin.example/b" || i.Meta.Digest != "sha256:00" {
		t.Errorf("%+v", i)
	}
	if err := s.Pin(testID(77), true); !errors.Is(err, blob.ErrNotFound) {
		t.Error(err)
	}
}

// What a process that was killed while it created or removed a blob leaves behind goes; what is not ours stays.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	openBlob(t, s, 1, small)
	openBlob(t, s, 2, small)
	openBlob(t, s, 3, small)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tmp-new-x", "tmp-rm-y", "mine", folderOf(testID(9))} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, folderOf(testID(2)), "data")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, folderOf(testID(3)), "meta.json"), make([]byte, 300), 0o600); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, Options{})
	if list := s.List(); len(list) != 1 || list[0].ID != testID(1) {
		t.Errorf("%+v", list)
	}
	var names []string
	list, _ := os.ReadDir(dir)
	for _, d := range list {
		names = append(names, d.Name())
	}
	if diff := cmp.Diff([]string{"lock", "mine", folderOf(testID(1))}, names); diff != "" {
		t.Error(diff)
	}
}

// TestQuota drives a store with random operations and checks it against what it must never do: exceed its
// quota, evict what is open or pinned, miscount, or serve a wrong byte.
func TestQuota(t *testing.T) {
	g := blob.Geometry{Size: 6*blob.BlockSize - 100, PieceLength: 2 * blob.BlockSize}
	const quota = 20 * blob.BlockSize
	parent := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(parent, "")
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir, Options{Quota: quota})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { s.Close(); os.RemoveAll(dir) }()
		open, pinned := map[byte]*Blob{}, map[byte]bool{}
		kept := map[byte]int64{} // bytes that pinned and closed blobs must still have
		id := rapid.ByteRange(0, 7)
		t.Repeat(map[string]func(*rapid.T){
			"open": func(t *rapid.T) {
				n := id.Draw(t, "blob")
				if open[n] != nil {
					t.Skip("open already")
				}
				b, err := s.Open(testID(n), g, Meta{Source: fmt.Sprint("http://origin.example/", n/2)})
				if err != nil {
					t.Fatal(err)
				}
				open[n] = b
			},
			"put": func(t *rapid.T) {
				n := id.Draw(t, "blob")
				if open[n] == nil {
					t.Skip("closed")
				}
				r := run(rapid.Uint32Range(0, 5).Draw(t, "first"), rapid.Uint32Range(1, 6).Draw(t, "count")).Intersect(g.Blob())
				err := open[n].Put(r, part(content(g.Size, n), g, r), blob.Direct)
				if err == nil && !open[n].Has(r) || err != nil && !errors.Is(err, blob.ErrNoSpace) {
					t.Fatal(err)
				}
				if err != nil { // only if what cannot go leaves no room
					var held int64
					for n := range byte(8) {
						if i, ok := s.Lookup(testID(n)); ok && (i.Open || i.Pinned) {
							held += i.Present
						}
					}
					if held+int64(r.Count)*blob.BlockSize <= quota-quota/32 {
						t.Fatalf("%v, with %d bytes held", err, held)
					}
				}
			},
			"close": func(t *rapid.T) {
				n := id.Draw(t, "blob")
				if open[n] == nil {
					t.Skip("closed")
				}
				kept[n] = open[n].Present()
				if err := open[n].Close(); err != nil {
					t.Fatal(err)
				}
				delete(open, n)
			},
			"pin": func(t *rapid.T) {
				n, on := id.Draw(t, "blob"), rapid.Bool().Draw(t, "on")
				if err := s.Pin(testID(n), on); err == nil {
					pinned[n] = on
					if i, _ := s.Lookup(testID(n)); on {
						kept[n] = i.Present
					}
				} else if !errors.Is(err, blob.ErrNotFound) {
					t.Fatal(err)
				}
			},
			"gc": func(t *rapid.T) {
				free := rapid.Int64Range(0, quota).Draw(t, "free")
				before := s.Usage().Bytes
				freed, err := s.GC(free)
				if err != nil || s.Usage().Bytes != before-freed {
					t.Fatalf("%v: freed %d of %d, now %d", err, freed, before, s.Usage().Bytes)
				}
			},
			"restart": func(t *rapid.T) {
				for n, b := range open {
					kept[n] = b.Present()
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if s, err = Open(dir, Options{Quota: quota}); err != nil {
					t.Fatal(err)
				}
				clear(open)
			},
			"": func(t *rapid.T) {
				var sum int64
				for n := range byte(8) {
					i, ok := s.Lookup(testID(n))
					sum += i.Present
					if i.Open != (open[n] != nil) {
						t.Fatalf("blob %d is open: %v", n, i.Open)
					}
					if pinned[n] && open[n] == nil && (!ok || !i.Pinned || i.Present < kept[n]) {
						t.Fatalf("blob %d was pinned with %d bytes and has %d", n, kept[n], i.Present)
					}
					if b := open[n]; b != nil {
						all := content(g.Size, n)
						b.present.runs(g.Blob(), true, func(r blob.Run) bool {
							off, size := g.Bytes(r)
							p := make([]byte, size)
							if err := b.ReadAt(p, off); err != nil || !bytes.Equal(p, part(all, g, r)) {
								t.Fatalf("blob %d %v: %v", n, r, err)
							}
							return true
						})
					} else if !ok {
						delete(pinned, n)
					}
				}
				if u := s.Usage(); u.Bytes != sum || u.Bytes > quota {
					t.Fatalf("used %d, sum of blobs %d, quota %d", u.Bytes, sum, quota)
				}
			},
		})
	})
}

// The order in which blobs go: replaced versions, then those opened once, then those opened again.
func TestEvictionOrder(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{Quota: 1 << 30})
	g := blob.Geometry{Size: blob.BlockSize, PieceLength: blob.BlockSize}
	use := func(n byte, source string) {
		t.Helper()
		b, err := s.Open(testID(n), g, Meta{Source: source})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Put(run(0, 1), content(g.Size, n), blob.Direct); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	use(1, "again")
	use(2, "once")
	use(3, "versions") // replaced by 4
	use(4, "versions")
	use(1, "again")
	use(5, "last")
	var order []byte
	for range 5 {
		before := s.List()
		if _, err := s.GC(s.quota - s.used.Load() + 1); err != nil {
			t.Fatal(err)
		}
		left := map[blob.ID]bool{}
		for _, i := range s.List() {
			left[i.ID] = true
		}
		for _, i := range before {
			if !left[i.ID] {
				order = append(order, i.ID.Sum[0])
			}
		}
	}
	if diff := cmp.Diff([]byte{3, 2, 4, 5, 1}, order); diff != "" {
		t.Error(diff)
	}
	use(2, "once") // a ghost: straight to the main queue
	if e := s.entries[testID(2)]; !e.use.main {
		t.Error("a blob that was evicted and came back is not in the main queue")
	}
}

func TestGhostsAreBounded(t *testing.T) {
	var g ghosts
	for n := range 3 * maxGhosts {
		g.add(blob.DigestID(blob.Hash{byte(n), byte(n >> 8)}))
	}
	if len(g.ids) != maxGhosts || len(g.fifo) != maxGhosts {
		t.Error(len(g.ids), len(g.fifo))
	}
}

// needRoot skips where a disk of our own cannot be mounted, but not in CI, which has to be able to.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("CI must run this test as root")
	}
	t.Skip("needs root to mount a small disk")
}

// A disk that is full: bytes are verified and not kept, closed blobs make room, and nothing that is believed
// is wrong.
func TestFullDisk(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := openStore(t, dir, Options{})
	g := blob.Geometry{Size: 2 << 20, PieceLength: 256 << 10}
	all := content(g.Size, 1)
	victim := openBlob(t, s, 2, g)
	if err := victim.Put(run(0, 16), part(all, g, run(0, 16)), blob.Direct); err != nil {
		t.Fatal(err)
	}
	if err := victim.Close(); err != nil {
		t.Fatal(err)
	}
	b := openBlob(t, s, 1, g)
	full := 0
	for first := uint32(0); first < g.Blocks(); first += 4 {
		r := run(first, 4)
		switch err := b.Put(r, part(all, g, r), blob.Direct); {
		case errors.Is(err, blob.ErrNoSpace):
			full++
		case err != nil:
			t.Fatal(err)
		case full == 0 && !b.Has(r):
			t.Fatalf("%v was put and is not there", r)
		}
		wrong := bytes.Repeat([]byte{1}, 4*blob.BlockSize)
		if b.Has(r) {
			if err := b.Put(r, wrong, blob.Direct); !errors.Is(err, blob.ErrChanged) {
				t.Fatalf("wrong bytes on a full disk: %v", err)
			}
		}
	}
	if full == 0 {
		t.Error("the disk was never full")
	}
	if _, ok := s.Lookup(testID(2)); ok {
		t.Error("the closed blob was not evicted for the one that needs room")
	}
	n := verify(t, b, all)
	if n < 40 { // of the 64 blocks that a MiB holds, leaves and log take a few
		t.Errorf("%d blocks kept", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, Options{})
	b = openBlob(t, s, 1, g)
	if again := verify(t, b, all); again != n {
		t.Errorf("%d blocks after reopening, %d before", again, n)
	}
	if _, err := s.Open(testID(3), blob.Geometry{Size: 1 << 40, PieceLength: 1 << 30}, Meta{}); err != nil {
		if !errors.Is(err, blob.ErrNoSpace) {
			t.Error(err)
		}
	}
}
