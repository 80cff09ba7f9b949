package imagestest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/e2e/e2etest"
)

// Erofs makes a layer that is an EROFS image, as containerd 2.1 knows it. Whiteouts are told as in archives: an entry
// ".wh.x" becomes a character device, ".wh..wh..opq" an attribute of its directory. more are options of mkfs.erofs.
func Erofs(t testing.TB, entries []Entry, more ...string) Layer {
	t.Helper()
	program := e2etest.NeedProgram(t, "mkfs.erofs", "apt-get install erofs-utils")
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "layer")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.Chmod(dir, 0o755))
	for _, e := range entries {
		path := filepath.Join(dir, e.Name)
		mode := os.FileMode(e.Mode)
		if mode == 0 {
			mode = 0o755
		}
		switch base := filepath.Base(e.Name); {
		case base == ".wh..wh..opq":
			check(unix.Lsetxattr(filepath.Dir(path), "trusted.overlay.opaque", []byte("y"), 0))
		case strings.HasPrefix(base, ".wh."):
			check(unix.Mknod(filepath.Join(filepath.Dir(path), base[len(".wh."):]), unix.S_IFCHR, 0))
		case strings.HasSuffix(e.Name, "/"):
			check(os.Mkdir(path, mode))
		case e.Link != "":
			check(os.Symlink(e.Link, path))
		default:
			check(os.WriteFile(path, []byte(e.Body), mode))
		}
	}
	if out, err := exec.Command(program, append(more, "--quiet", "-T1000000000", file, dir)...).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.erofs: %v: %s", err, out)
	}
	b, err := os.ReadFile(file)
	check(err)
	return Layer{Stored: b, MediaType: "application/vnd.erofs.layer.v1", DiffID: digest.FromBytes(b)}
}
