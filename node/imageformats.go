package node

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/image/erofslayer"
	"github.com/pantala/pantala/image/estargz"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/zstdchunked"
)

// Some layers bring a table of contents along that says as much as an index does. Where the image's own manifest has the
// digest of that table, it is as trustworthy as the layer, and nobody has to have read the layer first.

// format is a kind of layer that brings its own table.
type format struct {
	pinned func(annotations map[string]string) bool
	parse  func(ctx context.Context, layer blob.ReaderAt, annotations map[string]string) (index.Facts, []index.Entry, []index.Span, [][]byte, error)
}

var formats = []format{
	{estargz.Pinned, estargz.Parse},
	{zstdchunked.Pinned, zstdchunked.Parse},
}

// ownIndex makes an index of the table that the layer, or its image, brings along; nil without an error: there is none
// that the image vouches for.
func (s *images) ownIndex(ctx context.Context, l *layer) (*indexed, error) {
	if erofslayer.Is(l.desc.MediaType) {
		return nil, nil // annotations that say otherwise are of the layer that it was converted from
	}
	for _, f := range formats {
		if !f.pinned(l.desc.Annotations) {
			continue
		}
		x, err := s.tableIndex(ctx, l, blob.Pinned, func(ctx context.Context) (index.Facts, []index.Entry, []index.Span, [][]byte, error) {
			return f.parse(ctx, l.stored.fetch, l.desc.Annotations)
		})
		if errors.Is(err, index.ErrFormat) { // the digest of a decoded table is pinned alike in both formats
			continue
		}
		return x, err
	}
	x, err := s.tableIndex(ctx, l, blob.Pinned, func(ctx context.Context) (index.Facts, []index.Entry, []index.Span, [][]byte, error) {
		return s.parseSoci(ctx, l)
	})
	if errors.Is(err, index.ErrFormat) {
		return nil, nil
	}
	return x, err
}

// tableIndex makes an index of what parse finds; nil without an error: it cannot be used. index.ErrFormat: there is
// nothing to find.
func (s *images) tableIndex(ctx context.Context, l *layer, trust blob.Trust, parse func(context.Context) (index.Facts, []index.Entry, []index.Span, [][]byte, error)) (*indexed, error) {
	bounded, cancel := context.WithTimeout(ctx, s.n.cfg.Timeout)
	facts, entries, spans, windows, err := parse(blob.WithClass(bounded, blob.Read))
	cancel()
	switch {
	case errors.Is(err, index.ErrFormat):
		return nil, err
	case errors.Is(err, blob.ErrCorrupt), errors.Is(err, blob.ErrInvalid), errors.Is(err, blob.ErrNotFound):
		// It is still a layer like any other, and whoever reads all of it can check it by its own digest.
		s.n.log.Warn("the table of contents of a layer cannot be used: it is read whole", "layer", l.desc.Digest, "err", err)
		return nil, nil
	case err != nil:
		return nil, err
	}
	facts.Layer, facts.DiffID = l.desc.Digest, l.desc.DiffID
	table := new(index.Entries)
	for _, e := range entries {
		if err := table.Add(e); err != nil {
			return nil, fmt.Errorf("table of contents: %w", err)
		}
	}
	return s.adoptIndex(ctx, l, facts.Format, trust, func(w io.Writer) (int64, error) {
		return index.Encode(w, facts, table, spans, windows)
	})
}

// adoptIndex keeps an index that was made here, opens it, and remembers it.
func (s *images) adoptIndex(ctx context.Context, l *layer, format string, trust blob.Trust, encode func(io.Writer) (int64, error)) (*indexed, error) {
	k, path, err := s.writeIndex(encode)
	if err != nil {
		return nil, control.Local(err)
	}
	k.Format, k.Trust = format, trust
	file, err := s.holdIndex(ctx, l, k, path)
	if err != nil {
		return nil, err
	}
	x, err := index.Open(ctx, file.fetch)
	if err != nil {
		s.n.release(file)
		return nil, err
	}
	s.rememberIndex(l, k)
	return &indexed{x, file, k}, nil
}
