package erofslayer

import (
	"encoding/binary"
	"fmt"

	"github.com/pantala/pantala/image/index"
)

// Inodes (erofs_fs.h, struct erofs_inode_compact and _extended).
const (
	nidShift     = 5
	compactSize  = 32
	extendedSize = 64

	layoutPlain    = 0 // one row of blocks
	layoutFull     = 1 // compressed
	layoutInline   = 2 // like plain, but the last block stands behind the inode
	layoutCompact  = 3 // compressed
	layoutChunks   = 4 // an address for each chunk stands behind the inode
	formatExtended = 1 << 0
	formatOneLink  = 1 << 4 // compact ones, not of directories: the field of the links holds bits of the address
	formatKnown    = 1<<5 - 1

	chunkBits    = 0x1f // logarithm of blocks per chunk
	chunkIndexes = 0x20 // addresses are of 8 bytes and name a device
	chunk48      = 0x40
	chunkKnown   = 0x7f
)

// Types of inodes: the bits of S_IFMT (inode(7)), with the typeflag of index.Entry.
const (
	typeMask  = 0o170000
	directory = 0o040000
	symlink   = 0o120000
	file      = 0o100000
)

var flags = map[uint32]byte{
	file: '0', symlink: '2', 0o020000: '3', 0o060000: '4', directory: '5', 0o010000: '6', 0o140000: 's',
}

// maxTarget is PATH_MAX of Linux without the zero byte.
const maxTarget = 4095

// inode is an inode as it was read.
type inode struct {
	nid      uint64
	mode     uint32
	uid, gid uint32
	links    uint32
	sec      int64
	nsec     uint32
	size     int64

	layout uint16
	union  uint32 // first block, chunk format, or device number
	block  int64  // first block; -1: a hole
	xattrs int64  // where they stand
	tail   int64  // where what follows them stands
}

func (i *inode) bad(what string) error { return corrupt("inode %d %s", i.nid, what) }

// inode reads an inode.
func (m *image) inode(nid uint64) (*inode, error) {
	i := &inode{nid: nid}
	if nid > uint64(m.size)>>nidShift {
		return nil, i.bad("lies outside of it")
	}
	at := m.base + int64(nid)<<nidShift
	var b [extendedSize]byte
	if err := m.read(b[:compactSize], at); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	format := le.Uint16(b[:])
	i.layout, i.mode, i.union = format>>1&7, uint32(le.Uint16(b[4:])), le.Uint32(b[16:])
	high := int64(0)
	if format&formatExtended == 0 {
		i.xattrs = at + compactSize
		i.links, i.size = uint32(le.Uint16(b[6:])), int64(le.Uint32(b[8:]))
		if format&formatOneLink != 0 && i.mode&typeMask != directory {
			i.links, high = 1, int64(le.Uint16(b[6:]))
		}
		i.sec, i.nsec = m.sec+int64(le.Uint32(b[12:])), m.nsec
		i.uid, i.gid = uint32(le.Uint16(b[24:])), uint32(le.Uint16(b[26:]))
	} else {
		if err := m.read(b[compactSize:], at+compactSize); err != nil {
			return nil, err
		}
		i.xattrs, high = at+extendedSize, int64(le.Uint16(b[6:]))
		i.size, i.uid, i.gid = int64(le.Uint64(b[8:])), le.Uint32(b[24:]), le.Uint32(b[28:])
		i.sec, i.nsec, i.links = int64(le.Uint64(b[32:])), le.Uint32(b[40:]), le.Uint32(b[44:])
	}
	// Without the feature the bits beyond 32 are not those of an address.
	if !m.wide {
		high = 0
	}
	i.block = high<<32 | int64(i.union)
	if i.block == 1<<32-1 || i.block == 1<<48-1 {
		i.block = -1
	}
	i.tail = i.xattrs
	if n := le.Uint16(b[2:]); n > 0 {
		i.tail += xattrHeader + 4*int64(n-1)
	}
	return i, m.check(i, format)
}

// check refuses what cannot be read.
func (m *image) check(i *inode, format uint16) error {
	_, known := flags[i.mode&typeMask]
	switch {
	case !known:
		return i.bad("has no type")
	case format&^formatKnown != 0:
		return invalid("EROFS inode %d has a format, %#x, that is not known: use a newer version of pantala, or an older mkfs.erofs", i.nid, format)
	case i.size < 0:
		return i.bad("has a negative size")
	case i.nsec >= 1e9:
		return i.bad("has more than 10^9 nanoseconds")
	case i.mode&typeMask == directory && i.size > m.size:
		return i.bad("is a directory larger than all of it")
	case i.mode&typeMask != file && i.layout == layoutChunks:
		return i.bad("is in chunks, but no file")
	case i.mode&typeMask == symlink && (i.size == 0 || i.size > maxTarget):
		return i.bad("is a symbolic link of an impossible length")
	}
	return nil
}

// device is the number of a device file (include/linux/kdev_t.h, new_decode_dev).
func (i *inode) device() (major, minor uint32) {
	return i.union >> 8 & 0xfff, i.union&0xff | i.union>>12&0xfff00
}

// extents tells where the content of an inode lies, in order; what is not told is a hole. Device is an offset in the
// image. Inline content, which is the last extent if there is any, lies anywhere, everything else at a block.
func (m *image) extents(i *inode, add func(x index.Extent, inline bool) error) error {
	if i.size == 0 {
		return nil
	}
	switch i.layout {
	case layoutPlain, layoutInline:
		flat := i.size
		if i.layout == layoutInline {
			flat = (i.size - 1) >> m.shift << m.shift
		}
		if flat > 0 && i.block >= 0 {
			x, err := m.within(i, index.Extent{Device: i.block, Length: flat})
			if err != nil {
				return err
			}
			if err := add(x, false); err != nil {
				return err
			}
		}
		if flat == i.size {
			return nil
		}
		n := i.size - flat
		if i.tail&(1<<m.shift-1)+n > 1<<m.shift {
			return i.bad("has inline content that crosses a block")
		}
		if i.tail > m.size-n {
			return i.bad("has inline content behind its end")
		}
		return add(index.Extent{File: flat, Device: i.tail, Length: n}, true)
	case layoutChunks:
		return m.chunks(i, add)
	case layoutFull, layoutCompact:
		return invalid("EROFS image with compressed files (inode %d), which are not supported: write it without mkfs.erofs -z, and push it as a layer that is compressed as a whole (%s.v1+zstd)", i.nid, MediaType)
	}
	return invalid("EROFS inode %d has a layout, %d, that is not known: use a newer version of pantala, or an older mkfs.erofs", i.nid, i.layout)
}

// within turns the Device of x from blocks into bytes.
func (m *image) within(i *inode, x index.Extent) (index.Extent, error) {
	if x.Device > m.size>>m.shift || x.Device<<m.shift > m.size-x.Length {
		return x, i.bad("has its content outside of it")
	}
	x.Device <<= m.shift
	return x, nil
}

// chunks is extents of an inode with an address for each chunk.
func (m *image) chunks(i *inode, add func(x index.Extent, inline bool) error) error {
	if i.union&0xffff&^chunkKnown != 0 {
		return invalid("EROFS inode %d has a chunk format, %#x, that is not known: use a newer version of pantala, or an older mkfs.erofs", i.nid, i.union&0xffff)
	}
	unit := int64(4)
	if i.union&chunkIndexes != 0 {
		unit = 8
	}
	shift := m.shift + uint(i.union&chunkBits) // 47 at most
	at, n := (i.tail+unit-1)&^(unit-1), (i.size-1)>>shift+1
	if at > m.size || n > (m.size-at)/unit {
		return i.bad("has more chunks than it has bytes")
	}
	if m.addressed += n * unit; m.addressed > m.size {
		return i.bad("shares addresses of its chunks with others")
	}
	table := make([]byte, min(n*unit, tableRead))
	var last index.Extent
	for k := range n {
		in := k * unit % tableRead
		if in == 0 {
			if err := m.read(table[:min(tableRead, (n-k)*unit)], at+k*unit); err != nil {
				return err
			}
		}
		block, hole, err := i.address(table[in : in+unit])
		if err != nil {
			return err
		}
		if hole {
			continue
		}
		x := index.Extent{File: k << shift, Device: block, Length: min(1<<shift, i.size-k<<shift)}
		if x, err = m.within(i, x); err != nil {
			return err
		}
		if last.Length > 0 && last.File+last.Length == x.File && last.Device+last.Length == x.Device {
			last.Length += x.Length
			continue
		}
		if last.Length > 0 {
			if err := add(last, false); err != nil {
				return err
			}
		}
		last = x
	}
	if last.Length == 0 {
		return nil
	}
	return add(last, false)
}

// tableRead is how many bytes of addresses are read at once.
const tableRead = 64 << 10

// address reads the address of a chunk, in blocks.
func (i *inode) address(b []byte) (block int64, hole bool, err error) {
	le := binary.LittleEndian
	if len(b) == 4 {
		block = int64(le.Uint32(b))
		return block, block == 1<<32-1, nil
	}
	mask := int64(1<<32 - 1)
	if i.union&chunk48 != 0 {
		mask = 1<<48 - 1
	}
	block = (int64(le.Uint16(b))<<32 | int64(le.Uint32(b[4:]))) & mask
	if block == mask {
		return 0, true, nil
	}
	// With no further devices, the mask of device numbers is 0: the kernel does not look at them.
	return block, false, nil
}

// content reads what an inode holds: directories, targets of links.
func (m *image) content(i *inode, p []byte, off int64) error {
	clear(p)
	return m.extents(i, func(x index.Extent, _ bool) error {
		from, to := max(off, x.File), min(off+int64(len(p)), x.File+x.Length)
		if from >= to {
			return nil
		}
		return m.read(p[from-off:to-off], x.Device+from-x.File)
	})
}

// target is that of a symbolic link.
func (m *image) target(i *inode) (string, error) {
	b := make([]byte, i.size)
	if err := m.content(i, b, 0); err != nil {
		return "", fmt.Errorf("target of a link: %w", err)
	}
	return string(b), nil
}
