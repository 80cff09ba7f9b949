package inflate

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

const (
	trailer = 8 // CRC-32 and length: RFC 1952 section 2.3.1

	// maxMember is the longest header of a member that is accepted: the extra field alone may take 64 KiB. Names and
	// comments have no limit in RFC 1952; the ones that are met fit in a path.
	maxMember = 128 << 10
)

// Flags of RFC 1952 section 2.3.1.
const (
	flagCRC     = 1 << 1
	flagExtra   = 1 << 2
	flagName    = 1 << 3
	flagComment = 1 << 4
)

// memberHeader returns the length of the header of a member that b begins with; 0 if b ends within it. What is wrong
// with it is in fault. The header's own checksum is looked at only if check.
func memberHeader(b []byte, check bool) (n int, fault string) {
	if len(b) < 10 {
		magic := []byte{0x1f, 0x8b, 8}
		if m := min(len(b), len(magic)); !bytes.Equal(b[:m], magic[:m]) {
			return 0, "no gzip member begins here"
		}
		return 0, ""
	}
	if b[0] != 0x1f || b[1] != 0x8b {
		return 0, "no gzip member begins here"
	}
	if b[2] != 8 {
		return 0, "a gzip member that is not compressed by deflate"
	}
	flags := b[3]
	n = 10
	if flags&flagExtra != 0 {
		if len(b) < n+2 {
			return 0, ""
		}
		n += 2 + int(binary.LittleEndian.Uint16(b[n:]))
	}
	for _, f := range [...]byte{flagName, flagComment} {
		if flags&f == 0 {
			continue
		}
		if n > len(b) {
			return 0, ""
		}
		i := bytes.IndexByte(b[n:], 0)
		if i < 0 {
			return 0, ""
		}
		n += i + 1
	}
	if flags&flagCRC != 0 {
		if len(b) < n+2 {
			return 0, ""
		}
		if check && binary.LittleEndian.Uint16(b[n:]) != uint16(crc32.ChecksumIEEE(b[:n])) {
			return 0, "the header of a gzip member does not match its checksum"
		}
		n += 2
	}
	if n > len(b) {
		return 0, ""
	}
	return n, ""
}
