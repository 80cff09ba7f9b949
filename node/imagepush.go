package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/image/artifact"
)

// ImageIndex implements control.Images.
func (n *Node) ImageIndex(ctx context.Context, r control.ImageRequest, progress func(control.Progress)) (control.Image, error) {
	ctx, k, done, err := n.look(ctx, r)
	if err != nil {
		return control.Image{}, err
	}
	defer done()
	if err := k.wantsIndexes(); err != nil {
		return control.Image{}, err
	}
	tell := reading("indexing", k.size(), progress)
	for i := range k.image.Layers {
		if err := k.makeIndex(ctx, i, r.Own, tell); err != nil {
			return control.Image{}, fmt.Errorf("layer %d, sha256:%v: %w", i, k.image.Layers[i].Digest, err)
		}
	}
	return k.reply, nil
}

// makeIndex sees to it that a layer has an index that is here as a whole. own: one that others only claim will not do.
func (k *looked) makeIndex(ctx context.Context, i int, own bool, tell func(int)) error {
	l, s := k.private(i), k.s
	if err := s.openStored(ctx, l, control.Options{}); err != nil {
		return err
	}
	defer s.n.release(l.stored)
	found, err := s.findIndex(ctx, l, k.asked)
	if err != nil {
		return err
	}
	if found != nil && own && found.known.Trust <= blob.Claimed {
		s.n.release(found.file)
		found = nil
	}
	if found == nil {
		if found, err = s.buildIndex(ctx, l, counted{l.stored.fetch, tell}, ""); err != nil {
			return err
		}
	} else {
		tell(int(l.desc.Size))
	}
	defer s.n.release(found.file)
	if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{&sequential{ctx: ctx, from: found.file.fetch}}, make([]byte, 1<<20)); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	k.reply.Layers[i] = s.described(l.desc)
	k.tell(i, found.known, true, found)
	return nil
}

// at is a blob as io.ReaderAt.
type at struct {
	ctx  context.Context
	from blob.ReaderAt
}

// ReadAt implements io.ReaderAt.
func (a at) ReadAt(p []byte, off int64) (int, error) {
	n := int(max(0, min(int64(len(p)), a.from.Size()-off)))
	if n > 0 {
		if err := a.from.ReadAt(a.ctx, p[:n], off); err != nil {
			return 0, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// ImagePush implements control.Images.
func (n *Node) ImagePush(ctx context.Context, r control.ImageRequest) (control.Image, error) {
	ctx, k, done, err := n.look(ctx, r)
	if err != nil {
		return control.Image{}, err
	}
	defer done()
	if err := k.wantsIndexes(); err != nil {
		return control.Image{}, err
	}
	var all []artifact.Index
	for i := range k.image.Layers {
		x, err := k.pushIndex(ctx, i, r.Signatures)
		if err != nil {
			return control.Image{}, fmt.Errorf("index of layer %d, sha256:%v: %w", i, k.image.Layers[i].Digest, err)
		}
		all = append(all, x)
	}
	ref, client := k.image.Ref, k.s.registry
	if _, err := client.PushBlob(ctx, ref, bytes.NewReader(artifact.EmptyConfig), int64(len(artifact.EmptyConfig))); err != nil {
		return control.Image{}, err
	}
	subject := artifact.Subject{MediaType: mediaTypeOf(k.image.ManifestBytes), Digest: k.image.Manifest, Size: int64(len(k.image.ManifestBytes))}
	text, err := artifact.Manifest(subject, all)
	if err != nil {
		return control.Image{}, err
	}
	ref.Tag, ref.Digest = "", blob.Hash{} // by its own digest
	h, err := client.PushManifest(ctx, ref, artifact.MediaType, text)
	if err != nil {
		return control.Image{}, err
	}
	k.reply.Artifact = "sha256:" + h.String()
	n.log.Info("pushed indexes", "image", k.image.Ref, "artifact", h, "signed", len(r.Signatures))
	return k.reply, nil
}

// pushIndex pushes one index, which is known here.
func (k *looked) pushIndex(ctx context.Context, i int, signatures map[string]string) (x artifact.Index, err error) {
	l, s := k.private(i), k.s
	known, ok := s.knownIndexOf(l.desc.Digest)
	if !ok {
		return x, fmt.Errorf("%w: it is not here: pantala image index makes it", blob.ErrNotFound)
	}
	found, err := s.openIndex(ctx, l, known)
	if err != nil {
		return x, err
	}
	defer s.n.release(found.file)
	if _, err := s.registry.PushBlob(ctx, k.image.Ref, at{ctx, found.file.fetch}, known.Size); err != nil {
		return x, err
	}
	k.tell(i, known, true, found)
	return artifact.Index{Layer: l.desc.Digest, Digest: known.Digest, Root: known.Root, Size: known.Size, Signature: signatures["sha256:"+l.desc.Digest.String()]}, nil
}

// mediaTypeOf is what a manifest says that it is; one that says nothing is of OCI.
func mediaTypeOf(manifest []byte) string {
	var m struct {
		MediaType string `json:"mediaType"`
	}
	if json.Unmarshal(manifest, &m) != nil || m.MediaType == "" {
		return artifact.MediaType
	}
	return m.MediaType
}
