package erofslayer

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/pantala/pantala/blob"
)

// MediaType is what the media types of such layers begin with. A suffix says how the image as a whole is compressed.
const MediaType = "application/vnd.erofs.layer"

// Is reports whether a media type is one of these layers.
func Is(mediaType string) bool { return strings.HasPrefix(mediaType, MediaType) }

// The superblock (erofs_fs.h). Numbers are little-endian.
const (
	superOffset = 1024
	superSize   = 128
	superMagic  = 0xe0f5e1e2

	compatPlainPrefixes = 0x10 // long prefixes stand in the image itself, whatever else there is

	incompatDevices  = 0x08 // or a second algorithm for compressed inodes
	incompatPrefixes = 0x40
	incompat48       = 0x80
	incompatMetabox  = 0x100
	// incompatKnown are what an image may have. Those of compression (0x01, 0x02, 0x10, 0x20) concern inodes that are
	// refused one by one.
	incompatKnown = 0xff
)

// image is an image whose superblock has been read.
type image struct {
	r        io.ReaderAt
	size     int64
	shift    uint   // logarithm of the block size
	wide     bool   // block addresses of 48 bits
	base     int64  // of nid 0
	shared   int64  // of the area of shared attributes
	root     uint64 // nid
	sec      int64  // of inodes that have no time of their own
	nsec     uint32
	prefixes []string // of names of attributes

	// What has been read in all. Two inodes do not share such bytes, so there are no more than the image has; one that is
	// made to take long claims more.
	listed    int64 // bytes of directories
	addressed int64 // bytes of addresses of chunks
	attrs     int64 // bytes of attributes; shared ones count each time
}

func invalid(format string, a ...any) error {
	return fmt.Errorf("%w layer: %s", blob.ErrInvalid, fmt.Sprintf(format, a...))
}

func corrupt(format string, a ...any) error {
	return fmt.Errorf("%w layer: EROFS image: %s", blob.ErrCorrupt, fmt.Sprintf(format, a...))
}

// open reads the superblock of an image of size bytes.
func open(r io.ReaderAt, size int64) (*image, error) {
	m := &image{r: r, size: size}
	var sb [superSize]byte
	le := binary.LittleEndian
	if size < superOffset+superSize {
		return nil, invalid("no EROFS image, as its media type says: it has %d bytes", size)
	}
	if err := m.read(sb[:], superOffset); err != nil {
		return nil, err
	}
	if magic := le.Uint32(sb[:]); magic != superMagic {
		return nil, invalid("no EROFS image, as its media type says: its magic number is %#x", magic)
	}
	m.shift = uint(sb[12])
	features := le.Uint32(sb[80:])
	switch {
	case m.shift < 9 || m.shift > 16:
		return nil, invalid("EROFS image with blocks of 2^%d bytes: 512 to 65536 are supported; write it with mkfs.erofs -b4096", m.shift)
	case features&incompatMetabox != 0:
		return nil, invalid("EROFS image with compressed metadata (metabox), which is not supported: write it without mkfs.erofs -m")
	case features&^incompatKnown != 0:
		return nil, invalid("EROFS image with features %#x that are not known: use a newer version of pantala, or an older mkfs.erofs", features&^incompatKnown)
	case features&incompatDevices != 0 && le.Uint16(sb[86:]) != 0:
		return nil, invalid("EROFS image with %d further devices, which a layer cannot bring along: write it without mkfs.erofs --blobdev", le.Uint16(sb[86:]))
	case sb[90] != 0:
		return nil, invalid("EROFS image whose directories have blocks of their own size, which is not supported: write it with mkfs.erofs -b4096")
	}
	m.wide = features&incompat48 != 0
	m.root = uint64(le.Uint16(sb[14:]))
	if wide := le.Uint64(sb[112:]); m.wide && wide != 0 {
		m.root = wide
	}
	m.sec, m.nsec = int64(le.Uint64(sb[24:])), le.Uint32(sb[32:])
	m.base, m.shared = int64(le.Uint32(sb[40:]))<<m.shift, int64(le.Uint32(sb[44:]))<<m.shift
	if features&incompatPrefixes != 0 {
		packed := le.Uint64(sb[96:])
		if le.Uint32(sb[8:])&compatPlainPrefixes != 0 {
			packed = 0
		}
		if err := m.readPrefixes(int(sb[91]), int64(le.Uint32(sb[92:]))<<2, packed); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// read fills p with bytes of the image.
func (m *image) read(p []byte, off int64) error {
	if off < 0 || off > m.size || int64(len(p)) > m.size-off {
		return corrupt("it points to %d bytes at %d, and has %d", len(p), off, m.size)
	}
	n, err := m.r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
