package rafstest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"path"
	"slices"
	"strings"

	"lukechampine.com/blake3"
)

// File is a file of an image, with its type and permission bits as stat(2) has them.
type File struct {
	Name         string // clean, relative; "" is the top
	Mode         uint32
	UID, GID     uint32
	Sec          int64
	Nsec         uint32
	Data         []byte // of a file
	Blob         int    // that holds it
	Target       string // of a symbolic link
	Hard         string // the name of which this is another one
	Major, Minor uint32
	Xattrs       []string // name, value, name, value, …
}

// Compressors.
const (
	None = iota
	LZ4
	Gzip
	Zstd
)

// Options are what an image is written with.
type Options struct {
	Chunk      int // bytes; 0: 1 MiB
	Compressor uint32
	SHA256     bool // digests of chunks; else BLAKE3
	Batch      int  // bytes of batches; 0: none
	Prefetch   bool // with a table of what to fetch first
	Blobs      int  // how many; 0: one
	// Change is called with each part before the next is made of it; nil: nothing is changed.
	Change func(part string, b []byte)
}

// Image is a written image.
type Image struct {
	Boot    []byte
	Blobs   [][]byte
	Decoded [][]byte // what the devices of the bootstrap hold, by blob
}

// node is an inode.
type node struct {
	File
	at    int
	links uint32
	kids  map[string]*node
	where []place // of chunks
}

type place struct {
	blob, number int
	at           int64 // decoded
}

// record is an entry of the table of chunks.
type record struct {
	digest              [32]byte
	blob, number        int
	flags               uint32
	size, stored        int
	at, storedAt, inner int64
	batch               int
}

// blobWriter makes a blob.
type blobWriter struct {
	number  int
	o       *Options
	out     []byte
	decoded []byte
	at      int64 // decoded, aligned
	chunks  []record
	known   map[[32]byte]int
	pending []byte // of the batch that is being filled
	batches [][2]int
}

const block = 4096

// Write makes an image. The top directory has to be among the files, parents before what they hold.
func Write(files []File, o Options) Image {
	if o.Chunk == 0 {
		o.Chunk = 1 << 20
	}
	if o.Blobs == 0 {
		o.Blobs = 1
	}
	if o.Change == nil {
		o.Change = func(string, []byte) {}
	}
	var nodes []*node
	byName := map[string]*node{}
	for _, f := range files {
		if f.Hard != "" {
			n := byName[f.Hard]
			n.links++
			byName[path.Dir(f.Name)].kids[path.Base(f.Name)] = n
			continue
		}
		n := &node{File: f, kids: map[string]*node{}, links: 1}
		if f.Mode&0o170000 == 0o040000 {
			n.links = 2
		}
		nodes = append(nodes, n)
		if f.Name == "" {
			byName["."] = n
			continue
		}
		byName[f.Name] = n
		parent := byName[path.Dir(f.Name)]
		parent.kids[path.Base(f.Name)] = n
		if f.Mode&0o170000 == 0o040000 {
			parent.links++
		}
	}
	var blobs []*blobWriter
	for i := range o.Blobs {
		blobs = append(blobs, &blobWriter{number: i, o: &o, known: map[[32]byte]int{}})
	}
	for _, n := range nodes {
		b := blobs[n.Blob]
		for data := range slices.Chunk(n.Data, o.Chunk) {
			n.where = append(n.where, b.add(data, len(n.Data) <= o.Chunk))
		}
	}
	var img Image
	var all []record
	var table []byte
	for i, b := range blobs {
		info := b.close()
		sum := sha256.Sum256(b.out)
		img.Blobs, img.Decoded = append(img.Blobs, b.out), append(img.Decoded, b.decoded)
		all = append(all, b.chunks...)
		r := make([]byte, 256)
		copy(r, hex.EncodeToString(sum[:]))
		le := binary.LittleEndian
		le.PutUint32(r[64:], uint32(i))
		le.PutUint32(r[68:], uint32(o.Chunk))
		le.PutUint32(r[72:], uint32(len(b.chunks)))
		le.PutUint32(r[76:], o.Compressor)
		features := uint32(0x1)
		if o.SHA256 {
			le.PutUint32(r[80:], 1)
		}
		if o.Batch > 0 {
			features |= 0x80 | 0x4
		}
		le.PutUint32(r[84:], features)
		le.PutUint64(r[88:], uint64(len(b.out)))
		le.PutUint64(r[96:], uint64(b.at))
		le.PutUint32(r[108:], info.compressor)
		le.PutUint64(r[112:], uint64(info.at))
		le.PutUint64(r[120:], uint64(info.stored))
		le.PutUint64(r[128:], uint64(info.size))
		o.Change("blob", r)
		table = append(table, r...)
	}
	img.Boot = boot(nodes, &o, table, all, blobs)
	return img
}

func (b *blobWriter) add(data []byte, whole bool) place {
	digest := sum(data, b.o.SHA256)
	if n, ok := b.known[digest]; ok {
		return place{b.number, n, b.chunks[n].at}
	}
	r := record{digest: digest, blob: b.number, number: len(b.chunks), size: len(data), at: b.at, batch: -1}
	b.at += int64(len(data)+block-1) &^ (block - 1)
	b.decoded = append(b.decoded, data...)
	b.decoded = append(b.decoded, make([]byte, b.at-int64(len(b.decoded)))...)
	if b.o.Batch > 0 && whole && len(data) < b.o.Batch/2 {
		if len(b.pending)+len(data) >= b.o.Batch {
			b.flush()
		}
		r.batch, r.inner, r.storedAt, r.flags = len(b.batches), int64(len(b.pending)), int64(len(b.out)), 1
		b.pending = append(b.pending, data...)
	} else {
		b.flush()
		packed := pack(data, b.o.Compressor)
		r.storedAt, r.stored = int64(len(b.out)), len(packed)
		if len(packed) < len(data) {
			r.flags = 1
		}
		b.out = append(b.out, packed...)
	}
	b.known[digest] = len(b.chunks)
	b.chunks = append(b.chunks, r)
	return place{b.number, r.number, r.at}
}

// flush ends a batch.
func (b *blobWriter) flush() {
	if len(b.pending) > 0 {
		packed := pack(b.pending, b.o.Compressor)
		b.batches = append(b.batches, [2]int{len(packed), len(b.pending)})
		b.out = append(b.out, packed...)
		b.pending = nil
	}
}

type info struct {
	compressor       uint32
	at, stored, size int
}

// close writes the table of the blob's own, and what follows it.
func (b *blobWriter) close() info {
	b.flush()
	le := binary.LittleEndian
	var t []byte
	for _, c := range b.chunks {
		var p [24]byte
		flags := uint64(c.flags)
		if c.batch >= 0 {
			flags |= 4
			le.PutUint64(p[16:], uint64(c.batch)<<32|uint64(c.inner))
		}
		le.PutUint64(p[:], uint64(c.at>>12)|uint64(c.size-1)<<32|flags<<56)
		le.PutUint64(p[8:], uint64(c.storedAt)|uint64(c.stored)<<40)
		if b.o.Batch == 0 { // the first form has neither flags nor batches
			t = append(t, p[8:16]...)
			t = append(t, p[:8]...)
			continue
		}
		t = append(t, p[:]...)
	}
	for _, x := range b.batches {
		var p [40]byte
		le.PutUint32(p[:], uint32(x[0]))
		le.PutUint32(p[4:], uint32(x[1]))
		t = append(t, p[:]...)
	}
	b.o.Change("infos", t)
	packed := pack(t, Zstd)
	i := info{Zstd, len(b.out), len(packed), len(t)}
	if len(packed) == len(t) {
		i.compressor = None
	}
	b.out = append(b.out, packed...)
	b.out = append(b.out, make([]byte, block)...) // a header, which repeats it
	return i
}

func sum(data []byte, sha bool) [32]byte {
	if sha {
		return sha256.Sum256(data)
	}
	return blake3.Sum256(data)
}

// boot writes the bootstrap.
func boot(nodes []*node, o *Options, blobs []byte, chunks []record, writers []*blobWriter) []byte {
	le := binary.LittleEndian
	round := func(n int) int { return (n + block - 1) &^ (block - 1) }
	b := make([]byte, round(1408+128*len(writers)))
	put := func(p []byte) int {
		at := len(b)
		b = append(b, p...)
		b = append(b, make([]byte, round(len(b))-len(b))...)
		return at
	}
	blobsAt := put(blobs)
	meta := len(b)
	// Places first: directories name inodes.
	end := meta
	for _, n := range nodes {
		size := 64 + len(xattrs(n.Xattrs))
		switch {
		case n.inline() != nil:
			size += len(n.inline())
		case len(n.where) > 0:
			size = (size+7)&^7 + 8*len(n.where)
		}
		n.at = (end + 31) &^ 31
		if n.inline() != nil && n.at/block != (n.at+size-1)/block {
			n.at = round(n.at)
		}
		end = n.at + size
	}
	b = append(b, make([]byte, round(end)-len(b))...)
	nid := func(n *node) uint64 { return uint64(n.at-meta) / 32 }
	var inos uint64
	for _, n := range nodes {
		inos++
		content := n.content(nid, nodes)
		layout := uint16(0)
		p := b[n.at:]
		x := xattrs(n.Xattrs)
		copy(p[64:], x)
		tail := p[64+len(x):]
		size := len(content)
		switch {
		case n.Mode&0o170000 == 0o100000:
			size = len(n.Data)
			if size > 0 {
				layout = 4
				le.PutUint32(p[16:], uint32(bits.Len(uint(o.Chunk))-1-12)|0x20)
				at := (n.at+64+len(x)+7)&^7 - n.at
				for i, w := range n.where {
					q := p[at+8*i:]
					le.PutUint16(q[0:], uint16(w.number))
					le.PutUint16(q[2:], uint16(w.number>>16<<8)|uint16(w.blob+1))
					le.PutUint32(q[4:], uint32(w.at/block))
				}
			}
		case n.Mode&0o170000 == 0o020000 || n.Mode&0o170000 == 0o060000:
			le.PutUint32(p[16:], n.Minor&0xff|n.Major<<8|n.Minor&^0xff<<12)
		case len(content) > 0 && n.inline() != nil:
			layout = 2
			copy(tail, content)
		case len(content) > 0:
			at := put(content)
			p = b[n.at:] // it may have moved
			le.PutUint32(p[16:], uint32(at/block))
		}
		le.PutUint16(p[0:], layout<<1|1)
		if len(x) > 0 {
			le.PutUint16(p[2:], uint16((len(x)-12)/4+1))
		}
		le.PutUint16(p[4:], uint16(n.Mode))
		le.PutUint64(p[8:], uint64(size))
		le.PutUint32(p[20:], uint32(inos))
		le.PutUint32(p[24:], n.UID)
		le.PutUint32(p[28:], n.GID)
		le.PutUint64(p[32:], uint64(n.Sec))
		le.PutUint32(p[40:], n.Nsec)
		le.PutUint32(p[44:], n.links)
	}
	var table []byte
	for _, c := range slices.Backward(chunks) { // in no order
		var p [80]byte
		copy(p[:], c.digest[:])
		le.PutUint32(p[32:], uint32(c.blob))
		le.PutUint32(p[36:], c.flags)
		if c.batch < 0 {
			le.PutUint32(p[40:], uint32(c.stored))
			le.PutUint64(p[48:], uint64(c.storedAt))
		}
		le.PutUint32(p[44:], uint32(c.size))
		le.PutUint64(p[56:], uint64(c.at))
		le.PutUint32(p[72:], uint32(c.number))
		table = append(table, p[:]...)
	}
	o.Change("chunks", table)
	chunksAt := put(table)
	e := b[1024+128:]
	flags := uint64(0x10 | 0x20 | 0x1000000)
	flags |= map[uint32]uint64{None: 1, LZ4: 2, Gzip: 0x40, Zstd: 0x80}[o.Compressor]
	if o.SHA256 {
		flags |= 8
	} else {
		flags |= 4
	}
	if o.Prefetch {
		at := put([]byte{0, 0, 0, 0})
		e = b[1024+128:]
		le.PutUint64(e[40:], uint64(at))
		le.PutUint32(e[48:], 4)
	}
	le.PutUint64(e[0:], flags)
	le.PutUint64(e[8:], uint64(blobsAt))
	le.PutUint32(e[16:], uint32(len(blobs)))
	le.PutUint32(e[20:], uint32(o.Chunk))
	le.PutUint64(e[24:], uint64(chunksAt))
	le.PutUint64(e[32:], uint64(len(table)))
	s := b[1024:]
	le.PutUint32(s[0:], 0xe0f5e1e2)
	le.PutUint32(s[8:], 0x40000000)
	s[12] = 12
	le.PutUint16(s[14:], uint16(nid(nodes[0])))
	le.PutUint64(s[16:], inos)
	le.PutUint32(s[36:], uint32(len(b)/block))
	le.PutUint32(s[40:], uint32(meta/block))
	le.PutUint32(s[80:], 0xc)
	le.PutUint16(s[86:], uint16(len(writers)))
	le.PutUint16(s[88:], 1408/128)
	mapped := uint32(len(b) / block)
	for i, w := range writers {
		d := b[1408+128*i:]
		copy(d, blobs[256*i:256*i+64])
		le.PutUint32(d[64:], uint32(w.at/block))
		le.PutUint32(d[68:], mapped)
		mapped += uint32(w.at / block)
	}
	o.Change("boot", b)
	return b
}

// inline is what stands behind the inode; nil: nothing. Its length is right before inodes have their places.
func (n *node) inline() []byte {
	c := n.content(func(*node) uint64 { return 0 }, nil)
	if len(c) == 0 || 64+len(xattrs(n.Xattrs))+len(c) > block {
		return nil
	}
	return c
}

// content is a symbolic link's target, or a directory's entries.
func (n *node) content(nid func(*node) uint64, nodes []*node) []byte {
	switch n.Mode & 0o170000 {
	case 0o120000:
		return []byte(n.Target)
	case 0o040000:
	default:
		return nil
	}
	parent := n
	for _, p := range nodes {
		if n.Name != "" && (p.Name == path.Dir(n.Name) || p.Name == "" && path.Dir(n.Name) == ".") && p.Mode&0o170000 == 0o040000 {
			parent = p
		}
	}
	kids := map[string]*node{".": n, "..": parent}
	names := []string{".", ".."}
	for name, k := range n.kids {
		kids[name] = k
		names = append(names, name)
	}
	slices.SortFunc(names, strings.Compare)
	var out []byte
	for len(names) > 0 {
		fit, size := 0, 0
		for fit < len(names) && size+12+len(names[fit]) <= block {
			size += 12 + len(names[fit])
			fit++
		}
		p := make([]byte, 12*fit, block)
		for i, name := range names[:fit] {
			binary.LittleEndian.PutUint64(p[12*i:], nid(kids[name]))
			binary.LittleEndian.PutUint16(p[12*i+8:], uint16(len(p)))
			p[12*i+10] = map[uint32]byte{0o100000: 1, 0o040000: 2, 0o020000: 3, 0o060000: 4, 0o010000: 5, 0o140000: 6, 0o120000: 7}[kids[name].Mode&0o170000]
			p = append(p, name...)
		}
		if names = names[fit:]; len(names) > 0 {
			p = p[:block]
		}
		out = append(out, p...)
	}
	return out
}

// xattrs are attributes as they stand behind an inode.
func xattrs(all []string) []byte {
	if len(all) == 0 {
		return nil
	}
	b := make([]byte, 12)
	for pair := range slices.Chunk(all, 2) {
		index := byte(0)
		name := pair[0]
		for prefix, i := range map[string]byte{"user.": 1, "trusted.": 4, "security.": 6, "system.posix_acl_access": 2, "system.posix_acl_default": 3} {
			if rest, ok := strings.CutPrefix(name, prefix); ok {
				name, index = rest, i
				break
			}
		}
		if index == 0 {
			panic(fmt.Sprintf("attribute %q", pair[0]))
		}
		b = append(b, byte(len(name)), index, byte(len(pair[1])), byte(len(pair[1])>>8))
		b = append(b, name...)
		b = append(b, pair[1]...)
		b = append(b, bytes.Repeat([]byte{0}, (4-len(b)%4)%4)...)
	}
	return b
}
