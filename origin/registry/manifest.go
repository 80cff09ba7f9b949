package registry

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pantala/pantala/blob"
)

const (
	// Media types of docker (distribution project, "Image Manifest Version 2, Schema 2").
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerSchema1  = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSigned1  = "application/vnd.docker.distribution.manifest.v1+prettyjws"

	// maxManifest is the size that registries have to take at least (OCI distribution specification, section
	// "Pushing Manifests"), and the most that containerd reads.
	maxManifest = 4 << 20
	// MaxLayers bounds the layers of one image. Docker builds at most 127, and overlayfs stacks 500.
	MaxLayers = 1024
	// maxIndex bounds the manifests of one index, and maxDepth how deep indexes may be nested.
	maxIndex = 10_000
	maxDepth = 3
	// maxImageConfig bounds an image configuration; the largest known hold a few hundred KiB of history.
	maxImageConfig = 8 << 20
)

// accept are the media types of what Resolve understands.
var accept = []string{v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, dockerList, dockerManifest}

// descriptor names a blob or a manifest (OCI image specification, descriptor.md).
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	URLs         []string          `json:"urls,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Data         []byte            `json:"data,omitempty"`
	Platform     *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant,omitempty"`
	} `json:"platform,omitempty"`
}

// check is the digest of a descriptor whose size lies in 0..most.
func (d *descriptor) check(what string, most int64) (blob.Hash, error) {
	h, err := parseDigest(d.Digest)
	if err != nil {
		return h, fmt.Errorf("%s: %w", what, err)
	}
	if d.Size < 0 || d.Size > most {
		return h, fmt.Errorf("%s: %w: a size of %d bytes: expected 0 to %d", what, blob.ErrInvalid, d.Size, most)
	}
	return h, nil
}

func (d *descriptor) platform() (Platform, bool) {
	if d.Platform == nil || d.Platform.OS == "" && d.Platform.Architecture == "" {
		return Platform{}, false
	}
	return Platform{d.Platform.OS, d.Platform.Architecture, d.Platform.Variant}, true
}

// manifest is an image manifest or an index, whichever it turns out to be.
type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *descriptor       `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Manifests     []descriptor      `json:"manifests"`
	Subject       *descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`

	FSLayers json.RawMessage `json:"fsLayers"` // of schema 1

	isIndex bool
}

// errSchema1 refuses the manifests of before 2017, which name no configuration.
var errSchema1 = fmt.Errorf("manifest: %w: schema 1, which docker gave up in 2017: push the image again with a docker or skopeo of today", blob.ErrInvalid)

// refuseSchema1 knows them by the type that a registry gives them: their digest is not that of their bytes, which hold
// signatures besides.
func refuseSchema1(h http.Header) error {
	if t, _, _ := mime.ParseMediaType(h.Get("Content-Type")); t == dockerSchema1 || t == dockerSigned1 {
		return errSchema1
	}
	return nil
}

// parseManifest reads a manifest or an index, and tells which by its media type, or, where that is absent, by its
// fields. It refuses what is both: two readers would see two images in it.
func parseManifest(text []byte) (*manifest, error) {
	invalid := func(format string, args ...any) (*manifest, error) {
		return nil, fmt.Errorf("manifest: %w: %s", blob.ErrInvalid, fmt.Sprintf(format, args...))
	}
	if len(text) > maxManifest {
		return invalid("%d bytes, and at most %d are read", len(text), maxManifest)
	}
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return invalid("not the JSON of a manifest: %v", err)
	}
	switch {
	case m.MediaType == dockerSchema1 || m.MediaType == dockerSigned1 || m.SchemaVersion == 1:
		return nil, errSchema1
	case m.Manifests != nil && (m.Layers != nil || m.Config != nil) || m.FSLayers != nil:
		return invalid("it is an OCI index and an image at once: build it again")
	}
	switch m.MediaType {
	case v1.MediaTypeImageIndex, dockerList:
		m.isIndex = true
	case v1.MediaTypeImageManifest, dockerManifest:
	case "":
		m.isIndex = m.Manifests != nil
	default:
		return invalid("its media type %q is not one of a container image", clip(m.MediaType))
	}
	if m.isIndex {
		if m.Layers != nil || m.Config != nil {
			return invalid("its media type is that of an OCI index, and its fields are those of an image")
		}
		if len(m.Manifests) > maxIndex {
			return invalid("an OCI index of %d manifests: at most %d are read", len(m.Manifests), maxIndex)
		}
		return &m, nil
	}
	switch {
	case m.Manifests != nil:
		return invalid("its media type is that of an image, and its fields are those of an OCI index")
	case m.Config == nil:
		return invalid("no configuration and no list of manifests in it: it is not a container image")
	case len(m.Layers) > MaxLayers:
		return invalid("%d layers: at most %d are supported", len(m.Layers), MaxLayers)
	}
	return &m, nil
}

// isImage refuses artefacts that are no container images: charts, signatures, models.
func (m *manifest) isImage() error {
	switch m.Config.MediaType {
	case v1.MediaTypeImageConfig, dockerConfig, "", "application/octet-stream":
		if m.ArtifactType == "" {
			return nil
		}
	}
	kind := m.ArtifactType
	if kind == "" {
		kind = m.Config.MediaType
	}
	return fmt.Errorf("manifest: %w: it is an artefact of type %q, not a container image", blob.ErrInvalid, clip(kind))
}

// candidates are the manifests of an index for a platform, the best first. Those that do not name a platform come
// last: only their configuration tells.
func (m *manifest) candidates(p Platform) (named, nameless []descriptor) {
	for _, d := range m.Manifests {
		if q, ok := d.platform(); !ok {
			nameless = append(nameless, d)
		} else if p.rank(q) >= 0 {
			named = append(named, d)
		}
	}
	slices.SortStableFunc(named, func(a, b descriptor) int {
		pa, _ := a.platform()
		pb, _ := b.platform()
		return p.rank(pa) - p.rank(pb)
	})
	return named, nameless
}

// platforms are those of an index, for texts.
func (m *manifest) platforms() string {
	var all []string
	for _, d := range m.Manifests {
		if q, ok := d.platform(); ok && q.OS != "unknown" {
			all = append(all, clip(Platform.String(q)))
		}
		if len(all) == 20 {
			all = append(all, "…")
			break
		}
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

// imageConfig is what is needed of an image configuration.
type imageConfig struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
	RootFS       struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// layers joins the layers of a manifest with the diff IDs of its configuration.
func (m *manifest) layers(text []byte) ([]Layer, *imageConfig, error) {
	var c imageConfig
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, nil, fmt.Errorf("image configuration: %w: not the JSON of one: %v", blob.ErrInvalid, err)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return nil, nil, fmt.Errorf("image configuration: %w: the manifest has %d layers and the configuration %d diff IDs: build the image again", blob.ErrInvalid, len(m.Layers), len(c.RootFS.DiffIDs))
	}
	all := make([]Layer, len(m.Layers))
	for i, d := range m.Layers {
		what := fmt.Sprintf("layer %d of %d (%s)", i+1, len(m.Layers), clip(d.Digest))
		h, err := d.check(what, blob.MaxSize)
		if err != nil {
			return nil, nil, err
		}
		diff, err := parseDigest(c.RootFS.DiffIDs[i])
		if err != nil {
			return nil, nil, fmt.Errorf("%s: diff ID: %w", what, err)
		}
		all[i] = Layer{Digest: h, Size: d.Size, MediaType: d.MediaType, Annotations: d.Annotations, DiffID: diff, URLs: d.URLs}
	}
	return all, &c, nil
}

// isForeign reports whether a layer may have to be had from elsewhere than the registry.
func (l *Layer) isForeign() bool {
	return len(l.URLs) > 0 && (strings.Contains(l.MediaType, "foreign") || strings.Contains(l.MediaType, "nondistributable"))
}
