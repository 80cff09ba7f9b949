package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pantala/pantala/blob"
)

// localTag is the digest that a tag has in an OCI layout (OCI image specification, image-layout.md). A layout with
// one image needs no tag.
func localTag(ref Ref) (blob.Hash, error) {
	text, err := readFile(filepath.Join(ref.Local, "index.json"), maxManifest)
	if err != nil {
		return blob.Hash{}, err
	}
	var index manifest
	if err := json.Unmarshal(text, &index); err != nil {
		return blob.Hash{}, fmt.Errorf("%w: index.json is not that of an OCI layout: %v", blob.ErrInvalid, err)
	}
	var names []string
	for _, d := range index.Manifests {
		name := d.Annotations[v1.AnnotationRefName]
		if name == ref.Tag || len(index.Manifests) == 1 && ref.Tag == defaultTag {
			return d.check("index.json", maxManifest)
		}
		if name != "" && len(names) < 20 {
			names = append(names, clip(name))
		}
	}
	return blob.Hash{}, fmt.Errorf("%w: the layout has no image named %q; it has: %s", blob.ErrNotFound, ref.Tag, strings.Join(names, ", "))
}

// localDoc reads a small blob of an OCI layout.
func localDoc(ref Ref, h blob.Hash, most int64) ([]byte, error) {
	return readFile(filepath.Join(ref.Local, "blobs", "sha256", h.String()), most)
}

// readFile reads a file of at most n bytes.
func readFile(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %v: expected an OCI layout", blob.ErrNotFound, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %v", blob.ErrDenied, err)
	}
	defer f.Close()
	return readAll(f, n)
}
