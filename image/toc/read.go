package toc

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
)

const (
	// MaxTable is the longest table that is read, in bytes: some 300 of them are written for each chunk and each file,
	// so this is enough for half a million.
	MaxTable = 128 << 20
	// MaxStored is the longest table as it is stored.
	MaxStored = 32 << 20
	// maxSpan bounds chunks, decoded and stored: a chunk is decoded as a whole in memory. eStargz writes 4 MiB at most
	// unless it is told otherwise, zstd:chunked 64 KiB in the mean.
	maxSpan = 256 << 20
	// maxRecords bounds memory: 200 bytes are kept for each.
	maxRecords = 1 << 20
	// block is what files are aligned to: the block size of the file system that is laid over them, in bytes.
	block = 512
)

// Options say what a table does not.
type Options struct {
	Codec index.Codec // of its chunks
	End   int64       // offset in the layer where the chunks end
	// Drop are names of members that are left out: marks that are of no use to the image.
	Drop []string
}

// Read reads a table. It reads r to its end, so that whoever hands it in can check its digest; until that is done the
// result must not be used.
func Read(r io.Reader, o Options) (size int64, entries []index.Entry, spans []index.Span, err error) {
	n := &counter{r: io.LimitReader(r, MaxTable+1)}
	l := layout{o: o, bounds: []int64{o.End}}
	if err := decode(n, &l); err != nil {
		return 0, nil, nil, n.wrong(err)
	}
	if _, err := io.Copy(io.Discard, n); err != nil || n.n > MaxTable {
		return 0, nil, nil, n.wrong(err)
	}
	l.measure()
	return l.size, l.entries, l.spans, nil
}

// decode hands the records of a table to l, one by one.
func decode(r io.Reader, l *layout) error {
	d := json.NewDecoder(r)
	if err := delim(d, '{'); err != nil {
		return err
	}
	version := 0
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		switch key {
		case "version":
			err = d.Decode(&version)
		case "entries":
			err = l.all(d)
		default:
			err = d.Decode(new(json.RawMessage))
		}
		if err != nil {
			return err
		}
	}
	if err := delim(d, '}'); err != nil {
		return err
	}
	if version != 1 {
		return fmt.Errorf("%w: table of contents of version %d; this program reads version 1", blob.ErrInvalid, version)
	}
	return nil
}

// delim reads a bracket.
func delim(d *json.Decoder, want json.Delim) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("%v where %v should be", t, want)
	}
	return nil
}

// counter counts what is read, and remembers why it could not be.
type counter struct {
	r   io.Reader
	n   int64
	err error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// wrong is why a table could not be decoded: r failed, or what it says is no table, or it is too long.
func (c *counter) wrong(err error) error {
	switch {
	case c.err != nil:
		return c.err
	case c.n > MaxTable:
		return fmt.Errorf("%w: table of contents of more than %d bytes", blob.ErrInvalid, MaxTable)
	}
	if errors.Is(err, blob.ErrCorrupt) || errors.Is(err, blob.ErrInvalid) {
		return err
	}
	return fmt.Errorf("%w: table of contents: %v", blob.ErrCorrupt, err)
}

// layout makes entries and spans of records.
type layout struct {
	o       Options
	size    int64
	entries []index.Entry
	spans   []index.Span
	bounds  []int64 // where chunks begin in the layer, and where the last one ends
	records int

	file    record // whose chunks come; its Type is empty when none may
	at      int64  // how much of it is laid out
	hole    bool   // zeros come before that
	dropped bool
}

// all reads the array of records.
func (l *layout) all(d *json.Decoder) error {
	if err := delim(d, '['); err != nil {
		return err
	}
	for d.More() {
		if l.records++; l.records > maxRecords {
			return fmt.Errorf("%w: table of contents with more than %d members and chunks", blob.ErrInvalid, maxRecords)
		}
		var r record
		if err := d.Decode(&r); err != nil {
			return err
		}
		if r.Offset > 0 && r.Offset < l.o.End {
			l.bounds = append(l.bounds, r.Offset)
		}
		if err := l.add(&r); err != nil {
			return err
		}
	}
	if err := l.finish(); err != nil {
		return err
	}
	return delim(d, ']')
}

// add lays out what a record says.
func (l *layout) add(r *record) error {
	if r.Type == "chunk" {
		switch {
		case l.dropped:
			return nil
		case l.file.Type == "":
			return r.wrong(blob.ErrCorrupt, "a chunk of what has no content")
		}
		return l.chunk(r)
	}
	if err := l.finish(); err != nil {
		return err
	}
	if l.dropped = slices.Contains(l.o.Drop, r.Name); l.dropped {
		return nil
	}
	e, err := r.entry()
	if err != nil {
		return err
	}
	l.entries = append(l.entries, e)
	if e.Type != '0' || e.Size == 0 {
		return nil
	}
	l.file, l.at, l.hole = *r, 0, false
	return l.chunk(r)
}

// finish ends a file.
func (l *layout) finish() error {
	if l.file.Type == "" {
		return nil
	}
	e := &l.entries[len(l.entries)-1]
	if l.at != e.Size {
		return l.file.wrong(blob.ErrCorrupt, "chunks of %d bytes in a file of %d", l.at, e.Size)
	}
	if l.hole && len(e.Extents) > 0 { // the block at whose end the hole begins belongs to the extent
		l.fill(e, e.Size)
	}
	l.align()
	l.file = record{}
	return nil
}

// chunk lays out a chunk of the file.
func (l *layout) chunk(c *record) error {
	e := &l.entries[len(l.entries)-1]
	n := c.ChunkSize
	if n == 0 {
		n = e.Size - l.at
	}
	if c.ChunkOffset != l.at || n <= 0 || n > e.Size-l.at {
		return l.file.wrong(blob.ErrCorrupt, "a chunk at %d, %d bytes, in a file of %d", c.ChunkOffset, n, e.Size)
	}
	switch c.ChunkType {
	case "":
	case "zeros":
		l.hole = true
		l.at += n
		return nil
	default:
		return l.file.wrong(blob.ErrInvalid, "a chunk of type %q", c.ChunkType)
	}
	if l.hole || len(e.Extents) == 0 {
		l.extend(e, l.at)
		l.hole = false
	}
	if err := l.span(c, n, n == e.Size, l.at+n == e.Size); err != nil {
		return err
	}
	l.at += n
	last := &e.Extents[len(e.Extents)-1]
	last.Length = l.at - last.File
	return nil
}

// extend begins an extent for what is at that offset of the file, which is where a chunk begins, at its start or behind
// a hole.
func (l *layout) extend(e *index.Entry, at int64) {
	first := at &^ (block - 1)
	if n := len(e.Extents); n > 0 {
		l.fill(e, at)
		if last := &e.Extents[n-1]; last.File+last.Length >= first { // the hole is no longer than a block
			l.pad(at - last.File - last.Length)
			last.Length = at - last.File
			return
		}
	}
	e.Extents = append(e.Extents, index.Extent{File: first, Device: l.size, Length: at - first})
	l.pad(at - first)
}

// fill makes the last extent of a file end at a block, or at limit if that is before it.
func (l *layout) fill(e *index.Entry, limit int64) {
	last := &e.Extents[len(e.Extents)-1]
	end := last.File + last.Length
	n := min(limit, (end+block-1)&^(block-1)) - end
	l.pad(n)
	last.Length += n
}

// align pads to the start of a block.
func (l *layout) align() { l.pad(-l.size & (block - 1)) }

// nothing is the digest of a span that is all padding.
var nothing = blob.Hash(sha256.Sum256(nil))

// pad adds n zeros to the address space, less than two blocks.
func (l *layout) pad(n int64) {
	if n == 0 {
		return
	}
	if len(l.spans) == 0 {
		l.spans = append(l.spans, index.Span{Kind: index.Chunk, Digest: nothing})
	}
	s := &l.spans[len(l.spans)-1]
	s.Length += n
	s.Pad += n
	l.size += n
}

// span adds the span of a chunk of n bytes: the only one of its file, the last one.
func (l *layout) span(c *record, n int64, only, last bool) error {
	digest := c.ChunkDigest
	if digest == "" && only {
		digest = l.file.Digest
	}
	sum, ok := Digest(digest)
	if !ok {
		return l.file.wrong(blob.ErrInvalid, "digest %q of a chunk: without one it cannot be verified alone", digest)
	}
	if c.Offset <= 0 || c.Offset >= l.o.End {
		return l.file.wrong(blob.ErrCorrupt, "a chunk at %d of a layer whose chunks end at %d", c.Offset, l.o.End)
	}
	end := l.o.End
	if last && l.file.EndOffset > c.Offset {
		end = min(end, l.file.EndOffset)
	}
	if n > maxSpan || c.InnerOffset < 0 || c.InnerOffset > maxSpan {
		return l.file.wrong(blob.ErrInvalid, "a chunk of %d bytes, behind %d; more than %d are not decoded as a whole", n, c.InnerOffset, maxSpan)
	}
	if l.size > blob.MaxSize-n-4*block {
		return l.file.wrong(blob.ErrInvalid, "a layer of more than %d bytes", blob.MaxSize)
	}
	l.spans = append(l.spans, index.Span{
		Device: l.size, Length: n, Stored: c.Offset, StoredLength: end - c.Offset,
		Skip: c.InnerOffset, Codec: l.o.Codec, Kind: index.Chunk, Digest: sum,
	})
	l.size += n
	return nil
}

// measure ends each chunk, as it is stored, where the next one begins, unless it is known to end before that. What is
// longer than a chunk's frame can be is cut off: were it needed, decoding would say so.
func (l *layout) measure() {
	slices.Sort(l.bounds)
	for i := range l.spans {
		s := &l.spans[i]
		if s.StoredLength == 0 { // all padding
			continue
		}
		next, _ := slices.BinarySearch(l.bounds, s.Stored+1)
		s.StoredLength = min(s.StoredLength, l.bounds[next]-s.Stored, maxSpan)
	}
}
