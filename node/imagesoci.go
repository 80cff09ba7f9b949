package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/soci"
	"github.com/pantala/pantala/image/toc"
	"github.com/pantala/pantala/origin/registry"
)

// parseSoci makes facts of the ztoc that a SOCI-enabled image (SOCI Index Manifest v2) names for the layer: the image's
// manifest has the digest of an index manifest, and that has those of the ztocs. index.ErrFormat: there is none. Those
// of the first version, which an image does not name, are not looked for: nothing vouches for them.
func (s *images) parseSoci(ctx context.Context, l *layer) (facts index.Facts, entries []index.Entry, spans []index.Span, windows [][]byte, err error) {
	fail := func(err error) (index.Facts, []index.Entry, []index.Span, [][]byte, error) {
		return index.Facts{}, nil, nil, nil, err
	}
	var m struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(l.image.ManifestBytes, &m) != nil {
		return fail(index.ErrFormat)
	}
	h, ok := toc.Digest(m.Annotations[soci.Annotation])
	if !ok {
		return fail(index.ErrFormat)
	}
	ref := l.image.Ref
	ref.Tag, ref.Digest = "", h
	a, err := s.registry.Artifact(ctx, ref)
	if err != nil {
		return fail(err)
	}
	all, err := soci.Manifest(a.Manifest)
	if err != nil {
		return fail(err)
	}
	z, ok := all[l.desc.Digest]
	if !ok {
		return fail(index.ErrFormat)
	}
	b := s.registry.Layer(ctx, ref, registry.Layer{Digest: z.Digest, Size: z.Size})
	if z.Size > soci.MaxZtoc {
		return fail(fmt.Errorf("%w: a ztoc of %d bytes; no more than %d are read", blob.ErrInvalid, z.Size, soci.MaxZtoc))
	}
	var text bytes.Buffer
	if err := b.Stream(ctx, func(p []byte) error {
		text.Write(p)
		if int64(text.Len()) > z.Size {
			return fmt.Errorf("%w: ztoc %s: more than %d bytes came", blob.ErrCorrupt, z.Digest, z.Size)
		}
		return nil
	}); err != nil {
		return fail(err)
	}
	return soci.Parse(ctx, inMemory(text.Bytes()), z.Digest, l.desc.Size)
}

// inMemory is a blob that is here already.
type inMemory []byte

func (m inMemory) Size() int64 { return int64(len(m)) }

func (m inMemory) ReadAt(_ context.Context, p []byte, off int64) error {
	if off < 0 || off > m.Size() || copy(p, m[off:]) < len(p) {
		return errors.New("BUG: read beyond the end")
	}
	return nil
}
