package mmap

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// file writes p to a new file.
func file(t testing.TB, p []byte) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "data"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(p); err != nil {
		t.Fatal(err)
	}
	return f
}

func mapped(t testing.TB, f *os.File, size int64) *Region {
	t.Helper()
	r, err := Map(f, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func random(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(p)
	return p
}

func TestReadAt(t *testing.T) {
	const size = 300_001
	all := random(size)
	r := mapped(t, file(t, all), size)
	for _, c := range []struct {
		off  int64
		n    int
		want int
		err  error
	}{
		{0, 0, 0, nil}, {0, 1, 1, nil}, {0, size, size, nil}, {0, size + 1, size, io.EOF},
		{granule - 1, 2, 2, nil}, {granule, granule, granule, nil}, {granule - 5, granule, granule, nil},
		{size - 1, 1, 1, nil}, {size - 1, 2, 1, io.EOF}, {size, 1, 0, io.EOF}, {size, 0, 0, nil}, {size + 9, 1, 0, io.EOF},
		{-1, 1, 0, blob.ErrInvalid},
	} {
		p := make([]byte, c.n)
		n, err := r.ReadAt(p, c.off)
		if n != c.want || !errors.Is(err, c.err) {
			t.Errorf("ReadAt(%d bytes, %d) = %d, %v; want %d, %v", c.n, c.off, n, err, c.want, c.err)
			continue
		}
		if n > 0 && !bytes.Equal(p[:n], all[c.off:c.off+int64(n)]) {
			t.Errorf("ReadAt(%d bytes, %d): wrong bytes", c.n, c.off)
		}
	}
}

// Whatever is read in whatever order, resident or not, equals the file, also right after a pwrite.
func TestReadAtProperty(t *testing.T) {
	all := random(1 << 20)
	f := file(t, all)
	r := mapped(t, f, int64(len(all)))
	rapid.Check(t, func(t *rapid.T) {
		off := rapid.IntRange(0, len(all)-1).Draw(t, "off")
		n := rapid.IntRange(1, min(100_000, len(all)-off)).Draw(t, "n")
		switch rapid.IntRange(0, 3).Draw(t, "before") {
		case 0:
			rand.NewChaCha8([32]byte{byte(n)}).Read(all[off : off+n])
			if _, err := f.WriteAt(all[off:off+n], int64(off)); err != nil {
				t.Fatal(err)
			}
		case 1: // drop it from memory, where the file system lets us
			_ = f.Sync()
			_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
		p := make([]byte, n)
		if _, err := r.ReadAt(p, int64(off)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(all[off:off+n], p); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestEmpty(t *testing.T) {
	r := mapped(t, file(t, nil), 0)
	if _, err := r.ReadAt(make([]byte, 1), 0); err != io.EOF {
		t.Error(err)
	}
	if n, err := r.WriteTo(-1, nil, 0, 0); n != 0 || err != nil {
		t.Error(n, err)
	}
	if _, err := r.WriteTo(-1, nil, 0, 1); !errors.Is(err, blob.ErrInvalid) {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestMapErrors(t *testing.T) {
	f := file(t, random(10))
	if _, err := Map(f, 11); !errors.Is(err, blob.ErrCorrupt) {
		t.Error(err)
	}
	if _, err := Map(f, -1); !errors.Is(err, blob.ErrInvalid) {
		t.Error(err)
	}
	f.Close()
	if _, err := Map(f, 10); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// The pages were resident when they were looked at and are gone when they are copied: without the guard this
// kills the test binary with SIGBUS.
func TestTruncatedUnderTheMap(t *testing.T) {
	const size = 4 * granule
	f := file(t, random(size))
	r := mapped(t, f, size)
	p := make([]byte, 4096)
	if _, err := r.ReadAt(p, 3*granule); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(granule); err != nil {
		t.Fatal(err)
	}
	r.seen.bits[0].Or(1 << 3) // as if the second of the answer's life were not over, however slow the test is
	r.seen.since.Store(int64(time.Since(epoch)))
	if _, err := r.ReadAt(p, 3*granule); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("via the map: %v", err)
	}
	if _, err := r.ReadAt(make([]byte, 2*granule), 2*granule); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("via pread: %v", err)
	}
	fds := socketpair(t)
	if _, err := r.WriteTo(fds[0], []byte("hdr"), 2*granule, 4096); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("via writev: %v", err)
	}
	if _, err := r.ReadAt(p, 0); err != nil {
		t.Errorf("what is left: %v", err)
	}
}

// A fault that is not in the map is somebody's bug and stays a panic.
func TestForeignPanicPasses(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("the panic was swallowed")
		}
	}()
	nowhere, err := unix.Mmap(-1, 0, 4096, unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(nowhere)
	err = copyOut(nowhere, make([]byte, 8))
	t.Errorf("copyOut returned %v", err)
}

func socketpair(t testing.TB) [2]int {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return fds
}

func TestWriteTo(t *testing.T) {
	const size = 100_000
	all := random(size)
	r := mapped(t, file(t, all), size)
	fds := socketpair(t)
	buf := make([]byte, 200_000)
	for _, c := range []struct {
		hdr string
		off int64
		n   int
	}{{"header", 0, 1}, {"", 17, 4096}, {"h", size - 1, 1}, {"only header", 5, 0}, {"0123456789abcdef", 1, size - 1}} {
		n, err := r.WriteTo(fds[0], []byte(c.hdr), c.off, c.n)
		if err != nil || n != len(c.hdr)+c.n {
			t.Fatalf("%+v: %d, %v", c, n, err)
		}
		// SEQPACKET keeps message borders: one message is one writev.
		n, err = unix.Read(fds[1], buf)
		if err != nil {
			t.Fatal(err)
		}
		if want := c.hdr + string(all[c.off:c.off+int64(c.n)]); string(buf[:n]) != want {
			t.Errorf("%+v: wrong message of %d bytes", c, n)
		}
	}
	for _, c := range [][2]int{{-1, 1}, {0, -1}, {0, size + 1}, {size, 1}, {1 << 60, 1}} {
		if _, err := r.WriteTo(fds[0], nil, int64(c[0]), c[1]); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%v: %v", c, err)
		}
	}
	if _, err := r.WriteTo(-1, nil, 0, 1); !errors.Is(err, unix.EBADF) {
		t.Error(err)
	}
}

func TestWriteToShort(t *testing.T) {
	const size = 4 << 20
	r := mapped(t, file(t, make([]byte, size)), size)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	n, err := r.WriteTo(fds[0], []byte("hdr"), 0, size)
	if !errors.Is(err, io.ErrShortWrite) || n <= 0 || n >= size {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := r.WriteTo(fds[0], []byte("hdr"), 0, size); !errors.Is(err, unix.EAGAIN) {
		t.Error(err)
	}
}

func TestNoAllocations(t *testing.T) {
	const size = 1 << 20
	r := mapped(t, file(t, random(size)), size)
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd, hdr, p := int(null.Fd()), make([]byte, 16), make([]byte, 4096)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := r.WriteTo(fd, hdr, 4096, size/2); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("WriteTo allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := r.ReadAt(p, 4096); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("ReadAt allocates %v times", n)
	}
}

// Close returns only after the writer in flight has left, and turns away everybody after.
func TestCloseWaits(t *testing.T) {
	const size = 1 << 20
	r := mapped(t, file(t, random(size)), size)
	pipe := make([]int, 2)
	if err := unix.Pipe2(pipe, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[1])
	wrote, closed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := r.WriteTo(pipe[1], nil, 0, size) // a pipe holds 64 KiB: this waits for the reader
		wrote <- err
	}()
	var b [1]byte
	if _, err := unix.Read(pipe[0], b[:]); err != nil { // the writer is inside
		t.Fatal(err)
	}
	go func() { closed <- r.Close() }()
	for {
		if _, err := r.ReadAt(b[:], 0); errors.Is(err, blob.ErrClosed) {
			break // Close has begun
		}
	}
	select {
	case <-closed:
		t.Fatal("closed with a writer in flight")
	default:
	}
	unix.Close(pipe[0]) // the writer gets EPIPE
	if err := <-wrote; err == nil {
		t.Error("the whole region went through a pipe that nobody read")
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := r.Close(); !errors.Is(err, blob.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if _, err := r.WriteTo(1, nil, 0, 0); !errors.Is(err, blob.ErrClosed) {
		t.Errorf("late WriteTo: %v", err)
	}
}

func TestParallelCloseAndReads(t *testing.T) {
	const size = 1 << 20
	all := random(size)
	f := file(t, all)
	for range 50 {
		r, err := Map(f, size)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				p := make([]byte, 1000)
				for off := int64(i); ; off = (off + 7919) % (size - 1000) {
					_, err := r.ReadAt(p, off)
					if errors.Is(err, blob.ErrClosed) {
						return
					}
					if err != nil || !bytes.Equal(p, all[off:off+1000]) {
						t.Errorf("at %d: %v", off, err)
						return
					}
				}
			})
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}

func BenchmarkReadAt4K(b *testing.B) {
	const size = 64 << 20
	f := file(b, random(size))
	r := mapped(b, f, size)
	for _, way := range []struct {
		name string
		read func(p []byte, off int64) (int, error)
	}{{"region", r.ReadAt}, {"pread", f.ReadAt}} {
		b.Run(way.name, func(b *testing.B) {
			p := make([]byte, 4096)
			b.SetBytes(4096)
			b.ReportAllocs()
			off := int64(0)
			for b.Loop() {
				if _, err := way.read(p, off); err != nil {
					b.Fatal(err)
				}
				off = (off + 4096*127) % size
			}
		})
	}
}

// BenchmarkWriteTo sends a file of 64 MiB, in answers of 1 MiB, to a socket whose other end reads: from a map
// whose pages are touched for the first time, as in a sequential read, and by pread and write.
func BenchmarkWriteTo(b *testing.B) {
	const size, answer = 64 << 20, 1 << 20
	f := file(b, random(size))
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		buf := make([]byte, answer)
		for n := 1; n > 0; {
			n, _ = unix.Read(fds[1], buf)
		}
	})
	defer func() { unix.Close(fds[0]); reader.Wait(); unix.Close(fds[1]) }()
	send := func(b *testing.B, some func(off int64, n int) (int, error)) {
		for off := int64(0); off < size; {
			n, err := some(off, answer-int(off%answer)) // a signal may cut a write to a socket short
			if err != nil && !errors.Is(err, io.ErrShortWrite) {
				b.Fatal(err)
			}
			off += int64(n)
		}
	}
	b.Run("region", func(b *testing.B) {
		b.SetBytes(size)
		b.ReportAllocs()
		for b.Loop() {
			r, err := Map(f, size)
			if err != nil {
				b.Fatal(err)
			}
			send(b, func(off int64, n int) (int, error) { return r.WriteTo(fds[0], nil, off, n) })
			r.Close()
		}
	})
	b.Run("pread", func(b *testing.B) {
		b.SetBytes(size)
		buf := make([]byte, answer)
		for b.Loop() {
			send(b, func(off int64, n int) (int, error) {
				if _, err := f.ReadAt(buf[:n], off); err != nil {
					return 0, err
				}
				return unix.Write(fds[0], buf[:n])
			})
		}
	})
}
