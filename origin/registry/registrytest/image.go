package registrytest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
)

// Descriptor is one of the OCI image specification.
type Descriptor struct {
	MediaType    string            `json:"mediaType,omitempty"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	URLs         []string          `json:"urls,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Platform     *Platform         `json:"platform,omitempty"`
}

// Platform is one of the OCI image specification.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// Digest is the digest of p as it stands in a descriptor.
func Digest(p []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(p)) }

// Of describes p.
func Of(mediaType string, p []byte) Descriptor {
	return Descriptor{MediaType: mediaType, Digest: Digest(p), Size: int64(len(p))}
}

// JSON is v as JSON.
func JSON(v any) []byte {
	p, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err)
	}
	return p
}

// Media types.
const (
	Manifest       = "application/vnd.oci.image.manifest.v1+json"
	Index          = "application/vnd.oci.image.index.v1+json"
	ImageConfig    = "application/vnd.oci.image.config.v1+json"
	LayerGzip      = "application/vnd.oci.image.layer.v1.tar+gzip"
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
	DockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// Image is an image in pieces.
type Image struct {
	Manifest, Config []byte
	Layers           [][]byte
	Type             string // of the manifest
}

// MakeImage is an OCI image of layers for a platform "os/arch" or "os/arch/variant". The layers may be any bytes; the
// diff IDs are their digests.
func MakeImage(p Platform, layers ...[]byte) Image {
	return makeImage(Manifest, ImageConfig, LayerGzip, p, layers)
}

// MakeDocker is the same in docker's media types.
func MakeDocker(p Platform, layers ...[]byte) Image {
	return makeImage(DockerManifest, DockerConfig, DockerLayer, p, layers)
}

func makeImage(manifest, config, layer string, p Platform, layers [][]byte) Image {
	im := Image{Layers: layers, Type: manifest}
	var descs []Descriptor
	diffs := []string{}
	for _, l := range layers {
		descs = append(descs, Of(layer, l))
		diffs = append(diffs, Digest(l))
	}
	im.Config = JSON(map[string]any{"os": p.OS, "architecture": p.Architecture, "variant": p.Variant, "rootfs": map[string]any{"type": "layers", "diff_ids": diffs}, "config": map[string]any{"Cmd": []string{"/bin/true"}}})
	im.Manifest = JSON(map[string]any{"schemaVersion": 2, "mediaType": manifest, "config": Of(config, im.Config), "layers": descs})
	return im
}

// MakeIndex is an index of images by platform.
func MakeIndex(platforms []Platform, images []Image) []byte {
	var descs []Descriptor
	for i, im := range images {
		d := Of(im.Type, im.Manifest)
		p := platforms[i]
		d.Platform = &p
		descs = append(descs, d)
	}
	return JSON(map[string]any{"schemaVersion": 2, "mediaType": Index, "manifests": descs})
}
