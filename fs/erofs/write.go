package erofs

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/tree"
)

// version is part of every name: another writer makes other files.
const version = "pantala erofs 1"

// Name is the file name under which the metadata of a tree may be kept: it depends on this package's version and on
// inputs, which are what the tree was made from.
func Name(inputs ...string) string {
	h := sha256.New()
	for _, s := range append([]string{version}, inputs...) {
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		io.WriteString(h, s)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Options of Write.
type Options struct {
	// UUID of the file system; overlayfs tells its layers apart by it. Zero: none.
	UUID [16]byte
	// BlockBits is the logarithm of the block size: 9, the default, or up to 12 where all layers hold files at such
	// addresses only.
	BlockBits uint
}

const (
	defaultBlockBits = 9
	maxBlockBits     = 12
	writeBuffer      = 256 << 10
)

// Write writes the metadata of t to w and returns its length in bytes. The same tree gives the same bytes. Device i,
// counted from 1, is t.Layers[i-1].
func Write(w io.Writer, t *tree.Tree, o Options) (int64, error) {
	if o.BlockBits == 0 {
		o.BlockBits = defaultBlockBits
	}
	if o.BlockBits < defaultBlockBits || o.BlockBits > maxBlockBits {
		return 0, fmt.Errorf("%w: blocks of 2^%d bytes", blob.ErrInvalid, o.BlockBits)
	}
	l, err := plan(t, o.BlockBits)
	if err != nil {
		return 0, err
	}
	e := &encoder{layout: l, w: bufio.NewWriterSize(w, writeBuffer)}
	e.put(l.headOf(o))
	e.inodes()
	e.outside()
	if e.err == nil {
		e.err = e.w.Flush()
	}
	if e.err == nil && e.pos != l.end {
		panic(fmt.Sprintf("BUG: %d bytes of metadata were planned, %d written", l.end, e.pos))
	}
	return e.pos, e.err
}

// headOf is the superblock, the device table, and what comes before them.
func (l *layout) headOf(o Options) []byte {
	b := make([]byte, l.head)
	le := binary.LittleEndian
	sb := b[superOffset:]
	le.PutUint32(sb, superMagic)
	le.PutUint32(sb[8:], compatChecksum|compatMtime)
	sb[12] = byte(l.shift)
	le.PutUint16(sb[14:], uint16(l.nids[tree.Root])) // the first inode, behind at most 1000 slots
	le.PutUint64(sb[16:], uint64(len(l.nids)))
	le.PutUint32(sb[36:], uint32(l.end>>l.shift))
	copy(sb[48:64], o.UUID[:])
	incompat := uint32(incompatChunked)
	if n := len(l.starts); n > 0 {
		incompat |= incompatDevices
		le.PutUint16(sb[86:], uint16(n))
		le.PutUint16(sb[88:], slotOffset/slotSize)
	}
	le.PutUint32(sb[80:], incompat)
	for i, s := range l.tree.Layers {
		slot := b[slotOffset+i*slotSize:]
		copy(slot[:tagSize], s.Name[strings.IndexByte(s.Name, ':')+1:]) // of a digest, what fits
		le.PutUint32(slot[64:], uint32(l.up(s.Size)>>l.shift))
		le.PutUint32(slot[68:], uint32(l.starts[i]>>l.shift))
	}
	le.PutUint32(sb[4:], checksum(b, l.block))
	return b
}

// checksum is the CRC-32C of the superblock's block from the superblock on, without the final complement
// (erofs_superblock_csum_verify); the field of the checksum is zero.
func checksum(head []byte, block int64) uint32 {
	end := block
	if end <= superOffset {
		end += superOffset
	}
	return ^crc32.Update(0, crc32.MakeTable(crc32.Castagnoli), head[superOffset:end])
}

// encoder writes one thing after the other.
type encoder struct {
	*layout
	w   *bufio.Writer
	pos int64
	err error

	extents []index.Extent // scratch
	buf     []byte
}

func (e *encoder) put(p []byte) {
	if e.err == nil {
		_, e.err = e.w.Write(p)
		e.pos += int64(len(p))
	}
}

var zeros [1 << maxBlockBits]byte

// fill writes zeros up to pos, which is less than a block away.
func (e *encoder) fill(pos int64) { e.put(zeros[:pos-e.pos]) }

// inodes writes the inodes with what stands behind them.
func (e *encoder) inodes() {
	next := e.data // where the next content that does not fit goes
	le := binary.LittleEndian
	for i, nid := range e.nids {
		id := tree.ID(i)
		s := e.shape(id, &e.extents)
		e.fill(int64(nid) << nidShift)
		var b [extendedSize]byte
		le.PutUint16(b[0:], 1|s.layout<<1)
		if n := xattrSize(s.Xattrs); n > 0 {
			le.PutUint16(b[2:], uint16((n-xattrHeader)/4+1))
		}
		le.PutUint16(b[4:], uint16(s.Mode))
		le.PutUint64(b[8:], uint64(s.Size))
		le.PutUint32(b[16:], e.union(&s, next))
		le.PutUint32(b[20:], nid) // for those who can hold 32 bits only
		le.PutUint32(b[24:], s.UID)
		le.PutUint32(b[28:], s.GID)
		le.PutUint64(b[32:], uint64(s.Sec))
		le.PutUint32(b[40:], s.Nsec)
		le.PutUint32(b[44:], s.Links)
		e.put(b[:])
		e.put(e.xattrs(s.Xattrs))
		if s.tail > 0 {
			e.put(e.content(id, &s))
		}
		next += e.up(s.outside)
	}
	e.fill(e.data)
}

// union is the field whose meaning depends on the inode.
func (e *encoder) union(s *shape, next int64) uint32 {
	switch s.Mode & tree.TypeMask {
	case tree.CharDevice, tree.BlockDevice:
		return encodeDevice(s.Major, s.Minor)
	case tree.Directory, tree.Symlink:
		if s.layout == layoutPlain {
			return uint32(next >> e.shift)
		}
	case tree.File:
		switch {
		case s.layout == layoutChunks:
			return uint32(s.granule - e.shift)
		case s.Size > 0:
			if s.first&(e.block-1) != 0 {
				e.misplaced(s)
			}
			return uint32(s.first >> e.shift)
		}
	}
	return nullBlock
}

// misplaced refuses a tree whose layers were not made for this block size.
func (e *encoder) misplaced(s *shape) {
	if e.err == nil {
		e.err = fmt.Errorf("%w: layer %s has content that does not begin or end at a multiple of %d bytes", blob.ErrInvalid, e.tree.Layers[s.Layer].Name, e.block)
	}
}

// xattrs encodes attributes; the result is valid until the next use of e.buf.
func (e *encoder) xattrs(all []index.Xattr) []byte {
	if len(all) == 0 {
		return nil
	}
	b := append(e.buf[:0], zeros[:xattrHeader]...)
	for _, x := range all {
		i, rest := cutPrefix(x.Name)
		b = append(b, byte(len(rest)), i, byte(len(x.Value)), byte(len(x.Value)>>8))
		b = append(b, rest...)
		b = append(b, x.Value...)
		b = append(b, zeros[:-len(b)&3]...)
	}
	e.buf = b
	return b
}

// content is what an inode holds besides itself; the result is valid until the next use of e.buf.
func (e *encoder) content(id tree.ID, s *shape) []byte {
	switch s.Mode & tree.TypeMask {
	case tree.Directory:
		e.directory(id)
		return e.buf
	case tree.Symlink:
		return append(e.buf[:0], s.Target...)
	}
	return e.chunks(s)
}

// chunks are the addresses of a file's chunks.
func (e *encoder) chunks(s *shape) []byte {
	b := e.buf[:0]
	for _, x := range e.extents {
		if end := x.File + x.Length; (x.File|x.Device|end)&(e.block-1) != 0 && (end != s.Size || (x.File|x.Device)&(e.block-1) != 0) {
			e.misplaced(s)
		}
	}
	chunk, rest := int64(1)<<s.granule, e.extents
	for at := int64(0); at < s.Size; at += chunk {
		for len(rest) > 0 && rest[0].File+rest[0].Length <= at {
			rest = rest[1:]
		}
		addr := uint32(nullBlock)
		if len(rest) > 0 && rest[0].File <= at {
			addr = uint32((e.starts[s.Layer] + rest[0].Device + at - rest[0].File) >> e.shift)
		}
		b = binary.LittleEndian.AppendUint32(b, addr)
	}
	e.buf = b
	return b
}

// directory encodes the blocks of a directory into e.buf: entries, then their names.
func (e *encoder) directory(id tree.ID) {
	type entry struct {
		name []byte
		id   tree.ID
	}
	var here []entry
	used := int64(0)
	b := e.buf[:0]
	flush := func(last bool) {
		at := direntSize * len(here)
		start := len(b)
		for _, h := range here {
			b = binary.LittleEndian.AppendUint64(b, uint64(e.nids[h.id]))
			b = binary.LittleEndian.AppendUint16(b, uint16(at))
			b = append(b, e.typeOf(h.id), 0)
			at += len(h.name)
		}
		for _, h := range here {
			b = append(b, h.name...)
		}
		if !last {
			b = append(b, zeros[:int(e.block)-(len(b)-start)]...)
		}
		here, used = here[:0], 0
	}
	e.entries(id, func(name []byte, child tree.ID) {
		n := direntSize + int64(len(name))
		if used+n > e.block {
			flush(false)
		}
		here, used = append(here, entry{name, child}), used+n
	})
	flush(true)
	e.buf = b
}

func (e *encoder) typeOf(id tree.ID) byte { return fileTypes[e.tree.Type(id)>>12] }

// outside writes what did not fit behind its inode.
func (e *encoder) outside() {
	for i := range e.nids {
		id := tree.ID(i)
		if t := e.tree.Type(id); t != tree.Directory && t != tree.Symlink {
			continue
		}
		if s := e.shape(id, &e.extents); s.outside > 0 {
			e.put(e.content(id, &s))
			e.fill(e.up(e.pos))
		}
	}
}
