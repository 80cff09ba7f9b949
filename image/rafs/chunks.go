package rafs

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/codec/inflate"
	"github.com/pantala/pantala/codec/lz4block"
	"github.com/pantala/pantala/codec/zstdspan"
)

// Flags of a chunk in the table of the bootstrap.
const (
	chunkCompressed = 0x1
	chunkEncrypted  = 0x4
	chunkBatch      = 0x8
	chunkCRC        = 0x10
)

const (
	// maxStored bounds a chunk as it is stored, in bytes: what compressing does not make smaller is stored as it is, so
	// no more than a chunk; batches hold what is smaller than one.
	maxStored = maxChunk

	infoSize  = 24 // of a chunk in the table of a blob, in its second form
	batchSize = 40 // of a batch behind those
	infoBatch = 0x4
	// maxInfo bounds the tables of all blobs, in bytes: what MaxBoot would hold of chunks.
	maxInfo = MaxBoot
)

// chunk is a stretch of a blob that is compressed alone, or with others of its batch.
type chunk struct {
	blob       int   // number of the blob in the bootstrap
	at         int64 // in the decoded blob
	length     int64 // decoded
	stored     int64 // in the stored blob
	storedSize int64
	skip       int64 // decoded bytes of its batch before it
	packed     bool
	digest     blob.Hash
}

// Reader reads p from a blob, which is named by its number in the bootstrap.
type Reader func(p []byte, blob int, at int64) error

// readChunks reads the table of chunks, and those of blobs with batches. sizes are of the stored blobs. What comes out is
// sorted by blob and place in it.
func (s *super) readChunks(sizes []int64, read Reader) ([]chunk, error) {
	le := binary.LittleEndian
	all := make([]chunk, 0, len(s.chunks)/chunkSize)
	infos, room := make([]*infos, len(s.blobs)), int64(maxInfo)
	for n := range cap(all) {
		p := s.chunks[n*chunkSize:]
		flags := le.Uint32(p[36:])
		c := chunk{
			blob: int(le.Uint32(p[32:])), at: int64(le.Uint64(p[56:])), length: int64(le.Uint32(p[44:])),
			stored: int64(le.Uint64(p[48:])), storedSize: int64(le.Uint32(p[40:])),
			packed: flags&chunkCompressed != 0, digest: blob.Hash(p[:32]),
		}
		switch {
		case c.blob >= len(s.blobs):
			return nil, corrupt("chunk %d lies in blob %d of %d", n, c.blob, len(s.blobs))
		case flags&chunkEncrypted != 0:
			return nil, errEncrypted
		case flags&^(chunkCompressed|chunkBatch|chunkCRC) != 0:
			return nil, unsupported("chunk %d has flags %#x: use a newer version of pantala", n, flags)
		}
		if b := &s.blobs[c.blob]; b.features&featureBatch != 0 {
			if infos[c.blob] == nil {
				if room -= b.ci.length; b.ci.length < 0 || room < 0 {
					return nil, corrupt("its blobs have tables of more than %d bytes", maxInfo)
				}
				var err error
				if infos[c.blob], err = readInfos(c.blob, b, read); err != nil {
					return nil, err
				}
			}
			if !infos[c.blob].complete(&c, le.Uint32(p[72:])) {
				return nil, corrupt("chunk %d, and what blob %v says of it, differ", n, b.digest)
			}
		}
		if size := sizes[c.blob]; c.at < 0 || c.at > blob.MaxSize || c.length <= 0 || c.length > s.chunk ||
			c.stored < 0 || c.storedSize <= 0 || c.storedSize > maxStored || c.stored > size-c.storedSize ||
			!c.packed && c.storedSize != c.length || c.skip > maxChunk {
			return nil, corrupt("chunk %d has %d bytes at %d of blob %v, stored in %d bytes at %d of %d", n, c.length, c.at, s.blobs[c.blob].digest, c.storedSize, c.stored, size)
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b chunk) int { return cmp.Or(a.blob-b.blob, cmp.Compare(a.at, b.at)) })
	all = slices.Compact(all)
	for i := 1; i < len(all); i++ {
		if p, c := &all[i-1], &all[i]; p.blob == c.blob && c.at < p.at+p.length {
			return nil, corrupt("two chunks share byte %d of blob %v", c.at, s.blobs[c.blob].digest)
		}
	}
	return all, nil
}

// infos is the table of a blob with batches.
type infos struct {
	chunks  []byte
	batches []byte
}

// readInfos reads the table of a blob. Nobody vouches for it, and nobody has to: it only says where the bytes are that
// have the digests of the bootstrap.
func readInfos(number int, b *blobInfo, read Reader) (*infos, error) {
	ci := b.ci
	chunks := int64(b.count) * infoSize
	if b.features&featureInfoV2 == 0 || ci.at < 0 || ci.stored <= 0 || ci.stored > maxInfo || ci.length < chunks || ci.length > maxInfo || (ci.length-chunks)%batchSize != 0 {
		return nil, corrupt("blob %v has a table of %d chunks in %d bytes, stored in %d at %d", b.digest, b.count, ci.length, ci.stored, ci.at)
	}
	stored := make([]byte, ci.stored)
	if err := read(stored, number, ci.at); err != nil {
		return nil, err
	}
	table := stored
	if decode := decoders[ci.compressor]; decode != nil {
		if ci.length > 256*ci.stored { // no compressor does more than that with numbers that grow
			return nil, corrupt("blob %v has a table of %d bytes, stored in %d", b.digest, ci.length, ci.stored)
		}
		table = make([]byte, ci.length)
		if err := decode(table, stored, 0, nil); err != nil {
			return nil, corrupt("blob %v: its table of chunks: %v", b.digest, err)
		}
	} else if ci.length != ci.stored {
		return nil, corrupt("blob %v has a table of %d bytes, stored in %d", b.digest, ci.length, ci.stored)
	}
	return &infos{table[:chunks], table[chunks:]}, nil
}

// decoders of compressors.
var decoders = [compressors]codec.Span{compressLZ4: lz4block.Span, compressGzip: inflate.Span, compressZstd: zstdspan.Span}

// complete fills in where a chunk is, which has that number in its blob.
func (t *infos) complete(c *chunk, number uint32) bool {
	le := binary.LittleEndian
	if int64(number) >= int64(len(t.chunks)/infoSize) {
		return false
	}
	p := t.chunks[number*infoSize:]
	where, how := le.Uint64(p), le.Uint64(p[8:])
	at, length, flags := int64(where&0xffffffff)<<12, int64(where>>32&0xffffff)+1, where>>56
	if at != c.at || length != c.length || flags&^(chunkCompressed|infoBatch|chunkCRC) != 0 {
		return false
	}
	c.stored, c.storedSize, c.packed = int64(how&0xffffffffff), int64(how>>40), flags&chunkCompressed != 0
	if flags&infoBatch == 0 {
		return true
	}
	n := le.Uint32(p[20:])
	c.skip = int64(le.Uint32(p[16:]))
	if int64(n) >= int64(len(t.batches)/batchSize) {
		return false
	}
	batch := t.batches[n*batchSize:]
	length = int64(le.Uint32(batch[4:]))
	c.storedSize = int64(le.Uint32(batch))
	if c.skip > length-c.length || length > maxChunk {
		return false
	}
	if c.packed = c.storedSize != length; !c.packed { // what compressing does not make smaller is stored as it is
		c.stored, c.storedSize, c.skip = c.stored+c.skip, c.length, 0
	}
	return true
}

// find is the number of the chunk that begins at a byte of a blob; -1: none does.
func find(chunks []chunk, number int, at int64) int {
	i, ok := slices.BinarySearchFunc(chunks, chunk{blob: number, at: at}, func(c, want chunk) int {
		return cmp.Or(c.blob-want.blob, cmp.Compare(c.at, want.at))
	})
	if !ok {
		return -1
	}
	return i
}
