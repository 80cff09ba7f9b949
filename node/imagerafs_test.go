package node

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/image/rafs"
	"github.com/pantala/pantala/image/rafs/rafstest"
	"github.com/pantala/pantala/origin/registry/registrytest"
)

// nydusImage puts a Nydus image of two blobs into a registry: the digests of its layers, the bootstrap last.
func nydusImage(t *testing.T, r *registrytest.Server, tag string, o rafstest.Options, version string) (ref string, layers []string, i rafstest.Image) {
	t.Helper()
	noise := make([]byte, 200_000)
	rand.NewChaCha8([32]byte{byte(len(tag))}).Read(noise)
	o.Blobs = 2
	i = rafstest.Write([]rafstest.File{
		{Name: "", Mode: 0o040755},
		{Name: "noise", Mode: 0o100644, Data: noise},
		{Name: "text", Mode: 0o100644, Data: bytes.Repeat([]byte("text "+tag), 10_000), Blob: 1},
	}, o)
	boot, plain := i.Layer()
	var all []registrytest.Descriptor
	var diffs []string
	var stored [][]byte
	for _, b := range i.Blobs {
		d := registrytest.Of(rafs.BlobType, b)
		d.Annotations = map[string]string{rafs.AnnotationBlob: "true"}
		all, diffs, stored = append(all, d), append(diffs, registrytest.Digest(b)), append(stored, b)
		layers = append(layers, registrytest.Digest(b))
	}
	d := registrytest.Of(registrytest.LayerGzip, boot)
	d.Annotations = map[string]string{rafs.AnnotationBootstrap: "true", rafs.AnnotationVersion: version}
	all, diffs, stored = append(all, d), append(diffs, registrytest.Digest(plain)), append(stored, boot)
	layers = append(layers, registrytest.Digest(boot))
	config := registrytest.JSON(map[string]any{"os": "linux", "architecture": runtime.GOARCH, "rootfs": map[string]any{"type": "layers", "diff_ids": diffs}})
	text := registrytest.JSON(map[string]any{
		"schemaVersion": 2, "mediaType": registrytest.Manifest, "config": registrytest.Of(registrytest.ImageConfig, config), "layers": all,
	})
	r.Put("app", tag, registrytest.Image{Manifest: text, Config: config, Layers: stored, Type: registrytest.Manifest})
	return r.Host() + "/app:" + tag, layers, i
}

// TestNydusCheck: a Nydus image is told by its kind, and checked chunk by chunk; what is damaged is told with blob and
// chunk.
func TestNydusCheck(t *testing.T) {
	r := registrytest.New(t, registrytest.Script{})
	ref, layers, _ := nydusImage(t, r, "v1", rafstest.Options{Compressor: rafstest.Zstd}, "6")
	n := start(t, conf(t))
	seen, err := n.ImageInspect(patient(t), control.ImageRequest{Ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	for i, kind := range []string{blobKind, blobKind, rafs.Format} {
		if seen.Layers[i].Kind != kind || seen.Layers[i].Digest != layers[i] {
			t.Errorf("layer %d: %+v", i, seen.Layers[i])
		}
	}
	checked, err := n.ImageCheck(patient(t), control.ImageRequest{Ref: ref}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range checked.Layers {
		if l.Fault != nil || l.Kind == "" || l.Present == 0 {
			t.Errorf("layer %d: %+v, %v", i, l, l.Fault)
		}
	}
	for _, f := range []func() error{
		func() error { _, err := n.ImageIndex(patient(t), control.ImageRequest{Ref: ref}, nil); return err },
		func() error { _, err := n.ImagePush(patient(t), control.ImageRequest{Ref: ref}); return err },
	} {
		if err := f(); !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), "Nydus") {
			t.Errorf("an index of ours: %v", err)
		}
	}
	if !n.mayRest() {
		t.Error("requests are still counted")
	}

	// A chunk that its bootstrap does not mean: the digest of the blob is right.
	ref, layers, _ = nydusImage(t, r, "lies", rafstest.Options{Compressor: rafstest.LZ4, Change: func(part string, b []byte) {
		if part == "chunks" {
			b[0] ^= 1 // the table is written backwards: this is the chunk of the second blob
		}
	}}, "6")
	checked, err = n.ImageCheck(patient(t), control.ImageRequest{Ref: ref}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if f := checked.Layers[2].Fault; f == nil || !errors.Is(f, blob.ErrCorrupt) || !strings.Contains(f.Text, "chunk at 0 of blob "+layers[1]) {
		t.Errorf("a chunk with another digest: %v", f)
	}
	if checked.Layers[0].Fault != nil || checked.Layers[1].Fault != nil {
		t.Errorf("the blobs are as their digests say: %+v", checked.Layers)
	}

	// A blob that is damaged in the registry.
	ref, layers, i := nydusImage(t, r, "damaged", rafstest.Options{Compressor: rafstest.LZ4}, "6")
	bad := bytes.Clone(i.Blobs[0])
	bad[1000] ^= 1
	r.Replace(layers[0], bad)
	checked, err = n.ImageCheck(patient(t), control.ImageRequest{Ref: ref}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if f := checked.Layers[0].Fault; f == nil || !errors.Is(f, blob.ErrCorrupt) {
		t.Errorf("a damaged blob: %v", f)
	}
	if checked.Layers[1].Fault != nil {
		t.Errorf("another blob: %v", checked.Layers[1].Fault)
	}
}

// TestNydusMount: what cannot be mounted says why; what can is one layer, whose parts are kept apart from layers of the
// same digests.
func TestNydusMount(t *testing.T) {
	r := registrytest.New(t, registrytest.Script{})
	n := start(t, conf(t))
	old, _, _ := nydusImage(t, r, "v5", rafstest.Options{}, "5")
	secret, _, _ := nydusImage(t, r, "secret", rafstest.Options{Change: func(part string, b []byte) {
		if part == "boot" {
			b[1152+3] |= 2
		}
	}}, "6")
	for ref, says := range map[string]string{old: "version 5 of RAFS", secret: "encrypted"} {
		_, err := n.Mount(patient(t), control.MountRequest{Source: "oci://" + ref, Dir: t.TempDir()})
		if !errors.Is(err, rafs.ErrUnsupported) && !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	ref, _, _ := nydusImage(t, r, "v6", rafstest.Options{Compressor: rafstest.Zstd, Batch: 100_000}, "6")
	s, err := n.imageDoor()
	if err != nil {
		t.Fatal(err)
	}
	img, _, err := s.resolve(patient(t), "oci://"+ref, "", control.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.acquireTree(patient(t), img, 2, control.Options{}); !errors.Is(err, rafs.ErrUnsupported) || !strings.Contains(err.Error(), "of the first 2") {
		t.Errorf("a part of it: %v", err)
	}
	tree, err := s.acquireTree(patient(t), img, 3, control.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.releaseTree(tree)
	if len(tree.layers) != 1 || len(tree.layers[0].blobs) != 2 {
		t.Fatalf("%d layers", len(tree.layers))
	}
	for _, l := range img.Layers {
		if l.Digest == tree.layers[0].desc.Digest {
			t.Error("it is called like a layer of the registry")
		}
	}
	other := *img
	other.Layers = append(append(other.Layers[:0:0], img.Layers[1], img.Layers[0]), img.Layers[2])
	if nydus, ok := nydusOf(&other); !ok || nydus.layer().Digest == tree.layers[0].desc.Digest {
		t.Error("blobs in another order are another layer")
	}
	k, ok := s.knownIndexOf(tree.layers[0].desc.Digest)
	if !ok {
		t.Fatal("its index is not remembered")
	}
	layers, err := layersOf(k.Blobs)
	if err != nil {
		t.Fatal(err)
	}
	other.Layers = layers
	if nydus, ok := nydusOf(&other); !ok || nydus.layer().Digest != tree.layers[0].desc.Digest {
		t.Error("the next process finds it by what is remembered")
	}
}

// TestNydusServed: the kernel mounts the tree, and a node whose kernel cannot serves it file by file.
func TestNydusServed(t *testing.T) {
	needFuse(t)
	if os.Geteuid() != 0 {
		t.Skip("only root mounts trees")
	}
	r := registrytest.New(t, registrytest.Script{})
	ref, _, _ := nydusImage(t, r, "v6", rafstest.Options{Compressor: rafstest.LZ4, Chunk: 64 << 10}, "6")
	for _, how := range []string{config.Devices, config.Loop, config.Files} {
		n := start(t, conf(t))
		s, err := n.imageDoor()
		if err != nil {
			t.Fatal(err)
		}
		if s.how != config.Devices && how != config.Files {
			t.Log("this kernel mounts no EROFS out of files, and perhaps none at all")
			continue
		}
		s.how = how
		img, _, err := s.resolve(patient(t), "oci://"+ref, "", control.Options{})
		if err != nil {
			t.Fatal(err)
		}
		tree, err := s.acquireTree(patient(t), img, 3, control.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if (how == config.Files) != (tree.served != nil) {
			t.Error("served by the wrong one")
		}
		// Another process reads: this one answers.
		want := strings.Repeat("text v6", 10_000)
		if got, err := exec.Command("timeout", "20", "cat", filepath.Join(tree.dir, "text")).Output(); err != nil || string(got) != want {
			t.Errorf("by way of %s: %d bytes, %v", how, len(got), err)
		}
		if got, err := exec.Command("timeout", "20", "stat", "-c", "%s %a", filepath.Join(tree.dir, "noise")).Output(); err != nil || string(got) != "200000 644\n" {
			t.Errorf("by way of %s: %q, %v", how, got, err)
		}
		s.releaseTree(tree)
		<-tree.gone
	}
}
