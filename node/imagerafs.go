package node

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fs/erofs"
	"github.com/pantala/pantala/image/build"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/rafs"
	"github.com/pantala/pantala/origin/registry"
)

// A Nydus image is one layer to us, whatever its manifest says: the tree is in its last one, the bootstrap, and lies over
// all blobs together. That layer has no stored blob of its own, but those of the image, one behind the other; and no
// digest that a registry knows, but one of all that it is made of. The bootstrap is as trustworthy as the manifest, and
// its index never leaves this machine: whoever has the manifest makes it himself, of a file that is hardly larger.

// nydus is what a Nydus image is made of.
type nydus struct {
	boot  registry.Layer
	blobs []registry.Layer
}

// nydusOf tells Nydus images by their annotations.
func nydusOf(img *registry.Image) (n nydus, ok bool) {
	if img == nil {
		return n, false
	}
	for _, l := range img.Layers {
		switch {
		case l.Annotations[rafs.AnnotationBootstrap] != "":
			n.boot, ok = l, true
		case l.Annotations[rafs.AnnotationBlob] != "" || l.MediaType == rafs.BlobType:
			n.blobs = append(n.blobs, l)
		}
	}
	return n, ok
}

// parts are bootstrap and blobs.
func (n nydus) parts() []registry.Layer { return append([]registry.Layer{n.boot}, n.blobs...) }

// layer is the one layer.
func (n nydus) layer() registry.Layer {
	h := sha256.New()
	io.WriteString(h, "pantala-rafs-v1")
	d := registry.Layer{MediaType: n.boot.MediaType}
	for _, p := range n.parts() {
		h.Write(p.Digest[:])
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(p.Size)))
	}
	for _, b := range n.blobs {
		d.Size += b.Size
	}
	d.Digest = blob.Hash(h.Sum(nil))
	return d
}

// treeLayers are the layers whose merged tree is that of the first depth layers of an image.
func treeLayers(img *registry.Image, depth int) ([]registry.Layer, error) {
	n, ok := nydusOf(img)
	switch version := n.boot.Annotations[rafs.AnnotationVersion]; {
	case !ok:
		return img.Layers[:depth], nil
	case depth < len(img.Layers):
		return nil, fmt.Errorf("%w: its bootstrap is the tree of its %d layers together, and there is none of the first %d", rafs.ErrUnsupported, len(img.Layers), depth)
	case version != "" && version != "6":
		return nil, fmt.Errorf("%w: version %s of RAFS: convert the image with --fs-version 6", rafs.ErrUnsupported, version)
	}
	return []registry.Layer{n.layer()}, nil
}

// nydusLayer is what l is made of, if it is the one layer of a Nydus image.
func nydusLayer(l *layer) (nydus, bool) {
	n, ok := nydusOf(l.image)
	return n, ok && n.layer().Digest == l.desc.Digest
}

// lives are the stored blobs of a layer.
func (l *layer) lives() []*live {
	all := []*live{l.stored}
	for _, b := range l.blobs {
		all = append(all, b.stored)
	}
	return all
}

// openNydus opens the blobs of a Nydus image and reads its bootstrap, unless an earlier process has.
func (s *images) openNydus(ctx context.Context, l *layer, n nydus, o control.Options) (*indexed, blob.ReaderAt, error) {
	boot := &layer{image: l.image, desc: n.boot}
	err := s.openStored(ctx, boot, o)
	l.stored = boot.stored
	var j nydusBlobs
	for _, d := range n.blobs {
		if err != nil {
			break
		}
		b := &layer{image: l.image, desc: d}
		if err = s.openStored(ctx, b, o); err == nil {
			l.blobs = append(l.blobs, b)
			j = append(j, nydusBlob{b.stored.fetch, rafs.Blob{Digest: d.Digest, Size: d.Size}})
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if k, ok := s.knownIndexOf(l.desc.Digest); ok {
		found, err := s.openIndex(ctx, l, k)
		if err == nil {
			return found, j, nil
		}
		s.n.log.Info("the index that was used last time is not here any more", "layer", l.desc.Digest, "err", err)
	}
	m, err := s.readBootstrap(ctx, l.stored, n, j)
	if err != nil {
		return nil, nil, fmt.Errorf("bootstrap sha256:%v: %w", n.boot.Digest, err)
	}
	m.Facts.Layer = l.desc.Digest
	table := new(index.Entries)
	for _, e := range m.Entries {
		if err := table.Add(e); err != nil {
			return nil, nil, fmt.Errorf("bootstrap sha256:%v: %w", n.boot.Digest, err)
		}
	}
	found, err := s.adoptIndex(ctx, l, rafs.Format, blob.Pinned, func(w io.Writer) (int64, error) {
		return index.Encode(w, m.Facts, table, m.Spans, nil)
	})
	return found, j, err
}

// readBootstrap reads the bootstrap out of its layer, which has to have its digest.
func (s *images) readBootstrap(ctx context.Context, stored *live, n nydus, j nydusBlobs) (*rafs.Image, error) {
	if n.boot.Size > rafs.MaxBoot {
		return nil, fmt.Errorf("%w: a bootstrap of %d bytes; no more than %d are read", rafs.ErrUnsupported, n.boot.Size, rafs.MaxBoot)
	}
	ctx, cancel := context.WithTimeout(blob.WithClass(ctx, blob.Read), s.n.cfg.Timeout)
	defer cancel()
	raw := make([]byte, n.boot.Size)
	if err := stored.fetch.ReadAt(ctx, raw, 0); err != nil {
		return nil, err
	}
	if sum := blob.Hash(sha256.Sum256(raw)); sum != n.boot.Digest {
		return nil, fmt.Errorf("%w: its bytes have the digest sha256:%v", blob.ErrCorrupt, sum)
	}
	s.n.learn(stored, n.boot.Digest)
	boot, err := rafs.Extract(raw)
	if err != nil {
		return nil, err
	}
	m, err := rafs.Parse(boot, j.blobs(), erofs.Entries, func(p []byte, blob int, at int64) error {
		return j[blob].from.ReadAt(ctx, p, at)
	})
	if err != nil {
		return nil, err
	}
	limit, ratio := s.n.cfg.MaxLayerSize, s.n.cfg.MaxLayerRatio
	if limit == 0 {
		limit = build.DefaultMaxSize
	}
	if ratio == 0 {
		ratio = build.DefaultMaxRatio
	}
	if most := limit * int64(max(1, len(j))); most/limit == int64(max(1, len(j))) && m.Facts.Size > most {
		return nil, fmt.Errorf("%w: its %d blobs have %d bytes when decoded (limited by max-layer-size)", blob.ErrInvalid, len(j), m.Facts.Size)
	}
	// Chunks are laid out in blocks of 512 bytes, so that many tiny ones take more than they hold.
	if held := m.Facts.Size - 512*int64(len(m.Spans)); held > 0 && held/ratio > m.Facts.Stored {
		return nil, fmt.Errorf("%w: its blobs have %d bytes, and %d when decoded (limited by max-layer-ratio)", blob.ErrInvalid, m.Facts.Stored, held)
	}
	return m, nil
}

// nydusBlob is one of several blobs that are read as one.
type nydusBlob struct {
	from blob.ReaderAt
	rafs.Blob
}

// nydusBlobs are blobs, one behind the other.
type nydusBlobs []nydusBlob

// Size implements blob.ReaderAt.
func (j nydusBlobs) Size() (total int64) {
	for _, p := range j {
		total += p.Size
	}
	return total
}

// ReadAt implements blob.ReaderAt. What is read lies in one blob, because a chunk does.
func (j nydusBlobs) ReadAt(ctx context.Context, p []byte, off int64) error {
	for _, b := range j {
		if off < b.Size {
			if int64(len(p)) > b.Size-off {
				return fmt.Errorf("%w: %d bytes at %d of blob sha256:%v, which has %d", blob.ErrInvalid, len(p), off, b.Digest, b.Size)
			}
			return b.from.ReadAt(ctx, p, off)
		}
		off -= b.Size
	}
	return fmt.Errorf("%w: %d bytes beyond the last blob", blob.ErrInvalid, len(p))
}

func (j nydusBlobs) blobs() (all []rafs.Blob) {
	for _, p := range j {
		all = append(all, p.Blob)
	}
	return all
}

// spanName says which chunk of which blob a span is.
func (n nydus) spanName(x *index.Index) func(uint32) string {
	var blobs []rafs.Blob
	for _, b := range n.blobs {
		blobs = append(blobs, rafs.Blob{Digest: b.Digest, Size: b.Size})
	}
	return func(span uint32) string { return rafs.Name(blobs, x.Spans[span].Stored) }
}

// knownBlob is a blob of a Nydus image, as it is remembered.
type knownBlob struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// knownBlobs are the bootstrap, and the blobs behind it; nil: l is no layer of a Nydus image.
func knownBlobs(l *layer) (all []knownBlob) {
	if n, ok := nydusLayer(l); ok {
		for _, p := range n.parts() {
			all = append(all, knownBlob{p.Digest.String(), p.Size})
		}
	}
	return all
}

// layersOf makes the layers of an image of what knownBlobs gave.
func layersOf(all []knownBlob) (layers []registry.Layer, err error) {
	for i, k := range all {
		d := registry.Layer{Size: k.Size, MediaType: rafs.BlobType}
		if i == 0 {
			d = registry.Layer{Size: k.Size, Annotations: map[string]string{rafs.AnnotationBootstrap: "true"}}
		}
		if d.Digest, err = blob.ParseHash(k.Digest); err != nil {
			return nil, err
		}
		layers = append(layers, d)
	}
	return layers, nil
}

// freeLayers removes what is kept of the first depth layers of an image and no tree needs.
func (s *images) freeLayers(img *registry.Image, depth int) {
	n, ok := nydusOf(img)
	if !ok {
		for _, l := range img.Layers[:depth] {
			s.free(l)
		}
		return
	}
	s.free(n.layer())
	s.eraseParts(n)
}

// eraseParts removes bootstrap and blobs of a Nydus image, but for those that an open layer is made of: who closes it
// does.
func (s *images) eraseParts(n nydus) {
	for _, p := range n.parts() {
		same := func(d registry.Layer) bool { return d.Digest == p.Digest }
		s.mu.Lock()
		used := s.layers[p.Digest] != nil
		for _, l := range s.layers {
			if other, ok := nydusLayer(l); ok {
				used = used || same(other.boot) || slices.ContainsFunc(other.blobs, same)
			}
		}
		s.mu.Unlock()
		if !used {
			s.erase(p)
		}
	}
}
