package bench

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/fs"
	"github.com/pantala/pantala/fs/erofs"
	"github.com/pantala/pantala/image/build"
	"github.com/pantala/pantala/image/device"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/tree"
)

// deviceRole is set in the process that serves a layer to a benchmark: a process must not read what it serves.
const deviceRole = "BENCH_DEVICE"

// served says what that process serves: a layer, given by its index, its stored and its decoded bytes.
type served struct {
	Dir, Index, Stored, Decoded string
	Passthrough                 bool
}

// local is a file as a blob that is there.
type local struct {
	*os.File
	size int64
}

func openLocal(path string) (local, error) {
	f, err := os.Open(path)
	if err != nil {
		return local{}, err
	}
	st, err := f.Stat()
	return local{f, st.Size()}, err
}

func (l local) Size() int64 { return l.size }

func (l local) ReadAt(_ context.Context, p []byte, off int64) error {
	_, err := l.File.ReadAt(p, off)
	return err
}

// serveLayer serves until its input ends.
func serveLayer() int {
	var s served
	if err := json.Unmarshal([]byte(os.Getenv(deviceRole)), &s); err != nil {
		fmt.Println(err)
		return 2
	}
	err := func() error {
		file, err := openLocal(s.Index)
		if err != nil {
			return err
		}
		x, err := index.Open(context.Background(), file)
		if err != nil {
			return err
		}
		stored, err := openLocal(s.Stored)
		if err != nil {
			return err
		}
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
		d, err := device.Open(device.Config{Index: x, Windows: file, Stored: stored, Path: s.Decoded, Pool: device.NewPool(device.PoolOptions{}), Log: log})
		if err != nil {
			return err
		}
		m, err := fs.MountDevices(context.Background(), s.Dir, fs.Options{Passthrough: s.Passthrough, Log: log})
		if err != nil {
			return err
		}
		path, err := m.Add(2, "layer", d)
		if err != nil {
			return err
		}
		fmt.Println("path", path)
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() { // one line: the number of READ requests so far
			fmt.Println("reads", m.Stats().Reads)
		}
		return errors.Join(m.Unmount(context.Background()), d.Close())
	}()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// layer is the layer of these benchmarks: one large file, and as many small ones as a layer of an interpreter has.
type layer struct {
	dir, index, stored, decoded, meta string
	size                              int64 // of the large file
	smallBytes                        int64
}

const smallFiles = 8455

// makeLayer builds the layer once per process.
func makeLayer(b *testing.B) *layer {
	b.Helper()
	made.once.Do(func() { made.layer, made.err = newLayer(e2etest.Shared(b), size(b)) })
	if made.err != nil {
		b.Fatal(made.err)
	}
	return made.layer
}

var made struct {
	once  sync.Once
	layer *layer
	err   error
}

func newLayer(shared string, size int64) (*layer, error) {
	l := &layer{dir: filepath.Join(shared, "layer"), size: size}
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		return nil, err
	}
	l.index, l.stored, l.decoded, l.meta = l.dir+"/index", l.dir+"/stored", l.dir+"/decoded", l.dir+"/meta"
	f, err := os.Create(l.stored)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z := gzip.NewWriter(f)
	w := tar.NewWriter(z)
	if err := l.fill(w); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	out, err := os.Create(l.decoded)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	built, err := build.Build(context.Background(), f, build.Options{Decoded: out})
	if err != nil {
		return nil, err
	}
	var file, meta bytes.Buffer
	if _, err := built.Encode(&file); err != nil {
		return nil, err
	}
	merged, err := tree.Merge([]tree.Layer{{Name: "bench", Entries: built.Entries.All(), Size: built.Size}})
	if err != nil {
		return nil, err
	}
	if _, err := erofs.Write(&meta, merged, erofs.Options{}); err != nil {
		return nil, err
	}
	return l, errors.Join(os.WriteFile(l.index, file.Bytes(), 0o600), os.WriteFile(l.meta, meta.Bytes(), 0o600), device.Seal(l.decoded))
}

// fill writes the archive: words with some noise between them, so that it shrinks to about a third, as programs do.
func (l *layer) fill(w *tar.Writer) error {
	rng := rand.New(rand.NewPCG(4, 2))
	words := strings.Fields("the quick brown fox import return function const struct 0x00 int64 node_modules require self class")
	content := func(n int64) []byte {
		var b bytes.Buffer
		for int64(b.Len()) < n {
			b.WriteString(words[rng.IntN(len(words))])
			if rng.IntN(3) == 0 {
				fmt.Fprintf(&b, "%x", rng.Uint64())
			}
			b.WriteByte(' ')
		}
		return b.Bytes()[:n]
	}
	add := func(name string, b []byte) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(b)), Mode: 0o644}); err != nil {
			return err
		}
		_, err := w.Write(b)
		return err
	}
	if err := add("large", content(l.size)); err != nil {
		return err
	}
	for i := range smallFiles {
		n := int64(200 + rng.ExpFloat64()*8000)
		l.smallBytes += n
		if err := add(fmt.Sprintf("small/%d/%d", i/100, i), content(n)); err != nil {
			return err
		}
	}
	return nil
}

// way is one way in which a device is served.
type way struct {
	name        string
	plain       bool // a file of the disk
	passthrough bool
}

var ways = []way{
	{name: "plain", plain: true},
	{name: "fuse"},
	{name: "passthrough", passthrough: true},
}

// mounted is an EROFS mount over a device.
type mounted struct {
	dir   string
	path  string // of the device, to drop what a FUSE file has in a page cache of its own; "": a plain file
	cmd   *exec.Cmd
	ask   func() string // READ requests so far
	close func()
}

// mount mounts the layer in one way; decoded is the file of decoded bytes.
func (l *layer) mount(b *testing.B, w way, decoded string) *mounted {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("mounting EROFS needs root")
	}
	m := &mounted{dir: b.TempDir(), close: func() {}, ask: func() string { return "" }}
	path := decoded
	if !w.plain {
		fuse := b.TempDir()
		spec, err := json.Marshal(served{fuse, l.index, l.stored, decoded, w.passthrough})
		if err != nil {
			b.Fatal(err)
		}
		m.cmd = exec.Command("/proc/self/exe")
		m.cmd.Env = append(os.Environ(), deviceRole+"="+string(spec))
		m.cmd.Stderr = os.Stderr
		m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		in, err := m.cmd.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		pipe, err := m.cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := m.cmd.Start(); err != nil {
			b.Fatal(err)
		}
		out := bufio.NewScanner(pipe)
		m.close = func() {
			in.Close()
			if err := m.cmd.Wait(); err != nil {
				b.Error(err)
			}
			fs.UnmountDir(fuse, true) // if it did not end in good order
		}
		m.ask = func() string { fmt.Fprintln(in); out.Scan(); return out.Text() }
		if !out.Scan() || !strings.HasPrefix(out.Text(), "path ") {
			m.close()
			b.Fatalf("server: %s", out.Text())
		}
		path = strings.TrimPrefix(out.Text(), "path ")
		m.path = path
	}
	if _, err := erofs.Mount(b.Context(), l.meta, []string{path}, m.dir); err != nil {
		m.close()
		b.Fatal(err)
	}
	stop := m.close
	m.close = func() {
		if err := erofs.Unmount(context.Background(), m.dir); err != nil {
			b.Error(err)
		}
		stop()
	}
	return m
}

// large opens the large file with nothing of it in the cache of EROFS, nor in that of a device that FUSE serves.
func (m *mounted) large() (*os.File, error) {
	f, err := os.Open(filepath.Join(m.dir, "large"))
	if err != nil {
		return nil, err
	}
	err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	if m.path != "" && err == nil {
		var d *os.File
		if d, err = os.Open(m.path); err == nil {
			err = errors.Join(unix.Fadvise(int(d.Fd()), 0, 0, unix.FADV_DONTNEED), d.Close())
		}
	}
	return f, err
}

// sequential reads the large file once, in reads of 1 MiB.
func (l *layer) sequential(m *mounted) (time.Duration, error) {
	f, err := m.large()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	start, buf := time.Now(), make([]byte, 1<<20)
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
	if err == nil && n != l.size {
		err = fmt.Errorf("%d bytes of %d", n, l.size)
	}
	return time.Since(start), err
}

const deviceReads = 1 << 13

// random reads 4 KiB at random, by as many readers.
func (l *layer) random(m *mounted, readers int) (time.Duration, error) {
	f, err := m.large()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		return 0, err
	}
	errs := make([]error, readers)
	start := time.Now()
	var wg sync.WaitGroup
	for r := range readers {
		wg.Go(func() {
			rng, buf := rand.New(rand.NewPCG(uint64(r), 1)), make([]byte, 4096)
			for range deviceReads / readers {
				if _, err := f.ReadAt(buf, rng.Int64N(l.size/4096)*4096); err != nil {
					errs[r] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start), errors.Join(errs...)
}

// all reads every small file, with nothing in any cache of EROFS: it is mounted anew for it.
func (l *layer) all(m *mounted) (time.Duration, error) {
	start, buf := time.Now(), make([]byte, 1<<20)
	var bytes int64
	for i := range smallFiles {
		f, err := os.Open(fmt.Sprintf("%s/small/%d/%d", m.dir, i/100, i))
		if err != nil {
			return 0, err
		}
		for {
			n, err := f.Read(buf)
			bytes += int64(n)
			if err == io.EOF {
				break
			}
			if err != nil {
				return 0, err
			}
		}
		f.Close()
	}
	if bytes != l.smallBytes {
		return 0, fmt.Errorf("%d bytes of %d", bytes, l.smallBytes)
	}
	return time.Since(start), nil
}

// BenchmarkDeviceHit reads through EROFS what is decoded already, out of a plain file and through each way of serving
// it; all have the decoded file in the page cache of the disk. x-plain is above 1 where we are faster.
func BenchmarkDeviceHit(b *testing.B) {
	const rounds = 5
	l := makeLayer(b)
	for _, c := range []struct {
		name string
		run  func(*mounted) (time.Duration, error)
		unit string
		work float64
	}{
		{"sequential", l.sequential, "MB/s", float64(l.size) / 1e6},
		{"random4K", func(m *mounted) (time.Duration, error) { return l.random(m, 1) }, "reads/s", deviceReads},
		{"random4Kx8", func(m *mounted) (time.Duration, error) { return l.random(m, 8) }, "reads/s", deviceReads},
		{"smallfiles", l.all, "files/s", smallFiles},
	} {
		for _, w := range ways {
			b.Run(c.name+"/"+w.name, func(b *testing.B) {
				m := l.mount(b, w, l.decoded)
				defer func() { m.close() }()
				var best samples
				for b.Loop() {
					for range rounds {
						if c.name == "smallfiles" {
							m.close()
							m = l.mount(b, w, l.decoded)
						}
						took, err := c.run(m)
						if err != nil {
							b.Fatal(err)
						}
						best = append(best, took.Seconds())
					}
				}
				hideTime(b)
				figure := c.work / slices.Min(best)
				b.ReportMetric(figure, c.unit)
				b.Logf("%s", m.ask())
				if w.plain {
					rival["device "+c.name] = figure
				} else {
					against(b, "device "+c.name, figure, true, "x-plain")
				}
			})
		}
	}
}

// BenchmarkDeviceMiss reads the large file through EROFS while nothing of the layer is decoded: the stored bytes come
// at once, so decoding, verifying and writing is what takes time. MB/s are decoded ones.
func BenchmarkDeviceMiss(b *testing.B) {
	l := makeLayer(b)
	var took samples
	var cpu time.Duration
	for i := 0; b.Loop(); i++ {
		decoded := filepath.Join(b.TempDir(), fmt.Sprint("decoded", i))
		m := l.mount(b, way{name: "fuse"}, decoded)
		before := e2etest.CPU(m.cmd.Process.Pid)
		t, err := l.sequential(m)
		cpu += e2etest.CPU(m.cmd.Process.Pid) - before
		m.close()
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, t.Seconds())
		device.Remove(decoded)
	}
	hideTime(b)
	b.ReportMetric(float64(l.size)/1e6/took.median(), "MB/s")
	b.ReportMetric(cpu.Seconds()/float64(b.N)*gib/float64(l.size), "cpu-s/GiB")
}

var _ blob.ReaderAt = local{}
