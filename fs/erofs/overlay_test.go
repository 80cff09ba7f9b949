package erofs

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOverlay: the tree is a lower layer of overlayfs, as containers get it: it can be written over, a device node 0/0
// of an image hides itself there, and attributes, links and capabilities come through.
func TestOverlay(t *testing.T) {
	needErofs(t)
	meta, devices := stored(t,
		archive(dir("d"), file("d/a", "below"), xattr(file("f", "f"), "user.x", "1"), hardlink("g", "f"), symlink("s", "d/a")),
		archive(member{name: "hidden", flag: tar.TypeChar, mode: 0o666}, file("d/b", "above"), gone("g")))
	lower := mountTree(t, meta, devices)
	top := t.TempDir()
	paths := map[string]string{}
	for _, n := range []string{"upper", "work", "merged"} {
		paths[n] = filepath.Join(top, n)
		if err := os.Mkdir(paths[n], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, paths["upper"], paths["work"])
	if err := unix.Mount("overlay", paths["merged"], "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(paths["merged"], 0); err != nil {
			t.Error(err)
			unix.Unmount(paths["merged"], unix.MNT_DETACH)
		}
	}()
	in := func(name string) string { return filepath.Join(paths["merged"], name) }
	if b, err := os.ReadFile(in("s")); err != nil || string(b) != "below" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := os.Lstat(in("hidden")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a device 0/0 is seen through an overlay: %v", err)
	}
	if err := errors.Join(os.WriteFile(in("d/a"), []byte("written"), 0), os.Remove(in("d/b")), os.Rename(in("f"), in("d/f"))); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(in("s")); err != nil || string(b) != "written" {
		t.Errorf("%q, %v", b, err)
	}
	value := make([]byte, 10)
	if n, err := unix.Lgetxattr(in("d/f"), "user.x", value); err != nil || string(value[:n]) != "1" {
		t.Errorf("%q, %v", value[:max(n, 0)], err)
	}
	if b, err := os.ReadFile(filepath.Join(lower, "d/a")); err != nil || string(b) != "below" {
		t.Errorf("the layer below: %q, %v", b, err)
	}
}
