package build

import (
	"fmt"
	"io"
	"strings"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/erofslayer"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/tree"
)

// imageFormat is what an index says of a layer that is an EROFS image; one that is compressed as a whole has the format
// of that behind a plus sign.
const imageFormat = "erofs"

// IsImage reports whether an index of this format is of a layer that is an EROFS image. Such layers hide files of lower
// ones as overlayfs does (tree.Layer).
func IsImage(format string) bool {
	return format == imageFormat || strings.HasPrefix(format, imageFormat+"+")
}

// keeper keeps an image until its metadata is read.
type keeper interface {
	io.ReaderAt
	io.WriterAt
}

// imageAt is where an image lies in Options.Scratch: behind all windows, which are less than what an index may have.
const imageAt = 1 << 40

// keep finds a place for an image, and has what is decoded written there, too.
func keep(o *Options) keeper {
	if k, ok := o.Decoded.(keeper); ok {
		return k
	}
	k := keeper(new(growing))
	if o.Scratch != nil {
		k = struct {
			io.ReaderAt
			io.WriterAt
		}{io.NewSectionReader(o.Scratch, imageAt, 1<<62), io.NewOffsetWriter(o.Scratch, imageAt)}
	}
	if o.Decoded == nil {
		o.Decoded = k
	} else {
		o.Decoded = both{o.Decoded, k}
	}
	return k
}

// both writes to two places.
type both [2]io.WriterAt

func (b both) WriteAt(p []byte, off int64) (int, error) {
	if n, err := b[0].WriteAt(p, off); err != nil {
		return n, err
	}
	return b[1].WriteAt(p, off)
}

// growing is a file in memory.
type growing []byte

func (m *growing) WriteAt(p []byte, off int64) (int, error) {
	if n := off + int64(len(p)) - int64(len(*m)); n > 0 {
		*m = append(*m, make([]byte, n)...)
	}
	return copy((*m)[off:], p), nil
}

func (m *growing) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(*m)) {
		return 0, io.EOF
	}
	n := copy(p, (*m)[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// image finds the entries of an EROFS image, all bytes of which have come, and makes spans of those ends of files that
// lie where the merged tree cannot point to, among the metadata: each is a span of its own behind the image.
func (p *pipeline) image(b *Built) error {
	if p.kind.codec == index.Stored {
		b.Format = imageFormat
	} else {
		b.Format = imageFormat + "+" + b.Format
	}
	var buf []byte
	place := func(at, length int64) (int64, error) {
		if p.kind.codec != index.Stored {
			return 0, fmt.Errorf("%w layer: an EROFS image with files inline in its metadata, compressed as a whole, cannot be read at random: write it with mkfs.erofs -Enoinline_data, as containerd does", blob.ErrInvalid)
		}
		b.align()
		buf = room(buf, length)
		if _, err := p.kept.ReadAt(buf, at); err != nil && err != io.EOF {
			return 0, err
		}
		s := index.Span{
			Device: b.Size, Stored: at, StoredLength: length, Codec: index.Stored, Digest: index.Root(buf),
			Length: (length + tree.Block - 1) / tree.Block * tree.Block,
		}
		s.Pad = s.Length - length
		if b.Size += s.Length; b.Size > p.o.MaxSize || b.Size > free && b.Size/p.o.MaxRatio > b.Stored {
			return 0, fmt.Errorf("%w layer: its files are larger than %d bytes, or more than %d for each stored byte (limited by max-layer-size and max-layer-ratio)", blob.ErrInvalid, p.o.MaxSize, p.o.MaxRatio)
		}
		b.Spans = append(b.Spans, s)
		_, err := p.o.Decoded.WriteAt(append(buf, make([]byte, s.Pad)...), s.Device)
		return s.Device, err
	}
	return erofslayer.Walk(p.kept, b.decoded, place, p.spans.enter)
}

// align makes the address space end at a block, before something is placed behind it.
func (b *Built) align() {
	pad := -b.Size & (tree.Block - 1)
	if pad == 0 {
		return
	}
	last := &b.Spans[len(b.Spans)-1] // an image that has anything to place is not empty
	last.Length += pad
	last.Pad += pad
	b.Size += pad
}
