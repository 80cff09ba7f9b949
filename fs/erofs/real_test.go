package erofs

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/tarscan"
	"github.com/pantala/pantala/image/tree"
)

// realImages names images that TestRealImages compares: "layout:tag", separated by commas. Layouts are those of the OCI
// image specification, with layers that are plain or compressed by gzip.
const realImages = "OCI_IMAGES"

// TestRealImages is TestFidelity for whole images, which are not part of this repository.
func TestRealImages(t *testing.T) {
	names := os.Getenv(realImages)
	if names == "" {
		t.Skipf("set %s=layout:tag,… to compare images with what umoci unpacks", realImages)
	}
	needErofs(t)
	for name := range strings.SplitSeq(names, ",") {
		layout, tag, ok := strings.Cut(name, ":")
		if !ok {
			t.Fatalf("%q is not layout:tag", name)
		}
		t.Run(tag, func(t *testing.T) { compareReal(t, layout, tag) })
	}
}

func compareReal(t *testing.T, layout, tag string) {
	dir := t.TempDir()
	var layers []tree.Layer
	var devices []string
	for i, digest := range layersOf(t, layout, tag) {
		path := filepath.Join(dir, fmt.Sprint("layer", i))
		entries, size := decodeLayer(t, blobPath(layout, digest), path)
		layers = append(layers, tree.Layer{Name: digest, Size: size, Entries: func(yield func(index.Entry, error) bool) {
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
		}})
		devices = append(devices, path)
	}
	merged, err := tree.Merge(layers)
	if err != nil {
		t.Fatal(err)
	}
	meta := filepath.Join(dir, "meta")
	f, err := os.Create(meta)
	if err != nil {
		t.Fatal(err)
	}
	n, err := Write(f, merged, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d layers, %d inodes, %d bytes in files, %d bytes of metadata", len(layers), merged.Len(), merged.Bytes, n)
	if newer := os.Getenv("FSCK_EROFS"); newer != "" {
		fsck(t, newer, meta, devices)
	}
	root, since, err := umoci(t, layout+":"+tag)
	if err != nil {
		t.Fatal(err)
	}
	want := lookAt(t, root, since)
	all := differences(want, lookAt(t, mountTree(t, meta, devices), 0))
	for _, d := range all[:min(len(all), 20)] {
		t.Error(d)
	}
	stamps := 0
	for _, l := range want {
		if l.clockStamp {
			stamps++
		}
	}
	t.Logf("%d files compared, %d differences; %d times of directories that umoci took from the clock", len(want), len(all), stamps)
}

func blobPath(layout, digest string) string {
	return filepath.Join(layout, "blobs", strings.Replace(digest, ":", "/", 1))
}

// layersOf are the digests of an image's layers.
func layersOf(t *testing.T, layout, tag string) (all []string) {
	t.Helper()
	read := func(path string, v any) {
		b, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(b, v)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	type descriptor struct {
		Digest      string
		Annotations map[string]string
	}
	var top struct{ Manifests []descriptor }
	read(filepath.Join(layout, "index.json"), &top)
	for _, d := range top.Manifests {
		if d.Annotations["org.opencontainers.image.ref.name"] != tag {
			continue
		}
		var manifest struct{ Layers []descriptor }
		read(blobPath(layout, d.Digest), &manifest)
		for _, l := range manifest.Layers {
			all = append(all, l.Digest)
		}
		return all
	}
	t.Fatalf("%s has no %q", layout, tag)
	return nil
}

// decodeLayer writes the archive of a layer to a file and scans it on the way.
func decodeLayer(t *testing.T, from, to string) (entries []index.Entry, size int64) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var r io.Reader = bufio.NewReader(in)
	if magic, err := r.(*bufio.Reader).Peek(2); err == nil && bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		if r, err = gzip.NewReader(r); err != nil {
			t.Fatal(err)
		}
	}
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	counted := &counter{r: io.TeeReader(r, out)}
	if err := tarscan.Scan(counted, func(e index.Entry) error {
		entries = append(entries, e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return entries, counted.n
}

// counter knows how far a stream has been read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
