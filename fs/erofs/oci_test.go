package erofs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needRoot and needUmoci skip where something is lacking, and fail where CI=true says that nothing should be.
func need(t testing.TB, what string, lack error, do string) {
	t.Helper()
	if lack == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("this machine should have %s: %v: %s", what, lack, do)
	}
	t.Skipf("no %s: %v: %s", what, lack, do)
}

func needRoot(t testing.TB) {
	t.Helper()
	var lack error
	if os.Getuid() != 0 {
		lack = os.ErrPermission
	}
	need(t, "root", lack, "run as root")
}

func needProgram(t testing.TB, name, do string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	need(t, name, err, do)
	return path
}

// needErofs is for tests that mount EROFS over files.
func needErofs(t testing.TB) {
	t.Helper()
	needRoot(t)
	need(t, "EROFS over files", Probe(t.Context()).Files, "use Linux 6.12 or newer with CONFIG_EROFS_FS_BACKED_BY_FILE")
}

// blobFile writes content-addressed bytes and returns their descriptor.
func blobFile(t testing.TB, dir, mediaType string, b []byte) map[string]any {
	t.Helper()
	digest := fmt.Sprintf("%x", sha256.Sum256(b))
	if err := os.WriteFile(filepath.Join(dir, "blobs/sha256", digest), b, 0o644); err != nil {
		t.Fatal(err)
	}
	return map[string]any{"mediaType": mediaType, "digest": "sha256:" + digest, "size": len(b)}
}

// layout writes an OCI image layout of uncompressed layers, tagged "x", into dir.
func writeLayout(t testing.TB, dir string, layers [][]byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	marshal := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var descriptors []any
	var diffs []string
	for _, l := range layers {
		d := blobFile(t, dir, "application/vnd.oci.image.layer.v1.tar", l)
		descriptors, diffs = append(descriptors, d), append(diffs, d["digest"].(string))
	}
	config := blobFile(t, dir, "application/vnd.oci.image.config.v1+json", marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	}))
	manifest := blobFile(t, dir, "application/vnd.oci.image.manifest.v1+json", marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": descriptors,
	}))
	manifest["annotations"] = map[string]string{"org.opencontainers.image.ref.name": "x"}
	for name, v := range map[string]any{
		"index.json": map[string]any{"schemaVersion": 2, "manifests": []any{manifest}},
		"oci-layout": map[string]any{"imageLayoutVersion": "1.0.0"},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), marshal(v), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// umoci unpacks image, "dir:tag", as root and returns the tree.
func umoci(t testing.TB, image string) (root string, since int64, err error) {
	t.Helper()
	return unpack(t, image, filepath.Join(t.TempDir(), "bundle"))
}

func unpack(t testing.TB, image, bundle string) (root string, since int64, err error) {
	t.Helper()
	program := needProgram(t, "umoci", "apt-get install umoci")
	since = time.Now().Unix()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "unpack", "--image", image, bundle)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		return "", 0, fmt.Errorf("%w: %s", err, lines[len(lines)-1])
	}
	return filepath.Join(bundle, "rootfs"), since, nil
}

// mountTree mounts an image file over layer files, until the test ends.
func mountTree(t testing.TB, meta string, devices []string) string {
	t.Helper()
	dir, _ := mountBacked(t, meta, devices)
	return dir
}

func mountBacked(t testing.TB, meta string, devices []string) (string, Backing) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := Mount(t.Context(), meta, devices, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cleanMount(t, dir) })
	return dir, b
}

func cleanMount(t testing.TB, dir string) {
	if err := Unmount(context.Background(), dir); err != nil {
		t.Error(err)
		unix.Unmount(dir, unix.MNT_DETACH)
	}
}
