package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
)

const (
	// DefaultMaxSize bounds a decoded layer, in bytes. The largest that people push, of model weights and CUDA, are
	// some 20 GiB.
	DefaultMaxSize = 64 << 30
	// DefaultMaxRatio bounds decoded bytes for each stored one. Deflate gets to 1032 with nothing but zeros (a match of
	// 258 bytes from two bits); what programs are made of stays below 20.
	DefaultMaxRatio = 1000
	// free is how much may be decoded, in bytes, before the ratio counts: less than this harms nobody.
	free = 64 << 20
)

// Options say what is built, and within which limits. The zero value is fine.
type Options struct {
	Decoded  io.WriterAt // takes the decoded bytes, in order; nil: nobody wants them
	Scratch  Scratch     // keeps the windows until they are encoded; nil: they are kept in memory
	Want     Want
	MaxSize  int64 // of the decoded layer in bytes; 0: DefaultMaxSize
	MaxRatio int64 // decoded bytes for each stored one; 0: DefaultMaxRatio
	// Image says that what is decoded is no archive but an EROFS image (erofslayer). Its metadata may be anywhere, so it is
	// kept until all of it has come: in Decoded if that is an io.ReaderAt, otherwise in Scratch.
	Image bool
}

// Scratch is a file that nobody else uses. Windows are some 2 % of a layer of gzip, 10 to 50 % of one of zstd, and their
// layer may have many gigabytes.
type Scratch interface {
	io.ReaderAt
	io.WriterAt
}

// Want is what is known of a layer before its bytes are. Zero values: not known.
type Want struct {
	Digest blob.Hash // SHA-256 of the stored bytes
	Size   int64     // how many they are
	DiffID blob.Hash // SHA-256 of the decoded bytes
}

// Built is what an index is made of.
type Built struct {
	index.Facts
	Entries *index.Entries
	Spans   []index.Span // their Window says where it is among the windows
	windows windows
	decoded int64 // bytes that DiffID is of; what lies behind them in the address space is placed there anew
}

// Encode writes the index file and returns its length.
func (b *Built) Encode(w io.Writer) (int64, error) {
	return index.EncodeFrom(w, b.Facts, b.Entries, b.Spans, io.NewSectionReader(&b.windows, 0, b.windows.size))
}

// windows are those of all spans, one after the other, as their codec packs them.
type windows struct {
	file Scratch
	held []byte // without a file
	size int64
}

func (w *windows) add(p []byte) (index.Window, error) {
	at := index.Window{Offset: w.size, Length: int64(len(p))}
	w.size += at.Length
	if w.file == nil {
		w.held = append(w.held, p...)
		return at, nil
	}
	_, err := w.file.WriteAt(p, at.Offset)
	return at, err
}

// ReadAt reads what was added.
func (w *windows) ReadAt(p []byte, off int64) (int, error) {
	if w.file != nil {
		return w.file.ReadAt(p, off)
	}
	return bytes.NewReader(w.held).ReadAt(p, off)
}

// Build reads a layer to the end of r. When ctx ends it fails as soon as r's present Read returns: r should know ctx,
// too. What was written to o.Decoded when it fails is worth nothing.
func Build(ctx context.Context, r io.Reader, o Options) (*Built, error) {
	if o.MaxSize == 0 {
		o.MaxSize = DefaultMaxSize
	}
	if o.MaxRatio == 0 {
		o.MaxRatio = DefaultMaxRatio
	}
	first := make([]byte, 4)
	n, err := io.ReadFull(r, first)
	if err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	first = first[:n]
	p := newPipeline(ctx, kindOf(first), o)
	return p.run(io.MultiReader(bytes.NewReader(first), r))
}

// storedSide hashes the stored bytes.
type storedSide struct {
	whole  hash.Hash
	size   int64
	leaves []blob.Hash // of the present subtree
	roots  []blob.Hash // of its predecessors
}

// subtree is how many blocks are folded at once: those of the smallest canonical piece (blob.PieceLengthFor).
const subtree = 16

func newStoredSide() storedSide { return storedSide{whole: sha256.New()} }

// add takes the next bytes: a multiple of blob.BlockSize, except for the last time.
func (s *storedSide) add(p []byte) {
	s.whole.Write(p)
	s.size += int64(len(p))
	n := len(s.leaves)
	k := (len(p) + blob.BlockSize - 1) / blob.BlockSize
	s.leaves = append(s.leaves, make([]blob.Hash, k)...)
	blob.Leaves(s.leaves[n:], p)
	for len(s.leaves) > subtree { // the first ones are kept as leaves: they may be all there are
		s.fold(subtree)
	}
}

func (s *storedSide) fold(n int) {
	s.roots = append(s.roots, blob.Fold(s.leaves[:n], 0, subtree))
	s.leaves = append(s.leaves[:0], s.leaves[n:]...)
}

// facts are the digest, the root and the piece roots.
func (s *storedSide) facts(f *index.Facts) {
	f.Layer, f.Stored = blob.Hash(s.whole.Sum(nil)), s.size
	geo := blob.GeometryFor(s.size)
	if geo.Blocks() == 0 {
		return
	}
	if len(s.roots) == 0 {
		f.Root, f.Roots = geo.RootOfLeaves(s.leaves), []blob.Hash{geo.PieceRoot(s.leaves)}
		return
	}
	s.fold(len(s.leaves))
	each := int(geo.BlocksPerPiece() / subtree)
	for i := 0; i < len(s.roots); i += each {
		f.Roots = append(f.Roots, blob.Fold(s.roots[i:min(i+each, len(s.roots))], blob.Layer(subtree), uint32(each)))
	}
	f.Root = geo.Root(f.Roots)
}

// check compares what came with what was wanted.
func (w Want) check(f index.Facts) error {
	switch {
	case w.Size != 0 && f.Stored != w.Size:
		return fmt.Errorf("%w layer: it has %d bytes, not %d", blob.ErrCorrupt, f.Stored, w.Size)
	case !w.Digest.IsZero() && f.Layer != w.Digest:
		return fmt.Errorf("%w layer: its %d bytes have the digest sha256:%v, not sha256:%v", blob.ErrCorrupt, f.Stored, f.Layer, w.Digest)
	case !w.DiffID.IsZero() && f.DiffID != w.DiffID:
		return fmt.Errorf("%w layer: its %d decoded bytes have the digest sha256:%v, but the image's configuration says sha256:%v (diff_ids)", blob.ErrCorrupt, f.Size, f.DiffID, w.DiffID)
	}
	return nil
}
