package zstdchunked

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec/zstdspan"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/toc"
)

// Annotations of a layer's descriptor.
const (
	Checksum = "io.github.containers.zstd-chunked.manifest-checksum" // digest of the table as it is stored
	Position = "io.github.containers.zstd-chunked.manifest-position" // offset:length:decoded length:kind

	OldChecksum = "io.containers.zstd-chunked.manifest-checksum"
	OldPosition = "io.containers.zstd-chunked.manifest-position"

	Decoded = "containerd.io/snapshot/stargz/toc.digest" // digest of the table, decoded
)

const (
	kindCRFS = 1 // the only kind of table there is

	frameHeader = 8  // of a skippable frame (RFC 8878 section 3.1.2): magic number and length
	newFooter   = 64 // bytes in the last frame
	oldFooter   = 40 // the same without the position of what rebuilds the archive
)

// place is where a table lies.
type place struct {
	at, stored, decoded, kind uint64
}

// landmarks are members of the archive that are no files of the image.
var landmarks = []string{".prefetch.landmark", ".no.prefetch.landmark"}

// Pinned reports whether annotations vouch for the table of a layer. Without that, whoever delivers its bytes may have
// made up all of it: use it only for what is read from an origin that is trusted anyway.
func Pinned(annotations map[string]string) bool {
	for _, name := range []string{Checksum, OldChecksum, Decoded} {
		if _, ok := toc.Digest(annotations[name]); ok {
			return true
		}
	}
	return false
}

// Parse reads what a layer says about itself: its table, at most 32 MiB, and the footer if no annotation says where the
// table is. Facts have Format, Stored and Size; what they lack is for the caller to know. Windows are nil: no span needs
// one.
func Parse(ctx context.Context, layer blob.ReaderAt, annotations map[string]string) (facts index.Facts, entries []index.Entry, spans []index.Span, windows [][]byte, err error) {
	p, err := find(ctx, layer, annotations)
	if err != nil {
		return facts, nil, nil, nil, err
	}
	table, err := read(ctx, layer, p, annotations)
	if err != nil {
		return facts, nil, nil, nil, err
	}
	facts = index.Facts{Format: "zstd:chunked", Stored: layer.Size()}
	// The table is in a skippable frame behind the last chunk.
	o := toc.Options{Codec: index.Zstd, End: int64(p.at) - frameHeader, Drop: landmarks}
	facts.Size, entries, spans, err = toc.Read(bytes.NewReader(table), o)
	if err != nil {
		return index.Facts{}, nil, nil, nil, err
	}
	return facts, entries, spans, nil, nil
}

// find says where the table is.
func find(ctx context.Context, layer blob.ReaderAt, annotations map[string]string) (p place, err error) {
	size := layer.Size()
	if text, ok := first(annotations, Position, OldPosition); ok {
		if p, err = position(text); err != nil {
			return p, err
		}
	} else {
		if size < newFooter+frameHeader {
			return p, index.ErrFormat
		}
		var b [newFooter + frameHeader]byte
		if err := layer.ReadAt(ctx, b[:], size-int64(len(b))); err != nil {
			return p, err
		}
		if p, ok = footer(b[:]); !ok {
			return p, index.ErrFormat
		}
	}
	if p.kind != kindCRFS {
		return p, fmt.Errorf("%w: zstd:chunked: a table of contents of kind %d; this program reads kind %d", blob.ErrInvalid, p.kind, kindCRFS)
	}
	if p.stored > toc.MaxStored || p.decoded > toc.MaxTable {
		return p, fmt.Errorf("%w: zstd:chunked: a table of contents of %d bytes, %d decoded; no more than %d and %d are read", blob.ErrInvalid, p.stored, p.decoded, toc.MaxStored, toc.MaxTable)
	}
	if p.at <= frameHeader || p.at > uint64(size) || p.stored > uint64(size)-p.at {
		return p, fmt.Errorf("%w: zstd:chunked: a table of contents at %d, %d bytes, in a layer of %d", blob.ErrCorrupt, p.at, p.stored, size)
	}
	return p, nil
}

// first returns the annotation that is there.
func first(annotations map[string]string, names ...string) (string, bool) {
	for _, name := range names {
		if text, ok := annotations[name]; ok {
			return text, true
		}
	}
	return "", false
}

// position reads an annotation: four decimal numbers.
func position(text string) (p place, err error) {
	parts := strings.Split(text, ":")
	numbers := []*uint64{&p.at, &p.stored, &p.decoded, &p.kind}
	if len(parts) == len(numbers) {
		for i, n := range numbers {
			if *n, err = strconv.ParseUint(parts[i], 10, 63); err != nil {
				break
			}
		}
		if err == nil {
			return p, nil
		}
	}
	return p, fmt.Errorf("%w: zstd:chunked: annotation %s of the layer: %.80q", blob.ErrInvalid, Position, text)
}

// footer reads the last frames of a layer.
func footer(b []byte) (p place, ok bool) {
	if m := string(b[len(b)-8:]); m != "GNUlInUx" && m != "GnUlInUx" {
		return p, false
	}
	for _, size := range []int{newFooter, oldFooter} {
		frame := b[len(b)-size-frameHeader:]
		if binary.LittleEndian.Uint32(frame) != 0x184D2A50 || binary.LittleEndian.Uint32(frame[4:]) != uint32(size) {
			continue
		}
		for i, n := range []*uint64{&p.at, &p.stored, &p.decoded, &p.kind} {
			*n = binary.LittleEndian.Uint64(frame[frameHeader+8*i:])
		}
		return p, true
	}
	return p, false
}

// read reads the table and holds it against what vouches for it.
func read(ctx context.Context, layer blob.ReaderAt, p place, annotations map[string]string) ([]byte, error) {
	stored := make([]byte, p.stored)
	if err := layer.ReadAt(ctx, stored, int64(p.at)); err != nil {
		return nil, err
	}
	for _, name := range []string{Checksum, OldChecksum} {
		if err := check(annotations, name, stored); err != nil {
			return nil, err
		}
	}
	table := make([]byte, p.decoded)
	if err := zstdspan.Span(table, stored, 0, nil); err != nil {
		return nil, fmt.Errorf("zstd:chunked: table of contents: %w", err)
	}
	return table, check(annotations, Decoded, table)
}

// check holds b against the digest in an annotation, if there is one.
func check(annotations map[string]string, name string, b []byte) error {
	text, ok := annotations[name]
	if !ok {
		return nil
	}
	want, ok := toc.Digest(text)
	if !ok {
		return fmt.Errorf("%w: zstd:chunked: annotation %s of the layer: %.80q", blob.ErrInvalid, name, text)
	}
	if sum := blob.Hash(sha256.Sum256(b)); sum != want {
		return fmt.Errorf("%w: zstd:chunked: the table of contents has the digest sha256:%x, not sha256:%x as annotation %s says", blob.ErrCorrupt, sum, want, name)
	}
	return nil
}
