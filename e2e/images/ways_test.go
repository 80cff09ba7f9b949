package images

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/e2e/images/imagestest"
)

// ways runs a test with every containerd there is, and with the newest in each way in which images can be mounted.
func ways(t *testing.T, f func(t *testing.T, v imagestest.Version, flags []string)) {
	versions := imagestest.Versions(t)
	for _, v := range versions {
		t.Run("containerd"+v.Name, func(t *testing.T) { f(t, v, nil) })
	}
	newest := versions[len(versions)-1]
	for _, way := range []string{"loop", "files"} {
		t.Run(way, func(t *testing.T) { f(t, newest, []string{"--image-mount", way}) })
	}
}

// loops are the loop devices whose files lie below a directory.
func loops(t *testing.T, below string) (files []string) {
	t.Helper()
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(b), below+"/") {
			files = append(files, strings.TrimSpace(string(b)))
		}
	}
	return files
}

// look is what a walk sees of a tree: of each name all attributes, of each file its content.
func look(w *e2etest.World, n *e2etest.Node, dir string) string {
	w.T.Helper()
	const walk = `cd "$0" && find . -printf '%P %y %m %U %G %s %T@ %n %l\n' | sed '/^ d/s/ [0-9]* \([0-9.]* [0-9]* \)$/ \1/' | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum`
	return w.MustRun(commandLimit, "sh", "-c", walk, dir).Stdout
}

// TestMountWays: an image is the same however it is mounted, can be written to with --rw, survives the daemon where the
// kernel has mounted it, and nothing is left when it is unmounted.
func TestMountWays(t *testing.T) {
	e2etest.NeedRoot(t)
	e2etest.NeedFUSE(t)
	w := e2etest.New(t)
	r := imagestest.NewRegistry(w, false)
	image, sum := three(t, 1)
	ref := "oci://" + r.Push("three", image)
	want := ""
	for _, way := range []string{"devices", "loop", "files"} {
		n := w.Node(way, "--image-mount", way, "--fill", "never")
		dir, rw := w.Dir(way), w.Dir(way+"-rw")
		n.Must("mount", ref, dir)
		n.Must("mount", "--rw", ref, rw)
		if want == "" {
			want = look(w, n, dir)
		} else if got := look(w, n, dir); got != want {
			t.Errorf("%s: sees\n%s\nnot\n%s", way, got, want)
		}
		if err := os.WriteFile(filepath.Join(rw, "etc/second"), []byte("mine\n"), 0o644); err != nil {
			t.Errorf("%s: %v", way, err)
		}
		if got := w.MustRun(commandLimit, "cat", filepath.Join(rw, "etc/second"), filepath.Join(dir, "etc/second")); got.Stdout != "mine\nfrom layer two\n" {
			t.Errorf("%s: %v", way, got)
		}
		if got := len(loops(t, n.State)); got != map[string]int{"loop": 1}[way] {
			t.Errorf("%s: %d loop devices", way, got)
		}
		if err := syscall.Kill(n.Status().PID, syscall.SIGKILL); err != nil { // and not who keeps its mounts
			t.Fatal(err)
		}
		again, all := w.Dir(way+"-again"), []string{dir, rw}
		n.Must("mount", ref, again)
		if way == "files" { // what was mounted has ended with its daemon
			w.Until(commandLimit, "what cannot be read any more is unmounted", func() bool { return len(e2etest.MountsBelow(rw)) == 0 })
			n.Must("mount", ref, dir)
			all = all[:1]
		}
		for _, d := range []string{again, dir} {
			if got := w.MustRun(commandLimit, "sha256sum", filepath.Join(d, "data/noise")); !strings.HasPrefix(got.Stdout, sum) {
				t.Errorf("%s: after kill -9: %v", way, got)
			}
		}
		for _, d := range append(all, again) {
			w.Until(commandLimit, "the daemon knows its mounts", func() bool { return n.Run("umount", d).Code == 0 })
		}
		if !e2etest.Poll(commandLimit, func() bool { return len(loops(t, n.State)) == 0 }) {
			t.Errorf("%s: loop devices are left: %v", way, loops(t, n.State))
		}
		n.Must("daemon", "--stop")
		if m := e2etest.MountsBelow(w.Root); len(m) > 0 {
			t.Errorf("%s: still mounted: %v", way, m)
		}
	}
}
