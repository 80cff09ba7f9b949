package tarscan

import (
	"bytes"
	"strings"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
)

// dialect is what the magic of a header says of its other fields.
type dialect uint8

const (
	v7    dialect = iota
	ustar         // POSIX.1-1988, and of PAX
	gnu
	star // of Schily's star: ustar with times in the place of a part of the prefix
)

// field is a stretch of a header.
type field struct{ at, n int }

// The fields of a header (POSIX.1-2017, pax, "ustar Interchange Format"; tar(5) for gnu and star).
var (
	fName     = field{0, 100}
	fMode     = field{100, 8}
	fUID      = field{108, 8}
	fGID      = field{116, 8}
	fSize     = field{124, 12}
	fMtime    = field{136, 12}
	fSum      = field{148, 8}
	fLink     = field{157, 100}
	fMagic    = field{257, 6}
	fVersion  = field{263, 2}
	fMajor    = field{329, 8}
	fMinor    = field{337, 8}
	fPrefix   = field{345, 155}
	fStarPre  = field{345, 131}
	fGNUAtime = field{345, 12}
	fGNUCtime = field{357, 12}
	fAtime    = field{476, 12} // star
	fCtime    = field{488, 12} // star
	fTrailer  = field{508, 4}  // star
)

const typeflag = 156

func (f field) of(b *[BlockSize]byte) []byte { return b[f.at : f.at+f.n] }

func (f field) text(b *[BlockSize]byte) string { return cString(f.of(b)) }

// cString is what stands before the first NUL.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// dialectOf checks the checksum of a header, which some writers made of signed bytes, and tells its dialect.
func dialectOf(b *[BlockSize]byte) (d dialect, ok bool) {
	want, ok := octal(fSum.of(b))
	var plain, signed int64
	for _, c := range b {
		plain += int64(c)
		signed += int64(int8(c))
	}
	for _, c := range fSum.of(b) {
		plain += ' ' - int64(c)
		signed += ' ' - int64(int8(c))
	}
	if !ok || want != plain && want != signed {
		return 0, false
	}
	switch magic := string(fMagic.of(b)); {
	case magic == "ustar\x00" && string(fTrailer.of(b)) == "tar\x00":
		return star, true
	case magic == "ustar\x00":
		return ustar, true
	case magic == "ustar " && string(fVersion.of(b)) == " \x00":
		return gnu, true
	}
	return v7, true
}

// header takes a header: of an entry, or of an extension that speaks of the next one.
func (s *Scanner) header(b *[BlockSize]byte) error {
	at := s.off - BlockSize
	if s.ext.empty() {
		s.start = at
	}
	s.entry = index.Entry{}
	d, ok := dialectOf(b)
	if !ok {
		if at == 0 {
			return s.corrupt("no header of a tar archive: the checksum does not fit (layers are tar archives, plain or compressed with gzip or zstd)")
		}
		return s.corrupt("no header: the checksum does not fit")
	}
	e, size, ok := fields(b, d)
	if !ok {
		return s.corrupt("a number in the header is malformed")
	}
	s.entry = e
	switch e.Type {
	case 'x', 'g', 'L', 'K':
		s.entry.Name = ""
		if size < 0 || size > int64(MaxMeta-s.spent) {
			return s.fail(blob.ErrInvalid, "an extended header of %d bytes; an entry may have %d in all", size, MaxMeta)
		}
		s.kind, s.meta, s.spent = e.Type, s.meta[:0], s.spent+int(size)
		if s.left = size; size == 0 {
			return s.extension()
		}
		s.state = inMeta
		return nil
	}
	return s.complete(b, d, size)
}

// fields reads what the header itself says, and the size of what follows it. ok is false when a number is malformed.
func fields(b *[BlockSize]byte, d dialect) (e index.Entry, size int64, ok bool) {
	ok = true
	num := func(f field) int64 {
		v, fine := number(f.of(b))
		ok = ok && fine
		return v
	}
	size = num(fSize)
	e = index.Entry{
		Name: fName.text(b), Link: fLink.text(b), Type: b[typeflag],
		Mode: uint32(num(fMode)) & 07777, UID: owner(num(fUID)), GID: owner(num(fGID)), Sec: num(fMtime),
	}
	if d == v7 {
		return e, size, ok
	}
	e.Major, e.Minor = uint32(num(fMajor)), uint32(num(fMinor))
	prefix := ""
	switch d {
	case ustar:
		prefix = fPrefix.text(b)
	case star:
		prefix = fStarPre.text(b)
		num(fAtime)
		num(fCtime)
	case gnu:
		// Go before 1.8 wrote a prefix into GNU headers, which have times in its place.
		_, a := number(fGNUAtime.of(b))
		_, c := number(fGNUCtime.of(b))
		if p := fPrefix.text(b); b[fGNUAtime.at] != 0 && !a || b[fGNUCtime.at] != 0 && !c {
			if strings.IndexFunc(p, func(r rune) bool { return r >= 0x80 }) < 0 {
				prefix = p
			}
		}
	}
	if prefix != "" {
		e.Name = prefix + "/" + e.Name
	}
	return e, size, ok
}

// owner is what chown(2) takes of an id: its lower 32 bits. All ones of them leave an owner as it was, which is for
// image/tree to do.
func owner(id int64) uint32 { return uint32(id) }

// complete makes an entry of a header and the extensions before it.
func (s *Scanner) complete(b *[BlockSize]byte, d dialect, size int64) error {
	e := &s.entry
	if size < 0 && !headerOnly(e.Type) {
		return s.corrupt("a content of %d bytes", size)
	}
	size, err := s.ext.apply(e, size)
	if err != nil {
		return s.corrupt("%v", err)
	}
	if s.ext.longName != "" {
		e.Name = s.ext.longName
	}
	if s.ext.longLink != "" {
		e.Link = s.ext.longLink
	}
	old := false
	switch e.Type {
	case 0:
		// Before POSIX directories were files with a slash at the end.
		e.Type = '0'
		if strings.HasSuffix(e.Name, "/") {
			e.Type = '5'
		}
	case 'S':
		e.Type, old = '0', true
	case '7': // contiguous, says POSIX: a file elsewhere
		e.Type = '0'
	case 'D', 'V', '0', '1', '2', '3', '4', '5', '6', 's':
	default:
		return s.fail(blob.ErrInvalid, "a type that is not unpacked: %q", e.Type)
	}
	if !headerOnly(e.Type) && (size < 0 || size > blob.MaxSize) {
		return s.corrupt("a content of %d bytes", size)
	}
	if e.Type != '1' && e.Type != '2' {
		e.Link = ""
	}
	if e.Type != '3' && e.Type != '4' {
		e.Major, e.Minor = 0, 0
	}
	switch {
	case e.Type == 'D': // directory of an incremental archive of GNU, whose content lists what it held
		e.Type = '5'
		return s.done(size)
	case e.Type == 'V': // label of a volume of GNU
		s.ext, s.spent = extended{last: e.Name}, 0
		s.content(size)
		return nil
	case headerOnly(e.Type):
		if s.ext.isSparse() {
			return s.corrupt("a sparse map for a %q", e.Type)
		}
		return s.done(0)
	}
	e.Size = size
	switch {
	case old:
		return s.beginOldMap(b, d, size)
	case s.ext.isSparse():
		return s.beginSparse(size)
	}
	if size > 0 {
		e.Extents = []index.Extent{{File: 0, Device: s.off, Length: size}}
	}
	return s.done(size)
}

// headerOnly reports whether a type has no content, whatever the header says of its size.
func headerOnly(t byte) bool { return t >= '1' && t <= '6' }
