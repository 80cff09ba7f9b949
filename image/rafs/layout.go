package rafs

import (
	"bytes"
	"fmt"
	"io"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
)

// Blob is a blob of the image, as its manifest has it.
type Blob struct {
	Digest blob.Hash
	Size   int64 // bytes, stored
}

// Place says where in the address space of the index a stretch of a device of the bootstrap lies, by extents whose File
// counts from its beginning. Devices are counted from 1.
type Place = func(device int, at, length int64) ([]index.Extent, error)

// List lists the tree of an EROFS image: fs/erofs.Entries.
type List = func(r io.ReaderAt, size int64, place Place) ([]index.Entry, error)

// Image is what a bootstrap says.
type Image struct {
	Facts   index.Facts // Format, Stored and Size
	Entries []index.Entry
	Spans   []index.Span // one for each chunk; Stored counts in all Blobs, one behind the other
	Blobs   []Blob       // as they were given
	chunks  []chunk      // by span
	order   []int        // number in Blobs, by number in the bootstrap
}

// Format is what index.Facts calls it.
const Format = "rafs-v6"

// Parse reads a bootstrap, whose image has those blobs. read reads of them, which only batches need.
func Parse(boot []byte, blobs []Blob, list List, read func(p []byte, blob int, at int64) error) (*Image, error) {
	s, err := readSuper(boot)
	if err != nil {
		return nil, err
	}
	m := &Image{Facts: index.Facts{Format: Format}, Blobs: blobs}
	starts, number := make([]int64, len(blobs)), map[blob.Hash]int{}
	for i, b := range blobs {
		starts[i] = m.Facts.Stored
		if b.Size < 0 || b.Size > blob.MaxSize-m.Facts.Stored {
			return nil, corrupt("blobs of more than %d bytes", int64(blob.MaxSize))
		}
		m.Facts.Stored += b.Size
		number[b.Digest] = i
	}
	sizes := make([]int64, len(s.blobs))
	for i, b := range s.blobs {
		n, ok := number[b.digest]
		if !ok {
			return nil, unsupported("its bootstrap wants the blob sha256:%v, which its manifest does not list: push the image again with all its blobs", b.digest)
		}
		m.order, sizes[i] = append(m.order, n), blobs[n].Size
	}
	m.chunks, err = s.readChunks(sizes, func(p []byte, i int, at int64) error {
		if at > sizes[i]-int64(len(p)) {
			return corrupt("blob %v has its table at %d, %d bytes, of %d", s.blobs[i].digest, at, len(p), sizes[i])
		}
		return read(p, m.order[i], at)
	})
	if err != nil {
		return nil, err
	}
	if err := m.lay(s, starts); err != nil {
		return nil, err
	}
	m.Entries, err = list(bytes.NewReader(boot), int64(len(boot)), m.place)
	return m, err
}

// lay makes spans of chunks, one behind the other, each at a multiple of 512: so a file of chunks that follow each other
// is one extent.
func (m *Image) lay(s *super, starts []int64) error {
	m.Spans = make([]index.Span, len(m.chunks))
	kind := index.Chunk
	if s.blake3 {
		kind = index.Blake3
	}
	codecs := [compressors]index.Codec{index.Stored, index.LZ4, index.Deflate, index.Zstd}
	for i, c := range m.chunks {
		room := (c.length + 511) &^ 511
		if m.Facts.Size > blob.MaxSize-room {
			return corrupt("chunks of more than %d bytes", int64(blob.MaxSize))
		}
		x := index.Span{
			Device: m.Facts.Size, Length: room, Pad: room - c.length, Stored: starts[m.order[c.blob]] + c.stored, StoredLength: c.storedSize,
			Skip: c.skip, Kind: kind, Digest: c.digest,
		}
		if c.packed {
			if x.Codec = codecs[s.blobs[c.blob].compressor]; x.Codec == index.Stored {
				return corrupt("blob %v has compressed chunks and no compressor", s.blobs[c.blob].digest)
			}
		}
		m.Spans[i] = x
		m.Facts.Size += room
	}
	return nil
}

// place implements Place.
func (m *Image) place(device int, at, length int64) (all []index.Extent, err error) {
	for done := int64(0); done < length; {
		i := find(m.chunks, device-1, at+done)
		if i < 0 {
			return nil, corrupt("a file has bytes at %d of device %d, where no chunk begins", at+done, device)
		}
		n := min(m.chunks[i].length, length-done)
		x := index.Extent{File: done, Device: m.Spans[i].Device, Length: n}
		if k := len(all) - 1; k >= 0 && all[k].Device+all[k].Length == x.Device {
			all[k].Length += n
		} else {
			all = append(all, x)
		}
		done += n
	}
	return all, nil
}

// Name says where a byte of all blobs, one behind the other, is.
func Name(blobs []Blob, at int64) string {
	for _, b := range blobs {
		if at < b.Size {
			return fmt.Sprintf("chunk at %d of blob sha256:%v", at, b.Digest)
		}
		at -= b.Size
	}
	return "no chunk"
}
