package swarmtest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// MemStore is a verified blob in memory (a memfd, so that uploads go through sendfile as from a file). It
// implements swarm.Store.
type MemStore struct {
	geo blob.Geometry
	f   *os.File
	raw syscall.RawConn // of f: keeps the descriptor open while it is in use

	mu      sync.Mutex
	present []bool // by block
	left    []int  // by piece: absent blocks
	missing int
	leaves  [][]blob.Hash
	roots   []blob.Hash
	trust   []blob.Trust
	onPiece map[int]func(uint32)
	onBlock map[int]func(blob.Run)
	next    int
	puts    int // blocks accepted
	corrupt int // blocks refused
}

// NewMemStore returns an empty store. Close it.
func NewMemStore(g blob.Geometry) *MemStore {
	fd, err := unix.MemfdCreate("swarmtest", unix.MFD_CLOEXEC)
	if err != nil {
		panic(err)
	}
	s := &MemStore{
		geo: g, f: os.NewFile(uintptr(fd), "swarmtest"),
		present: make([]bool, g.Blocks()), left: make([]int, g.Pieces()), missing: int(g.Blocks()),
		leaves: make([][]blob.Hash, g.Pieces()), roots: make([]blob.Hash, g.Pieces()),
		trust: make([]blob.Trust, g.Pieces()), onPiece: make(map[int]func(uint32)),
		onBlock: make(map[int]func(blob.Run)),
	}
	for p := range g.Pieces() {
		s.left[p] = int(g.PieceBlocks(p).Count)
	}
	if err := s.f.Truncate(g.Size); err != nil {
		panic(err)
	}
	if s.raw, err = s.f.SyscallConn(); err != nil {
		panic(err)
	}
	return s
}

// NewSeed returns a complete store of data, as if this node had read it from the origin.
func NewSeed(g blob.Geometry, data []byte) *MemStore {
	s := NewMemStore(g)
	for at := uint32(0); at < g.Blocks(); at += blob.MaxBuffer {
		r := blob.Run{First: at, Count: min(blob.MaxBuffer, g.Blocks()-at)}
		off, n := g.Bytes(r)
		if err := s.Put(r, data[off:off+n], blob.Direct); err != nil {
			panic(err)
		}
	}
	return s
}

// Random is n bytes that are the same for the same seed.
func Random(n int64, seed uint64) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// Close frees the memory.
func (s *MemStore) Close() error { return s.f.Close() }

// Geometry is what the store was made with.
func (s *MemStore) Geometry() blob.Geometry { return s.geo }

// TakeRoots copies the piece roots that another store knows, with trust t: what a tracker would do.
func (s *MemStore) TakeRoots(from *MemStore, t blob.Trust) {
	for p := range s.geo.Pieces() {
		if h, trust := from.Root(p); trust > blob.Unknown {
			if err := s.SetRoot(p, h, t); err != nil {
				panic(err)
			}
		}
	}
}

// TreeRoot is the "pieces root" of BEP 52; the store must be complete.
func (s *MemStore) TreeRoot() blob.Hash {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.geo.Pieces() == 1 {
		return s.geo.RootOfLeaves(s.leaves[0])
	}
	return s.geo.Root(s.roots)
}

// Put verifies and stores blocks, as *blockio.Blob does: own bytes (Direct and above) are hashed and
// believed, those of peers must match the known leaves.
func (s *MemStore) Put(r blob.Run, data []byte, t blob.Trust) error {
	off, n := s.geo.Bytes(r)
	if int64(len(data)) != n {
		return fmt.Errorf("put %s: %w: %d bytes", r, blob.ErrInvalid, len(data))
	}
	sums := make([]blob.Hash, r.Count)
	blob.Leaves(sums, data)
	for i := range r.Count {
		b := r.First + i
		p := s.geo.PieceOf(b)
		at := b - s.geo.PieceBlocks(p).First
		h := sums[i]
		s.mu.Lock()
		leaves := s.leaves[p]
		if t >= blob.Direct && leaves == nil {
			leaves = make([]blob.Hash, s.geo.PieceBlocks(p).Count)
			s.leaves[p] = leaves
		}
		switch {
		case t >= blob.Direct:
			leaves[at] = h
		case leaves == nil || leaves[at] != h:
			s.corrupt++
			s.mu.Unlock()
			return fmt.Errorf("put %s: block %d: %w", r, b, blob.ErrCorrupt)
		}
		s.mu.Unlock()
	}
	if _, err := s.f.WriteAt(data, off); err != nil {
		return err
	}
	var done []uint32
	var calls []func(uint32)
	s.mu.Lock()
	for b := r.First; b < r.End(); b++ {
		if s.present[b] {
			continue
		}
		s.present[b] = true
		s.missing--
		s.puts++
		p := s.geo.PieceOf(b)
		if s.left[p]--; s.left[p] == 0 {
			if s.trust[p] < blob.Direct && t >= blob.Direct {
				s.roots[p], s.trust[p] = s.geo.PieceRoot(s.leaves[p]), blob.Direct
			}
			done = append(done, p)
		}
	}
	for _, f := range s.onPiece {
		calls = append(calls, f)
	}
	var told []func(blob.Run)
	for _, f := range s.onBlock {
		told = append(told, f)
	}
	s.mu.Unlock()
	for _, f := range told {
		f(r)
	}
	for _, p := range done {
		for _, f := range calls {
			f(p)
		}
	}
	return nil
}

// Counts is how many blocks were stored, and how many refused because they did not verify.
func (s *MemStore) Counts() (stored, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.puts, s.corrupt
}

// Bytes is everything that is present; absent blocks are zero.
func (s *MemStore) Bytes() []byte {
	b := make([]byte, s.geo.Size)
	if _, err := s.f.ReadAt(b, 0); err != nil && err != io.EOF {
		panic(err)
	}
	return b
}

// Pieces is the set of complete pieces.
func (s *MemStore) Pieces() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	words := make([]uint64, (len(s.left)+63)/64)
	for p, left := range s.left {
		if left == 0 {
			words[p/64] |= 1 << (p % 64)
		}
	}
	return words
}

// PieceComplete reports whether all blocks of a piece are present.
func (s *MemStore) PieceComplete(p uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left[p] == 0
}

// Complete reports whether all blocks are present.
func (s *MemStore) Complete() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.missing == 0
}

// OnPiece calls f whenever a piece becomes complete.
func (s *MemStore) OnPiece(f func(uint32)) (cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.next
	s.next++
	s.onPiece[id] = f
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.onPiece, id)
	}
}

// OnBlocks calls f whenever blocks become present.
func (s *MemStore) OnBlocks(f func(blob.Run)) (cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.next
	s.next++
	s.onBlock[id] = f
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.onBlock, id)
	}
}

// Has reports whether every block of a run is present.
func (s *MemStore) Has(r blob.Run) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b := r.First; b < r.End(); b++ {
		if !s.present[b] {
			return false
		}
	}
	return true
}

// Root is the root of a piece.
func (s *MemStore) Root(p uint32) (blob.Hash, blob.Trust) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roots[p], s.trust[p]
}

// SetRoot keeps the root with the higher trust.
func (s *MemStore) SetRoot(p uint32, h blob.Hash, t blob.Trust) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trust[p] > blob.Unknown && s.roots[p] != h && s.trust[p] >= t {
		return fmt.Errorf("root of piece %d: %w", p, blob.ErrCorrupt)
	}
	if t > s.trust[p] {
		s.roots[p], s.trust[p] = h, t
	}
	return nil
}

// DropClaim forgets a claimed root and its leaves.
func (s *MemStore) DropClaim(p uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trust[p] == blob.Claimed {
		s.roots[p], s.trust[p], s.leaves[p] = blob.Hash{}, blob.Unknown, nil
	}
}

// Leaves are the leaf hashes of a piece.
func (s *MemStore) Leaves(p uint32) ([]blob.Hash, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trust[p] == blob.Unknown || s.leaves[p] == nil {
		return nil, false
	}
	return append([]blob.Hash(nil), s.leaves[p]...), true
}

// SetLeaves accepts leaves that fold to the known root.
func (s *MemStore) SetLeaves(p uint32, leaves []blob.Hash) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trust[p] == blob.Unknown {
		return fmt.Errorf("leaves of piece %d: no root: %w", p, blob.ErrAbsent)
	}
	if len(leaves) != int(s.geo.PieceBlocks(p).Count) || s.geo.PieceRoot(leaves) != s.roots[p] {
		return fmt.Errorf("leaves of piece %d: %w", p, blob.ErrCorrupt)
	}
	s.leaves[p] = append([]blob.Hash(nil), leaves...)
	return nil
}

// ReadAt fills p with present bytes.
func (s *MemStore) ReadAt(p []byte, off int64) error {
	r := s.geo.Covering(off, int64(len(p)))
	s.mu.Lock()
	for b := r.First; b < r.End(); b++ {
		if !s.present[b] {
			s.mu.Unlock()
			return fmt.Errorf("read block %d: %w", b, blob.ErrAbsent)
		}
	}
	s.mu.Unlock()
	_, err := s.f.ReadAt(p, off)
	return err
}

// SendTo sends n bytes from off to a socket by sendfile(2).
func (s *MemStore) SendTo(c syscall.Conn, off int64, n int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := s.raw.Control(func(fd uintptr) { err = sendfile(raw, int(fd), off, n) }); cerr != nil {
		return cerr
	}
	return err
}

func sendfile(raw syscall.RawConn, fd int, off int64, n int) error {
	var failed error
	err := raw.Write(func(sock uintptr) bool {
		for n > 0 {
			m, err := unix.Sendfile(int(sock), fd, &off, n)
			switch {
			case m > 0:
				n -= m
			case err == unix.EAGAIN:
				return false
			case err == unix.EINTR:
			case err != nil:
				failed = err
				return true
			default:
				failed = io.ErrUnexpectedEOF
				return true
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	return failed
}
