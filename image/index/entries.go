package index

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
)

const (
	// maxEntry bounds an encoded entry in bytes: a tar entry says at most 1 MiB about itself (tarscan.MaxMeta), which
	// as a map of a sparse file takes up to twice as much here.
	maxEntry = 4 << 20
	// frame is how many bytes of encoded entries are compressed together: what codec.Shrink takes at most.
	frame = codec.Max
)

// Entries is a list of entries in the form in which an index file has it: each told by how it differs from the one
// before it, and frames of them compressed, some 10 to 20 bytes each. The zero value is empty.
type Entries struct {
	n      int
	size   int64 // of all encoded entries
	packed []byte
	raw    []byte // encoded, not compressed yet
	enc    encoding
	done   bool  // nothing may be added any more: only the last frame is shorter than the others
	read   bool  // from a file
	space  int64 // of the layer: extents must lie in it
}

// Add appends an entry. Its names, attributes and extents are copied. It must not be called once the list has been read
// or written.
func (l *Entries) Add(e Entry) error {
	if l.done {
		return fmt.Errorf("%w: BUG: an entry is added to a list that was closed", blob.ErrInvalid)
	}
	at := len(l.raw)
	l.raw = append(l.raw, 0, 0, 0, 0)
	l.raw = l.enc.append(l.raw, e)
	n := len(l.raw) - at - 4
	if n > maxEntry {
		l.raw = l.raw[:at]
		return fmt.Errorf("%w: an entry takes %d bytes in an index, more than %d", blob.ErrInvalid, n, maxEntry)
	}
	// The length stands before it as a varint, which the room for four bytes is closed up to.
	k := binary.PutUvarint(l.raw[at:at+4], uint64(n))
	l.raw = append(l.raw[:at+k], l.raw[at+4:]...)
	l.n++
	l.size += int64(k + n)
	for len(l.raw) >= frame {
		l.pack(frame)
	}
	return nil
}

// pack compresses the first n bytes.
func (l *Entries) pack(n int) {
	at := len(l.packed)
	l.packed = append(l.packed, 0, 0, 0, 0)
	l.packed = codec.Shrink(l.packed, l.raw[:n])
	binary.LittleEndian.PutUint32(l.packed[at:], uint32(len(l.packed)-at-4))
	l.raw = append(l.raw[:0], l.raw[n:]...)
}

// Len is the number of entries.
func (l *Entries) Len() int { return l.n }

// section is the packed form of all entries. It closes the list.
func (l *Entries) section() []byte {
	if !l.done {
		if l.done = true; len(l.raw) > 0 {
			l.pack(len(l.raw))
		}
	}
	return l.packed
}

// All yields the entries. Each is the caller's to keep. An error, of class blob.ErrCorrupt, is the last that is
// yielded.
func (l *Entries) All() iter.Seq2[Entry, error] {
	l.section()
	return func(yield func(Entry, error) bool) {
		r := entryReader{packed: l.packed, left: l.size}
		for range l.n {
			e, err := r.next()
			if err == nil && l.read && !e.within(l.space) {
				e, err = Entry{}, errEntries
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
		if r.left != 0 || len(r.raw) != 0 || len(r.packed) != 0 {
			yield(Entry{}, fmt.Errorf("%w index: more than %d entries", blob.ErrCorrupt, l.n))
		}
	}
}

// within reports whether the extents of e lie in an address space, and in its file, in order.
func (e *Entry) within(space int64) bool {
	at := int64(0)
	for _, x := range e.Extents {
		if x.File < at || x.Length <= 0 || x.File > e.Size-x.Length || x.Device < 0 || x.Device > space-x.Length {
			return false
		}
		at = x.File + x.Length
	}
	return true
}

// entryReader goes through packed entries.
type entryReader struct {
	packed []byte
	left   int64  // encoded bytes in packed
	raw    []byte // expanded and not read yet
	buf    []byte // that raw is a part of
	enc    encoding
}

var errEntries = fmt.Errorf("%w index: its entries", blob.ErrCorrupt)

func (r *entryReader) next() (Entry, error) {
	// A length is at most four bytes long; at the end there may be fewer.
	if err := r.fill(4); err != nil {
		return Entry{}, err
	}
	n, k := binary.Uvarint(r.raw)
	if k <= 0 || n > maxEntry {
		return Entry{}, errEntries
	}
	r.raw = r.raw[k:]
	if err := r.fill(int(n)); err != nil {
		return Entry{}, err
	}
	if len(r.raw) < int(n) {
		return Entry{}, errEntries
	}
	e, ok := r.enc.read(r.raw[:n])
	r.raw = r.raw[n:]
	if !ok {
		return Entry{}, errEntries
	}
	return e, nil
}

// fill expands frames until n bytes are there, or no more.
func (r *entryReader) fill(n int) error {
	for len(r.raw) < n && r.left > 0 {
		if len(r.packed) < 4 {
			return errEntries
		}
		size := binary.LittleEndian.Uint32(r.packed)
		if uint64(size) > uint64(len(r.packed)-4) {
			return errEntries
		}
		src := r.packed[4 : 4+size]
		r.packed = r.packed[4+size:]
		k := int(min(frame, r.left))
		r.left -= int64(k)
		had := copy(r.buf, r.raw)
		if cap(r.buf) < had+k {
			buf := make([]byte, had+k)
			copy(buf, r.buf[:had])
			r.buf = buf
		}
		r.buf = r.buf[:had+k]
		if err := codec.Expand(r.buf[had:], src); err != nil {
			return fmt.Errorf("%w: %v", errEntries, err)
		}
		r.raw = r.buf
	}
	return nil
}

// What follows the type of an entry: a set bit says that it is there, or that it differs from the last entry's.
const (
	hasOwner = 1 << iota
	hasMode
	hasNsec
	hasLink
	hasDevice
	hasXattrs
	hasExtent // one that is the whole file, at a multiple of 512
	hasExtents
)

// encoding is what entries are told in terms of: the last one.
type encoding struct {
	name     []byte
	uid, gid uint32
	mode     uint32
	sec      int64
	end      int64 // of the last extent
}

// expected is where the content of the next file lies when nothing but its header is before it.
func (c *encoding) expected() int64 { return (c.end+511)&^511 + 512 }

func (c *encoding) append(b []byte, e Entry) []byte {
	same := 0
	for same < len(c.name) && same < len(e.Name) && c.name[same] == e.Name[same] {
		same++
	}
	b = binary.AppendUvarint(b, uint64(same))
	b = appendText(b, e.Name[same:])
	c.name = append(c.name[:same], e.Name[same:]...)

	has := byte(0)
	set := func(bit byte, when bool) {
		if when {
			has |= bit
		}
	}
	whole := len(e.Extents) == 1 && e.Extents[0].File == 0 && e.Extents[0].Length == e.Size && e.Extents[0].Device%512 == 0
	set(hasOwner, e.UID != c.uid || e.GID != c.gid)
	set(hasMode, e.Mode != c.mode)
	set(hasNsec, e.Nsec != 0)
	set(hasLink, e.Link != "")
	set(hasDevice, e.Major != 0 || e.Minor != 0)
	set(hasXattrs, len(e.Xattrs) > 0)
	set(hasExtent, whole)
	set(hasExtents, len(e.Extents) > 0 && !whole)
	b = append(b, e.Type, has)
	b = binary.AppendVarint(b, e.Sec-c.sec)
	b = binary.AppendUvarint(b, uint64(e.Size))
	c.sec = e.Sec
	if has&hasOwner != 0 {
		b = binary.AppendUvarint(b, uint64(e.UID))
		b = binary.AppendUvarint(b, uint64(e.GID))
		c.uid, c.gid = e.UID, e.GID
	}
	if has&hasMode != 0 {
		b = binary.AppendUvarint(b, uint64(e.Mode))
		c.mode = e.Mode
	}
	if has&hasNsec != 0 {
		b = binary.AppendUvarint(b, uint64(e.Nsec))
	}
	if has&hasLink != 0 {
		b = appendText(b, e.Link)
	}
	if has&hasDevice != 0 {
		b = binary.AppendUvarint(b, uint64(e.Major))
		b = binary.AppendUvarint(b, uint64(e.Minor))
	}
	if has&hasXattrs != 0 {
		b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
		for _, x := range e.Xattrs {
			b = appendText(b, x.Name)
			b = appendText(b, x.Value)
		}
	}
	if has&hasExtent != 0 {
		b = binary.AppendVarint(b, (e.Extents[0].Device-c.expected())/512)
		c.end = e.Extents[0].Device + e.Size
	}
	if has&hasExtents != 0 {
		b = binary.AppendUvarint(b, uint64(len(e.Extents)))
		at, device := int64(0), c.end
		for _, x := range e.Extents {
			b = binary.AppendVarint(b, x.File-at)
			b = binary.AppendVarint(b, x.Device-device)
			b = binary.AppendUvarint(b, uint64(x.Length))
			at, device = x.File+x.Length, x.Device+x.Length
		}
		c.end = device
	}
	return b
}

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// cursor reads fields; once one is not there, ok stays false.
type cursor struct {
	b  []byte
	ok bool
}

func (r *cursor) uint(most uint64) uint64 {
	v, k := binary.Uvarint(r.b)
	if k <= 0 || v > most {
		r.b, r.ok = nil, false
		return 0
	}
	r.b = r.b[k:]
	return v
}

func (r *cursor) int() int64 {
	v, k := binary.Varint(r.b)
	if k <= 0 {
		r.b, r.ok = nil, false
		return 0
	}
	r.b = r.b[k:]
	return v
}

func (r *cursor) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.b, r.ok = nil, false
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *cursor) text() string { return string(r.bytes(r.uint(maxEntry))) }

// count reads how many things follow, one at least, that take size bytes each at least.
func (r *cursor) count(size int) int {
	n := r.uint(maxEntry)
	if n == 0 || n > uint64(len(r.b)/size) {
		r.b, r.ok = nil, false
		return 0
	}
	return int(n)
}

func (c *encoding) read(b []byte) (e Entry, ok bool) {
	r := cursor{b, true}
	same := r.uint(uint64(len(c.name)))
	c.name = append(c.name[:same], r.bytes(r.uint(maxEntry))...)
	if len(c.name) > maxEntry {
		return e, false
	}
	e.Name = string(c.name)
	head := r.bytes(2)
	if !r.ok {
		return e, false
	}
	e.Type = head[0]
	has := head[1]
	c.sec += r.int()
	e.Sec = c.sec
	e.Size = int64(r.uint(math.MaxInt64))
	if has&hasOwner != 0 {
		c.uid, c.gid = uint32(r.uint(math.MaxUint32)), uint32(r.uint(math.MaxUint32))
	}
	e.UID, e.GID = c.uid, c.gid
	if has&hasMode != 0 {
		c.mode = uint32(r.uint(07777))
	}
	e.Mode = c.mode
	if has&hasNsec != 0 {
		e.Nsec = uint32(r.uint(999_999_999))
	}
	if has&hasLink != 0 {
		e.Link = r.text()
	}
	if has&hasDevice != 0 {
		e.Major, e.Minor = uint32(r.uint(math.MaxUint32)), uint32(r.uint(math.MaxUint32))
	}
	if has&hasXattrs != 0 {
		e.Xattrs = make([]Xattr, r.count(2))
		for i := range e.Xattrs {
			e.Xattrs[i] = Xattr{r.text(), r.text()}
		}
	}
	if has&hasExtent != 0 {
		device := c.expected() + 512*r.int()
		e.Extents = []Extent{{0, device, e.Size}}
		c.end = device + e.Size
	}
	if has&hasExtents != 0 {
		e.Extents = make([]Extent, r.count(3))
		at, device := int64(0), c.end
		for i := range e.Extents {
			x := Extent{at + r.int(), device + r.int(), int64(r.uint(math.MaxInt64))}
			e.Extents[i] = x
			at, device = x.File+x.Length, x.Device+x.Length
		}
		c.end = device
	}
	return e, r.ok && len(r.b) == 0
}
