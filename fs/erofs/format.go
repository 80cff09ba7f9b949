package erofs

import "github.com/pantala/pantala/image/tree"

// The disk format (erofs_fs.h). Numbers are little-endian.
const (
	superOffset = 1024 // of the superblock
	superSize   = 128
	superMagic  = 0xe0f5e1e2
	slotSize    = 128 // of an entry of the device table
	slotOffset  = superOffset + superSize
	tagSize     = 64 // of the name in a slot

	compatChecksum  = 0x1
	compatMtime     = 0x2
	incompatChunked = 0x4
	incompatDevices = 0x8

	nidShift     = 5 // a nid counts 32 bytes
	compactSize  = 32
	extendedSize = 64
	direntSize   = 12
	xattrHeader  = 12
	xattrEntry   = 4

	layoutPlain  = 0 // i_u: first block
	layoutInline = 2 // like plain, but the last block stands behind the inode
	layoutChunks = 4 // i_u: chunk format; an address for each chunk stands behind the inode

	chunkBits    = 0x1f // of the chunk format: logarithm of blocks per chunk
	chunkIndexes = 0x20 // addresses are of 8 bytes and name a device
	nullBlock    = 0xffffffff

	maxName = 255
)

// fileTypes are the types in directory entries, by the type bits of the mode.
var fileTypes = [16]byte{
	tree.File >> 12: 1, tree.Directory >> 12: 2, tree.CharDevice >> 12: 3, tree.BlockDevice >> 12: 4,
	tree.Fifo >> 12: 5, tree.Socket >> 12: 6, tree.Symlink >> 12: 7,
}

// xattrPrefixes are what names of attributes are shortened by, longest first; the numbers are those of the format.
var xattrPrefixes = []struct {
	prefix string
	index  byte
}{
	{"system.posix_acl_default", 3}, {"system.posix_acl_access", 2},
	{"security.", 6}, {"trusted.", 4}, {"user.", 1},
}

// encodeDevice is new_encode_dev of the kernel (include/linux/kdev_t.h): 12 bits of major, 20 of minor number.
func encodeDevice(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | minor&^0xff<<12
}

func decodeDevice(d uint32) (major, minor uint32) {
	return d >> 8 & 0xfff, d&0xff | d>>12&^0xff
}
