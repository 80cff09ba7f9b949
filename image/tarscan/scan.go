package tarscan

import (
	"fmt"
	"io"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
)

const (
	// BlockSize is the unit of a tar archive in bytes: headers and contents begin at multiples of it.
	BlockSize = 512
	// MaxMeta bounds, in bytes, what one entry may say about itself outside of its header: PAX records, long names
	// and the map of a sparse file together. PATH_MAX is 4 KiB, and all extended attributes of an inode 64 KiB.
	MaxMeta = 1 << 20
)

// state is what the next byte belongs to.
type state uint8

const (
	inHeader  state = iota
	inMeta          // the contents of a PAX or GNU extension header
	inOldMap        // a block that continues the map of an old GNU sparse file
	inMap           // a block of the map that GNU sparse format 1.0 puts before the data
	inContent       // of a file
	inPadding       // to the next block
	atEnd           // behind the end of the archive
)

// Scanner is fed an archive bit by bit. Make one with [New].
type Scanner struct {
	emit func(index.Entry) error
	err  error

	state state
	off   int64 // of the next byte in the archive
	left  int64 // bytes of the present content, meta data or padding that are still to come
	pad   int64 // bytes of padding behind them
	zero  bool  // one block of zeros was read: another one ends the archive

	block [BlockSize]byte // gathers a block that comes in pieces
	have  int

	start int64 // offset of the first header of the present entry
	kind  byte  // typeflag of the extension header whose contents are being read
	meta  []byte
	spent int // bytes of meta data of the present entry so far
	ext   extended

	entry  index.Entry // being completed while its sparse map is read
	sparse sparseMap
}

// New returns a scanner that hands each entry to emit as soon as it is known where its content lies, in the order of
// the archive. An error of emit ends the scan.
func New(emit func(index.Entry) error) *Scanner { return &Scanner{emit: emit} }

// Scan reads an archive to the end of r, in chunks of 256 KiB.
func Scan(r io.Reader, emit func(index.Entry) error) error {
	s := New(emit)
	if _, err := io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{r}, make([]byte, 256<<10)); err != nil {
		return err
	}
	return s.End()
}

// Write takes the next bytes of the archive; p is not kept. Once it has failed it fails always.
func (s *Scanner) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && s.err == nil {
		switch s.state {
		case inHeader, inOldMap, inMap:
			b := s.gather(&p)
			if b == nil {
				break
			}
			s.err = s.whole(b)
		case inMeta:
			k := int(min(s.left, int64(len(p))))
			s.meta = append(s.meta, p[:k]...)
			p = s.skip(p, k)
			if s.left == 0 {
				s.err = s.extension()
			}
		case inContent, inPadding:
			p = s.skip(p, int(min(s.left, int64(len(p)))))
			if s.left == 0 {
				s.next()
			}
		case atEnd:
			s.off += int64(len(p))
			p = nil
		}
	}
	if s.err != nil {
		return n - len(p), s.err
	}
	return n, nil
}

// End says that nothing follows, and reports what is missing.
func (s *Scanner) End() error {
	if s.err != nil {
		return s.err
	}
	switch {
	case s.state == inContent:
		s.err = s.corrupt("the archive ends at offset %d, %d bytes before the end of the content", s.off, s.left)
	case s.state == inMeta:
		s.err = s.corrupt("the archive ends at offset %d, in an extended header", s.off)
	case s.state == inMap || s.state == inOldMap:
		s.err = s.corrupt("the archive ends at offset %d, in the map of a sparse file", s.off)
	case s.state == inHeader && s.have > 0:
		s.err = fmt.Errorf("%w tar archive: it ends at offset %d, in a header", blob.ErrCorrupt, s.off)
	}
	return s.err
}

// Offset is how many bytes have been written.
func (s *Scanner) Offset() int64 { return s.off }

// gather cuts a block off p, or returns nil when it is not complete yet. The block is valid until the next call.
func (s *Scanner) gather(p *[]byte) *[BlockSize]byte {
	if s.have == 0 && len(*p) >= BlockSize {
		b := (*[BlockSize]byte)(*p)
		*p = (*p)[BlockSize:]
		s.off += BlockSize
		return b
	}
	n := copy(s.block[s.have:], *p)
	*p = (*p)[n:]
	s.off += int64(n)
	if s.have += n; s.have < BlockSize {
		return nil
	}
	s.have = 0
	return &s.block
}

func (s *Scanner) skip(p []byte, n int) []byte {
	s.off += int64(n)
	s.left -= int64(n)
	return p[n:]
}

// next goes on behind content: to its padding, or to the next header.
func (s *Scanner) next() {
	s.state, s.left, s.pad = inPadding, s.pad, 0
	if s.left == 0 {
		s.state = inHeader
	}
}

// content goes on with n bytes of content and their padding.
func (s *Scanner) content(n int64) {
	s.state, s.left, s.pad = inContent, n, -n&(BlockSize-1)
	if n == 0 {
		s.next()
	}
}

// whole takes a complete block.
func (s *Scanner) whole(b *[BlockSize]byte) error {
	switch s.state {
	case inOldMap:
		return s.oldMap(b)
	case inMap:
		return s.textMap(b)
	}
	if *b == ([BlockSize]byte{}) {
		if s.zero {
			s.state = atEnd
		}
		s.zero = true
		return nil
	}
	if s.zero {
		return fmt.Errorf("%w tar archive: a header at offset %d follows a block of zeros", blob.ErrCorrupt, s.off-BlockSize)
	}
	return s.header(b)
}

// done hands out the entry, whose content of n stored bytes comes next.
func (s *Scanner) done(n int64) error {
	e := s.entry
	s.entry = index.Entry{}
	s.content(n)
	name := e.Name
	err := s.emit(e)
	s.ext, s.spent = extended{}, 0
	s.ext.last = name
	return err
}

// corrupt is an error about the present entry.
func (s *Scanner) corrupt(format string, a ...any) error {
	return s.fail(blob.ErrCorrupt, format, a...)
}

func (s *Scanner) fail(class error, format string, a ...any) error {
	name := s.entry.Name
	switch {
	case name == "" && s.ext.longName != "":
		name = s.ext.longName
	case name == "" && s.state == inContent:
		name = s.ext.last
	}
	if len(name) > 256 {
		name = name[:256] + "…"
	}
	return fmt.Errorf("%w tar archive: entry %q at offset %d: %s", class, name, s.start, fmt.Sprintf(format, a...))
}
