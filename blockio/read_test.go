package blockio

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

func TestNextAbsent(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	g := blob.Geometry{Size: 200 * blob.BlockSize, PieceLength: 4 * blob.BlockSize}
	b := openBlob(t, s, 1, g)
	b.present.set(run(3, 1))
	b.present.set(run(60, 100))
	for _, c := range []struct {
		from, limit uint32
		want        blob.Run
		ok          bool
	}{
		{0, 200, run(0, 3), true}, {3, 200, run(4, 56), true}, {3, 4, blob.Run{}, false}, {60, 160, blob.Run{}, false},
		{59, 200, run(59, 1), true}, {60, 1 << 31, run(160, 40), true}, {150, 170, run(160, 10), true}, {200, 300, blob.Run{}, false}, {5, 2, blob.Run{}, false},
	} {
		if got, ok := b.NextAbsent(c.from, c.limit); got != c.want || ok != c.ok {
			t.Errorf("NextAbsent(%d, %d) = %v, %v; want %v, %v", c.from, c.limit, got, ok, c.want, c.ok)
		}
	}
	for r, want := range map[blob.Run]bool{
		run(3, 1): true, run(3, 2): false, run(60, 100): true, run(59, 2): false, run(159, 2): false, run(0, 0): true,
		run(199, 2): false, run(1<<32-1, 1): false, run(1<<32-1, 1<<32-1): false, run(63, 66): true,
	} {
		if b.Has(r) != want {
			t.Errorf("Has(%v) = %v", r, !want)
		}
	}
	b.present.clear(g.Blob())
}

// A bitmap against a map.
func TestBitmapProperty(t *testing.T) {
	const n = 300
	rapid.Check(t, func(t *rapid.T) {
		s, model := newBitmap(n), [n]bool{}
		draw := func(t *rapid.T) blob.Run {
			return run(rapid.Uint32Range(0, n-1).Draw(t, "first"), rapid.Uint32Range(0, n).Draw(t, "count")).Intersect(run(0, n))
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				r := draw(t)
				s.set(r)
				for i := r.First; i < r.End(); i++ {
					model[i] = true
				}
			},
			"clear": func(t *rapid.T) {
				r := draw(t)
				s.clear(r)
				for i := r.First; i < r.End(); i++ {
					model[i] = false
				}
			},
			"": func(t *rapid.T) {
				r := draw(t)
				members := uint32(0)
				for i := r.First; i < r.End(); i++ {
					if model[i] {
						members++
					}
				}
				if s.has(r) != (members == r.Count) || s.any(r) != (members > 0) || s.count(r) != members {
					t.Fatalf("%v: has %v, any %v, count %d of %d", r, s.has(r), s.any(r), s.count(r), members)
				}
				for _, want := range []bool{false, true} {
					var seen uint32
					s.runs(r, want, func(part blob.Run) bool {
						for i := part.First; i < part.End(); i++ {
							if model[i] != want {
								t.Fatalf("run %v of %v holds %d", part, want, i)
							}
						}
						seen += part.Count
						return true
					})
					if want && seen != members || !want && seen != r.Count-members {
						t.Fatalf("runs of %v in %v: %d", want, r, seen)
					}
				}
			},
		})
	})
}

func TestReads(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	b := openBlob(t, s, 1, small)
	all := content(small.Size, 1)
	for _, r := range []blob.Run{run(0, 2), run(20, 1)} {
		if err := b.Put(r, part(all, small, r), blob.Direct); err != nil {
			t.Fatal(err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, c := range []struct {
		off  int64
		n    int
		want error
	}{
		{0, 1, nil}, {10, 2*blob.BlockSize - 10, nil}, {10, 2*blob.BlockSize - 9, blob.ErrAbsent}, {2 * blob.BlockSize, 1, blob.ErrAbsent},
		{small.Size - 1, 1, nil}, {small.Size - 1, 2, blob.ErrInvalid}, {small.Size, 0, nil}, {-1, 1, blob.ErrInvalid}, {0, -1, blob.ErrInvalid}, {1 << 62, 1, blob.ErrInvalid},
	} {
		if c.n >= 0 {
			p := make([]byte, c.n)
			if err := b.ReadAt(p, c.off); !errors.Is(err, c.want) || err == nil && !bytes.Equal(p, all[c.off:c.off+int64(c.n)]) {
				t.Errorf("ReadAt %+v: %v", c, err)
			}
		}
		n, err := b.WriteTo(int(w.Fd()), []byte("header"), c.off, c.n)
		if !errors.Is(err, c.want) {
			t.Errorf("WriteTo %+v: %v", c, err)
		}
		if err == nil {
			p := make([]byte, 6+c.n)
			if _, err := io.ReadFull(r, p); n != len(p) || err != nil || !bytes.Equal(p[6:], all[c.off:c.off+int64(c.n)]) || string(p[:6]) != "header" {
				t.Errorf("WriteTo %+v: %d, %v", c, n, err)
			}
		}
		if err := b.SendTo(w, c.off, c.n); !errors.Is(err, c.want) {
			t.Errorf("SendTo %+v: %v", c, err)
		} else if err == nil {
			p := make([]byte, c.n)
			if _, err := io.ReadFull(r, p); err != nil || !bytes.Equal(p, all[c.off:c.off+int64(c.n)]) {
				t.Errorf("SendTo %+v: %v", c, err)
			}
		}
	}
}

func full(t testing.TB, size int64) (*Blob, []byte) {
	t.Helper()
	s := openStore(t, t.TempDir(), Options{})
	g := blob.GeometryFor(size)
	b, all := openBlob(t, s, 1, g), content(size, 1)
	putAll(t, b, all, 16, blob.Direct)
	return b, all
}

// A socket that takes less than is sent, so that SendTo has to wait, several times.
func TestSendToTCP(t *testing.T) {
	b, all := full(t, 20<<20+5)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan []byte)
	go func() {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			close(got)
			return
		}
		defer c.Close()
		p, _ := io.ReadAll(c)
		got <- p
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for off, step := int64(3), 1; off < int64(len(all)); off, step = off+int64(step), step*7 {
		step = min(step, len(all)-int(off))
		if err := b.SendTo(c.(syscall.Conn), off, step); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	if !bytes.Equal(<-got, all[3:]) {
		t.Error("wrong bytes arrived")
	}
	if err := b.SendTo(c.(syscall.Conn), 0, 1); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// sendfile refuses a file in append mode: the bytes are copied.
func TestSendToCopies(t *testing.T) {
	b, all := full(t, 300_000)
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "out"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := b.SendTo(f, 1, len(all)-1); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(f.Name()); !bytes.Equal(got, all[1:]) {
		t.Error("wrong bytes")
	}
}

// The data file is cut by somebody else while it is mapped: errors, not SIGBUS and not zeros.
func TestTruncatedData(t *testing.T) {
	b, _ := full(t, 1<<20)
	p := make([]byte, 4096)
	if err := b.ReadAt(p, 900_000); err != nil { // the map remembers that it is resident
		t.Fatal(err)
	}
	if err := os.Truncate(b.path("data"), 500_000); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := b.ReadAt(p, 900_000); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("ReadAt: %v", err)
	}
	if err := b.ReadAt(make([]byte, 200_000), 400_000); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("long ReadAt: %v", err)
	}
	if _, err := b.WriteTo(int(w.Fd()), []byte("h"), 900_000, 4096); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("WriteTo: %v", err)
	}
	if err := b.SendTo(w, 900_000, 4096); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("SendTo: %v", err)
	}
}

func TestNoAllocations(t *testing.T) {
	b, all := full(t, 1<<20)
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd, hdr, p := int(null.Fd()), make([]byte, 16), make([]byte, 4096)
	for name, f := range map[string]func() error{
		"Has": func() error {
			if !b.Has(run(1, 40)) || !b.PieceComplete(0) || !b.Complete() {
				return blob.ErrAbsent
			}
			return nil
		},
		"NextAbsent": func() error {
			if _, ok := b.NextAbsent(0, 64); ok {
				return blob.ErrAbsent
			}
			return nil
		},
		"WriteTo": func() error { _, err := b.WriteTo(fd, hdr, 4096, 128<<10); return err },
		"ReadAt":  func() error { return b.ReadAt(p, 4096) },
		"Put":     func() error { return b.Put(run(0, 16), all[:16*blob.BlockSize], blob.Direct) },
	} {
		if n := testing.AllocsPerRun(100, func() {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}); n != 0 && !(name == "Put" && n < 1) { // the pool may be emptied by a collection
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}
