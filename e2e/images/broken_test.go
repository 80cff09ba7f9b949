package images

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/e2e/images/imagestest"
)

// commandLimit bounds a command that needs no more than a moment.
const commandLimit = 60 * time.Second

// bomb is a layer that decodes to a thousand times what is stored, and more.
func bomb() imagestest.Layer {
	const size = 192 << 20
	head := imagestest.Tar(imagestest.Entry{Name: "zeros", Body: "\x00"})[:512]
	copy(head[124:136], fmt.Sprintf("%011o\x00", size)) // ustar: the size
	copy(head[148:156], "        ")
	sum := 0
	for _, c := range head {
		sum += int(c)
	}
	copy(head[148:156], fmt.Sprintf("%06o\x00 ", sum))
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	id := digest.SHA256.Digester()
	to := io.MultiWriter(z, id.Hash())
	to.Write(head)
	zeros := make([]byte, 1<<20)
	for range size >> 20 {
		to.Write(zeros)
	}
	to.Write(zeros[:1024])
	z.Close()
	return imagestest.Layer{Stored: b.Bytes(), MediaType: imagestest.Gzip().MediaType, DiffID: id.Digest()}
}

// broken are images that are broken, or meant to do harm: code is that of a command, says is what it must say. Their
// first layer is below.
func broken(below imagestest.Layer) []brokenImage {
	noise, _ := imagestest.Noise(600<<10, 7)
	var all []brokenImage
	layer := func(name string, code int, damage func(l *imagestest.Layer), says ...string) {
		l := imagestest.Gzip(imagestest.Entry{Name: name, Body: noise}, imagestest.Entry{Name: "text", Body: strings.Repeat(name, 10_000)})
		damage(&l)
		all = append(all, brokenImage{name: name, code: code, layer: true, image: imagestest.New(below, l), says: append(says, l.Descriptor().Digest.String())})
	}
	manifest := func(name string, code int, edit func(b []byte, l imagestest.Layer) []byte, says ...string) {
		l := imagestest.Gzip(imagestest.Entry{Name: name, Body: noise})
		i := imagestest.New(below, l)
		i.Manifest = edit(i.Manifest, l)
		all = append(all, brokenImage{name: name, code: code, layer: code == 6, image: i, says: says})
	}
	layer("corrupt", 6, func(l *imagestest.Layer) { l.Stored[len(l.Stored)/2] ^= 0xff }, "corrupt")
	layer("truncated", 6, func(l *imagestest.Layer) { l.Stored = l.Stored[:len(l.Stored)/2] }, "corrupt")
	layer("diffid", 6, func(l *imagestest.Layer) { l.DiffID = imagestest.Gzip().DiffID }, "diff_ids")
	layer("bomb", 2, func(l *imagestest.Layer) { *l = bomb() }, "zip bomb")
	for name, by := range map[string]int{"long": 1000, "short": -1000} {
		l := imagestest.Gzip(imagestest.Entry{Name: name, Body: noise})
		manifest(name, 6, func(b []byte, l imagestest.Layer) []byte {
			return bytes.Replace(b, fmt.Appendf(nil, `"size":%d`, len(l.Stored)), fmt.Appendf(nil, `"size":%d`, len(l.Stored)+by), 1)
		}, l.Descriptor().Digest.String(), fmt.Sprint(len(l.Stored)))
	}
	manifest("many", 2, func(b []byte, l imagestest.Layer) []byte {
		one := fmt.Appendf(nil, `{"mediaType":%q,"digest":%q,"size":%d}`, l.MediaType, l.Descriptor().Digest, len(l.Stored))
		if bytes.Count(b, one) != 1 {
			panic("the layer is not in the manifest as it was thought")
		}
		return bytes.Replace(b, one, bytes.Join(slicesOf(one, 10_000), []byte(",")), 1)
	}, "10001 layers", "at most 1024")
	manifest("chart", 2, func(b []byte, _ imagestest.Layer) []byte {
		return bytes.Replace(b, []byte("application/vnd.oci.image.config.v1+json"), []byte("application/vnd.cncf.helm.config.v1+json"), 1)
	}, "application/vnd.cncf.helm.config.v1+json", "not a container image")
	return all
}

func slicesOf(one []byte, n int) (all [][]byte) {
	for range n {
		all = append(all, one)
	}
	return all
}

type brokenImage struct {
	name  string
	code  int
	layer bool // it shows when a layer is read
	image imagestest.Image
	says  []string
}

// TestMountBroken: an image that cannot be mounted says which layer is the trouble, and why; nothing of it stays, and an
// image that is mounted does not notice.
func TestMountBroken(t *testing.T) {
	e2etest.NeedRoot(t)
	e2etest.NeedFUSE(t)
	w := e2etest.New(t)
	r := imagestest.NewRegistry(w, false)
	image, sum := three(t, 1)
	good := r.Push("good", image)
	n := w.Node("n")
	dir := w.Dir("good")
	n.Must("mount", "oci://"+good, dir)
	mounts := len(e2etest.MountsBelow(n.State))
	served := r.Push("served", imagestest.New(image.Layers[0], imagestest.Gzip(imagestest.Entry{Name: "x", Body: strings.Repeat("served", 10_000)})))
	cases := append(broken(image.Layers[0]), brokenImage{name: "served", code: 6})
	for _, b := range cases {
		ref := served
		if b.name == "served" { // the registry gives other bytes than the manifest names
			l := imagestest.Gzip(imagestest.Entry{Name: "x", Body: strings.Repeat("served", 10_000)})
			d := l.Descriptor().Digest
			body := bytes.Clone(l.Stored)
			body[len(body)-30] ^= 1
			r.Replace(d, body)
			b.says = []string{d.String()}
		} else {
			ref = r.Push(b.name, b.image)
		}
		at := w.Dir(b.name)
		got := n.Run("mount", "--timeout", "10s", "oci://"+ref, at)
		if got.Code != b.code {
			t.Errorf("%s: exit code %d, not %d: %v", b.name, got.Code, b.code, got)
		}
		for _, word := range b.says {
			if !strings.Contains(got.Stderr, word) {
				t.Errorf("%s: does not say %q: %v", b.name, word, got)
			}
		}
		if strings.Count(got.Stderr, "\n") != 1 {
			t.Errorf("%s: not one line: %v", b.name, got)
		}
		if m := e2etest.MountsBelow(at); len(m) > 0 {
			t.Errorf("%s: mounted: %v", b.name, m)
		}
	}
	if s := n.Status(); len(s.Mounts) != 1 {
		t.Errorf("mounts: %+v", s.Mounts)
	}
	// The FUSE mount of layers that are not complete may have been made for those that were.
	if !e2etest.Poll(10*time.Second, func() bool { return len(e2etest.MountsBelow(n.State)) <= mounts+1 }) {
		t.Errorf("of the broken images stays mounted: %v", e2etest.MountsBelow(n.State))
	}
	if got := w.MustRun(commandLimit, "sha256sum", filepath.Join(dir, "data/noise")); !strings.HasPrefix(got.Stdout, sum) {
		t.Errorf("the good image: %v", got)
	}
	other := w.Dir("other")
	n.Must("mount", "oci://"+r.Push("other", imagestest.New(image.Layers[0], imagestest.Gzip(imagestest.Entry{Name: "other", Body: "another\n"}))), other)
	if got := w.MustRun(commandLimit, "cat", filepath.Join(other, "other")); got.Stdout != "another\n" {
		t.Errorf("another image with the same first layer: %v", got)
	}
	n.Must("umount", other)
	n.Must("umount", dir)
	if !e2etest.Poll(20*time.Second, func() bool { return len(leftovers(n.State)) == 0 }) {
		t.Errorf("of what failed stays on the disk: %v", leftovers(n.State))
	}
}

// leftovers are half made files in a state directory.
func leftovers(state string) (all []string) {
	for _, pattern := range []string{"images/windows-*", "images/index-*", "images/trees/new-*"} {
		found, _ := filepath.Glob(filepath.Join(state, pattern))
		all = append(all, found...)
	}
	return all
}

// seen is when a tag was last looked up, in what a node remembers of it.
var seen = regexp.MustCompile(`("seen":\s*)"[^"]*"`)

// age makes what a node remembers of tags a day old: longer than it believes them without asking.
func age(t *testing.T, dir string) {
	t.Helper()
	aged := 0
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil || !seen.Match(b) {
			return err
		}
		aged++
		return os.WriteFile(path, seen.ReplaceAll(b, fmt.Appendf(nil, `$1"%s"`, time.Now().Add(-24*time.Hour).Format(time.RFC3339))), 0o600)
	})
	if err != nil || aged == 0 {
		t.Fatalf("nothing in %s says when a tag was looked up: %v", dir, err)
	}
}

// TestMountRegistryGone: an image whose registry is gone is read as far as its bytes are here, and mounted again; what is
// nowhere is an error in bounded time, which is gone when the registry is back.
func TestMountRegistryGone(t *testing.T) {
	e2etest.NeedRoot(t)
	e2etest.NeedFUSE(t)
	w := e2etest.New(t)
	r := imagestest.NewRegistry(w, false)
	image, sum := three(t, 1)
	ref := "oci://" + r.Push("three", image)
	tr := w.Tracker()
	flags := []string{"--tracker", tr.URL, "--timeout", "2s", "--fill", "never"}
	first, n := w.Node("first", flags...), w.Node("n", flags...)
	at := w.Dir("first")
	first.Must("mount", ref, at)
	dir := w.Dir("mnt")
	n.Must("mount", ref, dir)
	here, missing := filepath.Join(dir, "etc/second"), filepath.Join(dir, "data/noise")
	cat := func(what string) {
		t.Helper()
		if got := w.MustRun(commandLimit, "cat", here); got.Stdout != "from layer two\n" {
			t.Errorf("%s: %v", what, got)
		}
	}
	cat("with the registry")
	first.Must("umount", at)
	first.Must("daemon", "--stop")
	r.Stop()
	cat("without it")
	began := time.Now()
	if got := w.Run(commandLimit, "cat", missing); got.Code == 0 || !strings.Contains(got.Stderr, "nput/output error") {
		t.Errorf("what is nowhere: %v", got)
	}
	if took := time.Since(began); took > 20*time.Second { // ten times the bound of one read
		t.Errorf("the error came after %v", took)
	}
	n.Must("umount", dir)
	n.Must("daemon", "--stop")
	age(t, filepath.Join(n.State, "images", "manifests"))
	if got := n.Must("mount", ref, dir); !strings.Contains(got.Stderr, "the registry does not answer") {
		t.Errorf("mounted without a registry, and no warning: %v", got)
	}
	cat("mounted without it")
	if got := n.Run("mount", strings.Replace(ref, "three", "never", 1), w.Dir("never")); got.Code != 5 {
		t.Errorf("an image that was never here: %v", got)
	}
	r.Again()
	w.Until(commandLimit, "what was missing is read", func() bool {
		return strings.HasPrefix(w.Run(commandLimit, "sha256sum", missing).Stdout, sum)
	})
	n.Must("umount", dir)
	if _, err := os.Stat(filepath.Join(n.State, "images", "mnt")); err != nil {
		t.Fatalf("the test looks in the wrong place: %v", err)
	}
	if !e2etest.Poll(10*time.Second, func() bool { m, _ := filepath.Glob(filepath.Join(n.State, "images/mnt/*")); return len(m) == 0 }) {
		t.Error("a tree stays mounted")
	}
}
