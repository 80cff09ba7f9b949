package artifact

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pantala/pantala/blob"
)

const (
	// Type is the artifactType.
	Type = "application/vnd.pantala.index.v1"
	// indexType is the media type of an index in it.
	indexType = "application/vnd.pantala.index.v1.layer"

	// Annotations of the blob of an index.
	layerKey     = "io.pantala.layer.digest"
	rootKey      = "io.pantala.index.root"
	signatureKey = "io.pantala.index.signature"

	// maxIndexes bounds an artefact: as many as an image may have layers.
	maxIndexes = 1024
)

// EmptyConfig is the configuration of the artefact, which a registry wants as a blob (OCI image specification 1.1,
// "Guidance for an Empty Descriptor").
var EmptyConfig = []byte("{}")

// Index is one index in an artefact.
type Index struct {
	Layer     blob.Hash // digest of the stored layer
	Digest    blob.Hash // SHA-256 of the index file
	Root      blob.Hash // its BEP 52 root
	Size      int64     // its length in bytes
	Signature string    // of [Statement.Sign]; "": none
}

// Subject is the manifest of the image that the indexes are of.
type Subject struct {
	MediaType string
	Digest    blob.Hash
	Size      int64
}

// digest is a hash as descriptors have it.
func digest(h blob.Hash) string { return "sha256:" + h.String() }

// descriptor is one of the OCI image specification.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// document is the manifest.
type document struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	ArtifactType  string       `json:"artifactType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
	Subject       descriptor   `json:"subject"`
}

// MediaType is that of the manifest.
const MediaType = v1.MediaTypeImageManifest

// Manifest writes the manifest of the artefact. The same indexes with the same signatures give the same bytes.
func Manifest(of Subject, indexes []Index) ([]byte, error) {
	d := document{
		SchemaVersion: 2, MediaType: MediaType, ArtifactType: Type,
		Config:  descriptor{MediaType: v1.MediaTypeEmptyJSON, Digest: digest(sha256.Sum256(EmptyConfig)), Size: int64(len(EmptyConfig))},
		Subject: descriptor{MediaType: of.MediaType, Digest: digest(of.Digest), Size: of.Size},
	}
	for _, x := range indexes {
		a := map[string]string{layerKey: digest(x.Layer), rootKey: x.Root.String()}
		if x.Signature != "" {
			a[signatureKey] = x.Signature
		}
		d.Layers = append(d.Layers, descriptor{MediaType: indexType, Digest: digest(x.Digest), Size: x.Size, Annotations: a})
	}
	return json.Marshal(d)
}

// Parse reads the manifest of an artefact: which indexes it has of the image whose manifest is subject. Of what it
// says, nothing but its form is checked here.
func Parse(text []byte, subject blob.Hash) ([]Index, error) {
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("%w: artefact: %v", blob.ErrInvalid, err)
	}
	if d.ArtifactType != Type {
		return nil, fmt.Errorf("%w: artefact: of type %.80q, not %s", blob.ErrInvalid, d.ArtifactType, Type)
	}
	if d.Subject.Digest != digest(subject) {
		return nil, fmt.Errorf("%w: artefact: of the image %.80q, not %s", blob.ErrInvalid, d.Subject.Digest, digest(subject))
	}
	if len(d.Layers) > maxIndexes {
		return nil, fmt.Errorf("%w: artefact: %d indexes: at most %d", blob.ErrInvalid, len(d.Layers), maxIndexes)
	}
	var all []Index
	for i, l := range d.Layers {
		x := Index{Size: l.Size, Signature: l.Annotations[signatureKey]}
		var errs [3]error
		x.Layer, errs[0] = blob.ParseDigest(l.Annotations[layerKey])
		x.Digest, errs[1] = blob.ParseDigest(l.Digest)
		x.Root, errs[2] = blob.ParseHash(l.Annotations[rootKey])
		for _, err := range errs {
			if err != nil {
				return nil, fmt.Errorf("%w: artefact: index %d: %v", blob.ErrInvalid, i, err)
			}
		}
		if x.Size <= 0 || x.Size > blob.MaxSize {
			return nil, fmt.Errorf("%w: artefact: index %d: of %d bytes", blob.ErrInvalid, i, x.Size)
		}
		all = append(all, x)
	}
	return all, nil
}
