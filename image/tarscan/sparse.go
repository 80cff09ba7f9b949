package tarscan

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
)

// sparseMap says which stretches of a file the archive has, one after the other; the rest of the file is holes. GNU
// tar, "Storing Sparse Files", has the four forms that a map comes in.
type sparseMap struct {
	stretches []stretch
	stored    int64  // bytes of the stretches in the archive, and of the map itself where that comes before them
	text      []byte // of format 1.0, as far as it was read
	lines     int    // in it
	wanted    int    // lines that the map has, once its first has been read
}

type stretch struct{ at, n int64 }

var errMap = errors.New("the map of a sparse file is malformed")

// isSparse reports whether PAX records describe a sparse file, in a version that is known: an unknown one is a file as
// any other.
func (x *extended) isSparse() bool {
	major, minor := x.records["GNU.sparse.major"], x.records["GNU.sparse.minor"]
	switch {
	case major == "0" && (minor == "0" || minor == "1"), major == "1" && minor == "0":
		return true
	case major != "" || minor != "":
		return false
	}
	return x.records["GNU.sparse.map"] != "" || len(x.sparse) > 0
}

// beginSparse takes what the PAX records say of a sparse file, of whose content stored bytes are in the archive.
func (s *Scanner) beginSparse(stored int64) error {
	x, e := &s.ext, &s.entry
	if name := x.records["GNU.sparse.name"]; name != "" {
		e.Name = name
	}
	size := x.records["GNU.sparse.size"]
	if size == "" {
		size = x.records["GNU.sparse.realsize"]
	}
	if size != "" {
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil || n < 0 {
			return s.corrupt("%v: %q is no size", errMap, size)
		}
		e.Size = n
	}
	s.sparse = sparseMap{stored: stored}
	if x.records["GNU.sparse.major"] == "1" {
		s.state = inMap
		return s.roomForMap()
	}
	n, err := strconv.Atoi(x.records["GNU.sparse.numblocks"])
	fields := x.sparse
	if len(fields) == 0 && x.records["GNU.sparse.map"] != "" {
		fields = strings.Split(x.records["GNU.sparse.map"], ",")
	}
	if err != nil || n < 0 || len(fields)%2 != 0 || n != len(fields)/2 {
		return s.corrupt("%v: it does not have as many stretches as it says", errMap)
	}
	if err := s.sparse.add(fields); err != nil {
		return s.corrupt("%v", err)
	}
	return s.endSparse()
}

// add appends pairs of decimal numbers.
func (m *sparseMap) add(fields []string) error {
	for i := 0; i+1 < len(fields); i += 2 {
		at, err := strconv.ParseInt(fields[i], 10, 64)
		n, err2 := strconv.ParseInt(fields[i+1], 10, 64)
		if err != nil || err2 != nil {
			return errMap
		}
		m.stretches = append(m.stretches, stretch{at, n})
	}
	return nil
}

// The map of the old GNU format: four stretches in the header itself, 21 in each block that continues it.
var (
	fOldMap   = field{386, 4*24 + 1}
	fMoreMap  = field{0, 21*24 + 1}
	fRealSize = field{483, 12}
)

func (s *Scanner) beginOldMap(b *[BlockSize]byte, d dialect, stored int64) error {
	if d != gnu {
		return s.corrupt("a sparse file of a dialect that is not GNU's")
	}
	size, ok := number(fRealSize.of(b))
	if !ok || size < 0 {
		return s.corrupt("%v: its size", errMap)
	}
	s.entry.Size = size
	s.sparse = sparseMap{stored: stored}
	return s.moreOldMap(fOldMap.of(b))
}

func (s *Scanner) oldMap(b *[BlockSize]byte) error { return s.moreOldMap(fMoreMap.of(b)) }

// moreOldMap takes stretches of 24 bytes, the first that is empty or the last of which is followed by a byte that is
// set when another block continues the map.
func (s *Scanner) moreOldMap(b []byte) error {
	if s.spent += len(b); s.spent > MaxMeta {
		return s.fail(blob.ErrInvalid, "the map of a sparse file is longer than %d bytes", MaxMeta)
	}
	more := b[len(b)-1] != 0
	for b = b[:len(b)-1]; len(b) > 0 && b[0] != 0; b = b[24:] {
		at, ok := number(b[:12])
		n, ok2 := number(b[12:24])
		if !ok || !ok2 {
			return s.corrupt("%v", errMap)
		}
		s.sparse.stretches = append(s.sparse.stretches, stretch{at, n})
	}
	if more {
		s.state = inOldMap
		return nil
	}
	return s.endSparse()
}

// roomForMap checks that another block of the map can come.
func (s *Scanner) roomForMap() error {
	if s.sparse.stored < BlockSize {
		return s.corrupt("%v: it is longer than the content", errMap)
	}
	if s.spent += BlockSize; s.spent > MaxMeta {
		return s.fail(blob.ErrInvalid, "the map of a sparse file is longer than %d bytes", MaxMeta)
	}
	return nil
}

// textMap takes a block of a map of format 1.0: lines of one decimal number each, first how many stretches there are,
// padded to a whole block.
func (s *Scanner) textMap(b *[BlockSize]byte) error {
	m := &s.sparse
	m.stored -= BlockSize
	m.text = append(m.text, b[:]...)
	m.lines += bytes.Count(b[:], []byte{'\n'})
	if m.wanted == 0 && m.lines > 0 {
		first, _, _ := bytes.Cut(m.text, []byte{'\n'})
		n, err := strconv.Atoi(string(first))
		if err != nil || n < 0 {
			return s.corrupt("%v", errMap)
		}
		m.wanted = 1 + 2*min(n, MaxMeta) // more lines than bytes that it may have
	}
	if m.wanted == 0 || m.lines < m.wanted {
		return s.roomForMap()
	}
	if err := m.add(strings.SplitN(string(m.text), "\n", m.wanted+1)[1:m.wanted]); err != nil {
		return s.corrupt("%v", err)
	}
	return s.endSparse()
}

// endSparse checks a map and lays the extents, as the stretches lie one after the other behind the map.
func (s *Scanner) endSparse() error {
	e, m := &s.entry, &s.sparse
	device, end := s.off, int64(0)
	for _, t := range m.stretches {
		if t.at < end || t.n < 0 || t.at > e.Size || t.n > e.Size-t.at {
			return s.corrupt("%v: %d bytes at %d of a file of %d bytes", errMap, t.n, t.at, e.Size)
		}
		end = t.at + t.n
		last := len(e.Extents) - 1
		switch {
		case t.n == 0:
			continue
		case last >= 0 && e.Extents[last].File+e.Extents[last].Length == t.at:
			e.Extents[last].Length += t.n
		default:
			e.Extents = append(e.Extents, index.Extent{File: t.at, Device: device, Length: t.n})
		}
		device += t.n
	}
	if has := device - s.off; has != m.stored {
		return s.corrupt("%v: it has %d bytes, the archive %d", errMap, has, m.stored)
	}
	stored := m.stored
	s.sparse = sparseMap{}
	return s.done(stored)
}
