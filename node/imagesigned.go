package node

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fetch"
	"github.com/pantala/pantala/image/artifact"
	"github.com/pantala/pantala/origin/registry"
)

// Whoever publishes an image can publish the indexes of its layers beside it, as an artefact in the same repository, and
// sign them. A node that was told his public key takes them at his word; a node without keys asks for no artefacts.

const (
	// signedWait bounds looking for signed indexes: three requests that depend on each other.
	signedWait = 3 * time.Second
	// maxArtifacts is how many artefacts of one image are looked at.
	maxArtifacts = 8
)

// readKeys reads public keys.
func readKeys(files []string) (keys artifact.Keys, err error) {
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, control.Local(fmt.Errorf("index-keys: %w", err))
		}
		key, err := artifact.ParsePublic(text)
		if err != nil {
			return nil, fmt.Errorf("index-keys: %s: %w", path, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// askSigned looks for signed indexes of layers in the image's repository.
func (s *images) askSigned(ctx context.Context, img *registry.Image, layers []registry.Layer) map[blob.Hash]knownIndex {
	ctx, cancel := context.WithTimeout(ctx, signedWait)
	defer cancel()
	list, err := s.registry.Referrers(ctx, img.Ref, img.Manifest, artifact.Type)
	if err != nil {
		s.n.log.Info("the registry does not say which indexes it has", "image", img.Ref, "err", err)
		return nil
	}
	found := map[blob.Hash]knownIndex{}
	for _, r := range list[:min(len(list), maxArtifacts)] {
		log := s.n.log.With("image", img.Ref, "artifact", r.Digest)
		a, err := s.registry.Artifact(ctx, img.Ref.At(r.Digest))
		if err != nil {
			log.Warn("indexes in the registry cannot be read", "err", err)
			continue
		}
		indexes, err := artifact.Parse(a.Manifest, img.Manifest)
		if err != nil {
			log.Warn("indexes in the registry cannot be read", "err", err)
			continue
		}
		for _, x := range indexes {
			i := slices.IndexFunc(layers, func(l registry.Layer) bool { return l.Digest == x.Layer })
			if i < 0 || !found[x.Layer].Digest.IsZero() {
				continue
			}
			says := artifact.Statement{Manifest: img.Manifest, Layer: x.Layer, Stored: layers[i].Size, Root: x.Root, Index: x.Digest}
			if !s.keys.Verify(says, x.Signature) {
				why := "it is signed by none of the keys in index-keys"
				if x.Signature == "" {
					why = "it is not signed"
				}
				log.Warn("an index in the registry is not used: "+why, "layer", x.Layer, "index", x.Digest)
				continue
			}
			found[x.Layer] = knownIndex{Digest: x.Digest, Root: x.Root, Size: x.Size, Trust: blob.Signed, Pushed: true}
		}
	}
	return found
}

// signedIndex is the signed index of a layer, once that is known.
func (a *asked) signedIndex(ctx context.Context, layer blob.Hash) (k knownIndex, ok bool) {
	select {
	case <-a.looked:
		k, ok = a.signed[layer]
		return k, ok
	case <-ctx.Done():
		return k, false
	}
}

// pushedIndex is the index as the registry has it.
func (s *images) pushedIndex(l *layer, k knownIndex) func(*live) fetch.Origin {
	if !k.Pushed {
		return nil
	}
	return func(*live) fetch.Origin {
		return s.registry.Layer(s.n.ctx, l.image.Ref, registry.Layer{Digest: k.Digest, Size: k.Size})
	}
}
