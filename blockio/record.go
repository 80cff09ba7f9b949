package blockio

import (
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"os"
	"strings"

	"github.com/pantala/pantala/blob"
)

// The log is a sequence of records of equal size, little endian:
//
//	 0  2  magic
//	 2  1  kind
//	 3  1  arg: trust, or flags
//	 4  4  a: first block, or piece
//	 8  4  b: number of blocks
//	12 32  hash, or what the kind says
//	44  4  CRC32C of the 44 bytes, seeded with the blob's id and geometry
//
// Records are only ever appended, each Put with one write(2) in append mode, so the kernel orders them and no
// lock of ours is needed. The seed keeps a log from being read for another blob.
const (
	recordSize  = 48
	recordMagic = 0x6c70 // "pl"
	logVersion  = 1
)

type kind uint8

const (
	kindBoot    kind = 1 + iota // a: logVersion, hash: kernel boot id (16), inode of data (8): what follows was written under it
	kindPresent                 // blocks [a,a+b) are in data, their leaves in leaves; arg&flagFirm: the leaves are ours
	kindLeaves                  // the leaves of blocks [a,a+b) are in leaves; flagFirm: under a root better than Claimed
	kindFirm                    // the known leaves of [a,a+b) have been confirmed by direct bytes, or by a better root
	kindDrop                    // neither data nor leaves of [a,a+b) are believed any longer
	kindRoot                    // hash is the root of piece a, trust arg
	kindUnroot                  // the root of piece a is forgotten; flagDisputed: no Claimed root is taken for it again
	kindSynced                  // hash[:8]: everything in the log before this offset is on stable storage
	kindUsed                    // hash[:8]: unix nanoseconds of an open; a: frequency; arg: queue
	kindEnd
)

const (
	flagFirm     = 1
	flagDisputed = 1
)

// record is one entry of the log.
type record struct {
	kind kind
	arg  uint8
	a, b uint32
	hash blob.Hash
}

func (r record) run() blob.Run { return blob.Run{First: r.a, Count: r.b} }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// logSeed is what the checksums of one blob's log start from.
func logSeed(id blob.ID, g blob.Geometry) uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], uint64(g.Size))
	binary.LittleEndian.PutUint64(b[8:], uint64(g.PieceLength))
	return crc32.Update(crc32.Checksum([]byte(id.String()), castagnoli), castagnoli, b[:])
}

// appendRecord encodes r behind p.
func appendRecord(p []byte, seed uint32, r record) []byte {
	at := len(p)
	p = binary.LittleEndian.AppendUint16(p, recordMagic)
	p = append(p, byte(r.kind), r.arg)
	p = binary.LittleEndian.AppendUint32(p, r.a)
	p = binary.LittleEndian.AppendUint32(p, r.b)
	p = append(p, r.hash[:]...)
	return binary.LittleEndian.AppendUint32(p, crc32.Update(seed, castagnoli, p[at:]))
}

// decodeRecord reads the record at the start of p; false when there is none that belongs to this blob.
func decodeRecord(p []byte, seed uint32, g blob.Geometry) (r record, ok bool) {
	if len(p) < recordSize || binary.LittleEndian.Uint16(p) != recordMagic ||
		binary.LittleEndian.Uint32(p[44:]) != crc32.Update(seed, castagnoli, p[:44]) {
		return r, false
	}
	r.kind, r.arg = kind(p[2]), p[3]
	r.a, r.b = binary.LittleEndian.Uint32(p[4:]), binary.LittleEndian.Uint32(p[8:])
	copy(r.hash[:], p[12:44])
	switch r.kind {
	case kindBoot:
		ok = r.a == logVersion
	case kindPresent, kindLeaves, kindFirm, kindDrop:
		ok = r.b > 0 && uint64(r.a)+uint64(r.b) <= uint64(g.Blocks())
	case kindRoot:
		ok = r.a < g.Pieces() && r.arg > uint8(blob.Unknown) && r.arg <= uint8(blob.Built)
	case kindUnroot:
		ok = r.a < g.Pieces()
	case kindSynced, kindUsed:
		ok = true
	}
	return r, ok
}

// session is what decides whether the page cache of the writer is still the one we read from: the same boot
// of the same kernel and the same data file, not a copy of it.
type session struct {
	boot [16]byte
	ino  uint64
}

func (s session) record() record {
	r := record{kind: kindBoot, a: logVersion}
	copy(r.hash[:16], s.boot[:])
	binary.LittleEndian.PutUint64(r.hash[16:], s.ino)
	return r
}

func (r record) session() (s session) {
	copy(s.boot[:], r.hash[:16])
	s.ino = binary.LittleEndian.Uint64(r.hash[16:])
	return s
}

func (r record) number() int64 { return int64(binary.LittleEndian.Uint64(r.hash[:8])) }

func numbered(k kind, n int64) record {
	r := record{kind: k}
	binary.LittleEndian.PutUint64(r.hash[:8], uint64(n))
	return r
}

// bootID is the random id of this boot (proc(5), /proc/sys/kernel/random/boot_id); zero when it cannot be
// read, which is taken as a new boot every time.
func bootID() (id [16]byte) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id
	}
	sum, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(raw)), "-", ""))
	if err != nil {
		return id
	}
	copy(id[:], sum)
	return id
}
