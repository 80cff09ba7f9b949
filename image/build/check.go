package build

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"reflect"
	"slices"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/image/index"
)

// Check reads a whole layer and holds x, its index, against it: the digests of the layer, its piece roots, the entries
// of its archive, and every span, decoded alone. windows is the index file that x is of. What the index adds of its own,
// as one of a layer with a table of contents does, is checked as far as the spans go: their bytes are what it says they
// are; then all is false, otherwise everything that it says was compared. scratch is as in Options. blob.ErrCorrupt: index
// and layer differ, and where.
func Check(ctx context.Context, x *index.Index, stored, windows blob.ReaderAt, scratch Scratch) (all bool, err error) {
	want := Want{Digest: x.Layer, Size: x.Stored, DiffID: x.DiffID}
	if stored.Size() != x.Stored {
		return false, fmt.Errorf("%w index: it is of a layer of %d bytes, not %d", blob.ErrCorrupt, x.Stored, stored.Size())
	}
	b, err := Build(ctx, &reader{ctx: ctx, from: stored}, Options{
		Want: want, MaxSize: blob.MaxSize, MaxRatio: 1 << 40, Scratch: scratch, Image: IsImage(x.Format),
	})
	if err != nil {
		return false, err
	}
	if !x.Root.IsZero() && x.Root != b.Root {
		return false, fmt.Errorf("%w index: the layer's root is %v, not %v", blob.ErrCorrupt, b.Root, x.Root)
	}
	for i, r := range x.Roots {
		if r != b.Roots[i] {
			return false, fmt.Errorf("%w index: the root of the layer's piece %d is %v, not %v", blob.ErrCorrupt, i, b.Roots[i], r)
		}
	}
	whole, err := checkSpans(ctx, x, stored, windows, nil, b.decoded)
	if err != nil {
		return false, err
	}
	if x.Format != b.Format {
		return false, entriesReadable(x.Entries())
	}
	if whole != b.DiffID {
		return false, fmt.Errorf("%w index: its spans have the digest sha256:%v together, the layer's archive has sha256:%v", blob.ErrCorrupt, whole, b.DiffID)
	}
	if err := samePlaces(x.Spans, b.Spans, b.decoded); err != nil {
		return false, err
	}
	if err := sameEntries(x.Entries(), b.Entries.All()); err != nil {
		return false, err
	}
	return true, nil
}

// samePlaces compares where an index says that those bytes are stored that lie behind the first decoded ones in the
// address space.
func samePlaces(listed, has []index.Span, decoded int64) error {
	before := func(s index.Span) bool { return s.Device < decoded }
	listed, has = slices.DeleteFunc(slices.Clone(listed), before), slices.DeleteFunc(slices.Clone(has), before)
	if !slices.Equal(listed, has) {
		return fmt.Errorf("%w index: the ends of files that it places behind the image are not those of the image", blob.ErrCorrupt)
	}
	return nil
}

// CheckSpans decodes each span, and holds it against its digest. It returns the SHA-256 of all of them together. name
// says what a span is, for messages; nil: its number does. blob.ErrCorrupt: they differ.
func CheckSpans(ctx context.Context, x *index.Index, stored, windows blob.ReaderAt, name func(span int) string) (whole blob.Hash, err error) {
	return checkSpans(ctx, x, stored, windows, name, x.Size)
}

// checkSpans is CheckSpans with the SHA-256 of those spans that begin among the first decoded bytes.
func checkSpans(ctx context.Context, x *index.Index, stored, windows blob.ReaderAt, name func(span int) string, decoded int64) (whole blob.Hash, err error) {
	if name == nil {
		name = func(span int) string {
			return fmt.Sprintf("span %d of %d, at %d", span, len(x.Spans), x.Spans[span].Device)
		}
	}
	h := sha256.New()
	var dst, src []byte
	for i, s := range x.Spans {
		dst, src = room(dst, s.Skip+s.Decoded()), room(src, s.StoredLength)
		if err := stored.ReadAt(ctx, src, s.Stored); err != nil {
			return whole, err
		}
		window, err := x.Window(ctx, windows, i)
		if err != nil {
			return whole, err
		}
		if decode := Decoder(s.Codec); decode == nil {
			copy(dst, src)
		} else if err := decode(dst, src, s.Bit, window); err != nil {
			return whole, fmt.Errorf("index: %s: %w", name(i), err)
		}
		if !s.Verify(src, dst[s.Skip:]) {
			return whole, fmt.Errorf("%w index: %s decodes to %d bytes that do not match its digest, %v", blob.ErrCorrupt, name(i), s.Decoded(), s.Digest)
		}
		if dst = dst[s.Skip:]; s.Device < decoded {
			h.Write(dst)
		}
	}
	return blob.Hash(h.Sum(nil)), nil
}

func room(b []byte, n int64) []byte {
	if int64(cap(b)) < n {
		b = make([]byte, n)
	}
	return b[:n]
}

func entriesReadable(all iter.Seq2[index.Entry, error]) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

// sameEntries compares what an index lists with what the archive has.
func sameEntries(listed, has iter.Seq2[index.Entry, error]) error {
	next, stop := iter.Pull2(has)
	defer stop()
	n := 0
	for e, err := range listed {
		if err != nil {
			return err
		}
		want, err, ok := next()
		switch {
		case err != nil:
			return err
		case !ok:
			return fmt.Errorf("%w index: it lists %q, which the archive does not have", blob.ErrCorrupt, e.Name)
		case !reflect.DeepEqual(e, want):
			return fmt.Errorf("%w index: it lists as entry %d: %+v; the archive has %+v", blob.ErrCorrupt, n, e, want)
		}
		n++
	}
	if want, err, ok := next(); ok {
		return errors.Join(err, fmt.Errorf("%w index: it does not list %q", blob.ErrCorrupt, want.Name))
	}
	return nil
}

// reader reads a blob from its beginning to its end.
type reader struct {
	ctx  context.Context
	from blob.ReaderAt
	at   int64
}

func (r *reader) Read(p []byte) (int, error) {
	n := min(int64(len(p)), r.from.Size()-r.at)
	if n == 0 {
		return 0, io.EOF
	}
	if err := r.from.ReadAt(r.ctx, p[:n], r.at); err != nil {
		return 0, err
	}
	r.at += n
	return int(n), nil
}

// Decoder is the decoder of a codec; nil: there is nothing to decode.
func Decoder(c index.Codec) codec.Span { return kinds[c].span }
