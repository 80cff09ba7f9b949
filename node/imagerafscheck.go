package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/image/build"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/rafs"
	"github.com/pantala/pantala/origin/registry"
)

// blobKind is what commands call a blob of a Nydus image; its bootstrap is called by its format.
const blobKind = "rafs blob"

// kind is what commands call a layer; "": it is one like others.
func (n nydus) kind(d registry.Layer) string {
	switch {
	case n.boot.Digest.IsZero():
	case d.Annotations[rafs.AnnotationBootstrap] != "":
		return rafs.Format
	case d.Annotations[rafs.AnnotationBlob] != "" || d.MediaType == rafs.BlobType:
		return blobKind
	}
	return ""
}

// wantsIndexes refuses images whose layers have no indexes of ours.
func (k *looked) wantsIndexes() error {
	if _, ok := nydusOf(k.image); ok {
		return fmt.Errorf("%w: %s is a Nydus image, which brings its own index along, the bootstrap: there is nothing to make or to push", blob.ErrInvalid, k.image.Ref)
	}
	return nil
}

// checkNydus checks a layer of a Nydus image whose stored blob is open: its bytes have its digest, and, of the bootstrap,
// every chunk that it names has the digest that it names.
func (k *looked) checkNydus(ctx context.Context, l *layer, tell func(int)) error {
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{&sequential{ctx: ctx, from: counted{l.stored.fetch, tell}}}, make([]byte, 1<<20)); err != nil {
		return err
	}
	if sum := blob.Hash(h.Sum(nil)); sum != l.desc.Digest {
		return fmt.Errorf("%w: its bytes have the digest sha256:%v", blob.ErrCorrupt, sum)
	}
	k.s.n.learn(l.stored, l.desc.Digest)
	n, _ := nydusOf(k.image)
	if n.kind(l.desc) == blobKind {
		return nil
	}
	var j nydusBlobs
	var errs []error
	for _, d := range n.blobs {
		b := &layer{image: k.image, desc: d}
		if err := k.s.openStored(ctx, b, control.Options{}); err != nil {
			errs = append(errs, err)
			continue
		}
		defer k.s.n.release(b.stored)
		j = append(j, nydusBlob{counted{b.stored.fetch, tell}, rafs.Blob{Digest: d.Digest, Size: d.Size}})
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	m, err := k.s.readBootstrap(ctx, l.stored, n, j)
	if err != nil {
		return err
	}
	x := &index.Index{Facts: m.Facts, Spans: m.Spans}
	name := n.spanName(x)
	_, err = build.CheckSpans(ctx, x, j, nil, func(span int) string { return name(uint32(span)) })
	return err
}
