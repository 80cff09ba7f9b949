package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/e2e/images/imagestest"
)

// bootImages are the races: an image of BENCH_IMAGES, and what is started of it.
var bootImages = []struct {
	name, tag string
	args      []string
}{
	{"py", "py", []string{"/usr/bin/python3", "/app/app.py"}},     // 83 MB, 3 layers
	{"big", "big", []string{"/usr/bin/node", "/app/app.js"}},      // 644 MB, 9 layers, 52 k entries
	{"heavy", "big", []string{"/usr/bin/python3", "/app/sci.py"}}, // the same with numpy, pandas and scipy
}

// bootLinks are what lies between the registry and the others. Only the registry is limited: between the machines of a
// cluster there is what the kernel gives.
var bootLinks = []struct {
	name, rate string
	rtt        time.Duration
}{
	{"100mbit", "100mbit", 0},
	{"1gbit", "1gbit", 0},
	{"1gbit+20ms", "1gbit", 20 * time.Millisecond},
	{"unshaped", "", 0},
}

// BenchmarkBoot pulls an image with containerd and runs a program of it, on a machine that has nothing of it:
//
//	overlayfs      containerd alone: fetches and unpacks everything first
//	first          pantala, the first machine that ever wants the image
//	next-registry  pantala after another one, from whom it has the index and nothing else
//	next-peers     pantala after two others, which have the data and know what is read first
//
// s-first is seconds from the beginning of the pull to the first line of output, s-pull what of it the pull took,
// MB-registry what the registry sent meanwhile, in 10^6 bytes with headers. CONTAINERD2_BIN takes another containerd than
// Debian's. It wants BENCH_IMAGES, an OCI layout with the tags py and big (make bench-images).
func BenchmarkBoot(b *testing.B) {
	layout := os.Getenv("BENCH_IMAGES")
	if layout == "" {
		b.Skip("no images: make bench-images, then BENCH_IMAGES=bin/images")
	}
	layout, err := filepath.Abs(layout)
	if err != nil {
		b.Fatal(err)
	}
	versions := imagestest.Versions(b)
	for _, image := range bootImages {
		for _, link := range bootLinks {
			for _, how := range []string{"overlayfs", "first", "next-registry", "next-peers"} {
				b.Run(strings.Join([]string{image.name, link.name, how}, "/"), func(b *testing.B) {
					var first, pull, moved samples
					for b.Loop() {
						r := newBootRace(b, layout, image.tag)
						booted := r.run(versions[len(versions)-1], how, link.rate, link.rtt, image.args)
						after, _ := r.registry.Wire()
						if booted.Line != "ready" {
							b.Fatalf("the program says %q", booted.Line)
						}
						first = append(first, booted.First.Seconds())
						pull = append(pull, booted.Pull.Seconds())
						moved = append(moved, float64(after-r.prepared)/1e6)
						r.w.End()
					}
					hideTime(b)
					b.ReportMetric(first.median(), "s-first")
					b.ReportMetric(pull.median(), "s-pull")
					b.ReportMetric(moved.median(), "MB-registry")
				})
			}
		}
	}
}

// bootRace is a registry with an image on a network of its own.
type bootRace struct {
	w        *e2etest.World
	lan      *e2etest.Net
	registry *e2etest.Host
	addr     string
	tag      string
	layers   []string // their digests, without the algorithm
	prepared int64    // what the registry had sent before the race
}

func newBootRace(b *testing.B, layout, tag string) *bootRace {
	b.Helper()
	w := e2etest.New(b)
	r := &bootRace{w: w, lan: w.Net(), tag: tag, layers: layersOf(b, layout, tag)}
	r.registry = r.lan.Host()
	// What the registry keeps stays beside the images: pushing them takes longer than most races.
	kept := filepath.Join(layout, "registry")
	reg := imagestest.RegistryOptions{Host: r.registry, Root: kept}.Start(w)
	r.addr = reg.Addr
	if _, err := os.Stat(filepath.Join(kept, "docker/registry/v2/repositories", tag, "_manifests/tags/latest")); err != nil {
		skopeo := e2etest.NeedProgram(b, "skopeo", "apt-get install skopeo")
		p := r.registry.Start(e2etest.Command{Args: []string{skopeo, "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "oci:" + layout + ":" + tag, "docker://" + reg.Addr + "/" + tag + ":latest"}})
		if res := p.Wait(limit); res.Code != 0 {
			b.Fatalf("%v", res)
		}
	}
	for _, l := range r.layers { // the registry's disk is no part of the race
		w.MustRun(limit, "sha256sum", filepath.Join(kept, "docker/registry/v2/blobs/sha256", l[:2], l, "data"))
	}
	return r
}

// run boots the image on a fresh machine, after what has to have happened before.
func (r *bootRace) run(v imagestest.Version, how, rate string, rtt time.Duration, args []string) imagestest.Booted {
	r.w.T.Helper()
	from := func(h *e2etest.Host) string { return r.addr }
	if rtt > 0 {
		from = func(h *e2etest.Host) string { return imagestest.NewDelay(r.w, h, r.addr, rtt).Addr }
	}
	var flags []string
	if how != "overlayfs" {
		tracker := r.lan.Host().Tracker()
		flags = []string{"--tracker", tracker.URL, "--plain-http", r.addr}
	}
	node := func(more ...string) (*imagestest.Containerd, string) {
		h := r.lan.Host()
		return v.StartOn(r.w, h, append(flags, more...)...), from(h) + "/" + r.tag + ":latest"
	}
	switch how {
	case "next-registry":
		c, ref := node("--fill", "never")
		c.Boot("pantala", ref, args...)
		r.strip(c)
	case "next-peers":
		c1, ref := node()
		c1.Boot("pantala", ref, args...)
		c2, ref := node("--fill", "never")
		c2.Boot("pantala", ref, args...)
		profiles := filepath.Join(c2.Node.State, "profiles")
		r.w.Until(limit, "the second machine has kept in which order it read", func() bool {
			found, _ := os.ReadDir(profiles)
			return len(found) > 0
		})
	}
	var c *imagestest.Containerd
	var ref string
	sn := "pantala"
	if how == "overlayfs" {
		h := r.lan.Host()
		c, ref, sn = v.StartAlone(r.w, h), from(h)+"/"+r.tag+":latest", "overlayfs"
	} else {
		c, ref = node()
	}
	if rate != "" {
		r.registry.Cap(rate)
	}
	r.prepared, _ = r.registry.Wire()
	return c.Boot(sn, ref, args...)
}

// strip takes from a machine all data of the image; it keeps the indexes and offers them.
func (r *bootRace) strip(c *imagestest.Containerd) {
	r.w.T.Helper()
	c.StopPantala()
	for _, l := range r.layers {
		c.Node.Must("cache", "rm", l)
	}
	if err := os.RemoveAll(filepath.Join(c.Node.State, "images", "decoded")); err != nil {
		r.w.T.Fatal(err)
	}
	c.StartPantala()
	r.w.Until(limit, "the tree is mounted again", func() bool { return strings.Contains(c.Pantala().Output(), "image is readable") })
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
