package node

import (
	"path/filepath"
	"testing"

	"github.com/pantala/pantala/fs/erofs"
)

// TestAheadOf: much is read ahead where it costs nothing, and where round trips cost more.
func TestAheadOf(t *testing.T) {
	for _, c := range []struct {
		here bool
		far  bool
		want int
	}{
		{true, false, erofs.ReadAheadWhole}, {true, true, erofs.ReadAheadWhole}, {false, true, erofs.ReadAheadWhole}, {false, false, erofs.ReadAheadLazy},
	} {
		distance := farAway - 1
		if c.far {
			distance = farAway
		}
		if got := aheadOf(c.here, distance); got != c.want {
			t.Errorf("%+v: %d KiB", c, got)
		}
	}
}

// TestNotedBacking: the next process finds what the mount of a tree is backed by; of a tree without a note it knows nothing.
func TestNotedBacking(t *testing.T) {
	n := &images{}
	tree := &rootfs{meta: filepath.Join(t.TempDir(), "a.erofs"), backing: "/sys/class/bdi/erofs-1/read_ahead_kb"}
	if b := notedBacking(tree); b != "" {
		t.Errorf("%q before anything was kept", b)
	}
	n.noteBacking(tree)
	if b := notedBacking(tree); b != tree.backing {
		t.Errorf("%q is found of %q", b, tree.backing)
	}
	if left, err := filepath.Glob(tree.meta + "*"); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}
