package fs

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestContent(t *testing.T) {
	promise(t, "K2", "every read returns exactly the bytes of the object at that offset")
	promise(t, "K3", "`read`, `pread`, `mmap` (shared and private), `O_DIRECT` and `sendfile` all see the same bytes")
	kinds := map[string]setup{
		"arriving":         {},
		"present":          {serverConfig: serverConfig{Complete: true}, noPass: true},
		"passthrough":      {serverConfig: serverConfig{Complete: true}},
		"file":             {serverConfig: serverConfig{Options: Options{AsFile: true}}},
		"file passthrough": {serverConfig: serverConfig{Options: Options{AsFile: true}, Complete: true}},
		"small":            {size: 7},
		"one block":        {size: 16 << 10},
	}
	for name, s := range kinds {
		t.Run(name, func(t *testing.T) {
			m := serve(t, s)
			t.Run("sequential", m.sequential)
			t.Run("random", m.random)
			t.Run("mapped", m.mapped)
			t.Run("direct", m.direct)
			t.Run("sendfile", m.sendfile)
		})
	}
}

func (m *mounted) sequential(t *testing.T) {
	got, err := os.ReadFile(m.path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, m.want) {
		t.Fatalf("%d bytes differ from the %d wanted", len(got), len(m.want))
	}
}

func (m *mounted) random(t *testing.T) {
	f := m.open(os.O_RDONLY)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		off := rng.Int64N(int64(len(m.want)))
		b := make([]byte, 1+rng.IntN(200_000))
		n, err := f.ReadAt(b, off)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if want := m.want[off:min(off+int64(len(b)), int64(len(m.want)))]; !bytes.Equal(b[:n], want) {
			t.Fatalf("%d bytes at %d differ from the %d wanted", n, off, len(want))
		}
	}
	if n, err := f.ReadAt(make([]byte, 10), int64(len(m.want))); n != 0 || err != io.EOF {
		t.Fatalf("at the end: %d bytes, %v", n, err)
	}
}

func (m *mounted) mapped(t *testing.T) {
	f := m.open(os.O_RDONLY)
	dropCaches(t, f)
	for _, flag := range []int{unix.MAP_SHARED, unix.MAP_PRIVATE} {
		b, err := unix.Mmap(int(f.Fd()), 0, len(m.want), unix.PROT_READ, flag)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, m.want) {
			t.Errorf("mapping (flags %#x) differs", flag)
		}
		if err := unix.Munmap(b); err != nil {
			t.Fatal(err)
		}
	}
}

func (m *mounted) direct(t *testing.T) {
	f := m.open(os.O_RDONLY | unix.O_DIRECT)
	const page = 4096
	raw := make([]byte, 1<<20+page)
	shift := -int(uintptr(unsafe.Pointer(&raw[0]))) & (page - 1)
	b := raw[shift : shift+1<<20]
	for off := int64(0); off < int64(len(m.want)); off += 512 << 10 {
		n, err := unix.Pread(int(f.Fd()), b, off)
		if err != nil {
			t.Fatal(err)
		}
		if want := m.want[off:min(off+int64(len(b)), int64(len(m.want)))]; !bytes.Equal(b[:n], want) {
			t.Fatalf("%d bytes at %d differ from the %d wanted", n, off, len(want))
		}
	}
}

func (m *mounted) sendfile(t *testing.T) {
	f := m.open(os.O_RDONLY)
	out, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for sent := 0; sent < len(m.want); {
		n, err := unix.Sendfile(int(out.Fd()), int(f.Fd()), nil, len(m.want)-sent)
		if err != nil || n == 0 {
			t.Fatalf("after %d bytes: %d, %v", sent, n, err)
		}
		sent += n
	}
	if got, err := os.ReadFile(out.Name()); err != nil || !bytes.Equal(got, m.want) {
		t.Errorf("%v, %d bytes", err, len(got))
	}
}
