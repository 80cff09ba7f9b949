package images

import (
	"strings"
	"testing"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/e2e/images/imagestest"
)

// TestContainerdRestart: containers run on, and read what they have not read before.
func TestContainerdRestart(t *testing.T) {
	each(t, func(t *testing.T, w *e2etest.World, c *imagestest.Containerd) {
		r := imagestest.NewRegistry(w, false)
		image, sum := three(t, 1)
		ref := r.Push("three", image)
		c.MustPull(ref)
		c.Box(ref, "box")
		c.Restart()
		if got := c.Exec("box", "/bin/sha256sum", "/data/noise"); !strings.HasPrefix(got.Stdout, sum) {
			t.Errorf("a container after the restart: %v", got)
		}
		if got := c.MustRun(ref, "/bin/cat", "/etc/second"); got != "from layer two\n" {
			t.Errorf("a new container after the restart: %q", got)
		}
	})
}

// TestPantalaRestart: containers run on, read what they have not read before, and new ones start. A broken image among
// those that are mounted again holds up nothing.
func TestPantalaRestart(t *testing.T) {
	each(t, func(t *testing.T, w *e2etest.World, c *imagestest.Containerd) {
		r := imagestest.NewRegistry(w, false)
		image, sum := three(t, 1)
		ref := r.Push("three", image)
		c.MustPull(ref)
		c.Box(ref, "box")
		c.StopPantala()
		c.StartPantala()
		if got := c.Exec("box", "/bin/sha256sum", "/data/noise"); !strings.HasPrefix(got.Stdout, sum) {
			t.Errorf("a container after the restart: %v", got)
		}
		if got := c.MustRun(ref, "/bin/sha256sum", "/data/noise"); !strings.HasPrefix(got, sum) {
			t.Errorf("a new container after the restart: %v", got)
		}
		c.Kill("box")
		c.RemoveImage(ref)
		if n := len(c.Snapshots()); n > 0 {
			t.Errorf("%d snapshots are left", n)
		}
	})
}
