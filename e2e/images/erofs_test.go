package images

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/e2e/images/imagestest"
)

// withErofs is an image of a layer of gzip and two that are EROFS images: a plain one with ends of files in its metadata,
// and one that is compressed as a whole. The last layer is an archive again, and hides something of the one below.
func withErofs(t *testing.T) (i imagestest.Image, sum string) {
	noise, sum := imagestest.Noise(6<<20+1234, 5)
	packed := imagestest.Erofs(t, []imagestest.Entry{{Name: "etc/"}, {Name: "etc/third", Body: "from layer three\n"}, {Name: "etc/fourth", Body: "gone\n"}}, "-Enoinline_data")
	cmd := exec.Command(e2etest.NeedProgram(t, "zstd", "apt-get install zstd"), "-q")
	cmd.Stdin = bytes.NewReader(packed.Stored)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	packed.Stored, packed.MediaType = out, packed.MediaType+"+zstd"
	return imagestest.New(
		imagestest.Busybox(t),
		imagestest.Erofs(t, []imagestest.Entry{
			{Name: "etc/"}, {Name: "etc/.wh.hello"}, {Name: "etc/second", Body: "from layer two\n"},
			{Name: "tmp/"}, {Name: "tmp/.wh..wh..opq"}, {Name: "data/"}, {Name: "data/noise", Body: noise},
		}),
		packed,
		imagestest.Gzip(imagestest.Entry{Name: "etc/.wh.fourth"}, imagestest.Entry{Name: "etc/fifth", Body: "5\n"}),
	), sum
}

// TestMountErofs: layers that are EROFS images are mounted together with archives, by the first node and by the next
// one, which finds the indexes; inspect and check know them.
func TestMountErofs(t *testing.T) {
	e2etest.NeedRoot(t)
	e2etest.NeedFUSE(t)
	w := e2etest.New(t)
	r := imagestest.NewRegistry(w, false)
	image, sum := withErofs(t)
	ref := r.Push("erofs", image)
	tr := w.Tracker()
	for _, name := range []string{"first", "next"} {
		n := w.Node(name, "--tracker", tr.URL)
		dir := w.Dir(name)
		n.Must("mount", "oci://"+ref, dir)
		in := func(name string) string { return filepath.Join(dir, name) }
		for path, want := range map[string]string{"etc/second": "from layer two\n", "etc/third": "from layer three\n", "etc/fifth": "5\n"} {
			if got := w.MustRun(commandLimit, "cat", in(path)); got.Stdout != want {
				t.Errorf("%s: %s: %q", name, path, got.Stdout)
			}
		}
		if got := w.MustRun(commandLimit, "sha256sum", in("data/noise")); !strings.HasPrefix(got.Stdout, sum) {
			t.Errorf("%s: noise: %s, not %s", name, got.Stdout, sum)
		}
		if got := w.MustRun(commandLimit, "ls", in("etc")); got.Stdout != "fifth\nsecond\nthird\n" {
			t.Errorf("%s: what should be hidden is there: %q", name, got.Stdout)
		}
		if got := n.Must("image", "inspect", ref); !strings.Contains(got.Stdout, "erofs+zstd") {
			t.Errorf("%s: inspect: %s", name, got.Stdout)
		}
		n.Must("image", "check", ref)
	}
}

// TestErofs: containerd from 2.1 on, which knows such layers, pulls and runs the image without fetching one.
func TestErofs(t *testing.T) {
	versions := imagestest.Versions(t)
	if versions[len(versions)-1].Name != "2" {
		t.Skip("containerd 1.6 does not know such layers: make containerd2, then CONTAINERD2_BIN=$PWD/bin/containerd2")
	}
	for _, v := range versions {
		if v.Name != "2" {
			continue
		}
		w := e2etest.New(t)
		c := v.Start(w)
		r := imagestest.NewRegistry(w, false)
		image, sum := withErofs(t)
		ref := r.Push("erofs", image)
		c.MustPull(ref)
		lazy(t, c, r, 4)
		if got := c.MustRun(ref, "/bin/cat", "/etc/second", "/etc/third", "/etc/fifth"); got != "from layer two\nfrom layer three\n5\n" {
			t.Errorf("files: %q", got)
		}
		if got := c.MustRun(ref, "/bin/sha256sum", "/data/noise"); !strings.HasPrefix(got, sum) {
			t.Errorf("noise: %s, not %s", got, sum)
		}
	}
}

// TestMountErofsRefused: an image whose files are compressed says so, and what to do.
func TestMountErofsRefused(t *testing.T) {
	e2etest.NeedRoot(t)
	e2etest.NeedFUSE(t)
	w := e2etest.New(t)
	r := imagestest.NewRegistry(w, false)
	l := imagestest.Erofs(t, []imagestest.Entry{{Name: "text", Body: strings.Repeat("text that gets shorter\n", 10_000)}}, "-zlz4hc")
	got := w.Node("node").Run("mount", "oci://"+r.Push("lz4", imagestest.New(l)), w.Dir("mnt"))
	if got.Code != 2 || !strings.Contains(got.Stderr, "compressed files") || !strings.Contains(got.Stderr, "without mkfs.erofs -z") || !strings.Contains(got.Stderr, l.Descriptor().Digest.String()) {
		t.Errorf("%v", got)
	}
}
