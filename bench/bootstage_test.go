package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/e2e/images/imagestest"
)

// bootStage is a registry with an image on a network of its own, and the machines that were there before the one that
// is measured.
type bootStage struct {
	all      *testing.B // of all links
	w        *e2etest.World
	v        imagestest.Version
	system   bootSystem
	image    bootImage
	layout   string
	lan      *e2etest.Net
	registry *e2etest.Host
	addr     string
	kept     string   // what the registry has on disk
	name     string   // of the image in the registry
	layers   []string // their digests, without the algorithm

	converted float64 // CPU seconds
	tracker   *e2etest.Tracker
	neighbour *imagestest.Containerd // has the indexes and no data
}

// newBootStage makes a stage that lasts as long as all does; b fails with it.
func newBootStage(b, all *testing.B, layout string, image bootImage, system bootSystem, v imagestest.Version) *bootStage {
	b.Helper()
	if system.programs != nil {
		needRivals(b, v, system.programs)
	}
	s := &bootStage{all: all, w: e2etest.New(all), v: v, system: system, image: image, layout: layout, name: image.tag, layers: layersOf(b, layout, image.tag)}
	s.w.T = b
	defer func() { s.w.T = all }()
	s.lan = s.w.Net()
	s.registry = s.lan.Host()
	// What the registry keeps stays beside the images: pushing them takes longer than most races.
	s.kept = filepath.Join(layout, "registry")
	s.addr = imagestest.RegistryOptions{Host: s.registry, Root: s.kept}.Start(s.w).Addr
	if !s.has(image.tag) {
		s.push("oci:"+layout+":"+image.tag, image.tag)
	}
	if system.convert != nil {
		s.converted = system.convert(s)
	}
	if system.prepare != nil {
		s.newTracker()
		system.prepare(s)
	}
	s.warm()
	return s
}

// has reports whether the registry has an image.
func (s *bootStage) has(name string) bool {
	_, err := os.Stat(filepath.Join(s.kept, "docker/registry/v2/repositories", name, "_manifests/tags/latest"))
	return err == nil
}

// push copies what skopeo can name into the registry, with everything that an index names.
func (s *bootStage) push(from, name string) {
	s.w.T.Helper()
	skopeo := e2etest.NeedProgram(s.w.T, "skopeo", "apt-get install skopeo")
	p := s.registry.Start(e2etest.Command{Args: []string{skopeo, "copy", "-q", "--all", "--insecure-policy", "--dest-tls-verify=false", from, "docker://" + s.addr + "/" + name + ":latest"}})
	if r := p.Wait(limit); r.Code != 0 {
		s.w.T.Fatalf("%v", r)
	}
}

// warm reads what the registry has of the image: its disk is no part of the race.
func (s *bootStage) warm() {
	s.w.T.Helper()
	links, err := filepath.Glob(filepath.Join(s.kept, "docker/registry/v2/repositories", s.name, "_layers/sha256/*"))
	if err != nil || len(links) == 0 {
		s.w.T.Fatalf("the registry has no layers of %s: %v", s.name, err)
	}
	for _, l := range links {
		digest := filepath.Base(l)
		s.w.MustRun(limit, "sha256sum", filepath.Join(s.kept, "docker/registry/v2/blobs/sha256", digest[:2], digest, "data"))
	}
}

// from is where a host finds the registry.
func (s *bootStage) from(h *e2etest.Host, link bootLink) string {
	if link.rtt == 0 {
		return s.addr
	}
	return imagestest.NewDelay(s.w, h, s.addr, link.rtt).Addr
}

// newTracker forgets all that was known of images.
func (s *bootStage) newTracker() {
	if s.tracker != nil {
		s.tracker.Kill()
	}
	s.tracker = s.lan.Host().Tracker()
}

// pantala is a fresh machine.
func (s *bootStage) pantala(link bootLink) *bootMachine { return s.pantalaWith(link) }

func (s *bootStage) pantalaWith(link bootLink, flags ...string) *bootMachine {
	s.w.T.Helper()
	h := s.lan.Host()
	addr := s.from(h, link)
	c := s.v.StartOn(s.w, h, append(flags, "--tracker", s.tracker.URL, "--plain-http", s.addr, "--plain-http", addr)...)
	return &bootMachine{c, "pantala", addr + "/" + s.name + ":latest", c.Pantala().PID(), c.End}
}

func overlayfsMachine(s *bootStage, link bootLink) *bootMachine {
	h := s.lan.Host()
	c := s.v.StartAlone(s.w, h)
	return &bootMachine{c, "overlayfs", s.from(h, link) + "/" + s.name + ":latest", c.PID(), c.End}
}

func (m *bootMachine) boot(s *bootStage) { m.Boot(m.snapshotter, m.ref, s.image.args...) }

// prepareIndex has a neighbour make the indexes of the image.
func (s *bootStage) prepareIndex() {
	s.w.T.Helper()
	m := s.pantalaWith(bootLink{}, "--fill", "never")
	m.boot(s)
	s.neighbour = m.Containerd
	s.strip()
}

// strip takes from the neighbour all data of the image; it keeps the indexes and offers them.
func (s *bootStage) strip() {
	s.w.T.Helper()
	c := s.neighbour
	c.StopPantala()
	for _, l := range s.layers {
		c.Node.Must("cache", "rm", l)
	}
	if err := os.RemoveAll(filepath.Join(c.Node.State, "images", "decoded")); err != nil {
		s.w.T.Fatal(err)
	}
	s.again()
}

// again starts the neighbour.
func (s *bootStage) again() {
	s.w.T.Helper()
	s.neighbour.StartPantala()
	s.w.Until(limit, "the tree is mounted again", func() bool {
		return strings.Contains(s.neighbour.Pantala().Output(), "image is readable")
	})
}

// reindex takes the neighbour to a tracker that knows nothing of what earlier machines have read.
func (s *bootStage) reindex() {
	s.w.T.Helper()
	c := s.neighbour
	c.StopPantala()
	s.newTracker()
	for i, f := range c.Node.Flags {
		if f == "--tracker" {
			c.Node.Flags[i+1] = s.tracker.URL
		}
	}
	s.again()
}

// prepareProfile has one more machine boot the image and tell what it has read.
func (s *bootStage) prepareProfile() {
	s.w.T.Helper()
	s.prepareIndex()
	s.learn()
}

// preparePeers has one machine with all of the image, and another one boot it and tell what it has read.
func (s *bootStage) preparePeers() {
	s.w.T.Helper()
	all := s.pantala(bootLink{})
	all.boot(s)
	s.w.Until(limit, "the first machine has all of the image", func() bool {
		return strings.Contains(all.Pantala().Output(), "all of an image is here")
	})
	s.learn()
}

// learn has a machine boot the image, tell the tracker what it has read, and go.
func (s *bootStage) learn() {
	s.w.T.Helper()
	m := s.pantalaWith(bootLink{}, "--fill", "never")
	m.boot(s)
	m.StopPantala() // a start is over with the machine, or when nothing new has been read for 30 s
	if found, _ := os.ReadDir(filepath.Join(m.Node.State, "profiles")); len(found) == 0 {
		s.w.T.Fatalf("nothing is kept of the order in which the image was read:\n%s", m.Pantala().Output())
	}
	m.end()
}

// layersOf are the layers of a tag of an OCI layout.
func layersOf(b *testing.B, layout, tag string) (layers []string) {
	b.Helper()
	read := func(path string, to any) {
		b.Helper()
		raw, err := os.ReadFile(filepath.Join(layout, path))
		if err == nil {
			err = json.Unmarshal(raw, to)
		}
		if err != nil {
			b.Fatalf("BENCH_IMAGES: %v", err)
		}
	}
	var index ocispec.Index
	read("index.json", &index)
	for _, m := range index.Manifests {
		if m.Annotations[ocispec.AnnotationRefName] != tag {
			continue
		}
		var manifest ocispec.Manifest
		read(filepath.Join("blobs", m.Digest.Algorithm().String(), m.Digest.Encoded()), &manifest)
		for _, l := range manifest.Layers {
			layers = append(layers, l.Digest.Encoded())
		}
	}
	if len(layers) == 0 {
		b.Fatal(fmt.Errorf("BENCH_IMAGES: %s has no tag %s", layout, tag))
	}
	return layers
}
