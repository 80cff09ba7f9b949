package images

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/e2e/images/imagestest"
)

// second is a machine on which an image is pulled after another one, which is c1, has pulled it, and which has the
// index of its layers and nothing else. It fills nothing in by itself.
func second(t *testing.T, w *e2etest.World, v imagestest.Version, r *imagestest.Registry, ref string, flags ...string) (c1, c2 *imagestest.Containerd) {
	t.Helper()
	tracker := w.Tracker()
	flags = append(flags, "--tracker", tracker.URL, "--fill", "never")
	c1 = v.Start(w, flags...)
	c1.MustPull(ref)
	c1.MustRun(ref, "/bin/true")
	c2 = v.Start(w, flags...)
	before := sent(r)
	c2.MustPull(ref)
	if n := sent(r) - before; n > 64<<10 {
		t.Errorf("the second pull took %s from the registry, whereas the index is at the neighbour", e2etest.MiB(n))
	}
	return c1, c2
}

// sent are the bytes of layers that the registry has sent to pantala.
func sent(r *imagestest.Registry) (n int64) {
	for _, g := range r.Blobs("pantala") {
		n += g.Bytes
	}
	return n
}

// readAheads is what the kernel reads ahead in the trees of a node, in KiB.
func readAheads(t *testing.T, c *imagestest.Containerd) (all []string) {
	t.Helper()
	notes, err := filepath.Glob(filepath.Join(c.Node.State, "images", "trees", "*.backing"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range notes {
		path, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		kib, err := os.ReadFile(string(path))
		if err != nil {
			t.Errorf("what %s says: %v", n, err)
		}
		all = append(all, strings.TrimSpace(string(kib)))
	}
	return all
}

// TestNextNode: a machine that comes second boots without the registry's data, and reads the rest from its neighbour.
func TestNextNode(t *testing.T) {
	for _, v := range imagestest.Versions(t) {
		t.Run("containerd"+v.Name, func(t *testing.T) {
			w := e2etest.New(t)
			r := imagestest.NewRegistry(w, false)
			image, sum := three(t, 1)
			ref := r.Push("three", image)
			c1, c2 := second(t, w, v, r, ref)
			if all := readAheads(t, c1); len(all) == 0 || slices.ContainsFunc(all, func(kib string) bool { return kib != "256" }) {
				t.Errorf("over an image that is here the kernel reads %q KiB ahead", all)
			}
			if all := readAheads(t, c2); len(all) == 0 || slices.ContainsFunc(all, func(kib string) bool { return kib != "32" && kib != "256" }) { // by the way to the registry
				t.Errorf("over an image that is not here the kernel reads %q KiB ahead", all)
			}
			before := sent(r)
			if got := c2.MustRun(ref, "/bin/sha256sum", "/data/noise"); !strings.HasPrefix(got, sum) {
				t.Errorf("noise: %s, not %s", got, sum)
			}
			if n := sent(r) - before; n > 0 {
				t.Errorf("%s came from the registry, whereas a neighbour has everything", e2etest.MiB(n))
			}
			lazy(t, c2, r, 3)
		})
	}
}

// TestLazyRestart: a container that has not read everything yet survives pantala, ended by a signal and killed.
func TestLazyRestart(t *testing.T) {
	ways(t, func(t *testing.T, v imagestest.Version, flags []string) {
		w, survives := e2etest.New(t), !slices.Contains(flags, "files") // what is served name by name ends with the process
		r := imagestest.NewRegistry(w, false)
		noise, sum1 := imagestest.Noise(2<<20, 7)
		more, sum2 := imagestest.Noise(2<<20, 8)
		ref := r.Push("noise", imagestest.New(imagestest.Busybox(t), imagestest.Gzip(imagestest.Entry{Name: "one", Body: noise}), imagestest.Gzip(imagestest.Entry{Name: "two", Body: more})))
		_, c := second(t, w, v, r, ref, flags...)
		c.Box(ref, "box")
		if n := e2etest.Disk(filepath.Join(c.Node.State, "images", "decoded")); n > 3<<20 {
			t.Errorf("%s of layers are here, whereas nobody has read the noise: the test shows nothing", e2etest.MiB(n))
		}
		c.StopPantala()
		c.StartPantala()
		if got := c.Exec("box", "/bin/sha256sum", "/one"); survives && !strings.HasPrefix(got.Stdout, sum1) {
			t.Errorf("after the daemon was ended and started: %v", got)
		}
		c.KillPantala()
		c.StartPantala()
		if got := c.Exec("box", "/bin/sha256sum", "/two"); survives && !strings.HasPrefix(got.Stdout, sum2) {
			t.Errorf("after the daemon was killed and started: %v", got)
		}
		if got := c.MustRun(ref, "/bin/sha256sum", "/two"); !strings.HasPrefix(got, sum2) {
			t.Errorf("a new container: %v", got)
		}
	})
}

// TestRegistryGone: without registry and neighbours a container runs on what is here, what is not is an error in bounded
// time, a new container starts, and all is well when the registry is back.
func TestRegistryGone(t *testing.T) {
	for _, v := range imagestest.Versions(t) {
		t.Run("containerd"+v.Name, func(t *testing.T) {
			w := e2etest.New(t)
			r := imagestest.NewRegistry(w, false)
			image, sum := three(t, 1)
			ref := r.Push("three", image)
			c1, c := second(t, w, v, r, ref, "--timeout", "3s")
			c.Box(ref, "box")
			if got := c.Exec("box", "/bin/cat", "/etc/second"); got.Stdout != "from layer two\n" {
				t.Fatalf("%v", got)
			}
			c1.StopPantala()
			r.Stop()
			if got := c.Exec("box", "/bin/cat", "/etc/second"); got.Stdout != "from layer two\n" {
				t.Errorf("what was read before: %v", got)
			}
			began := time.Now()
			if got := c.Exec("box", "/bin/sha256sum", "/data/noise"); got.Code == 0 || !strings.Contains(got.Stderr, "nput/output error") {
				t.Errorf("what is nowhere: %v", got)
			}
			if took := time.Since(began); took > 30*time.Second { // ten times the bound of a read
				t.Errorf("the error came after %v", took)
			}
			if got := c.MustRun(ref, "/bin/cat", "/etc/second"); got != "from layer two\n" {
				t.Errorf("a new container: %q", got)
			}
			r.Again()
			w.Until(time.Minute, "the container reads what was missing", func() bool {
				return strings.HasPrefix(c.Exec("box", "/bin/sha256sum", "/data/noise").Stdout, sum)
			})
		})
	}
}
