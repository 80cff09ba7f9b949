package zstdchunked

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/pantala/pantala/image/toc/toctest"
)

// TestSkopeo: a layer that skopeo has written.
func TestSkopeo(t *testing.T) {
	program, err := exec.LookPath("skopeo")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v (tools/prereq.sh registry)", err)
		}
		t.Skip(err)
	}
	archive := toctest.Archive()
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	layout(t, from, archive)
	if out, err := exec.Command(program, "copy", "--quiet", "--insecure-policy", "--dest-compress-format", "zstd:chunked", "oci:"+from+":x", "oci:"+to+":x").CombinedOutput(); err != nil {
		t.Fatalf("skopeo: %v: %s", err, out)
	}
	var list struct{ Manifests []descriptor }
	var manifest struct{ Layers []descriptor }
	object(t, filepath.Join(to, "index.json"), &list)
	object(t, list.Manifests[0].path(to), &manifest)
	l := manifest.Layers[0]
	stored, err := os.ReadFile(l.path(to))
	if err != nil {
		t.Fatal(err)
	}
	if !Pinned(l.Annotations) {
		t.Errorf("not pinned by %v", l.Annotations)
	}
	good(t, &toctest.Layer{Bytes: stored}, l.Annotations, archive)
	good(t, &toctest.Layer{Bytes: stored}, nil, archive)
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func (d descriptor) path(dir string) string {
	return filepath.Join(dir, "blobs", "sha256", d.Digest[len("sha256:"):])
}

func object(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

// layout writes an image of one layer as an OCI layout.
func layout(t *testing.T, dir string, archive []byte) {
	t.Helper()
	write := func(path string, b []byte) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	add := func(mediaType string, b []byte) descriptor {
		d := descriptor{MediaType: mediaType, Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(b)), Size: len(b)}
		write(d.path(dir), b)
		return d
	}
	text := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(archive)
	z.Close()
	layer := add("application/vnd.oci.image.layer.v1.tar+gzip", packed.Bytes())
	config := add("application/vnd.oci.image.config.v1+json", text(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(archive))}},
	}))
	manifest := add("application/vnd.oci.image.manifest.v1+json", text(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []descriptor{layer},
	}))
	manifest.Annotations = map[string]string{"org.opencontainers.image.ref.name": "x"}
	write(filepath.Join(dir, "index.json"), text(map[string]any{"schemaVersion": 2, "manifests": []descriptor{manifest}}))
	write(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
}
