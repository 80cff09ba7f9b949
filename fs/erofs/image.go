package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/tree"
	"github.com/pantala/pantala/mmap"
)

// Image reads a metadata image: ours, or another's that stores nothing compressed. Nothing in it is believed: whatever
// stands there, no method panics, loops or allocates more than the image's own length.
type Image struct {
	r       io.ReaderAt
	size    int64
	close   func() error
	shift   uint
	base    int64 // of nid 0
	shared  int64 // of the area of shared attributes
	root    uint64
	inodes  uint64
	devices []Device
	mask    uint32 // of device numbers in chunk addresses
	sec     int64  // modification time of inodes that have none of their own
	nsec    uint32
}

// Device is an entry of the device table: a layer.
type Device struct {
	Tag    string // the layer's digest, or as much of it as fits
	Start  int64  // its place in the flat file, in bytes
	Length int64  // in bytes, rounded up to a block
}

// Inode is an inode as it was read.
type Inode struct {
	Nid          uint64
	Mode         uint32 // type and permission bits
	UID, GID     uint32
	Links        uint32
	Major, Minor uint32 // of a device
	Nsec         uint32
	Sec          int64
	Size         int64

	layout uint16
	union  uint32
	xattrs int64 // where they stand
	tail   int64 // where what follows them stands
}

// OpenFile is Open of a file, which it maps. Close the image after use.
func OpenFile(path string) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	region, err := mmap.Map(f, st.Size())
	if err != nil {
		f.Close()
		return nil, err
	}
	img, err := Open(region, st.Size())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), region.Close(), f.Close())
	}
	img.close = func() error { return errors.Join(region.Close(), f.Close()) }
	return img, nil
}

// Close gives back what OpenFile took.
func (m *Image) Close() error {
	if m.close == nil {
		return nil
	}
	return m.close()
}

// incompatReadable are the features that an image may have. Those of compression concern inodes that are refused one
// by one.
const incompatReadable = 0x3f

// Open reads the superblock and the device table of an image of size bytes.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	m := &Image{r: r, size: size}
	var sb [superSize]byte
	if err := m.read(sb[:], superOffset); err != nil {
		return nil, fmt.Errorf("%w: no EROFS image: it has %d bytes", blob.ErrInvalid, size)
	}
	le := binary.LittleEndian
	if magic := le.Uint32(sb[:]); magic != superMagic {
		return nil, fmt.Errorf("%w: no EROFS image: its magic number is %#x", blob.ErrInvalid, magic)
	}
	m.shift = uint(sb[12])
	features := le.Uint32(sb[80:])
	if m.shift < defaultBlockBits || m.shift > 16 {
		return nil, fmt.Errorf("%w: EROFS image with blocks of 2^%d bytes", blob.ErrInvalid, m.shift)
	}
	if features&^incompatReadable != 0 {
		return nil, fmt.Errorf("%w: EROFS image with unknown features %#x", blob.ErrInvalid, features)
	}
	if le.Uint32(sb[8:])&compatChecksum != 0 {
		if err := m.verify(le.Uint32(sb[4:])); err != nil {
			return nil, err
		}
	}
	m.root, m.inodes = uint64(le.Uint16(sb[14:])), le.Uint64(sb[16:])
	m.sec, m.nsec = int64(le.Uint64(sb[24:])), le.Uint32(sb[32:])
	m.base, m.shared = int64(le.Uint32(sb[40:]))<<m.shift, int64(le.Uint32(sb[44:]))<<m.shift
	if features&incompatDevices != 0 {
		if err := m.readDevices(int64(le.Uint16(sb[88:]))*slotSize, int(le.Uint16(sb[86:]))); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// verify checks the superblock's checksum.
func (m *Image) verify(want uint32) error {
	block := int64(1) << m.shift
	head := make([]byte, max(block, superOffset+block))
	if block > superOffset {
		head = head[:block]
	}
	if err := m.read(head, 0); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(head[superOffset+4:], 0)
	if got := checksum(head, block); got != want {
		return fmt.Errorf("%w: checksum of the EROFS superblock is %#x, it says %#x", blob.ErrCorrupt, got, want)
	}
	return nil
}

func (m *Image) readDevices(at int64, n int) error {
	if int64(n)*slotSize > m.size {
		return fmt.Errorf("%w: %d devices in an image of %d bytes", blob.ErrCorrupt, n, m.size)
	}
	table := make([]byte, n*slotSize)
	if err := m.read(table, at); err != nil {
		return err
	}
	for slot := range slices.Chunk(table, slotSize) {
		tag := slot[:tagSize]
		if i := slices.Index(tag, 0); i >= 0 {
			tag = tag[:i]
		}
		m.devices = append(m.devices, Device{
			Tag:    string(tag),
			Length: int64(binary.LittleEndian.Uint32(slot[64:])) << m.shift,
			Start:  int64(binary.LittleEndian.Uint32(slot[68:])) << m.shift,
		})
	}
	for m.mask = 1; m.mask <= uint32(n); m.mask <<= 1 {
	}
	m.mask--
	return nil
}

// Size is the length of the metadata in bytes.
func (m *Image) Size() int64 { return m.size }

// Devices are the layers; device number i of an Extent is Devices()[i-1].
func (m *Image) Devices() []Device { return m.devices }

// Root is the nid of the top directory.
func (m *Image) Root() uint64 { return m.root }

// Inodes is how many inodes the image says that it has.
func (m *Image) Inodes() uint64 { return m.inodes }

// ReadAt fills p with bytes of the image itself: the content of files that have their place there (Device 0 of an
// Extent).
func (m *Image) ReadAt(p []byte, off int64) error { return m.read(p, off) }

func (m *Image) read(p []byte, off int64) error {
	if off < 0 || off > m.size || int64(len(p)) > m.size-off {
		return fmt.Errorf("%w: EROFS image points to [%d,%d) of its %d bytes", blob.ErrCorrupt, off, off+int64(len(p)), m.size)
	}
	if n, err := m.r.ReadAt(p, off); n < len(p) {
		return fmt.Errorf("%w: read EROFS image: %w", blob.ErrCorrupt, err)
	}
	return nil
}

// Inode reads inode nid.
func (m *Image) Inode(nid uint64) (Inode, error) {
	i := Inode{Nid: nid}
	if nid > uint64(m.size)>>nidShift {
		return i, m.bad(nid, "lies outside the image")
	}
	at := m.base + int64(nid)<<nidShift
	var b [extendedSize]byte
	if err := m.read(b[:compactSize], at); err != nil {
		return i, err
	}
	le := binary.LittleEndian
	format := le.Uint16(b[:])
	i.layout = format >> 1 & 7
	i.Mode = uint32(le.Uint16(b[4:]))
	i.union = le.Uint32(b[16:])
	i.xattrs = at + compactSize
	if format&1 == 0 {
		i.Links, i.Size = uint32(le.Uint16(b[6:])), int64(le.Uint32(b[8:]))
		i.UID, i.GID = uint32(le.Uint16(b[24:])), uint32(le.Uint16(b[26:]))
		i.Sec, i.Nsec = m.sec, m.nsec
	} else {
		if err := m.read(b[compactSize:], at+compactSize); err != nil {
			return i, err
		}
		i.xattrs = at + extendedSize
		i.Size, i.UID, i.GID = int64(le.Uint64(b[8:])), le.Uint32(b[24:]), le.Uint32(b[28:])
		i.Sec, i.Nsec, i.Links = int64(le.Uint64(b[32:])), le.Uint32(b[40:]), le.Uint32(b[44:])
	}
	i.tail = i.xattrs
	if n := le.Uint16(b[2:]); n > 0 {
		i.tail += xattrHeader + 4*int64(n-1)
	}
	return i, m.check(&i)
}

// check refuses an inode that nobody could read.
func (m *Image) check(i *Inode) error {
	switch {
	case i.Size < 0 || i.Size > math.MaxInt64>>1:
		return m.bad(i.Nid, "has a negative or absurd size")
	case i.Nsec >= 1e9:
		return m.bad(i.Nid, "has more than 10^9 nanoseconds")
	case i.layout != layoutPlain && i.layout != layoutInline && i.layout != layoutChunks:
		return fmt.Errorf("%w: EROFS inode %d is compressed", blob.ErrInvalid, i.Nid)
	}
	switch i.Mode & tree.TypeMask {
	case tree.Directory:
		if i.Size > m.size {
			return m.bad(i.Nid, "is a directory larger than the image")
		}
	case tree.Symlink:
		if i.Size == 0 || i.Size > maxTarget {
			return m.bad(i.Nid, "is a symbolic link of an impossible length")
		}
	case tree.CharDevice, tree.BlockDevice:
		i.Major, i.Minor = decodeDevice(i.union)
	case tree.File, tree.Fifo, tree.Socket:
	default:
		return m.bad(i.Nid, "has no type")
	}
	if i.layout == layoutChunks && m.shift+uint(i.union&chunkBits) > 62 {
		return m.bad(i.Nid, "has absurdly large chunks")
	}
	return nil
}

// maxTarget is PATH_MAX without the zero byte.
const maxTarget = 4095

func (m *Image) bad(nid uint64, what string) error {
	return fmt.Errorf("%w: EROFS inode %d %s", blob.ErrCorrupt, nid, what)
}

// Readlink is the target of a symbolic link.
func (m *Image) Readlink(i *Inode) (string, error) {
	if i.Mode&tree.TypeMask != tree.Symlink {
		return "", fmt.Errorf("%w: EROFS inode %d is no symbolic link", blob.ErrInvalid, i.Nid)
	}
	b := make([]byte, i.Size)
	if err := m.content(i, b, 0); err != nil {
		return "", err
	}
	return string(b), nil
}

// content reads what the image itself holds of an inode: directories, targets.
func (m *Image) content(i *Inode, p []byte, off int64) error {
	for len(p) > 0 {
		x, err := m.extent(i, off)
		if err != nil {
			return err
		}
		if x.Device != 0 {
			return m.bad(i.Nid, "has its content outside of the metadata")
		}
		n := min(int64(len(p)), x.Length)
		if err := m.read(p[:n], x.Offset); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}
