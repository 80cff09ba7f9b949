package index

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"slices"
	"sort"

	"github.com/pantala/pantala/blob"
)

// The layout of an index file: docs/formats.md.
const (
	magic      = "PANTALIX"
	version    = 1
	headerSize = 256
	spanSize   = 80
	formatSize = 16
	// maxPad is more than the zeros behind a span: up to the next block, and from the start of a block to a chunk behind
	// a hole.
	maxPad = 2048
	// firstRead is what Open reads before it knows how long a head is: the file may come from peers, where another read
	// is another round trip. Of layers of up to some 60 MB, or 6000 files, it is all of the head.
	firstRead = 128 << 10
	// maxHead bounds the memory that a head takes. One of 64 GiB of gzip and four million files has some 100 MB.
	maxHead = 1 << 30
	// MaxSpan is the longest span, in decoded and in stored bytes: it is decoded as a whole, in memory.
	MaxSpan = 1 << 30
)

// Index is an index file whose head has been read and checked. It is safe for concurrent use.
type Index struct {
	Facts
	Spans   []Span
	entries Entries
	size    int64 // of the index file
}

// Encode writes an index file. windows[i] belongs to spans[i], whose Window is ignored; nil: it needs none. It returns
// the length of the file.
func Encode(w io.Writer, f Facts, entries *Entries, spans []Span, windows [][]byte) (int64, error) {
	spans = slices.Clone(spans)
	all := make([]io.Reader, len(windows))
	for i := range spans {
		spans[i].Window = Window{}
		if i < len(windows) {
			spans[i].Window.Length = int64(len(windows[i]))
			all[i] = bytes.NewReader(windows[i])
		}
	}
	return EncodeFrom(w, f, entries, spans, io.MultiReader(all...))
}

// EncodeFrom is Encode with the windows of all spans one after the other in a reader, each as long as its span's Window
// says.
func EncodeFrom(w io.Writer, f Facts, entries *Entries, spans []Span, windows io.Reader) (int64, error) {
	section := entries.section()
	le := binary.LittleEndian
	spansAt := int64(headerSize)
	rootsAt := spansAt + int64(len(spans))*spanSize
	entriesAt := rootsAt + int64(len(f.Roots))*int64(len(blob.Hash{}))
	headSize := entriesAt + int64(len(section))
	end := headSize
	head := make([]byte, headSize)

	for i, s := range spans {
		b := head[spansAt+int64(i)*spanSize:]
		if s.Window.Offset = 0; s.Window.Length > 0 {
			s.Window.Offset = end
			end += s.Window.Length
		}
		if s.Length > MaxSpan || s.StoredLength > MaxSpan || s.Window.Length > MaxSpan || s.Skip > MaxSpan {
			return 0, fmt.Errorf("%w: a span of %d bytes, stored as %d, is longer than %d", blob.ErrInvalid, s.Length, s.StoredLength, MaxSpan)
		}
		le.PutUint64(b[0:], uint64(s.Device))
		le.PutUint64(b[8:], uint64(s.Stored))
		le.PutUint64(b[16:], uint64(s.Window.Offset))
		le.PutUint32(b[24:], uint32(s.Length))
		le.PutUint32(b[28:], uint32(s.StoredLength))
		le.PutUint32(b[32:], uint32(s.Window.Length))
		b[36], b[37], b[38] = byte(s.Codec), s.Bit, byte(s.Kind)
		copy(b[40:], s.Digest[:])
		le.PutUint32(b[72:], uint32(s.Skip))
		le.PutUint32(b[76:], uint32(s.Pad))
	}
	for i := range f.Roots {
		copy(head[rootsAt+int64(i)*int64(len(f.Roots[i])):], f.Roots[i][:])
	}
	copy(head[entriesAt:], section)

	if len(f.Format) > formatSize {
		return 0, fmt.Errorf("%w: %q is too long for the name of a format", blob.ErrInvalid, f.Format)
	}
	copy(head, magic)
	le.PutUint32(head[8:], version)
	le.PutUint64(head[16:], uint64(headSize))
	le.PutUint64(head[24:], uint64(end))
	copy(head[64:], f.Layer[:])
	copy(head[96:], f.DiffID[:])
	copy(head[128:], f.Root[:])
	le.PutUint64(head[160:], uint64(f.Stored))
	le.PutUint64(head[168:], uint64(f.Size))
	le.PutUint64(head[176:], uint64(len(spans)))
	le.PutUint64(head[184:], uint64(len(f.Roots)))
	le.PutUint64(head[192:], uint64(entries.n))
	le.PutUint64(head[200:], uint64(entries.size))
	copy(head[208:], f.Format)
	sign(head)

	// What is written can be read: a mistake of whoever made the spans shows here, not on another machine.
	if _, err := parse(bytes.Clone(head), end); err != nil {
		return 0, fmt.Errorf("BUG: an index that cannot be read: %w", err)
	}
	if _, err := w.Write(head); err != nil {
		return 0, err
	}
	if _, err := io.CopyN(w, windows, end-headSize); err != nil {
		return 0, err
	}
	return end, nil
}

// Open reads the head of an index file: everything but the windows. blob.ErrInvalid: it is none, or of another version;
// blob.ErrCorrupt: it is damaged. What the file says of itself is believed only as far as r is long.
func Open(ctx context.Context, r blob.ReaderAt) (*Index, error) {
	if r.Size() < headerSize {
		return nil, fmt.Errorf("%w index: a file of %d bytes has no header", blob.ErrInvalid, r.Size())
	}
	head := make([]byte, min(r.Size(), firstRead))
	if err := r.ReadAt(ctx, head, 0); err != nil {
		return nil, err
	}
	n, err := headLength(head, r.Size())
	if err != nil {
		return nil, err
	}
	if rest := n - int64(len(head)); rest > 0 {
		head = append(head, make([]byte, rest)...)
		if err := r.ReadAt(ctx, head[n-rest:], n-rest); err != nil {
			return nil, err
		}
	}
	return parse(head[:n], r.Size())
}

// headLength reads from the first bytes of an index file, 256 at least, how many bytes its head has: what [Open] reads.
// size is that of the file.
func headLength(header []byte, size int64) (int64, error) {
	le := binary.LittleEndian
	if string(header[:8]) != magic {
		return 0, fmt.Errorf("%w index: it does not begin with %q", blob.ErrInvalid, magic)
	}
	if v := le.Uint32(header[8:]); v != version {
		return 0, fmt.Errorf("%w index: version %d; this program reads version %d: build the index anew, or use the program that made it", blob.ErrInvalid, v, version)
	}
	if end := le.Uint64(header[24:]); end != uint64(size) {
		return 0, fmt.Errorf("%w index: the file has %d bytes, not %d", blob.ErrCorrupt, size, end)
	}
	n := le.Uint64(header[16:])
	if n > maxHead {
		return 0, fmt.Errorf("%w index: a head of %d bytes, more than %d", blob.ErrInvalid, n, maxHead)
	}
	if n < headerSize || n > uint64(size) {
		return 0, fmt.Errorf("%w index: a head of %d bytes in a file of %d", blob.ErrCorrupt, n, size)
	}
	return int64(n), nil
}

// sign puts the hash of a head into its place, which counts as zeros, and returns it.
func sign(head []byte) blob.Hash {
	clear(head[32:64])
	sum := blob.Hash(sha256.Sum256(head))
	copy(head[32:], sum[:])
	return sum
}

// parse checks a head, which it keeps and changes, of a file of size bytes.
func parse(head []byte, size int64) (*Index, error) {
	bad := func(format string, a ...any) (*Index, error) {
		return nil, fmt.Errorf("%w index: %s", blob.ErrCorrupt, fmt.Sprintf(format, a...))
	}
	le := binary.LittleEndian
	if sum := blob.Hash(head[32:]); sign(head) != sum {
		return bad("its head does not match its hash")
	}
	x := &Index{size: size}
	x.Layer, x.DiffID, x.Root = blob.Hash(head[64:]), blob.Hash(head[96:]), blob.Hash(head[128:])
	x.Stored, x.Size = int64(le.Uint64(head[160:])), int64(le.Uint64(head[168:]))
	format, _, _ := bytes.Cut(head[208:208+formatSize], []byte{0})
	x.Format = string(format)
	spans, roots := le.Uint64(head[176:]), le.Uint64(head[184:])
	entries, raw := le.Uint64(head[192:]), le.Uint64(head[200:])

	geo := blob.GeometryFor(x.Stored)
	if err := geo.Check(); err != nil || x.Size < 0 || x.Size > blob.MaxSize {
		return bad("a layer of %d bytes, %d decoded", x.Stored, x.Size)
	}
	rest := head[headerSize:]
	if spans > uint64(len(rest)/spanSize) {
		return bad("%d spans in a head of %d bytes", spans, len(head))
	}
	if roots != 0 && roots != uint64(geo.Pieces()) || roots > uint64((len(rest)-int(spans)*spanSize)/len(blob.Hash{})) {
		return bad("%d piece roots of %d pieces, in a head of %d bytes", roots, geo.Pieces(), len(head))
	}
	table, rest := rest[:spans*spanSize], rest[spans*spanSize:]
	if roots > 0 {
		x.Roots = make([]blob.Hash, roots)
		for i := range x.Roots {
			x.Roots[i], rest = blob.Hash(rest), rest[len(blob.Hash{}):]
		}
		if roots > 1 && geo.Root(x.Roots) != x.Root {
			return bad("its piece roots do not lead to its root")
		}
	}
	// An entry takes seven bytes at least before compression, a length among them.
	if entries > raw/7 || raw > uint64(len(rest))<<16 {
		return bad("%d entries of %d bytes in %d", entries, raw, len(rest))
	}
	x.entries = Entries{n: int(entries), size: int64(raw), packed: rest, done: true, read: true, space: x.Size}

	x.Spans = make([]Span, spans)
	at := int64(0)
	for i := range x.Spans {
		b := table[i*spanSize:]
		s := Span{
			Device: int64(le.Uint64(b[0:])), Length: int64(le.Uint32(b[24:])),
			Stored: int64(le.Uint64(b[8:])), StoredLength: int64(le.Uint32(b[28:])),
			Codec: Codec(b[36]), Bit: b[37], Digest: blob.Hash(b[40:]),
			Window: Window{int64(le.Uint64(b[16:])), int64(le.Uint32(b[32:]))},
			Kind:   DigestKind(b[38]), Skip: int64(le.Uint32(b[72:])), Pad: int64(le.Uint32(b[76:])),
		}
		switch w := s.Window; {
		case s.Device != at || s.Length == 0 || s.Length > MaxSpan || s.Length > x.Size-at:
			return bad("span %d has %d bytes at %d, not at %d", i, s.Length, s.Device, at)
		case s.Stored < 0 || s.Stored > x.Stored || s.StoredLength > min(MaxSpan, x.Stored-s.Stored):
			return bad("span %d is stored at %d, %d bytes, of a blob of %d", i, s.Stored, s.StoredLength, x.Stored)
		case s.Codec > LZ4 || s.Bit > 7 || s.Codec == Stored && (s.StoredLength != s.Decoded() || s.Skip > 0):
			return bad("span %d has codec %d, bit %d", i, s.Codec, s.Bit)
		case s.Kind > Blake3 || s.Pad >= maxPad || s.Pad > s.Length || s.Skip > MaxSpan-s.Length:
			return bad("span %d has a digest of kind %d, %d bytes before and %d behind it", i, s.Kind, s.Skip, s.Pad)
		case w.Length == 0 && w.Offset != 0, w.Length > 0 && (w.Offset < int64(len(head)) || w.Offset > size || w.Length > min(MaxSpan, size-w.Offset)):
			return bad("span %d has its window at %d, %d bytes, in a file of %d", i, w.Offset, w.Length, size)
		}
		at += s.Length
		x.Spans[i] = s
	}
	if at != x.Size {
		return bad("its spans have %d bytes, not %d", at, x.Size)
	}
	return x, nil
}

// Entries yields the members of the layer's archive in its order; see [Entries.All].
func (x *Index) Entries() iter.Seq2[Entry, error] { return x.entries.All() }

// Count is the number of entries.
func (x *Index) Count() int { return x.entries.n }

// FileSize is the length of the index file in bytes.
func (x *Index) FileSize() int64 { return x.size }

// Find is the number of the span that holds the byte at an offset of the address space, which must be below Size.
func (x *Index) Find(at int64) int {
	return sort.Search(len(x.Spans), func(i int) bool { return x.Spans[i].Device > at }) - 1
}

// Window reads the window of span i from r, the index file that x was opened from; nil: it needs none.
func (x *Index) Window(ctx context.Context, r blob.ReaderAt, i int) ([]byte, error) {
	w := x.Spans[i].Window
	if w.Length == 0 {
		return nil, nil
	}
	if r.Size() != x.size {
		return nil, fmt.Errorf("%w index: the file has %d bytes, not %d", blob.ErrCorrupt, r.Size(), x.size)
	}
	p := make([]byte, w.Length)
	return p, r.ReadAt(ctx, p, w.Offset)
}
