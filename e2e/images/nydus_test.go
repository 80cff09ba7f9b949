package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/e2e/images/imagestest"
	"github.com/pantala/pantala/image/rafs"
	"github.com/pantala/pantala/image/rafs/rafstest"
)

// nydus is a Nydus image: the files of layers, one blob for each.
func nydus(t *testing.T, o rafstest.Options, layers ...imagestest.Layer) (imagestest.Image, rafstest.Image) {
	t.Helper()
	files := []rafstest.File{{Name: "", Mode: 0o040755}}
	known := map[string]bool{}
	for n, l := range layers {
		z, err := gzip.NewReader(bytes.NewReader(l.Stored))
		if err != nil {
			t.Fatal(err)
		}
		for r := tar.NewReader(z); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			body, rerr := io.ReadAll(r)
			if err = errors.Join(err, rerr); err != nil {
				t.Fatal(err)
			}
			f := rafstest.File{Name: path.Clean(h.Name), Mode: uint32(h.Mode), Data: body, Target: h.Linkname, Sec: h.ModTime.Unix(), Blob: n}
			switch h.Typeflag {
			case tar.TypeDir:
				f.Mode |= 0o040000
			case tar.TypeSymlink:
				f.Mode |= 0o120000
			default:
				f.Mode |= 0o100000
			}
			if !known[f.Name] { // the directories that several have
				known[f.Name] = true
				files = append(files, f)
			}
		}
	}
	o.Blobs = len(layers)
	i := rafstest.Write(files, o)
	var all []imagestest.Layer
	for _, b := range i.Blobs {
		all = append(all, imagestest.Layer{Stored: b, MediaType: rafs.BlobType, DiffID: digest.FromBytes(b), Annotations: map[string]string{rafs.AnnotationBlob: "true"}})
	}
	stored, plain := i.Layer()
	boot := imagestest.Gzip()
	boot.Stored, boot.DiffID = stored, digest.FromBytes(plain)
	boot.Annotations = map[string]string{rafs.AnnotationBootstrap: "true", rafs.AnnotationVersion: "6"}
	return imagestest.New(append(all, boot)...), i
}

// twoBlobs is a Nydus image with a shell, and noise in a second blob.
func twoBlobs(t *testing.T, o rafstest.Options, seed uint64) (image imagestest.Image, written rafstest.Image, sum string) {
	noise, sum := imagestest.Noise(3<<20+12345, seed)
	image, written = nydus(t, o, imagestest.Busybox(t), imagestest.Gzip(imagestest.Entry{Name: "data/"}, imagestest.Entry{Name: "data/noise", Body: noise}, imagestest.Entry{Name: "etc/second", Body: "from blob two\n"}))
	return image, written, sum
}

// TestNydus pulls and runs a Nydus image: containerd fetches nothing, the container sees what the bootstrap says, and
// goes on when the daemon is started anew; removing it frees its space, but for what another image has.
func TestNydus(t *testing.T) {
	each(t, func(t *testing.T, w *e2etest.World, c *imagestest.Containerd) {
		r := imagestest.NewRegistry(w, false)
		image, _, sum := twoBlobs(t, rafstest.Options{Compressor: rafstest.Zstd, Prefetch: true}, 3)
		ref := r.Push("nydus", image)
		c.MustPull(ref)
		lazy(t, c, r, 3)
		if got := c.MustRun(ref, "/bin/cat", "/etc/hello", "/etc/second"); got != "hello from layer one\nfrom blob two\n" {
			t.Errorf("%q", got)
		}
		c.Box(ref, "box")
		c.StopPantala()
		c.StartPantala()
		if got := c.Exec("box", "/bin/sha256sum", "/data/noise"); !strings.HasPrefix(got.Stdout, sum) {
			t.Errorf("a container after the restart of the daemon, noise: %v, not %s", got, sum)
		}
		c.Kill("box")
		other, _, _ := twoBlobs(t, rafstest.Options{Compressor: rafstest.Zstd, Chunk: 64 << 10}, 3) // with another bootstrap, over a blob that is the same
		second := r.Push("other", other)
		c.MustPull(second)
		c.RemoveImage(ref)
		if got := c.MustRun(second, "/bin/cat", "/etc/second"); got != "from blob two\n" {
			t.Errorf("the image that stays: %q", got)
		}
		if got := c.MustRun(second, "/bin/sha256sum", "/data/noise"); !strings.HasPrefix(got, sum) {
			t.Errorf("noise: %s, not %s", got, sum)
		}
		c.RemoveImage(second)
		if !e2etest.Poll(30*time.Second, func() bool { return e2etest.Disk(c.Node.State) < 1<<20 && len(erofs(w)) == 0 }) {
			t.Errorf("%s are left on the disk, mounted: %v", e2etest.MiB(e2etest.Disk(c.Node.State)), erofs(w))
		}
	})
}

// TestNydusMount: a Nydus image by command: the tree, its kind, a check, and a chunk that lies.
func TestNydusMount(t *testing.T) {
	w := e2etest.New(t)
	r := imagestest.NewRegistry(w, false)
	n := w.Node("n")
	image, _, sum := twoBlobs(t, rafstest.Options{Compressor: rafstest.LZ4, SHA256: true, Batch: 256 << 10}, 4)
	ref := "oci://" + r.Push("nydus", image)
	dir := w.Dir("mnt")
	n.Must("mount", ref, dir)
	if got := w.MustRun(commandLimit, "sha256sum", filepath.Join(dir, "data/noise")); !strings.HasPrefix(got.Stdout, sum) {
		t.Errorf("noise: %v, not %s", got, sum)
	}
	if got := w.MustRun(commandLimit, "cat", filepath.Join(dir, "etc/second")); got.Stdout != "from blob two\n" {
		t.Errorf("%v", got)
	}
	n.Must("umount", dir)
	if said := n.Must("image", "inspect", ref).Stdout; !strings.Contains(said, " rafs-v6 ") || !strings.Contains(said, " rafs blob ") {
		t.Errorf("the kind is not told:\n%s", said)
	}
	if said := n.Must("image", "check", ref).Stdout; strings.Count(said, "\tok\n") != 3 {
		t.Errorf("check:\n%s", said)
	}
}
