package e2etest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Read says how a reader, a child of the test, reads a file.
type Read struct {
	Path    string
	Want    string // a local file: every byte that is read is compared with it; "": not compared
	Against string // a file whose passes alternate with those of Path, to be timed under the same load
	Off     int64  // where the region to read starts
	Len     int64  // its length; 0: to the end
	Block   int    // bytes per read, default 1 MiB
	Random  int    // this many blocks, distinct where the region has enough, at random; 0: all in order
	Passes  int    // default 1
	Threads int    // readers of the whole region each, with their own descriptor; default 1
	Seed    uint64
	Drop    bool // drop the file's pages before each pass
	Pause   int  // milliseconds between two reads
}

// ReadResult is what a reader found.
type ReadResult struct {
	Bytes    int64     // read without error
	Passes   []float64 // seconds per pass
	Against  []float64
	P50, P95 float64 // of one read, microseconds; not with Against
	P99      float64
	Errno    int     // of the first read that failed; 0: none
	ErrAfter float64 // seconds that this read took
	ErrOff   int64
	Error    string
	Mismatch int64 // offset of the first wrong byte, -1: none
}

// Reader starts a reader.
func (w *World) Reader(r Read) *Process {
	w.T.Helper()
	return w.Start(r.command(w))
}

// ReaderIn starts a reader in a cgroup or as another user.
func (w *World) ReaderIn(r Read, group *Cgroup, uid int) *Process {
	w.T.Helper()
	c := r.command(w)
	c.Cgroup, c.UID = group, uid
	return w.Start(c)
}

func (r Read) command(w *World) Command {
	spec, err := json.Marshal(r)
	if err != nil {
		w.T.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		w.T.Fatal(err)
	}
	return Command{Args: []string{self, string(spec)}, Env: []string{roleEnv + "=read"}}
}

// Read runs a reader to its end.
func (w *World) Read(limit time.Duration, r Read) (ReadResult, Result) {
	w.T.Helper()
	return w.ReadResult(w.Reader(r), limit)
}

// ReadResult waits for a reader and returns what it found. A reader that was killed found nothing.
func (w *World) ReadResult(p *Process, limit time.Duration) (ReadResult, Result) {
	w.T.Helper()
	res := p.Wait(limit)
	found := ReadResult{Mismatch: -1}
	if res.TimedOut {
		w.T.Fatalf("a reader hangs: %v", res)
	}
	if res.Signal == 0 {
		if err := json.Unmarshal([]byte(res.Stdout), &found); err != nil {
			w.T.Fatalf("a reader said nothing useful: %v\n%v", err, res)
		}
	}
	return found, res
}

// MustRead is [World.Read] where every byte has to come, and be right if Want is set.
func (w *World) MustRead(limit time.Duration, r Read) (ReadResult, Result) {
	w.T.Helper()
	found, res := w.Read(limit, r)
	found.MustBeRight(w)
	return found, res
}

// MustBeRight fails the test on wrong bytes and on errors.
func (r ReadResult) MustBeRight(w *World) {
	w.T.Helper()
	if r.Mismatch >= 0 {
		w.T.Fatalf("WRONG BYTES at offset %d", r.Mismatch)
	}
	if r.Error != "" {
		w.T.Fatalf("reading at offset %d failed after %.2f s: %s", r.ErrOff, r.ErrAfter, r.Error)
	}
}

// region is what one thread reads in one pass.
type region struct {
	off, len int64
	block    int64
	pause    time.Duration
	offs     []int64 // random order, else nil
}

func playRead() int {
	var r Read
	if err := json.Unmarshal([]byte(os.Args[1]), &r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if r.Block == 0 {
		r.Block = 1 << 20
	}
	found := ReadResult{Mismatch: -1}
	var mu sync.Mutex
	var lat []float64
	var wg sync.WaitGroup
	for i := range max(r.Threads, 1) {
		wg.Go(func() { r.thread(uint64(i), &mu, &found, &lat) })
	}
	wg.Wait()
	if len(lat) > 0 {
		slices.Sort(lat)
		found.P50, found.P95, found.P99 = lat[len(lat)/2], lat[len(lat)*95/100], lat[len(lat)*99/100]
	}
	json.NewEncoder(os.Stdout).Encode(found)
	return 0
}

func (r Read) thread(id uint64, mu *sync.Mutex, found *ReadResult, lat *[]float64) {
	fail := func(off int64, took time.Duration, err error) {
		mu.Lock()
		defer mu.Unlock()
		if found.Error == "" {
			var errno syscall.Errno
			errors.As(err, &errno)
			found.Errno, found.ErrAfter, found.ErrOff, found.Error = int(errno), took.Seconds(), off, err.Error()
		}
	}
	var files [3]*os.File // Path, Want, Against
	for i, path := range []string{r.Path, r.Want, r.Against} {
		if path == "" {
			continue
		}
		start := time.Now()
		f, err := os.Open(path)
		if err != nil {
			fail(0, time.Since(start), err)
			return
		}
		defer f.Close()
		files[i] = f
	}
	start := time.Now()
	size, err := files[0].Seek(0, io.SeekEnd)
	if err != nil {
		fail(0, time.Since(start), err)
		return
	}
	g := region{off: r.Off, len: r.Len, block: int64(r.Block), pause: time.Duration(r.Pause) * time.Millisecond}
	if g.len == 0 {
		g.len = size - r.Off
	}
	rng := rand.New(rand.NewPCG(r.Seed, id))
	for range max(r.Passes, 1) {
		if r.Random > 0 {
			g.offs = randomOffsets(rng, g, r.Random)
		}
		passes := []*os.File{files[0]}
		if files[2] != nil {
			passes = append(passes, files[2])
		}
		for i, f := range passes {
			if r.Drop {
				const dontNeed = 4 // POSIX_FADV_DONTNEED
				syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, dontNeed, 0, 0)
			}
			want := files[1]
			if i == 1 {
				want = nil
			}
			start := time.Now()
			n, each, bad, at, err := readRegion(f, want, g, files[2] == nil)
			took := time.Since(start).Seconds()
			mu.Lock()
			if i == 0 {
				found.Bytes += n
				found.Passes = append(found.Passes, took)
				*lat = append(*lat, each...)
				if bad >= 0 && found.Mismatch < 0 {
					found.Mismatch = bad
				}
			} else {
				found.Against = append(found.Against, took)
			}
			mu.Unlock()
			if err != nil {
				fail(at.off, at.took, err)
				return
			}
		}
	}
}

type failure struct {
	off  int64
	took time.Duration
}

// readRegion reads one pass. It stops at the first error; a file that is too short is one. Single reads are timed
// unless two files are compared: two looks at the clock are a tenth of a read from the page cache.
func readRegion(f, want *os.File, g region, timed bool) (n int64, lat []float64, bad int64, at failure, err error) {
	p, q := make([]byte, g.block), make([]byte, g.block)
	bad = -1
	count := (g.len + g.block - 1) / g.block
	if g.offs != nil {
		count = int64(len(g.offs))
	}
	for i := range count {
		if i > 0 {
			time.Sleep(g.pause)
		}
		off := g.off + i*g.block
		if g.offs != nil {
			off = g.offs[i]
		}
		k := int(min(g.block, g.off+g.len-off))
		var start time.Time
		if timed {
			start = time.Now()
		}
		var m int
		for m < k && err == nil { // pread, as often as a short answer makes necessary
			var j int
			j, err = syscall.Pread(int(f.Fd()), p[m:k], off+int64(m))
			if err == syscall.EINTR {
				j, err = 0, nil
			} else if err == nil && j == 0 {
				err = io.ErrUnexpectedEOF
			}
			m += max(j, 0)
		}
		var took time.Duration
		if timed {
			took = time.Since(start)
			lat = append(lat, float64(took.Nanoseconds())/1e3)
		}
		n += int64(m)
		if want != nil && bad < 0 {
			if _, werr := want.ReadAt(q[:m], off); werr != nil || !bytes.Equal(p[:m], q[:m]) {
				for j := range m {
					if bad = off + int64(j); p[j] != q[j] {
						break
					}
				}
			}
		}
		if err != nil {
			return n, lat, bad, failure{off + int64(m), took}, err
		}
	}
	return n, lat, bad, failure{}, nil
}

// randomOffsets are n offsets of blocks in g, each block once until all were used.
func randomOffsets(rng *rand.Rand, g region, n int) []int64 {
	blocks := max(g.len/g.block, 1)
	offs := make([]int64, 0, n)
	if int64(n)*4 > blocks { // dense: shuffle
		for len(offs) < n {
			for _, b := range rng.Perm(int(blocks)) {
				if len(offs) < n {
					offs = append(offs, g.off+int64(b)*g.block)
				}
			}
		}
		return offs
	}
	seen := make(map[int64]bool, n)
	for len(offs) < n {
		if b := rng.Int64N(blocks); !seen[b] {
			seen[b] = true
			offs = append(offs, g.off+b*g.block)
		}
	}
	return offs
}
