package registry_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin/origintest"
	"github.com/pantala/pantala/origin/registry"
	"github.com/pantala/pantala/origin/registry/registrytest"
)

// skopeo runs skopeo, of Debian, and returns what it printed.
func skopeo(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("skopeo"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("skopeo is needed when CI=true: install the package skopeo: %v", err)
		}
		t.Skipf("no skopeo: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "skopeo", append([]string{"--insecure-policy"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// realLayer is a layer that others can unpack: its stored bytes, and its diff ID.
func realLayer(t *testing.T, name string, n int) (stored []byte, diffID string) {
	var plain, packed bytes.Buffer
	w := tar.NewWriter(&plain)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(n)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(origintest.Bytes(uint64(n), n)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(plain.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes(), fmt.Sprintf("sha256:%x", sha256.Sum256(plain.Bytes()))
}

// TestSkopeo: what skopeo logs in to, pushes and converts is understood here, and what is pushed from here is
// understood by skopeo.
func TestSkopeo(t *testing.T) {
	r := registrytest.Start(t, registrytest.Config{Htpasswd: true, Extra: "compatibility:\n  schema1:\n    enabled: true\n"})
	auth := filepath.Join(t.TempDir(), "auth.json")
	skopeo(t, "login", "--authfile", auth, "--tls-verify=false", "-u", registrytest.User, "-p", registrytest.Password, r.Host)
	c := client(t, registry.Options{ConfigDirs: []string{filepath.Dir(auth)}})

	one, diff1 := realLayer(t, "a", 100_000)
	two, diff2 := realLayer(t, "b", 10)
	config := registrytest.JSON(map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": []string{diff1, diff2}}, "config": map[string]any{}, "history": []any{map[string]any{"created_by": "a"}, map[string]any{"created_by": "b"}}})
	im := registrytest.Image{Config: config, Layers: [][]byte{one, two}, Type: registrytest.Manifest}
	im.Manifest = registrytest.JSON(map[string]any{"schemaVersion": 2, "mediaType": registrytest.Manifest, "config": registrytest.Of(registrytest.ImageConfig, config), "layers": []any{registrytest.Of(registrytest.LayerGzip, one), registrytest.Of(registrytest.LayerGzip, two)}})
	push(t, c, r.Host+"/a:oci", im)

	// To a layout and back, as OCI, as docker schema 2, and as schema 1.
	dir := t.TempDir()
	skopeo(t, "copy", "--authfile", auth, "--src-tls-verify=false", "docker://"+r.Host+"/a:oci", "oci:"+dir+":v1")
	local := resolve(t, c, "oci://"+dir+":v1")
	if got := registrytest.Digest(local.ManifestBytes); got != registrytest.Digest(im.Manifest) {
		t.Errorf("through skopeo the manifest became %s", got)
	}
	fetchLayer(t, c.Layer(t.Context(), local.Ref, local.Layers[0]), one)
	for _, format := range []string{"oci", "v2s2"} {
		skopeo(t, "copy", "--authfile", auth, "--dest-tls-verify=false", "--format", format, "oci:"+dir+":v1", "docker://"+r.Host+"/a:"+format)
		got := resolve(t, c, r.Host+"/a:"+format)
		if len(got.Layers) != 2 || got.Layers[0].DiffID.String() != strings.TrimPrefix(diff1, "sha256:") {
			t.Errorf("%s: %+v", format, got.Layers)
		}
		for i, p := range im.Layers {
			fetchLayer(t, c.Layer(t.Context(), got.Ref, got.Layers[i]), p)
		}
	}
	skopeo(t, "copy", "--authfile", auth, "--dest-tls-verify=false", "--format", "v2s1", "oci:"+dir+":v1", "docker://"+r.Host+"/a:old")
	fails(t, c, r.Host+"/a:old", blob.ErrInvalid, "schema 1")
}
