package images

import (
	"context"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/e2e/images/imagestest"
)

// TestCRI pulls as the kubelet does, asks what the image takes, and removes it.
func TestCRI(t *testing.T) {
	each(t, func(t *testing.T, w *e2etest.World, c *imagestest.Containerd) {
		r := imagestest.NewRegistry(w, false)
		image, sum := three(t, 1)
		ref := r.Push("three", image)
		service, end := c.CRI()
		defer end()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		spec := &cri.ImageSpec{Image: ref}
		if _, err := service.PullImage(ctx, &cri.PullImageRequest{Image: spec}); err != nil {
			t.Fatal(err)
		}
		c.Namespace = "k8s.io"
		lazy(t, c, r, 3)
		if got := c.MustRun(ref, "/bin/sha256sum", "/data/noise"); !strings.HasPrefix(got, sum) {
			t.Errorf("noise: %s, not %s", got, sum)
		}
		// Where the kubelet looks how full the disk is, and what for. CRI collects the figures once a second here. 1.6 does not
		// read where we keep it and names a folder of its own, though with our figures.
		where := c.Node.State
		if c.Name == "1" {
			where = c.Dir
		}
		var used uint64
		if !e2etest.Poll(time.Minute, func() bool {
			info, err := service.ImageFsInfo(ctx, &cri.ImageFsInfoRequest{})
			if err != nil {
				t.Error(err)
				return true
			}
			for _, f := range info.ImageFilesystems {
				if strings.HasPrefix(f.FsId.GetMountpoint(), where) {
					used = f.UsedBytes.GetValue()
				}
			}
			return used >= 6<<20
		}) {
			t.Errorf("the image takes %d bytes, of 6 MiB that were read", used)
		}
		if _, err := service.RemoveImage(ctx, &cri.RemoveImageRequest{Image: spec}); err != nil {
			t.Fatal(err)
		}
		if !e2etest.Poll(time.Minute, func() bool { return len(c.Snapshots()) == 0 }) {
			t.Errorf("snapshots are left: %v", c.Snapshots())
		}
	})
}
