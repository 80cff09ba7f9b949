package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/build"
	"github.com/pantala/pantala/image/erofslayer/erofslayertest"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/tree"
)

// space is a layer's address space as it is decoded.
type space struct{ b []byte }

func (s *space) WriteAt(p []byte, off int64) (int, error) {
	s.b = append(s.b, make([]byte, max(0, int(off)+len(p)-len(s.b)))...)
	return copy(s.b[off:], p), nil
}

// indexed is an index and the address space that it is of.
func indexed(t testing.TB, stored []byte, image bool) (*build.Built, []byte) {
	t.Helper()
	var s space
	b, err := build.Build(t.Context(), bytes.NewReader(stored), build.Options{Image: image, Decoded: &s})
	if err != nil {
		t.Fatal(err)
	}
	return b, append(s.b, make([]byte, int(b.Size)-len(s.b))...)
}

// mountLayers merges layers, some of which are images, and mounts the tree.
func mountLayers(t *testing.T, layers ...[]byte) string {
	t.Helper()
	var in []tree.Layer
	var spaces [][]byte
	for i, l := range layers {
		b, s := indexed(t, l, isImage(l))
		in, spaces = append(in, tree.Layer{Name: fmt.Sprint("layer", i), Size: b.Size, Entries: b.Entries.All(), Overlay: build.IsImage(b.Format)}), append(spaces, s)
	}
	merged, err := tree.Merge(in)
	if err != nil {
		t.Fatal(err)
	}
	img, opened := writeTree(t, merged, Options{})
	sameTree(t, merged, opened, spaces)
	meta, devices := store(t, img, spaces)
	return mountTree(t, meta, devices)
}

func isImage(l []byte) bool {
	return len(l) > 1028 && bytes.Equal(l[1024:1028], []byte{0xe2, 0xe1, 0xf5, 0xe0})
}

// mountImage has the kernel mount an image as it is.
func mountImage(t *testing.T, image []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return mountTree(t, path, nil)
}

// mountOverlay stacks directories, the lowest first, read-only.
func mountOverlay(t *testing.T, dirs ...string) string {
	t.Helper()
	dir := t.TempDir()
	var lower []string
	for _, d := range dirs {
		lower = append([]string{d}, lower...)
	}
	if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}

// seen is what lookAt sees of a tree, but for what another mount and ours may differ in: attributes of overlayfs's own,
// which we leave out, permissions of links, which mean nothing, links of directories, and where overlayfs is compared,
// which goes on counting the names of hard links that it hides, all numbers of links.
func seen(t *testing.T, root string, overlay bool) looks {
	t.Helper()
	all := lookAt(t, root, 0)
	for name, l := range all {
		switch l.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			l.Links = 0
		case unix.S_IFLNK:
			l.Mode |= 0o777
		}
		if overlay {
			l.Links, l.FirstName = 0, ""
		}
		var kept []string
		for x := range strings.SplitSeq(l.Xattrs, "\n") {
			if !strings.HasPrefix(x, "trusted.overlay.") {
				kept = append(kept, x)
			}
		}
		l.Xattrs = strings.Join(kept, "\n")
		all[name] = l
	}
	return all
}

// TestLayerImages: a layer that is an EROFS image, mounted by us, is what the kernel shows of it; an image that changes
// another is what overlayfs makes of the two, and an archive below an image, or above it, what they amount to.
func TestLayerImages(t *testing.T) {
	needErofs(t)
	upper := erofslayertest.Golden(t, "upper")
	for _, name := range []string{"lower", "inline", "blocks512", "chunks", "prefixes", "wide"} {
		t.Run(name, func(t *testing.T) {
			lower := erofslayertest.Golden(t, name)
			ours, theirs := mountLayers(t, lower), mountImage(t, lower)
			for _, d := range differences(seen(t, theirs, false), seen(t, ours, false)) {
				t.Error(d)
			}
			if n := len(seen(t, ours, false)); n < 150 {
				t.Errorf("%d files", n)
			}
			both := mountLayers(t, lower, upper)
			for _, d := range differences(seen(t, mountOverlay(t, theirs, mountImage(t, upper)), true), seen(t, both, true)) {
				t.Errorf("with upper: %s", d)
			}
			for _, gone := range []string{"gone", "opaque/old", "opaque/sub", "kept/one", "many/0007", "absent"} {
				if _, err := os.Lstat(filepath.Join(both, gone)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s is there: %v", gone, err)
				}
			}
		})
	}
	t.Run("archives", func(t *testing.T) {
		bottom := archive(dir("gone"), file("gone/x", "x"), file("opaque", "file"), dir("kept"), file("kept/zero", "0"), file("kept/one", "1"))
		top := archive(gone("kept/four"), file("kept/.wh.sub", ""), file("kept/six", "6"), hardlink("seven", "kept/zero"))
		root := mountLayers(t, bottom, upper, top)
		for name, there := range map[string]bool{
			"gone": false, "opaque/new": true, "kept/zero": true, "kept/one": false, "kept/four": false, "kept/sub": false, "kept/six": true, "seven": true, "many": true,
		} {
			if _, err := os.Lstat(filepath.Join(root, name)); (err == nil) != there {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestLayerOfThisMachine is TestLayerImages for what this machine's mkfs.erofs makes of a directory.
func TestLayerOfThisMachine(t *testing.T) {
	needErofs(t)
	program := needProgram(t, "mkfs.erofs", "apt-get install erofs-utils")
	source := mountImage(t, erofslayertest.Golden(t, "lower"))
	for _, options := range [][]string{nil, {"-Enoinline_data"}, {"-T1234567890"}, {"--chunksize=8192"}, {"-x1"}, {"-Eforce-inode-compact", "-T1", "--all-root"}} {
		t.Run(strings.Join(options, " "), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image") // of all but a name that 1.5 takes for an error
			if out, err := exec.Command(program, append(options, "--quiet", "--exclude-regex=^n+$", path, source)...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range differences(seen(t, mountImage(t, b), false), seen(t, mountLayers(t, b), false)) {
				t.Error(d)
			}
		})
	}
}

// TestLayerRefused: what is not supported is said by name.
func TestLayerRefused(t *testing.T) {
	plain := erofslayertest.Golden(t, "lower")
	changed := func(at int, v byte) []byte { b := bytes.Clone(plain); b[at] = v; return b }
	for what, b := range map[string][]byte{
		"compressed files":    erofslayertest.Golden(t, "lz4hc"),
		"further devices":     erofslayertest.Golden(t, "index"),
		"compressed metadata": erofslayertest.Golden(t, "metabox"),
		"not known":           changed(1024+82, 0x10),
		"blocks of":           changed(1024+12, 40),
		"magic number":        archive(file("x", strings.Repeat("x", 3000))),
		"it has 100 bytes":    plain[:100],
	} {
		_, err := build.Build(t.Context(), bytes.NewReader(b), build.Options{Image: true})
		if !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Renamed directories of overlayfs are elsewhere.
	for _, x := range []string{"trusted.overlay.redirect", "user.overlay.metacopy"} {
		e := index.Entry{Name: "d", Type: '5', Mode: 0o755, Xattrs: []index.Xattr{{Name: x, Value: "/old"}}}
		_, err := tree.Merge([]tree.Layer{{Name: "l", Overlay: true, Entries: func(yield func(index.Entry, error) bool) { yield(e, nil) }}})
		if !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), x) {
			t.Errorf("%s: %v", x, err)
		}
	}
}
