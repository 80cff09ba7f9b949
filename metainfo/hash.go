package metainfo

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/pantala/pantala/blob"
)

// job is a stretch of bytes to hash: a piece, or part of one where only leaves are wanted.
type job struct {
	data   []byte
	leaves []blob.Hash // where to, or nil
	sum    *[20]byte   // where to, or nil
	pad    int64       // zeros that count as part of the piece in v1
	users  atomic.Int32
}

// hashChunk is how much is hashed at once where pieces do not matter, in bytes: long enough that the hand-over to
// another goroutine (about 1 µs) vanishes beside hashing it (about 600 µs).
const hashChunk = 1 << 20

var zeros [64 << 10]byte

func (j *job) run() {
	if j.leaves != nil {
		blob.Leaves(j.leaves, j.data)
	}
	if j.sum != nil {
		h := sha1.New()
		h.Write(j.data)
		for n := j.pad; n > 0; n -= int64(len(zeros)) {
			h.Write(zeros[:min(n, int64(len(zeros)))])
		}
		h.Sum(j.sum[:0])
	}
}

// hasher hands stretches of bytes to the goroutines that hash them, in order.
type hasher struct {
	free     chan *job
	work     chan *job
	toDigest chan *job // nil: no digest is wanted
	wg       sync.WaitGroup
}

func newHasher(size int64, digest *blob.Hash) *hasher {
	workers := runtime.GOMAXPROCS(0)
	h := &hasher{free: make(chan *job, 2*workers), work: make(chan *job, workers)}
	for range cap(h.free) {
		h.free <- &job{data: make([]byte, 0, size)}
	}
	for range workers {
		h.wg.Go(func() {
			for j := range h.work {
				j.run()
				h.done(j)
			}
		})
	}
	if digest != nil {
		h.toDigest = make(chan *job, workers)
		h.wg.Go(func() {
			sum := sha256.New()
			for j := range h.toDigest {
				sum.Write(j.data)
				h.done(j)
			}
			sum.Sum(digest[:0])
		})
	}
	return h
}

func (h *hasher) done(j *job) {
	if j.users.Add(-1) == 0 {
		j.data, j.leaves, j.sum, j.pad = j.data[:0], nil, nil, 0
		h.free <- j
	}
}

func (h *hasher) submit(j *job) {
	j.users.Store(1)
	if h.toDigest != nil {
		j.users.Store(2)
		h.toDigest <- j
	}
	h.work <- j
}

func (h *hasher) close() {
	close(h.work)
	if h.toDigest != nil {
		close(h.toDigest)
	}
	h.wg.Wait()
}

// hash reads all files once and fills leaves, sums and digest.
func (p *plan) hash(ctx context.Context) error {
	size := p.pieceLength
	if !p.V1 {
		size = hashChunk
	}
	var digest *blob.Hash
	if p.Digest && p.single {
		digest = &p.digest
	}
	h := newHasher(size, digest)
	err := p.read(ctx, h, size)
	h.close()
	return err
}

// read walks the piece space. In v1 alone a piece may hold the end of one file and the beginning of the next.
func (p *plan) read(ctx context.Context, h *hasher, size int64) error {
	if p.V1 {
		p.sums = make([][20]byte, p.pieces())
	}
	var open *job // v1 alone: a piece that is not full yet
	piece, done := 0, int64(0)
	submit := func(j *job) {
		if p.V1 {
			j.sum = &p.sums[piece]
			piece++
		}
		h.submit(j)
	}
	for i := range p.files {
		f := &p.files[i]
		if p.V2 {
			f.leaves = make([]blob.Hash, blob.Geometry{Size: f.length, PieceLength: p.pieceLength}.Blocks())
		}
		err := f.read(func(r io.Reader) error {
			for at := int64(0); at < f.length; {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				j := open
				if open = nil; j == nil {
					j = <-h.free
				}
				n := min(size-int64(len(j.data)), f.length-at)
				to := j.data[len(j.data) : int64(len(j.data))+n]
				if _, err := io.ReadFull(r, to); err != nil {
					j.users.Store(1)
					h.done(j)
					return err
				}
				j.data = j.data[:len(j.data)+len(to)]
				if p.V2 {
					j.leaves = f.leaves[at/blob.BlockSize:]
				}
				at += n
				done += n
				switch last := at == f.length; {
				case int64(len(j.data)) == size:
					submit(j)
				case p.V2:
					if last {
						j.pad = p.padAfter(i)
					}
					submit(j)
				default:
					open = j
				}
				if p.Progress != nil {
					p.Progress(done, p.total)
				}
			}
			return nil
		})
		if err != nil {
			if open != nil {
				open.users.Store(1)
				h.done(open)
			}
			return err
		}
	}
	if open != nil {
		submit(open)
	}
	return nil
}

// pieces is how many SHA-1 sums there will be.
func (p *plan) pieces() int64 {
	if !p.V2 {
		return (p.total + p.pieceLength - 1) / p.pieceLength
	}
	n := int64(0)
	for _, f := range p.files {
		n += (f.length + p.pieceLength - 1) / p.pieceLength
	}
	return n
}

// read opens a file and checks that it has not been changed before or after use.
func (f *planned) read(use func(io.Reader) error) error {
	if f.length == 0 {
		return nil
	}
	r, err := os.Open(f.local)
	if err != nil {
		return err
	}
	defer r.Close()
	if err = use(r); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return f.changed()
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", f.local, err)
	}
	st, err := r.Stat()
	if err == nil && (st.Size() != f.length || st.ModTime().UnixNano() != f.modTime) {
		return f.changed()
	}
	return err
}

func (f *planned) changed() error {
	return fmt.Errorf("%w: %s was changed while it was read: try again when it is at rest", blob.ErrChanged, f.local)
}
