package control

import "context"

// Images is the part of a [Node] that looks at container images: what their layers are, and which indexes they have. A
// request ends with an error when the image cannot be found out; what is wrong with single layers stands with them.
type Images interface {
	// ImageInspect asks the registry and the trackers, and reads no layer.
	ImageInspect(ctx context.Context, r ImageRequest) (Image, error)
	// ImageCheck reads all layers whole and holds what is known of them against it. progress is called now and then
	// from one goroutine, until ImageCheck returns.
	ImageCheck(ctx context.Context, r ImageRequest, progress func(Progress)) (Image, error)
	// ImageIndex returns when each layer has an index here, all of it. progress as for ImageCheck.
	ImageIndex(ctx context.Context, r ImageRequest, progress func(Progress)) (Image, error)
	// ImagePush puts the indexes that ImageIndex has made into the image's repository, as an artefact that refers to it.
	ImagePush(ctx context.Context, r ImageRequest) (Image, error)
}

// ImageRequest asks about an image.
type ImageRequest struct {
	Ref      string `json:"ref"`
	Platform string `json:"platform,omitempty"` // "os/arch[/variant]"; "": this machine's
	// Own, of ImageIndex: no index will do that others claim; the layer is read whole instead.
	Own bool `json:"own,omitempty"`
	// Signatures, of ImagePush: of indexes, by the digest of the layer as Image has it.
	Signatures map[string]string `json:"signatures,omitempty"`
	Expect     []Setting         `json:"expect,omitempty"`
}

// Image is what is known of an image.
type Image struct {
	Ref      string       `json:"ref"`
	Manifest string       `json:"manifest"` // "sha256:<hex>"
	Platform string       `json:"platform"`
	Layers   []ImageLayer `json:"layers"`             // bottom first
	Artifact string       `json:"artifact,omitempty"` // digest of what ImagePush has pushed
	Warnings []string     `json:"warnings,omitempty"`
}

// ImageLayer is one layer.
type ImageLayer struct {
	Digest    string      `json:"digest"`
	MediaType string      `json:"media_type"`
	Size      int64       `json:"size"` // of the stored blob
	DiffID    string      `json:"diff_id"`
	Present   int64       `json:"present"`         // bytes of the stored blob that are here
	Decoded   int64       `json:"decoded"`         // bytes of the decoded layer that are on the disk
	Kind      string      `json:"kind,omitempty"`  // of one that is no archive: "rafs-v6", "rafs blob"
	Index     *LayerIndex `json:"index,omitempty"` // nil: nobody has said which it is
	Fault     *Fault      `json:"fault,omitempty"` // what is wrong with it, where that was looked for
}

// LayerIndex is the index of a layer.
type LayerIndex struct {
	Digest  string `json:"digest"`
	Root    string `json:"root"`
	Size    int64  `json:"size"`
	Trust   string `json:"trust"`            // whose word it is that it belongs to the layer, as blob.Trust has it
	Here    bool   `json:"here"`             // it was used here; else others claim it
	Format  string `json:"format,omitempty"` // of the layer; "" as long as nobody could give the index
	Spans   int    `json:"spans"`
	Entries int    `json:"entries"`
	Decoded int64  `json:"decoded"` // length of the decoded layer
}
