package images

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/e2e/images/imagestest"
)

func TestMain(m *testing.M) { e2etest.Main(m) }

// each runs a test with every containerd there is.
func each(t *testing.T, f func(t *testing.T, w *e2etest.World, c *imagestest.Containerd)) {
	for _, v := range imagestest.Versions(t) {
		t.Run("containerd"+v.Name, func(t *testing.T) {
			w := e2etest.New(t)
			f(t, w, v.Start(w))
		})
	}
}

// three is an image of three layers: a shell, then files and a whiteout, then noise that is seldom read whole.
func three(t *testing.T, seed uint64) (i imagestest.Image, sum string) {
	noise, sum := imagestest.Noise(6<<20, seed)
	return imagestest.New(
		imagestest.Busybox(t),
		imagestest.Gzip(imagestest.Entry{Name: "etc/"}, imagestest.Entry{Name: "etc/.wh.hello"}, imagestest.Entry{Name: "etc/second", Body: "from layer two\n"}),
		imagestest.Gzip(imagestest.Entry{Name: "data/"}, imagestest.Entry{Name: "data/noise", Body: noise}),
	), sum
}

// lazy fails the test unless every snapshot of a layer is ours and containerd has fetched no layer.
func lazy(t *testing.T, c *imagestest.Containerd, r *imagestest.Registry, layers int) {
	t.Helper()
	n := 0
	for name, s := range c.Snapshots() {
		if s.Kind.String() != "Committed" {
			continue
		}
		if s.Labels["containerd.io/snapshot/pantala.depth"] == "" {
			t.Errorf("layer %s was unpacked", name)
		}
		n++
	}
	if n != layers {
		t.Errorf("%d layers, not %d", n, layers)
	}
	for _, g := range r.Blobs("containerd") {
		if g.Bytes > 10_000 { // configurations are less
			t.Errorf("containerd fetched %s, %d bytes", g.Path, g.Bytes)
		}
	}
}

// TestLazy pulls and runs: containerd fetches nothing, and the container sees what the layers say.
func TestLazy(t *testing.T) {
	ways(t, func(t *testing.T, v imagestest.Version, flags []string) {
		w := e2etest.New(t)
		c := v.Start(w, flags...)
		r := imagestest.NewRegistry(w, false)
		image, sum := three(t, 1)
		ref := r.Push("three", image)
		c.MustPull(ref)
		lazy(t, c, r, 3)
		if got := c.MustRun(ref, "/bin/cat", "/etc/second"); got != "from layer two\n" {
			t.Errorf("a file of layer two: %q", got)
		}
		if got := c.MustRun(ref, "/bin/sha256sum", "/data/noise"); !strings.HasPrefix(got, sum) {
			t.Errorf("noise: %s, not %s", got, sum)
		}
		if got := c.Run(ref, "/bin/test", "-e", "/etc/hello"); got.Code != 1 {
			t.Errorf("what layer two removes is there: %v", got)
		}
		if got := c.MustRun(ref, "/bin/sh", "-c", "echo new > /etc/second && touch /here && cat /etc/second && ls /"); !strings.HasPrefix(got, "new\n") || !strings.Contains(got, "here\n") {
			t.Errorf("writing in a container: %q", got)
		}
		if got := c.MustRun(ref, "/bin/cat", "/etc/second"); got != "from layer two\n" {
			t.Errorf("another container sees what one has written: %q", got)
		}
	})
}

// TestTransferService: `ctr image pull` of containerd 2.x is lazy, too.
func TestTransferService(t *testing.T) {
	each(t, func(t *testing.T, w *e2etest.World, c *imagestest.Containerd) {
		r := imagestest.NewRegistry(w, false)
		image, _ := three(t, 1)
		ref := r.Push("three", image)
		c.MustCtr("image", "pull", "--plain-http", "--snapshotter", "pantala", ref)
		if c.Name == "2" {
			lazy(t, c, r, 3)
		} else if said := c.Pantala().Output(); !strings.Contains(said, "does not say which image") {
			t.Errorf("containerd 1.6 does not tell, and the log does not say so:\n%s", said)
		}
		if got := c.MustRun(ref, "/bin/cat", "/etc/second"); got != "from layer two\n" {
			t.Errorf("a file of layer two: %q", got)
		}
	})
}

// TestOrdinary: an image that pantala cannot read is unpacked by containerd, which can, and the log says why.
func TestOrdinary(t *testing.T) {
	each(t, func(t *testing.T, w *e2etest.World, c *imagestest.Containerd) {
		private, open := imagestest.NewRegistry(w, true), imagestest.NewRegistry(w, false)
		image, sum := three(t, 1)
		ref := private.Push("three", image) // containerd is given the password, pantala is not
		c.MustPull(ref)
		for name, s := range c.Snapshots() {
			if s.Labels["containerd.io/snapshot/pantala.depth"] != "" {
				t.Errorf("layer %s is lazy", name)
			}
		}
		said := c.Pantala().Output()
		if !strings.Contains(said, "image is not lazy") || !strings.Contains(said, "permission denied") {
			t.Errorf("the log does not say why:\n%s", said)
		}
		if got := c.MustRun(ref, "/bin/sha256sum", "/data/noise"); !strings.HasPrefix(got, sum) {
			t.Errorf("noise: %s, not %s", got, sum)
		}
		// Another image, with one more layer on the same ones, can be lazy all the same.
		more := imagestest.New(append(image.Layers, imagestest.Gzip(imagestest.Entry{Name: "more", Body: "one more\n"}))...)
		ref = open.Push("more", more)
		c.MustPull(ref)
		if got := c.MustRun(ref, "/bin/cat", "/more", "/etc/second"); got != "one more\nfrom layer two\n" {
			t.Errorf("%q", got)
		}
	})
}

// TestShared: images that share layers, and a container of an image that is another one's beginning.
func TestShared(t *testing.T) {
	ways(t, func(t *testing.T, v imagestest.Version, flags []string) {
		w := e2etest.New(t)
		c := v.Start(w, flags...)
		r := imagestest.NewRegistry(w, false)
		image, _ := three(t, 1)
		whole := r.Push("whole", image)
		part := r.Push("part", imagestest.New(image.Layers[:2]...))
		other := r.Push("other", imagestest.New(image.Layers[0], image.Layers[1], imagestest.Gzip(imagestest.Entry{Name: "other", Body: "the other third\n"})))
		for _, ref := range []string{whole, part, other} {
			c.MustPull(ref)
		}
		lazy(t, c, r, 4)
		if got := c.Run(part, "/bin/test", "-e", "/data"); got.Code != 1 {
			t.Errorf("the smaller image has what only the larger one has: %v", got)
		}
		if got := c.MustRun(part, "/bin/cat", "/etc/second"); got != "from layer two\n" {
			t.Errorf("%q", got)
		}
		if got := c.MustRun(other, "/bin/cat", "/other"); got != "the other third\n" {
			t.Errorf("%q", got)
		}
	})
}

// TestBroken: an image that is broken fails its pull with the layer and the reason; others do not notice.
func TestBroken(t *testing.T) {
	each(t, func(t *testing.T, w *e2etest.World, c *imagestest.Containerd) {
		r := imagestest.NewRegistry(w, false)
		image, _ := three(t, 1)
		good := r.Push("good", image)
		for _, b := range broken(image.Layers[0]) {
			if !b.layer {
				continue // the manifest alone tells that we cannot read it: containerd has it for itself
			}
			err := c.Pull(r.Push(b.name, b.image))
			collected(t, c)
			for _, word := range b.says {
				if err == nil || !strings.Contains(err.Error(), word) {
					t.Errorf("%s: does not say %q: %v", b.name, word, err)
				}
			}
		}
		c.MustPull(good)
		if got := c.MustRun(good, "/bin/cat", "/etc/second"); got != "from layer two\n" {
			t.Errorf("%q", got)
		}
	})
}

// TestRemove: when an image is removed its space is free again, and nothing of it is mounted.
func TestRemove(t *testing.T) {
	ways(t, func(t *testing.T, v imagestest.Version, flags []string) {
		w := e2etest.New(t)
		c := v.Start(w, flags...)
		r := imagestest.NewRegistry(w, false)
		image, sum := three(t, 1)
		keep := r.Push("keep", imagestest.New(image.Layers[0], imagestest.Gzip(imagestest.Entry{Name: "keep", Body: "kept\n"})))
		c.MustPull(keep)
		c.MustRun(keep, "/bin/cat", "/keep")
		before := e2etest.Disk(c.Node.State)
		ref := r.Push("three", image)
		c.MustPull(ref)
		if got := c.MustRun(ref, "/bin/sha256sum", "/data/noise"); !strings.HasPrefix(got, sum) {
			t.Errorf("noise: %s, not %s", got, sum)
		}
		if grown := e2etest.Disk(c.Node.State) - before; grown < 6<<20 {
			t.Errorf("reading 6 MiB of noise took %s of the disk: the test looks in the wrong place", e2etest.MiB(grown))
		}
		c.RemoveImage(ref)
		var grown int64
		if !e2etest.Poll(20*time.Second, func() bool { grown = e2etest.Disk(c.Node.State) - before; return grown < 1<<20 }) {
			t.Errorf("%s stay on the disk after the image was removed", e2etest.MiB(grown))
		}
		if got := c.MustRun(keep, "/bin/cat", "/keep"); got != "kept\n" {
			t.Errorf("the image that stays: %q", got)
		}
		c.RemoveImage(keep)
		if n := len(c.Snapshots()); n > 0 {
			t.Errorf("%d snapshots are left", n)
		}
		if !e2etest.Poll(20*time.Second, func() bool { return len(erofs(w)) == 0 }) {
			t.Errorf("still mounted: %v", erofs(w))
		}
		if !e2etest.Poll(20*time.Second, func() bool { return len(loops(t, w.Root)) == 0 }) {
			t.Errorf("loop devices are left: %v", loops(t, w.Root))
		}
	})
}

// erofs are the trees that are mounted.
func erofs(w *e2etest.World) (dirs []string) {
	for _, m := range e2etest.MountsBelow(w.Root) {
		if m.Type == "erofs" {
			dirs = append(dirs, m.Dir)
		}
	}
	return dirs
}

// collected waits for the garbage collection after a pull that failed. A pull
// does not wait for it itself, and containerd, of any snapshotter, does not keep
// a snapshot for the next pull that finds it there: the next one would fail for
// a parent that is gone.
func collected(t *testing.T, c *imagestest.Containerd) {
	t.Helper()
	if !e2etest.Poll(30*time.Second, func() bool { return len(c.Snapshots()) == 0 }) {
		t.Errorf("snapshots are left: %v", c.Snapshots())
	}
}

// TestAbortedPull: what a pull that fails had begun goes away again.
func TestAbortedPull(t *testing.T) {
	each(t, func(t *testing.T, w *e2etest.World, c *imagestest.Containerd) {
		r := imagestest.NewRegistry(w, false)
		image, _ := three(t, 1)
		layer := imagestest.Gzip(imagestest.Entry{Name: "x", Body: strings.Repeat("x", 100_000)})
		layer.DiffID = imagestest.Gzip().DiffID
		if err := c.Pull(r.Push("broken", imagestest.New(append(image.Layers, layer)...))); err == nil {
			t.Fatal("a layer with a wrong diffID was pulled")
		}
		collected(t, c)
		if !e2etest.Poll(30*time.Second, func() bool { return e2etest.Disk(c.Node.State) < 1<<20 }) {
			t.Errorf("%s are left on the disk", e2etest.MiB(e2etest.Disk(c.Node.State)))
		}
	})
}

// TestKilledPull: what a pull had begun that was killed goes away when its lease does, and nothing is read for it any
// more.
func TestKilledPull(t *testing.T) {
	each(t, func(t *testing.T, w *e2etest.World, c *imagestest.Containerd) {
		r := imagestest.NewRegistry(w, false)
		image, _ := three(t, 1)
		r.Push("three", image)
		to, err := url.Parse("http://" + r.Addr)
		if err != nil {
			t.Fatal(err)
		}
		// In front of the registry: of each layer that the node reads it gives no more than the beginning.
		var reading atomic.Int64
		forward := httputil.NewSingleHostReverseProxy(to)
		front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
			if !strings.Contains(q.URL.Path, "/blobs/") || !strings.HasSuffix(q.URL.Path, image.Layers[2].Descriptor().Digest.Encoded()) {
				forward.ServeHTTP(rw, q)
				return
			}
			reading.Add(1)
			defer reading.Add(-1)
			rw.Header().Set("Content-Length", fmt.Sprint(len(image.Layers[2].Stored)))
			rw.Write(image.Layers[2].Stored[:100_000])
			rw.(http.Flusher).Flush()
			<-q.Context().Done()
		}))
		defer front.Close()
		defer front.CloseClientConnections()
		ref := strings.TrimPrefix(front.URL, "http://") + "/three:latest"
		kill, ended := c.StartPull(ref)
		defer kill()
		w.Until(commandLimit, "the node reads the layer", func() bool { return reading.Load() > 0 })
		select {
		case <-ended:
			t.Fatal("the pull has ended though a layer has not come")
		default:
		}
		kill()
		<-ended
		// A snapshot that containerd did not live to write down goes when it next cleans up, after one of its own went.
		c.MustCtr("snapshots", "--snapshotter", "pantala", "prepare", "other")
		c.MustCtr("snapshots", "--snapshotter", "pantala", "rm", "other")
		// Who is killed leaves a lease of a day behind, whatever the snapshotter.
		for _, lease := range e2etest.Lines(c.MustCtr("leases", "ls", "-q")) {
			c.MustCtr("leases", "rm", "--sync", lease)
		}
		collected(t, c)
		if !e2etest.Poll(30*time.Second, func() bool { return reading.Load() == 0 }) {
			t.Errorf("%d requests for the layer go on", reading.Load())
		}
		if !e2etest.Poll(30*time.Second, func() bool { return e2etest.Disk(c.Node.State) < 1<<20 && len(erofs(w)) == 0 }) {
			t.Errorf("%s are left on the disk, and mounted %v", e2etest.MiB(e2etest.Disk(c.Node.State)), erofs(w))
		}
	})
}
