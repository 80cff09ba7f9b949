package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/image/soci"
	"github.com/pantala/pantala/origin/registry/registrytest"
)

// TestStrictMount: --strict of one request is as good as that of the whole node: no index that others only claim is used,
// none that is in use, and nothing that was made of one.
func TestStrictMount(t *testing.T) {
	r := registrytest.New(t, registrytest.Script{Referrers: true})
	ref, _ := sociImage(t, r, "v1", false, soci.TypeV2, nil)
	n := start(t, conf(t))
	s, err := n.imageDoor()
	if err != nil {
		t.Fatal(err)
	}
	img, _, err := s.resolve(patient(t), ref, "", control.Options{})
	if err != nil {
		t.Fatal(err)
	}
	open := func(o control.Options) *rootfs {
		t.Helper()
		tree, err := s.acquireTree(patient(t), img, 1, o)
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	loose := open(control.Options{})
	if l := loose.layers[0]; l.known.Trust != blob.Claimed || l.index.Format != "soci" {
		t.Fatalf("%+v", l.known)
	}
	if _, err := s.acquireTree(patient(t), img, 1, control.Options{Strict: true}); !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), "--strict") {
		t.Errorf("while it is in use: %v", err)
	}
	s.releaseTree(loose)
	<-loose.gone
	strict := open(control.Options{Strict: true})
	if l := strict.layers[0]; l.known.Trust != blob.Built || l.index.Format != "gzip" {
		t.Errorf("%+v", l.known)
	}
	if strict.meta == loose.meta {
		t.Error("the tree of another index is used")
	}
	s.releaseTree(strict)
	<-strict.gone
	again := open(control.Options{}) // what is known is better now
	if l := again.layers[0]; l.known.Trust != blob.Built || again.meta != strict.meta {
		t.Errorf("%+v, %s", l.known, again.meta)
	}
	s.releaseTree(again)
	<-again.gone
	s.freeTree(again)
	if left, _ := filepath.Glob(filepath.Join(s.dir, "trees/*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestCheckedIndex: a claimed index that was held against its layer, all of it, is as good as one that was made here.
func TestCheckedIndex(t *testing.T) {
	r := registrytest.New(t, registrytest.Script{Referrers: true})
	tracker := startTracker(t)
	ref, _ := sociImage(t, r, "v1", false, "application/x", nil)
	first := start(t, conf(t, tracker))
	s, err := first.imageDoor()
	if err != nil {
		t.Fatal(err)
	}
	img, _, err := s.resolve(patient(t), ref, "", control.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := s.acquireTree(patient(t), img, 1, control.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.releaseTree(tree)
	trust := func(i control.Image, err error) string {
		t.Helper()
		if err != nil || i.Layers[0].Index == nil || i.Layers[0].Fault != nil {
			t.Fatalf("%v, %+v", err, i)
		}
		return i.Layers[0].Index.Trust
	}
	n := start(t, conf(t, tracker))
	ask := control.ImageRequest{Ref: ref}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) { // until the claim has reached the tracker
		i, err := n.ImageInspect(patient(t), ask)
		if err == nil && i.Layers[0].Index != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no claim: %v, %+v", err, i)
		}
	}
	if got := trust(n.ImageIndex(patient(t), ask, nil)); got != "claimed" {
		t.Fatalf("before: %s", got)
	}
	if got := trust(n.ImageCheck(patient(t), ask, nil)); got != "built" {
		t.Errorf("after: %s", got)
	}
	if got := trust(n.ImageInspect(patient(t), ask)); got != "built" {
		t.Errorf("remembered: %s", got)
	}
	// A table of another kind lists entries that were not all compared.
	ref, _ = sociImage(t, r, "v2", false, soci.TypeV2, nil)
	other := start(t, conf(t))
	if got := trust(other.ImageCheck(patient(t), control.ImageRequest{Ref: ref}, nil)); got != "claimed" {
		t.Errorf("a ztoc: %s", got)
	}
}

// TestImageOptions: what cannot be said of one mount of an image is refused, with what to do instead.
func TestImageOptions(t *testing.T) {
	k := conf(t, "http://127.0.0.1:1/announce")
	n := start(t, k)
	for says, o := range map[string]control.Options{
		"docker login": {Header: map[string][]string{"Authorization": {"secret"}}},
		"hosts.toml":   {Mirrors: []string{"http://127.0.0.1:1/"}},
		"--cacert":     {CACert: "/x.pem"},
		"--tracker":    {Trackers: []string{"http://127.0.0.1:2/announce"}},
	} {
		_, err := n.Mount(patient(t), control.MountRequest{Source: "oci://127.0.0.1:1/a", Dir: t.TempDir(), Options: o})
		if !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", says, err)
		}
	}
	if n.images.Load() != nil {
		if all, _ := os.ReadDir(imagesDir(k.State)); len(all) > 0 {
			t.Errorf("%v", all)
		}
	}
}
