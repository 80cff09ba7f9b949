package estargz

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/toc"
)

const (
	// Annotation of a layer's descriptor: digest of the JSON of its table.
	Annotation = "containerd.io/snapshot/stargz/toc.digest"

	tableName    = "stargz.index.json"
	footerSize   = 51
	legacyFooter = 47
)

// landmarks are members of the archive that are no files of the image.
var landmarks = []string{".prefetch.landmark", ".no.prefetch.landmark"}

// Pinned reports whether annotations vouch for the table of a layer. Without that, whoever delivers its bytes may have
// made up all of it: use it only for what is read from an origin that is trusted anyway.
func Pinned(annotations map[string]string) bool {
	_, ok := toc.Digest(annotations[Annotation])
	return ok
}

// Parse reads what a layer says about itself: footer and table, at most 32 MiB. Facts have Format, Stored and Size;
// what they lack is for the caller to know. Windows are nil: no span needs one.
func Parse(ctx context.Context, layer blob.ReaderAt, annotations map[string]string) (facts index.Facts, entries []index.Entry, spans []index.Span, windows [][]byte, err error) {
	at, end, err := footer(ctx, layer)
	if err != nil {
		return facts, nil, nil, nil, err
	}
	if end-at > toc.MaxStored {
		return facts, nil, nil, nil, fmt.Errorf("%w: eStargz: a table of contents of %d bytes; no more than %d are read", blob.ErrInvalid, end-at, toc.MaxStored)
	}
	stored := make([]byte, end-at)
	if err := layer.ReadAt(ctx, stored, at); err != nil {
		return facts, nil, nil, nil, err
	}
	table, err := open(stored)
	if err != nil {
		return facts, nil, nil, nil, err
	}
	sum := sha256.New()
	facts = index.Facts{Format: "estargz", Stored: layer.Size()}
	facts.Size, entries, spans, err = toc.Read(io.TeeReader(table, sum), toc.Options{Codec: index.Deflate, End: at, Drop: landmarks})
	if err == nil {
		err = check(annotations[Annotation], blob.Hash(sum.Sum(nil)))
	}
	if err != nil {
		return index.Facts{}, nil, nil, nil, damaged(err)
	}
	return facts, entries, spans, nil, nil
}

// check holds the table against the annotation, if there is one.
func check(annotation string, sum blob.Hash) error {
	if annotation == "" {
		return nil
	}
	want, ok := toc.Digest(annotation)
	if !ok {
		return fmt.Errorf("%w: eStargz: annotation %s of the layer: %.80q", blob.ErrInvalid, Annotation, annotation)
	}
	if want != sum {
		return fmt.Errorf("%w: eStargz: the table of contents has the digest sha256:%x, not sha256:%x as the image says", blob.ErrCorrupt, sum, want)
	}
	return nil
}

// footer finds the table: where it begins and ends in the layer. The footer is an empty gzip member with an extra field
// (RFC 1952 section 2.3.1.1); in that of stargz the field has no header of its own.
func footer(ctx context.Context, layer blob.ReaderAt) (at, end int64, err error) {
	size := layer.Size()
	if size < footerSize {
		return 0, 0, index.ErrFormat
	}
	var b [footerSize]byte
	if err := layer.ReadAt(ctx, b[:], size-footerSize); err != nil {
		return 0, 0, err
	}
	if at, ok := field(b[:], "SG\x16\x00"); ok {
		end = size - footerSize
		if at > 0 && at < end {
			return at, end, nil
		}
	} else if at, ok := field(b[footerSize-legacyFooter:], ""); ok {
		end = size - legacyFooter
		if at > 0 && at < end {
			return at, end, nil
		}
	}
	return 0, 0, index.ErrFormat
}

// field reads the offset out of the extra field of a footer, whose own header is head.
func field(b []byte, head string) (int64, bool) {
	const text = 16 + len("STARGZ")
	start := 12 + len(head)
	if string(b[:4]) != "\x1f\x8b\x08\x04" || int(binary.LittleEndian.Uint16(b[10:])) != len(head)+text ||
		string(b[12:start]) != head || string(b[start+16:start+text]) != "STARGZ" {
		return 0, false
	}
	at, err := strconv.ParseInt(string(b[start:start+16]), 16, 64)
	return at, err == nil
}

// open finds the JSON in the archive of one member that the table is.
func open(stored []byte) (io.Reader, error) {
	z, err := gzip.NewReader(bytes.NewReader(stored))
	if err != nil {
		return nil, damaged(err)
	}
	t := tar.NewReader(io.LimitReader(z, toc.MaxTable+4096))
	h, err := t.Next()
	if err != nil {
		return nil, damaged(err)
	}
	if h.Name != tableName {
		return nil, fmt.Errorf("%w: eStargz: %.80q where the table of contents should be", blob.ErrCorrupt, h.Name)
	}
	if h.Size > toc.MaxTable {
		return nil, fmt.Errorf("%w: eStargz: a table of contents of %d bytes; no more than %d are read", blob.ErrInvalid, h.Size, toc.MaxTable)
	}
	return t, nil
}

// damaged gives errors of gzip and tar readers a class.
func damaged(err error) error {
	if errors.Is(err, blob.ErrCorrupt) || errors.Is(err, blob.ErrInvalid) {
		return err
	}
	return fmt.Errorf("%w: eStargz: table of contents: %v", blob.ErrCorrupt, err)
}
