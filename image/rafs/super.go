package rafs

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/pantala/pantala/blob"
)

// The layout of a bootstrap: the superblock of EROFS, behind it the extended one, and behind that the device table.
// Numbers are little-endian.
const (
	superAt   = 1024
	extAt     = superAt + 128
	devicesAt = extAt + 256
	leastBoot = 4096

	magicV6 = 0xe0f5e1e2 // of EROFS
	magicV5 = "SFAR"     // at the beginning: 0x52414653

	compatRAFS = 0x40000000 // feature of an EROFS image that is a bootstrap

	deviceSize = 128
	blobSize   = 256
	chunkSize  = 80

	maxBlobs = 255      // devices have numbers of 8 bits in the addresses of chunks, from 1
	maxChunk = 16 << 20 // bytes, decoded: the most that nydus-image makes
)

// Flags of the extended superblock.
const (
	flagSHA256    = 0x8
	flagBlake3    = 0x4
	flagTarfs     = 0x200
	flagEncrypted = 0x2000000
)

// Features of a blob.
const (
	featureAligned       = 0x1
	featureInlinedFS     = 0x2
	featureInfoV2        = 0x4
	featureZran          = 0x8
	featureSeparate      = 0x10
	featureInlinedDigest = 0x20
	featureTarfs         = 0x40
	featureBatch         = 0x80
	featureEncrypted     = 0x100
	featureChunkDict     = 0x200
	featurePrefetch      = 0x400
	featureExternal      = 0x800
	featureTarHeader     = 0x10000000
	featureTOC           = 0x20000000
	featureCapTarTOC     = 0x40000000

	// featuresRead are those that say nothing which a reader of chunks must know.
	featuresRead = featureAligned | featureInlinedFS | featureInfoV2 | featureInlinedDigest | featureBatch | featureChunkDict |
		featurePrefetch | featureTarHeader | featureTOC | featureCapTarTOC
)

// Compressors, as blobs name them.
const (
	compressNone = iota
	compressLZ4
	compressGzip
	compressZstd
	compressors
)

// super is what the superblocks of a bootstrap and its tables say.
type super struct {
	chunk  int64 // bytes of a chunk, decoded, but for the last of a file
	blake3 bool  // the digest of chunks; else SHA-256
	blobs  []blobInfo
	chunks []byte // the table
}

// blobInfo is an entry of the table of blobs.
type blobInfo struct {
	digest     blob.Hash
	count      uint32 // chunks
	compressor uint32
	features   uint32
	ci         ciInfo
}

// ciInfo says where in a blob its own table of chunks is.
type ciInfo struct {
	compressor     uint32
	at             int64
	stored, length int64 // bytes
}

// readSuper reads the superblocks and finds the tables.
func readSuper(b []byte) (*super, error) {
	le := binary.LittleEndian
	if bytes.HasPrefix(b, []byte(magicV5)) {
		return nil, unsupported("version 5 of RAFS: convert the image with nydus-image 2.1 or newer, --fs-version 6")
	}
	if len(b) < leastBoot {
		return nil, corrupt("it has %d bytes", len(b))
	}
	if magic := le.Uint32(b[superAt:]); magic != magicV6 {
		return nil, corrupt("its magic number is %#x", magic)
	}
	if compat := le.Uint32(b[superAt+8:]); compat&compatRAFS == 0 {
		return nil, corrupt("an EROFS image (features %#x) that is no bootstrap", compat)
	}
	flags := le.Uint64(b[extAt:])
	switch {
	case flags&flagEncrypted != 0:
		return nil, errEncrypted
	case flags&flagTarfs != 0:
		return nil, errReference
	case flags&(flagSHA256|flagBlake3) == 0 || flags&(flagSHA256|flagBlake3) == flagSHA256|flagBlake3:
		return nil, unsupported("flags %#x name no digest of chunks that is known: use --digester blake3 or sha256", flags)
	}
	s := &super{chunk: int64(le.Uint32(b[extAt+20:])), blake3: flags&flagBlake3 != 0}
	if s.chunk < 4096 || s.chunk > maxChunk || s.chunk&(s.chunk-1) != 0 {
		return nil, corrupt("chunks of %d bytes", s.chunk)
	}
	blobs, err := table(b, "blobs", le.Uint64(b[extAt+8:]), uint64(le.Uint32(b[extAt+16:])), blobSize)
	if err != nil {
		return nil, err
	}
	if s.chunks, err = table(b, "chunks", le.Uint64(b[extAt+24:]), le.Uint64(b[extAt+32:]), chunkSize); err != nil {
		return nil, err
	}
	return s, s.readBlobs(b, blobs)
}

var (
	errEncrypted = unsupported("its chunks are encrypted: convert the image without --encrypt")
	errReference = unsupported("its blobs refer to layers of another form (tarfs, --oci-ref): mount the image that it was made of, which needs no conversion")
)

// table is one of the tables of records of that size.
func table(b []byte, what string, at, length, record uint64) ([]byte, error) {
	if length == 0 {
		return nil, nil
	}
	if at < leastBoot || at > uint64(len(b)) || length > uint64(len(b))-at || length%record != 0 {
		return nil, corrupt("its table of %s has %d bytes at %d, of %d", what, length, at, len(b))
	}
	return b[at : at+length], nil
}

// readBlobs reads the table of blobs, which the table of devices has to agree with: chunks are addressed by device.
func (s *super) readBlobs(b, blobs []byte) error {
	le := binary.LittleEndian
	n := len(blobs) / blobSize
	if devices := int(le.Uint16(b[superAt+86:])); n > maxBlobs || devices != n {
		return corrupt("%d devices and %d blobs", devices, n)
	}
	if at := int(le.Uint16(b[superAt+88:])) * deviceSize; n > 0 && (at != devicesAt || at+n*deviceSize > len(b)) {
		return corrupt("its table of devices is at %d", at)
	}
	for i := range n {
		p := blobs[i*blobSize:]
		id := strings.TrimRight(string(p[:64]), "\x00")
		digest, err := blob.ParseHash(id)
		if err != nil {
			return corrupt("blob %d is called %q, which is no SHA-256", i, id)
		}
		if device := b[devicesAt+i*deviceSize:][:64]; !bytes.Equal(device, p[:64]) {
			return corrupt("device %d is called %q, its blob %q", i, device, id)
		}
		x := blobInfo{
			digest: digest, count: le.Uint32(p[72:]), compressor: le.Uint32(p[76:]), features: le.Uint32(p[84:]),
			ci: ciInfo{le.Uint32(p[108:]), int64(le.Uint64(p[112:])), int64(le.Uint64(p[120:])), int64(le.Uint64(p[128:]))},
		}
		if err := x.check(s, p); err != nil {
			return err
		}
		s.blobs = append(s.blobs, x)
	}
	return nil
}

// check refuses blobs that are not read, by what their record p says.
func (x *blobInfo) check(s *super, p []byte) error {
	le := binary.LittleEndian
	number, chunk, digester, cipher := le.Uint32(p[64:]), int64(le.Uint32(p[68:])), le.Uint32(p[80:]), le.Uint32(p[216:])
	switch {
	case x.features&featureEncrypted != 0 || cipher != 0:
		return errEncrypted
	case x.features&(featureZran|featureSeparate|featureTarfs) != 0:
		return errReference
	case x.features&featureExternal != 0:
		return unsupported("blob %v lies outside of the registry (external)", x.digest)
	case x.features&^featuresRead != 0:
		return unsupported("blob %v has features %#x that are not known: use a newer version of pantala", x.digest, x.features&^featuresRead)
	case x.compressor >= compressors || x.ci.compressor >= compressors:
		return unsupported("blob %v has compressor %d, its table %d: use a newer version of pantala", x.digest, x.compressor, x.ci.compressor)
	case int(number) != len(s.blobs):
		return corrupt("blob %d has the number %d", len(s.blobs), number)
	case chunk != s.chunk:
		return corrupt("blob %v has chunks of %d bytes, the image of %d", x.digest, chunk, s.chunk)
	case digester != 0 && s.blake3 || digester != 1 && !s.blake3:
		return corrupt("blob %v has digests of kind %d, which the image has not", x.digest, digester)
	}
	return nil
}
