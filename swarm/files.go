package swarm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/pantala/pantala/blob"
)

// File is one file of a torrent that has several.
type File struct {
	// Store is the blob of the file's bytes. Its piece length is that of the torrent.
	Store Store
	// Root is the file's "pieces root" (BEP 52).
	Root blob.Hash
}

// file is what a torrent knows of one of its files. All but tree is constant.
type file struct {
	extent
	t     *Torrent
	geo   blob.Geometry // of the store
	ratio uint32        // pieces of the store in one of the torrent; 1 but for v1 pieces of odd lengths
	store Store
	name  blob.Hash // what hash requests call it
	root  blob.Hash // the BEP 52 root; zero: not known
	tree  upperTree
}

// layOut makes the files of a torrent, and the space in which they lie.
func layOut(c *Config) (*space, []*file, error) {
	list := c.Files
	if len(list) == 0 {
		list = []File{{Store: c.Store, Root: c.Root}}
	}
	var files []*file
	var sizes []int64
	for i, f := range list {
		geo := f.Store.Geometry()
		if err := geo.Check(); err != nil {
			return nil, nil, fmt.Errorf("file %d: %w", i, err)
		}
		if geo.Size == 0 && len(list) > 1 {
			return nil, nil, fmt.Errorf("%w: file %d is empty: empty files are not exchanged", blob.ErrInvalid, i)
		}
		files = append(files, &file{geo: geo, store: f.Store, root: f.Root, name: f.Root, ratio: 1})
		sizes = append(sizes, geo.Size)
	}
	if len(c.Files) == 0 {
		files[0].name = c.Name
	}
	length := files[0].geo.PieceLength
	if c.V1 != nil {
		length = c.V1.PieceLength
	}
	s, err := newSpace(length, sizes...)
	if err != nil {
		return nil, nil, err
	}
	if v1 := c.V1; v1 != nil {
		if len(v1.Sums) != int(s.pieces) || v1.Length < s.Size || v1.Length > int64(s.pieces)*length {
			return nil, nil, fmt.Errorf("%w: %d SHA-1 sums of pieces of %d bytes for %d bytes in %d pieces", blob.ErrInvalid, len(v1.Sums), length, v1.Length, s.pieces)
		}
		if !slices.Contains(c.Keys, v1.InfoHash) {
			return nil, nil, fmt.Errorf("%w: the v1 infohash is not among the keys", blob.ErrInvalid)
		}
		if length > maxWhole {
			return nil, nil, fmt.Errorf("%w: pieces of %d bytes, which v1 can only verify whole: at most %d are collected in memory: make the torrent again with shorter pieces", blob.ErrInvalid, length, maxWhole)
		}
		s.v1 = v1.Length
	}
	for i, f := range files {
		f.extent = s.files[i]
		f.ratio = uint32(length / f.geo.PieceLength)
		if length%f.geo.PieceLength != 0 || f.ratio != 1 && len(files) > 1 {
			return nil, nil, fmt.Errorf("%w: file %d has pieces of %d bytes in a torrent with pieces of %d", blob.ErrInvalid, i, f.geo.PieceLength, length)
		}
	}
	if len(files) > 1 || files[0].ratio > 1 {
		c.Store = &pieceStore{s, files}
	} else {
		c.Store = files[0].store
	}
	return s, files, nil
}

// fileOf is the file that a piece belongs to.
func (t *Torrent) fileOf(piece uint32) *file { return t.files[t.geo.fileOf(piece)] }

// pieceStore is a Store over the blobs of all files of a torrent. Its pieces, and offsets, are those of the
// torrent's space; what lies in a gap is zero.
type pieceStore struct {
	space *space
	files []*file
}

var _ Store = (*pieceStore)(nil)

// at is the file that a piece belongs to, and its number in the torrent's piece length there.
func (s *pieceStore) at(piece uint32) (*file, uint32) {
	f := s.files[s.space.fileOf(piece)]
	return f, piece - f.first
}

// parts are the pieces of the store that make up piece p of the file.
func (f *file) parts(p uint32) blob.Run {
	first := p * f.ratio
	return blob.Run{First: first, Count: min(f.ratio, f.geo.Pieces()-first)}
}

func (f *file) complete(p uint32) bool {
	r := f.parts(p)
	for i := r.First; i < r.End(); i++ {
		if !f.store.PieceComplete(i) {
			return false
		}
	}
	return true
}

// Geometry is the hull of the space: nothing that the swarm does depends on it.
func (s *pieceStore) Geometry() blob.Geometry {
	return blob.Geometry{Size: s.space.Size, PieceLength: s.space.PieceLength}
}

func (s *pieceStore) Pieces() []uint64 {
	all := newSet(s.space.pieces)
	for _, f := range s.files {
		for p := f.first; p < f.end; p++ {
			if f.complete(p - f.first) {
				all.add(p)
			}
		}
	}
	return all
}

func (s *pieceStore) PieceComplete(piece uint32) bool {
	f, p := s.at(piece)
	return f.complete(p)
}

func (s *pieceStore) OnPiece(call func(piece uint32)) (cancel func()) {
	var cancels []func()
	for _, f := range s.files {
		cancels = append(cancels, f.store.OnPiece(func(part uint32) {
			if p := part / f.ratio; f.ratio == 1 || f.complete(p) {
				call(f.first + p)
			}
		}))
	}
	return func() {
		for _, c := range cancels {
			c()
		}
	}
}

// Has is false for a run that leaves its file.
func (s *pieceStore) Has(r blob.Run) bool {
	f, p := s.at(r.First / s.space.bpp)
	own := blob.Run{First: p*s.space.bpp + r.First%s.space.bpp, Count: r.Count}
	return own.End() <= f.geo.Blocks() && f.store.Has(own)
}

func (s *pieceStore) OnBlocks(call func(blob.Run)) (cancel func()) {
	var cancels []func()
	for _, f := range s.files {
		cancels = append(cancels, f.store.OnBlocks(func(r blob.Run) {
			call(blob.Run{First: f.first*s.space.bpp + r.First, Count: r.Count})
		}))
	}
	return func() {
		for _, c := range cancels {
			c()
		}
	}
}

// Root is Unknown for a v1 piece of several of the store's: it is no subtree of a hash tree.
func (s *pieceStore) Root(piece uint32) (blob.Hash, blob.Trust) {
	f, p := s.at(piece)
	if f.ratio > 1 {
		return blob.Hash{}, blob.Unknown
	}
	return f.store.Root(p)
}

func (s *pieceStore) SetRoot(piece uint32, root blob.Hash, t blob.Trust) error {
	f, p := s.at(piece)
	if f.ratio > 1 {
		return fmt.Errorf("%w: a root for a piece of %d bytes", blob.ErrInvalid, s.space.PieceLength)
	}
	return f.store.SetRoot(p, root, t)
}

func (s *pieceStore) Leaves(piece uint32) ([]blob.Hash, bool) {
	f, p := s.at(piece)
	return f.leaves(p)
}

func (f *file) leaves(p uint32) ([]blob.Hash, bool) {
	r := f.parts(p)
	if r.Count == 1 {
		return f.store.Leaves(r.First)
	}
	var all []blob.Hash
	for i := r.First; i < r.End(); i++ {
		leaves, ok := f.store.Leaves(i)
		if !ok {
			return nil, false
		}
		all = append(all, leaves...)
	}
	return all, true
}

func (s *pieceStore) SetLeaves(piece uint32, leaves []blob.Hash) error {
	f, p := s.at(piece)
	r := f.parts(p)
	if r.Count == 1 {
		return f.store.SetLeaves(r.First, leaves)
	}
	for i := r.First; i < r.End(); i++ {
		n := f.geo.PieceBlocks(i).Count
		if err := f.store.SetLeaves(i, leaves[:n]); err != nil {
			return err
		}
		leaves = leaves[n:]
	}
	return nil
}

// DropClaim forgets a claimed root, where the file's store can.
func (s *pieceStore) DropClaim(piece uint32) {
	f, p := s.at(piece)
	if d, ok := f.store.(interface{ DropClaim(piece uint32) }); ok && f.ratio == 1 {
		d.DropClaim(p)
	}
}

// within splits an extent of a piece into what is of the file, from an offset in it, and the zeros behind.
func (s *pieceStore) within(off int64, n int) (f *file, at int64, have int) {
	piece := uint32(off / s.space.PieceLength)
	f, _ = s.at(piece)
	at = off - int64(f.first)*s.space.PieceLength
	return f, at, int(max(0, min(int64(n), f.size-at)))
}

// ReadAt reads within one piece.
func (s *pieceStore) ReadAt(p []byte, off int64) error {
	f, at, have := s.within(off, len(p))
	clear(p[have:])
	if have == 0 {
		return nil
	}
	return f.store.ReadAt(p[:have], at)
}

// SendTo sends within one piece, and none of a gap: whoever asks for that gets zeros from the writer.
func (s *pieceStore) SendTo(c syscall.Conn, off int64, n int) error {
	f, at, have := s.within(off, n)
	if have < n {
		return fmt.Errorf("%w: %d bytes at %d of a file of %d", blob.ErrInvalid, n, at, f.size)
	}
	return f.store.SendTo(c, at, n)
}

func (s *pieceStore) Complete() bool {
	for _, f := range s.files {
		if !f.store.Complete() {
			return false
		}
	}
	return true
}

// fileSource is one file of a torrent: runs are those of the file's blob.
type fileSource struct {
	t    *Torrent
	file *file
}

// Source is what Torrent.File returns: a blob.Source that says when Has may have changed.
type Source interface {
	blob.Source
	Changed(f func()) (cancel func())
}

var _ Source = fileSource{}

// File is file i of Config.Files as a source of its blob. A torrent of one blob has one, which is the torrent
// itself.
func (t *Torrent) File(i int) Source {
	if len(t.files) == 1 {
		return t
	}
	return fileSource{t, t.files[i]}
}

// shift is what is added to the numbers of the file's blocks.
func (s fileSource) shift() uint32 { return s.file.first * s.t.geo.bpp }

func (s fileSource) inside(r blob.Run) bool {
	return r.End() >= r.First && r.End() <= s.file.geo.Blocks()
}

func (s fileSource) Has(r blob.Run) bool {
	return s.inside(r) && s.t.has(blob.Run{First: r.First + s.shift(), Count: r.Count})
}

func (s fileSource) Changed(f func()) (cancel func()) { return s.t.Changed(f) }

// Planned is Torrent.Planned for a piece of the file's blob.
func (s fileSource) Planned(piece uint32) (lane int, ok bool) {
	return s.t.Planned(s.file.first + piece/s.file.ratio)
}

func (s fileSource) Fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	if !s.inside(r) {
		return fmt.Errorf("fetch blocks %s from peers: %w: the file has %d blocks", r, blob.ErrInvalid, s.file.geo.Blocks())
	}
	base := s.shift()
	return s.t.fetch(ctx, blob.Run{First: r.First + base, Count: r.Count}, shifted{into, base})
}

// shifted is a sink of a file's blocks that is given those of the torrent.
type shifted struct {
	sink blob.Sink
	base uint32
}

func (s shifted) back(r blob.Run) blob.Run { return blob.Run{First: r.First - s.base, Count: r.Count} }

func (s shifted) Buffer(ctx context.Context, r blob.Run) ([]byte, error) {
	return s.sink.Buffer(ctx, s.back(r))
}
func (s shifted) Done(r blob.Run) error { return s.sink.Done(s.back(r)) }
func (s shifted) Drop(r blob.Run)       { s.sink.Drop(s.back(r)) }

// errSeveral: block numbers of the whole torrent mean nothing outside this package.
var errSeveral = errors.New("the torrent has several files: use Torrent.File")
