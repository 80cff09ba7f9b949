package node

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"runtime"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/image/soci"
	"github.com/pantala/pantala/origin/registry/registrytest"
)

// sociImage puts an image of one layer, which is in image/soci/testdata with its ztoc, into a registry. pin: the manifest
// names the SOCI index; otherwise that refers to it, as kind.
func sociImage(t *testing.T, r *registrytest.Server, tag string, pin bool, kind string, damage func(ztoc []byte)) (ref string, ztoc string) {
	t.Helper()
	load := func(name string) []byte {
		b, err := os.ReadFile("../image/soci/testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	layer, table := load("layer.tar.gz"), load("gzip.ztoc")
	z, err := gzip.NewReader(bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	config := registrytest.JSON(map[string]any{"os": "linux", "architecture": runtime.GOARCH, "rootfs": map[string]any{"type": "layers", "diff_ids": []string{registrytest.Digest(plain)}}, "author": tag})
	d := registrytest.Of("application/octet-stream", table)
	d.Annotations = map[string]string{"com.amazon.soci.image-layer-digest": registrytest.Digest(layer)}
	index := map[string]any{
		"schemaVersion": 2, "mediaType": registrytest.Manifest, "artifactType": kind, "layers": []registrytest.Descriptor{d},
		"config": registrytest.Of("application/vnd.oci.empty.v1+json", []byte("{}")),
	}
	manifest := map[string]any{
		"schemaVersion": 2, "mediaType": registrytest.Manifest, "config": registrytest.Of(registrytest.ImageConfig, config),
		"layers": []registrytest.Descriptor{registrytest.Of(registrytest.LayerGzip, layer)},
	}
	if pin {
		text := registrytest.JSON(index)
		manifest["annotations"] = map[string]string{soci.Annotation: registrytest.Digest(text)}
		r.PutManifest("app", "", registrytest.Manifest, text)
	}
	text := registrytest.JSON(manifest)
	if !pin {
		index["subject"] = registrytest.Of(registrytest.Manifest, text)
		r.PutManifest("app", "", registrytest.Manifest, registrytest.JSON(index))
	}
	r.PutBlob([]byte("{}"))
	ztoc = r.PutBlob(bytes.Clone(table))
	if damage != nil {
		damage(table)
		r.Replace(ztoc, table)
	}
	r.Put("app", tag, registrytest.Image{Manifest: text, Config: config, Layers: [][]byte{layer}, Type: registrytest.Manifest})
	return r.Host() + "/app:" + tag, ztoc
}

// TestSOCI: the ztoc of a layer is its index, at the word of the image or, unless --strict, of the registry.
func TestSOCI(t *testing.T) {
	for name, c := range map[string]struct {
		pin, strict bool
		kind        string
		damage      func([]byte)
		format      string
		trust       blob.Trust
	}{
		"pinned":              {pin: true, kind: soci.TypeV2, format: "soci", trust: blob.Pinned},
		"pinned, strict":      {pin: true, strict: true, kind: soci.TypeV2, format: "soci", trust: blob.Pinned},
		"referrer":            {kind: soci.TypeV2, format: "soci", trust: blob.Claimed},
		"first version":       {kind: soci.TypeV1, format: "soci", trust: blob.Claimed},
		"referrer and strict": {strict: true, kind: soci.TypeV2, format: "gzip", trust: blob.Built},
		"something else":      {kind: "application/x", format: "gzip", trust: blob.Built},
		"damaged":             {pin: true, kind: soci.TypeV2, damage: func(b []byte) { b[len(b)/2]++ }, format: "gzip", trust: blob.Built},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, registrytest.Script{Referrers: true})
			ref, _ := sociImage(t, r, "v1", c.pin, c.kind, c.damage)
			k := conf(t)
			k.Strict = c.strict
			n := start(t, k)
			i, err := n.ImageIndex(patient(t), control.ImageRequest{Ref: ref}, nil)
			if err != nil {
				t.Fatal(err)
			}
			x := i.Layers[0].Index
			if x.Format != c.format || x.Trust != c.trust.String() || x.Spans == 0 || x.Entries == 0 {
				t.Errorf("index %+v", x)
			}
			if c.format == "soci" && i.Layers[0].Present > 0 {
				t.Errorf("%d bytes of the layer were read for it", i.Layers[0].Present)
			}
			// What it says of spans is true.
			if i, err = n.ImageCheck(patient(t), control.ImageRequest{Ref: ref}, nil); err != nil || i.Layers[0].Fault != nil {
				t.Errorf("check: %v, %v", err, i.Layers[0].Fault)
			}
			again, err := n.ImageInspect(patient(t), control.ImageRequest{Ref: ref})
			if err != nil || again.Layers[0].Index == nil || again.Layers[0].Index.Digest != x.Digest || !again.Layers[0].Index.Here {
				t.Errorf("inspect: %v, %+v", err, again)
			}
			// What is published is not what others only claim.
			own, err := n.ImageIndex(patient(t), control.ImageRequest{Ref: ref, Own: true}, nil)
			if err != nil || own.Layers[0].Index.Trust == blob.Claimed.String() {
				t.Errorf("own index: %v, %+v", err, own.Layers[0].Index)
			}
		})
	}
}

// TestImageCheck: what is wrong with a layer is told with the layer, and the others are checked all the same.
func TestImageCheck(t *testing.T) {
	r := registrytest.New(t, registrytest.Script{})
	ref, _ := sociImage(t, r, "v1", true, soci.TypeV2, nil)
	n := start(t, conf(t))
	if _, err := n.ImagePush(patient(t), control.ImageRequest{Ref: ref}); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("push of what is not there: %v", err)
	}
	i, err := n.ImageIndex(patient(t), control.ImageRequest{Ref: ref}, nil)
	if err != nil {
		t.Fatal(err)
	}
	bad, err := os.ReadFile("../image/soci/testdata/layer.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	bad[len(bad)/2] ^= 1
	r.Replace(i.Layers[0].Digest, bad)
	said := int64(0)
	if i, err = n.ImageCheck(patient(t), control.ImageRequest{Ref: ref}, func(p control.Progress) { said = max(said, p.Done) }); err != nil {
		t.Fatal(err)
	}
	if f := i.Layers[0].Fault; f == nil || !errors.Is(f, blob.ErrCorrupt) {
		t.Errorf("a damaged layer: %v", f)
	}
	if said == 0 {
		t.Error("no progress")
	}
	if !n.mayRest() {
		t.Error("requests are still counted")
	}
}

// mayRest reports whether nothing is under way.
func (n *Node) mayRest() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.isIdle()
}
