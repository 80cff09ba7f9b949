package snapshotter

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"

	"github.com/pantala/pantala/blob"
)

// TestContainerd is containerd's own conformance test of snapshotters. It knows by the name what overlayfs cannot do
// (rename a directory of a lower layer without redirect_dir).
func TestContainerd(t *testing.T) {
	needRoot(t)
	testsuite.SnapshotterSuite(t, "overlayfs", func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		s, err := New(root, newFake(t), slog.New(slog.DiscardHandler))
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	})
}

// TestFiles: what is removed is removed from the disk, and Cleanup takes what a crash left, and only that.
func TestFiles(t *testing.T) {
	needRoot(t)
	w := newWorld(t)
	if err := w.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.run("a", "")
	w.run("b", "")
	names := w.mustPull("ns", w.add("i", "one"), "lazy")
	snaps := filepath.Join(w.root, "snapshots")
	for _, left := range []string{"4", "77", goneName + "78"} { // 4 is the next id
		if err := os.MkdirAll(filepath.Join(snaps, left, "fs", "deep"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w.run("c", "")
	if _, err := os.Stat(filepath.Join(w.upper("4"), "deep")); err == nil {
		t.Error("a new snapshot has files of one that never was")
	}
	w.remove("b", names[0])
	if err := w.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(snaps)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if len(left) != 2 || left[0] != "1" || left[1] != "4" {
		t.Errorf("left: %v", left)
	}
}

// TestOwner: the root of a container belongs to whom the root of its parent belongs to.
func TestOwner(t *testing.T) {
	needRoot(t)
	w := newWorld(t)
	w.run("a", "")
	if err := os.Chown(w.upper("1"), 12, 34); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), "base", "a"); err != nil {
		t.Fatal(err)
	}
	w.run("box", "base")
	var st syscall.Stat_t
	if err := syscall.Stat(w.upper("2"), &st); err != nil || st.Uid != 12 || st.Gid != 34 {
		t.Errorf("owner %d:%d, %v", st.Uid, st.Gid, err)
	}
}

// TestRootName: a name that overlayfs would take for several is refused.
func TestRootName(t *testing.T) {
	if _, err := New(filepath.Join(t.TempDir(), "a:b"), newFake(t), slog.New(slog.DiscardHandler)); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("%v", err)
	}
}
