package fs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/fs/erofs"
	"github.com/pantala/pantala/image/index"
	imagetree "github.com/pantala/pantala/image/tree"
)

// imageConfig is what a test tells the process that serves an image.
type imageConfig struct {
	Dir, Meta string
	Layers    []string
	Options   Options
	Fail      bool // no byte of a layer ever comes
}

// imageMain serves an image until its stdin ends.
func imageMain() int {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var c imageConfig
	if err := in.Decode(&c); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		return 1
	}
	c.Options.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	err := func() error {
		img, err := erofs.OpenFile(c.Meta)
		if err != nil {
			return err
		}
		defer img.Close()
		var devices []Blob
		for _, l := range c.Layers {
			b, err := newFakeBlob(l)
			if err != nil {
				return err
			}
			defer b.close()
			b.auto = time.Millisecond
			if c.Fail {
				b.fail(errTest)
			}
			devices = append(devices, b)
		}
		ctx := context.Background()
		m, err := MountImage(ctx, c.Dir, img, devices, c.Options)
		if err != nil {
			return err
		}
		out.Encode("")
		in.Decode(&struct{}{}) // the end
		err = m.Unmount(ctx)
		if err != nil {
			m.Abort()
		}
		<-m.Done()
		if p := m.Stats().Panics; p > 0 {
			err = errors.Join(err, fmt.Errorf("%d handlers panicked", p))
		}
		return err
	}()
	if err != nil {
		out.Encode(err.Error())
		return 0
	}
	out.Encode("done")
	return 0
}

// serveImage mounts an image in a child process until the test ends.
func serveImage(t *testing.T, c imageConfig, as ...string) (pid int) {
	t.Helper()
	needFUSE(t)
	c.Options.FSName = testSource() + t.Name()
	args := append(slices.Clone(as), testBinary(t))
	if len(as) > 0 {
		binary, err := publicBinary()
		if err != nil {
			t.Fatal(err)
		}
		args[len(as)] = binary
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), roleEnv+"=image", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	stderr := new(syncBuffer)
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() {
		cmd.Process.Kill()
		AbortDir(c.Dir)
	}
	dog := time.AfterFunc(watchdog, kill)
	out := json.NewDecoder(stdout)
	answer := func(want string) {
		var got string
		if err := out.Decode(&got); err != nil || got != want {
			t.Errorf("server said %q, %v, want %q\n%s", got, err, want, stderr)
		}
	}
	t.Cleanup(func() {
		stdin.Close()
		answer("done")
		kill()
		cmd.Wait()
		dog.Stop()
		for range 4 {
			if UnmountDir(c.Dir, true) != nil {
				break
			}
		}
	})
	if err := json.NewEncoder(stdin).Encode(c); err != nil {
		t.Fatal(err)
	}
	answer("")
	return cmd.Process.Pid
}

// testImage writes an image of two layers that has one of everything.
func testImage(t testing.TB, dir string) (c imageConfig, want map[string][]byte) {
	t.Helper()
	want = map[string][]byte{}
	layers := [2][]byte{content(1 << 20), content(3 << 20)[1<<20:]}
	put := func(all []index.Entry) imagetree.Layer {
		return imagetree.Layer{Name: fmt.Sprint(len(all)), Size: int64(len(layers[len(c.Layers)])), Entries: func(yield func(index.Entry, error) bool) {
			for _, e := range all {
				if !yield(e, nil) {
					return
				}
			}
		}}
	}
	one := func(name string, at, n int64) index.Entry {
		return index.Entry{Name: name, Type: '0', Mode: 0o640, UID: 7, GID: 8, Sec: 1e9, Nsec: 5, Size: n, Extents: []index.Extent{{Device: at, Length: n}}}
	}
	pieces := one("sparse", 0, 300_000)
	pieces.Extents = []index.Extent{{File: 4096, Device: 512, Length: 8192}, {File: 65536, Device: 512 << 10, Length: 4096}, {File: 299_008, Device: 1024, Length: 992}}
	var in []imagetree.Layer
	for i, all := range [][]index.Entry{{
		{Name: "d", Type: '5', Mode: 0o2755, UID: 1, GID: 2, Sec: -5, Xattrs: []index.Xattr{{Name: "user.x", Value: "on a directory"}}},
		one("d/first", 512, 10_000), one("d/whole", 4096, 1<<20-4096), {Name: "empty", Type: '0', Mode: 0o600},
		{Name: "link", Link: "d/first", Type: '2'}, {Name: "hard", Link: "d/first", Type: '1'},
		{Name: "char", Type: '3', Mode: 0o666, Major: 259, Minor: 70000}, {Name: "pipe", Type: '6', Mode: 0o600}, pieces,
	}, func() (all []index.Entry) {
		for i := range int64(3000) {
			all = append(all, one(fmt.Sprintf("wide/file-%04d", i), i*512, 1+i%511))
		}
		x := one("attributes", 0, 2<<20)
		x.Xattrs = []index.Xattr{{Name: "user.empty", Value: ""}, {Name: "user.long", Value: strings.Repeat("v", 5000)}}
		return append(all, x, one("not\xff utf8", 1024, 100))
	}()} {
		in = append(in, put(all))
		c.Layers = append(c.Layers, filepath.Join(dir, fmt.Sprint("layer", i)))
		if err := os.WriteFile(c.Layers[i], layers[i], 0o644); err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			if e.Type == '0' {
				b := make([]byte, e.Size)
				for _, x := range e.Extents {
					copy(b[x.File:], layers[i][x.Device:x.Device+x.Length])
				}
				want[e.Name] = b
			}
		}
	}
	want["hard"] = want["d/first"]
	merged, err := imagetree.Merge(in)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := erofs.Write(&b, merged, erofs.Options{}); err != nil {
		t.Fatal(err)
	}
	c.Meta, c.Dir = filepath.Join(dir, "meta"), filepath.Join(dir, "mnt")
	if err := errors.Join(os.WriteFile(c.Meta, b.Bytes(), 0o644), os.Mkdir(c.Dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return c, want
}

// seen is what a walk sees of each file: the stat, the target or content, the attributes.
func seen(t testing.TB, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("ino %d mode %o uid %d gid %d nlink %d size %d rdev %x mtime %d.%d", st.Ino, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Rdev, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + to
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" content %x", blob.Leaf(b[:min(len(b), blob.BlockSize)]))
		}
		list := make([]byte, 4096)
		n, err := unix.Llistxattr(path, list)
		if err != nil {
			return err
		}
		for name := range strings.SplitSeq(string(list[:n]), "\x00") {
			if name == "" {
				continue
			}
			value := make([]byte, 65536)
			n, err := unix.Lgetxattr(path, name, value)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %s=%x", name, value[:n])
		}
		all[rel] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestImage: the tree served from here is the one that the kernel's EROFS shows of the same metadata, inode numbers
// included, and every byte is right while layers are still arriving.
func TestImage(t *testing.T) {
	c, want := testImage(t, t.TempDir())
	serveImage(t, c)
	for name, b := range want {
		if got, err := os.ReadFile(filepath.Join(c.Dir, name)); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%q: %d bytes, %v", name, len(got), err)
		}
	}
	got := seen(t, c.Dir)
	if n := strings.Count(strings.Join(slices.Collect(maps.Keys(got)), "\n"), "wide/"); n != 3000 {
		t.Errorf("%d files in the wide directory", n)
	}
	for _, name := range []string{"nothing", "d/nothing", "d/nothing", "wide/file-9999"} {
		if _, err := os.Lstat(filepath.Join(c.Dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "empty"), []byte("x"), 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("written to: %v", err)
	}
	if f, err := os.Open(filepath.Join(c.Dir, "sparse")); err != nil {
		t.Error(err)
	} else {
		b := make([]byte, 50_000)
		if _, err := f.ReadAt(b, 12_000); err != nil || !bytes.Equal(b, want["sparse"][12_000:62_000]) {
			t.Errorf("in the middle of a sparse file: %v", err)
		}
		f.Close()
	}
	if err := erofs.Probe(t.Context()).Files; err != nil {
		t.Logf("not compared with the kernel's EROFS: %v", err)
		return
	}
	kernel := filepath.Join(t.TempDir(), "kernel")
	if err := os.Mkdir(kernel, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := erofs.Mount(t.Context(), c.Meta, c.Layers, kernel); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := erofs.Unmount(context.Background(), kernel); err != nil {
			t.Error(err)
		}
	}()
	other := seen(t, kernel)
	for name, line := range other {
		if got[name] != line {
			t.Errorf("%q:\nhere   %.300s\nkernel %.300s", name, got[name], line)
		}
	}
	if len(got) != len(other) {
		t.Errorf("%d files, the kernel sees %d", len(got), len(other))
	}
}

// TestImageFails: what cannot be brought is EIO, for files in one piece and for scattered ones; names still work.
func TestImageFails(t *testing.T) {
	c, _ := testImage(t, t.TempDir())
	c.Fail = true
	serveImage(t, c)
	for _, name := range []string{"d/first", "sparse"} {
		if _, err := os.ReadFile(filepath.Join(c.Dir, name)); !errors.Is(err, unix.EIO) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(c.Dir, "empty")); err != nil || len(b) != 0 {
		t.Errorf("an empty file: %v", err)
	}
	if to, err := os.Readlink(filepath.Join(c.Dir, "link")); to != "d/first" {
		t.Errorf("%q, %v", to, err)
	}
}

// TestImageShortLayer: a layer that is shorter than the metadata says gives EIO where it ends.
func TestImageShortLayer(t *testing.T) {
	c, want := testImage(t, t.TempDir())
	if err := os.Truncate(c.Layers[0], 600<<10); err != nil {
		t.Fatal(err)
	}
	serveImage(t, c)
	if b, err := os.ReadFile(filepath.Join(c.Dir, "d/first")); err != nil || !bytes.Equal(b, want["d/first"]) {
		t.Errorf("what is there: %v", err)
	}
	if _, err := os.ReadFile(filepath.Join(c.Dir, "d/whole")); !errors.Is(err, unix.EIO) {
		t.Errorf("what is not: %v", err)
	}
}

// TestImageUnprivileged: a user without privileges mounts an image, and everything belongs to that user.
func TestImageUnprivileged(t *testing.T) {
	needNobody(t)
	dir, err := os.MkdirTemp("", "pantala-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c, want := testImage(t, dir)
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(c.Dir, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	pid := fmt.Sprint(serveImage(t, c, ownNamespace(t, dir)...))
	user := func(args ...string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		args = append(append([]string{"nsenter", "--mount", "--target", pid}, asUser...), args...)
		out, err := exec.CommandContext(ctx, args[0], args[1:]...).Output()
		if err != nil {
			t.Errorf("%v: %v", args, err)
		}
		return string(out)
	}
	first := filepath.Join(c.Dir, "d/first")
	if out := user("cat", first); out != string(want["d/first"]) {
		t.Errorf("%d bytes", len(out))
	}
	if out := user("stat", "-c", "%u %g %a %s", first); out != "65534 65534 640 10000\n" {
		t.Errorf("%q", out)
	}
	if out := user("ls", filepath.Join(c.Dir, "wide")); strings.Count(out, "\n") != 3000 {
		t.Errorf("%d files", strings.Count(out, "\n"))
	}
}

// TestMountImageRefuses: what cannot be served is refused before anything is mounted.
func TestMountImageRefuses(t *testing.T) {
	c, _ := testImage(t, t.TempDir())
	img, err := erofs.OpenFile(c.Meta)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if _, err := MountImage(t.Context(), c.Dir, img, nil, Options{}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("no devices: %v", err)
	}
	if _, err := MountImage(t.Context(), c.Dir, img, make([]Blob, 2), Options{AsFile: true}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("as a file: %v", err)
	}
}

// waiter counts how often it was told.
type waiter struct{ told chan error }

func (w *waiter) Ready(err error) { w.told <- err }

// TestScattered: a read of several pieces waits for all of them, is told once, and can be taken back at any time.
func TestScattered(t *testing.T) {
	c, want := testImage(t, t.TempDir())
	img, err := erofs.OpenFile(c.Meta)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	var devices []Blob
	var first *fakeBlob
	for _, l := range c.Layers {
		b, err := newFakeBlob(l)
		if err != nil {
			t.Fatal(err)
		}
		defer b.close()
		if devices = append(devices, b); first == nil {
			first = b
		}
	}
	tree := newImageTree(img, devices, false)
	root, err := img.Inode(img.Root())
	if err != nil {
		t.Fatal(err)
	}
	nid, err := img.Lookup(&root, "sparse")
	if err != nil {
		t.Fatal(err)
	}
	f := tree.leafOf(tree.node(nid))
	s, ok := f.blob.(*scattered)
	if !ok || f.size != 300_000 || s.Size() != f.size {
		t.Fatalf("%+v", f)
	}
	w := &waiter{make(chan error, 10)}
	if s.Want(0, 300_000, w) {
		t.Fatal("nothing is there")
	}
	first.present(first.run(512, 8192))
	if len(w.told) != 0 {
		t.Fatal("told before all is there")
	}
	if !s.Cancel(w) || s.Cancel(w) {
		t.Error("taken back other than once")
	}
	if first.wait() != 0 {
		t.Error("layers still wait for what was taken back")
	}
	if s.Want(0, 300_000, w) {
		t.Fatal("all is there already")
	}
	first.finish()
	if err := <-w.told; err != nil || len(w.told) != 0 {
		t.Errorf("%v, and %d times more", err, len(w.told))
	}
	if s.Cancel(w) {
		t.Error("taken back after it was told")
	}
	if !s.Want(0, 300_000, w) || len(w.told) != 0 {
		t.Error("all is there")
	}
	if !s.Want(20_000, 10_000, w) {
		t.Error("a hole is always there")
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "answer"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if n, err := s.WriteTo(int(out.Fd()), []byte("head"), 3000, 290_000); n != 290_004 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if got, err := os.ReadFile(out.Name()); err != nil || !bytes.Equal(got, append([]byte("head"), want["sparse"][3000:293_000]...)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	tree.Forget(tree.node(nid), 1)
	if again := tree.leafOf(tree.node(nid)); again == f || again == nil {
		t.Error("forgotten, it is the same leaf")
	}
	if tree.leafOf(nodeRoot) != nil || tree.leafOf(1<<40) != nil {
		t.Error("a leaf of what is no file")
	}
	if n := testing.AllocsPerRun(100, func() { tree.leafOf(tree.node(nid)) }); n != 0 {
		t.Errorf("%v allocations to find a file that was read before", n)
	}
}
