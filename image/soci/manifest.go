package soci

import (
	"encoding/json"
	"fmt"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/toc"
)

const (
	// Annotation of an image's manifest, or of its descriptor: digest of the index manifest that belongs to it (SOCI
	// Index Manifest v2).
	Annotation = "com.amazon.soci.index-digest"
	// TypeV1 and TypeV2 are artifact types of index manifests.
	TypeV1 = "application/vnd.amazon.soci.index.v1+json"
	TypeV2 = "application/vnd.amazon.soci.index.v2+json"

	layerAnnotation = "com.amazon.soci.image-layer-digest"
)

// Ztoc is a ztoc as an index manifest names it.
type Ztoc struct {
	Digest blob.Hash // SHA-256 of the blob
	Size   int64     // its length in bytes
}

// Manifest reads an index manifest: which ztoc belongs to the layer of which digest. A layer that is read faster as a
// whole has none. blob.ErrInvalid: it is no such manifest.
func Manifest(b []byte) (map[blob.Hash]Ztoc, error) {
	var m struct {
		ArtifactType string `json:"artifactType"`
		Config       struct {
			MediaType string `json:"mediaType"`
		} `json:"config"`
		Layers []struct {
			Digest      string            `json:"digest"`
			Size        int64             `json:"size"`
			Annotations map[string]string `json:"annotations"`
		} `json:"layers"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%w: SOCI: index manifest: %v", blob.ErrInvalid, err)
	}
	kind := m.ArtifactType
	if kind == "" {
		kind = m.Config.MediaType // registries that knew no artifacts
	}
	if kind != TypeV1 && kind != TypeV2 {
		return nil, fmt.Errorf("%w: SOCI: an index manifest of type %.80q", blob.ErrInvalid, kind)
	}
	all := make(map[blob.Hash]Ztoc, len(m.Layers))
	for i, l := range m.Layers {
		layer, ok1 := toc.Digest(l.Annotations[layerAnnotation])
		ztoc, ok2 := toc.Digest(l.Digest)
		if !ok1 || !ok2 || l.Size <= 0 {
			return nil, fmt.Errorf("%w: SOCI: ztoc %d of an index manifest: %.80q of layer %.80q", blob.ErrInvalid, i, l.Digest, l.Annotations[layerAnnotation])
		}
		all[layer] = Ztoc{ztoc, l.Size}
	}
	return all, nil
}
