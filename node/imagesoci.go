package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/soci"
	"github.com/pantala/pantala/image/toc"
	"github.com/pantala/pantala/origin/registry"
)

// parseSoci makes facts of the ztoc that a SOCI-enabled image (SOCI Index Manifest v2) names for the layer: the image's
// manifest has the digest of an index manifest, and that has those of the ztocs. index.ErrFormat: there is none.
func (s *images) parseSoci(ctx context.Context, l *layer) (facts index.Facts, entries []index.Entry, spans []index.Span, windows [][]byte, err error) {
	fail := func(err error) (index.Facts, []index.Entry, []index.Span, [][]byte, error) {
		return index.Facts{}, nil, nil, nil, err
	}
	h, ok := sociPin(l.image.ManifestBytes)
	if !ok {
		return fail(index.ErrFormat)
	}
	all, err := s.sociTables(ctx, l.image, h)
	if err != nil {
		return fail(err)
	}
	return s.parseZtoc(ctx, l, all)
}

// sociPin is the digest of the index manifest that an image's manifest names.
func sociPin(manifest []byte) (blob.Hash, bool) {
	var m struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(manifest, &m) != nil {
		return blob.Hash{}, false
	}
	return toc.Digest(m.Annotations[soci.Annotation])
}

// sociTables reads an index manifest.
func (s *images) sociTables(ctx context.Context, img *registry.Image, index blob.Hash) (map[blob.Hash]soci.Ztoc, error) {
	a, err := s.registry.Artifact(ctx, img.Ref.At(index))
	if err != nil {
		return nil, err
	}
	return soci.Manifest(a.Manifest)
}

// claimedSoci makes an index of the ztoc that the registry has for the layer, of either version, when the image names
// none: what whoever may write to the repository claims. nil without an error: there is none.
func (s *images) claimedSoci(ctx context.Context, l *layer, a *asked) (*indexed, error) {
	if _, pinned := sociPin(l.image.ManifestBytes); pinned || a.strict || a.soci == nil {
		return nil, nil
	}
	x, err := s.tableIndex(ctx, l, blob.Claimed, func(ctx context.Context) (index.Facts, []index.Entry, []index.Span, [][]byte, error) {
		return s.parseZtoc(ctx, l, a.soci())
	})
	if errors.Is(err, index.ErrFormat) {
		return nil, nil
	}
	return x, err
}

// sociWait bounds looking for what refers to an image: three requests that depend on each other.
const sociWait = 3 * time.Second

// askSoci finds an index manifest that refers to the image, one of the second version before one of the first.
func (s *images) askSoci(ctx context.Context, img *registry.Image) map[blob.Hash]soci.Ztoc {
	ctx, cancel := context.WithTimeout(ctx, sociWait)
	defer cancel()
	list, err := s.registry.Referrers(ctx, img.Ref, img.Manifest, "")
	if err != nil {
		s.n.log.Info("the registry does not say what refers to an image", "image", img.Ref, "err", err)
		return nil
	}
	for _, kind := range []string{soci.TypeV2, soci.TypeV1} {
		i := slices.IndexFunc(list, func(r registry.Referrer) bool { return r.ArtifactType == kind })
		if i < 0 {
			continue
		}
		tables, err := s.sociTables(ctx, img, list[i].Digest)
		if err == nil {
			return tables
		}
		s.n.log.Info("a SOCI index in the registry cannot be used", "image", img.Ref, "index", list[i].Digest, "err", err)
	}
	return nil
}

// parseZtoc makes facts of the ztoc of a layer. index.ErrFormat: it has none.
func (s *images) parseZtoc(ctx context.Context, l *layer, all map[blob.Hash]soci.Ztoc) (facts index.Facts, entries []index.Entry, spans []index.Span, windows [][]byte, err error) {
	fail := func(err error) (index.Facts, []index.Entry, []index.Span, [][]byte, error) {
		return index.Facts{}, nil, nil, nil, err
	}
	z, ok := all[l.desc.Digest]
	if !ok {
		return fail(index.ErrFormat)
	}
	b := s.registry.Layer(ctx, l.image.Ref, registry.Layer{Digest: z.Digest, Size: z.Size})
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
