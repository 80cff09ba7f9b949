package soci

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec/inflate"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/toc"
)

const (
	// MaxZtoc is the longest ztoc that is read, in bytes. With the spans of 4 MiB that its builder makes unless told
	// otherwise this is enough for a layer of 16 GiB, decoded, and a million members.
	MaxZtoc = 256 << 20
	// maxMembers bounds memory.
	maxMembers = 1 << 20

	algorithmGzip  = 1 // enum CompressionAlgorithm
	algorithmPlain = 2

	windowSize = 32 << 10
	checkpoint = 8 + 8 + 1 + windowSize // stored offset, decoded offset, bits, window
	zinfoHead  = 4 + 8                  // number of checkpoints, span size
	// gzipHeader is where the first span begins in tables of the first version, which leave its checkpoint out.
	gzipHeader = 10
)

// Parse reads a ztoc of a layer of that many stored bytes. pin is the digest of the ztoc, as an index manifest has it.
// Facts have Format, Stored and Size; what they lack is for the caller to know. windows[i] belongs to spans[i].
func Parse(ctx context.Context, ztoc blob.ReaderAt, pin blob.Hash, layer int64) (facts index.Facts, entries []index.Entry, spans []index.Span, windows [][]byte, err error) {
	none := func(err error) (index.Facts, []index.Entry, []index.Span, [][]byte, error) {
		return index.Facts{}, nil, nil, nil, err
	}
	if ztoc.Size() > MaxZtoc {
		return none(fmt.Errorf("%w: SOCI: a ztoc of %d bytes; no more than %d are read", blob.ErrInvalid, ztoc.Size(), MaxZtoc))
	}
	b := make([]byte, ztoc.Size())
	if err := ztoc.ReadAt(ctx, b, 0); err != nil {
		return none(err)
	}
	if sum := blob.Hash(sha256.Sum256(b)); sum != pin {
		return none(fmt.Errorf("%w: SOCI: the ztoc has the digest sha256:%x, not sha256:%x as its index says", blob.ErrCorrupt, sum, pin))
	}
	f := &flat{b: b}
	root := f.root()
	// Fields of Ztoc: version, tool, stored size, decoded size, table of contents, compression.
	version := string(root.bytes(0))
	if f.bad || !strings.HasPrefix(version, "0.9") && !strings.HasPrefix(version, "1.") {
		return none(index.ErrFormat)
	}
	facts = index.Facts{Format: "soci", Stored: layer, Size: root.long(3)}
	if stored := root.long(2); stored != layer {
		return none(fmt.Errorf("%w: SOCI: a ztoc of a layer of %d bytes, not %d", blob.ErrCorrupt, stored, layer))
	}
	if facts.Size < 0 || facts.Size > blob.MaxSize {
		return none(fmt.Errorf("%w: SOCI: a layer of %d bytes, decoded", blob.ErrInvalid, facts.Size))
	}
	c := root.table(5)
	// Fields of CompressionInfo: algorithm, last span, digests, checkpoints.
	digests, err := readDigests(c)
	if err != nil {
		return none(err)
	}
	switch algorithm := c.byte(0, algorithmGzip); algorithm {
	case algorithmGzip:
		spans, windows, err = gzipSpans(c.bytes(3), digests, facts)
	case algorithmPlain:
		facts.Size = layer // what follows the last member is in no span otherwise
		spans, err = plainSpans(c.bytes(3), digests, layer)
		windows = make([][]byte, len(spans))
	default:
		return none(fmt.Errorf("%w: SOCI: compression %d", blob.ErrInvalid, algorithm))
	}
	if err != nil {
		return none(err)
	}
	if entries, err = members(root.table(4), facts.Size); err != nil {
		return none(err)
	}
	if f.bad {
		return none(fmt.Errorf("%w: SOCI: references of a ztoc that lead nowhere", blob.ErrCorrupt))
	}
	return facts, entries, spans, windows, nil
}

func readDigests(c table) ([]blob.Hash, error) {
	at, n := c.vector(2)
	digests := make([]blob.Hash, n)
	for i := range digests {
		text := string(c.f.bytes(c.f.follow(at + 4*i)))
		var ok bool
		if digests[i], ok = toc.Digest(text); !ok {
			return nil, fmt.Errorf("%w: SOCI: digest %.80q of span %d", blob.ErrInvalid, text, i)
		}
	}
	if last := c.int(1); c.f.bad || int64(last)+1 != int64(n) {
		return nil, fmt.Errorf("%w: SOCI: %d digests, and the last span is number %d", blob.ErrCorrupt, n, last)
	}
	return digests, nil
}

// gzipSpans makes spans of checkpoints: at each one, a whole byte number and how many bits of the byte before it belong
// to what follows (zlib, examples/zran.c).
func gzipSpans(b []byte, digests []blob.Hash, facts index.Facts) ([]index.Span, [][]byte, error) {
	bad := func(format string, a ...any) ([]index.Span, [][]byte, error) {
		return nil, nil, fmt.Errorf("%w: SOCI: %s", blob.ErrCorrupt, fmt.Sprintf(format, a...))
	}
	if len(b) < zinfoHead {
		return bad("no checkpoints")
	}
	n := len(digests)
	if have := binary.LittleEndian.Uint32(b); int64(have) != int64(n) || n == 0 {
		return bad("%d checkpoints for %d spans", have, n)
	}
	b = b[zinfoHead:]
	spans, windows := make([]index.Span, n), make([][]byte, n)
	missing := 0 // the first version leaves the first out
	switch len(b) {
	case n * checkpoint:
	case (n - 1) * checkpoint:
		missing = 1
		spans[0] = index.Span{Stored: gzipHeader}
		windows[0] = inflate.Pack(nil)
	default:
		return bad("%d bytes of %d checkpoints", len(b), n)
	}
	ends := make([]int64, n) // of what is stored: a byte that two spans share belongs to both
	for i := missing; i < n; i++ {
		p := b[(i-missing)*checkpoint:]
		in, out, bits := int64(binary.LittleEndian.Uint64(p)), int64(binary.LittleEndian.Uint64(p[8:])), p[16]
		if bits > 7 || in <= 0 || in > facts.Stored || out < 0 {
			return bad("checkpoint %d at %d, %d", i, in, out)
		}
		s := &spans[i]
		s.Stored, s.Device = in, out
		if bits > 0 {
			s.Stored, s.Bit = in-1, 8-bits
		}
		windows[i] = inflate.Pack(p[checkpoint-min(out, windowSize) : checkpoint]) // it is filled from its end
		if i > 0 {
			ends[i-1] = in
		}
	}
	ends[n-1] = facts.Stored
	for n > 1 && spans[n-1].Device >= facts.Size { // behind the end of the archive there may be zeros
		n--
	}
	spans, windows = spans[:n], windows[:n]
	for i := range spans {
		s := &spans[i]
		next := facts.Size
		if i+1 < n {
			next = spans[i+1].Device
		}
		s.Length, s.StoredLength = next-s.Device, ends[i]-s.Stored
		s.Codec, s.Kind, s.Digest = index.Deflate, index.StoredChunk, digests[i]
		if i == 0 && s.Device != 0 || s.Length <= 0 || s.StoredLength <= 0 || s.Length > index.MaxSpan || s.StoredLength > index.MaxSpan {
			return bad("span %d has %d bytes at %d, stored as %d", i, s.Length, s.Device, s.StoredLength)
		}
	}
	return spans, windows, nil
}

// plainSpans are of a layer that is not compressed: all of one size, but for the last.
func plainSpans(b []byte, digests []blob.Hash, layer int64) ([]index.Span, error) {
	f := &flat{b: b}
	// Fields of TarZinfo: version, span size, size.
	size, total := f.root().long(1), f.root().long(2)
	if f.bad || size <= 0 || size > index.MaxSpan || total != layer || (layer+size-1)/size != int64(len(digests)) {
		return nil, fmt.Errorf("%w: SOCI: %d spans of %d bytes in an archive of %d", blob.ErrCorrupt, len(digests), size, layer)
	}
	spans := make([]index.Span, len(digests))
	for i := range spans {
		at := int64(i) * size
		n := min(size, layer-at)
		spans[i] = index.Span{Device: at, Length: n, Stored: at, StoredLength: n, Codec: index.Stored, Kind: index.StoredChunk, Digest: digests[i]}
	}
	return spans, nil
}

// types are those of ustar.
var types = map[string]byte{"reg": '0', "hardlink": '1', "symlink": '2', "char": '3', "block": '4', "dir": '5', "fifo": '6'}

// members reads the table of contents.
func members(t table, size int64) ([]index.Entry, error) {
	at, n := t.vector(0)
	if n > maxMembers {
		return nil, fmt.Errorf("%w: SOCI: %d members; no more than %d are read", blob.ErrInvalid, n, maxMembers)
	}
	entries := make([]index.Entry, 0, n)
	for i := range n {
		e, err := member(table{t.f, t.f.follow(at + 4*i)}, size)
		if err != nil {
			return nil, err
		}
		if t.f.bad {
			break
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// member reads a FileMetadata: name, type, offset, size, link, mode, uid, gid, names of both, time, major, minor, PAX
// records.
func member(t table, size int64) (e index.Entry, err error) {
	e = index.Entry{Name: string(t.bytes(0)), Link: string(t.bytes(4)), Mode: uint32(t.long(5) & 0o7777), UID: uint32(t.int(6)), GID: uint32(t.int(7))}
	wrong := func(class error, what string) (index.Entry, error) {
		return index.Entry{}, fmt.Errorf("%w: SOCI: %.200q: %s", class, e.Name, what)
	}
	var ok bool
	if e.Type, ok = types[string(t.bytes(1))]; !ok {
		return wrong(blob.ErrInvalid, fmt.Sprintf("type %.80q", t.bytes(1)))
	}
	if e.Sec, e.Nsec, err = toc.Time(string(t.bytes(10))); err != nil {
		return wrong(blob.ErrCorrupt, "modification time")
	}
	if e.Type == '3' || e.Type == '4' {
		major, minor := t.long(11), t.long(12)
		if major < 0 || major > math.MaxUint32 || minor < 0 || minor > math.MaxUint32 {
			return wrong(blob.ErrInvalid, "device number")
		}
		e.Major, e.Minor = uint32(major), uint32(minor)
	}
	at, n := t.vector(13)
	for i := range n {
		pair := table{t.f, t.f.follow(at + 4*i)}
		key := string(pair.bytes(0))
		if strings.HasPrefix(key, "GNU.sparse.") {
			return wrong(blob.ErrInvalid, "a sparse file: where its parts lie is not told by this format")
		}
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			e.Xattrs = append(e.Xattrs, index.Xattr{Name: name, Value: string(pair.bytes(1))})
		}
	}
	slices.SortFunc(e.Xattrs, func(a, b index.Xattr) int { return strings.Compare(a.Name, b.Name) })
	if offset, length := t.long(2), t.long(3); e.Type == '0' {
		if offset < 0 || length < 0 || length > size || offset > size-length || offset%512 != 0 {
			return wrong(blob.ErrCorrupt, fmt.Sprintf("%d bytes at %d of %d", length, offset, size))
		}
		if e.Size = length; length > 0 {
			e.Extents = []index.Extent{{Device: offset, Length: length}}
		}
	}
	return e, nil
}
