package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// many is how many files one directory of the test's tree has: more than one READDIR answers.
const many = 3000

// treeOf is a tree over one blob: extents of it, all of it, and what has no bytes.
func treeOf(b Blob) []TreeFile {
	file := func(off, n int64, path ...string) TreeFile {
		return TreeFile{File: File{Blob: b, ID: blob.ID{Kind: blob.ByRoot}}, Path: path, Offset: off, Length: n}
	}
	files := []TreeFile{
		file(0, 1000, "a.txt"),
		file(1000, 100_000, "dir", "b.bin"),
		file(0, b.Size(), "dir", "deep", "whole"),
		{Path: []string{"dir", "empty"}},
		{Path: []string{"dir", "link"}, Link: "../a.txt"},
		file(b.Size()-1, 1, "last"),
	}
	for i := range many {
		files = append(files, file(int64(i), 1, "many", fmt.Sprintf("%04d", i)))
	}
	files[0].Executable = true
	return files
}

func TestTree(t *testing.T) {
	m := serve(t, setup{serverConfig: serverConfig{Tree: true}})
	// Everything under it, as a program sees it.
	for _, f := range treeOf(localBlob(t, int64(len(m.want)))) {
		path := filepath.Join(append([]string{m.dir}, f.Path...)...)
		if f.Link != "" {
			if to, err := os.Readlink(path); to != f.Link || err != nil {
				t.Errorf("%s leads to %q, %v", path, to, err)
			}
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, m.want[f.Offset:f.Offset+f.Length]) {
			t.Fatalf("%s: %d bytes, %v", path, len(got), err)
		}
		mode := fs.FileMode(0o444)
		if f.Executable {
			mode = 0o555
		}
		if st, err := os.Stat(path); err != nil || st.Size() != f.Length || st.Mode() != mode {
			t.Errorf("%s: %v %d, %v", path, st.Mode(), st.Size(), err)
		}
	}
	var names []string
	err := filepath.WalkDir(m.dir, func(path string, e fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(m.dir, path); err == nil && !strings.HasPrefix(rel, "many/") {
			st, err := e.Info()
			if err != nil {
				return err
			}
			names = append(names, rel+" "+st.Mode().String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		". dr-xr-xr-x", "a.txt -r-xr-xr-x", "dir dr-xr-xr-x", "dir/b.bin -r--r--r--", "dir/deep dr-xr-xr-x", "dir/deep/whole -r--r--r--",
		"dir/empty -r--r--r--", "dir/link Lrwxrwxrwx", "last -r--r--r--", "many dr-xr-xr-x",
	}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
	all, err := os.ReadDir(filepath.Join(m.dir, "many"))
	if err != nil || len(all) != many || all[many-1].Name() != fmt.Sprintf("%04d", many-1) {
		t.Errorf("%d names, %v", len(all), err)
	}
	var dir, parent unix.Stat_t
	if err := errors.Join(unix.Stat(m.dir, &parent), unix.Stat(filepath.Join(m.dir, "dir", ".."), &dir)); err != nil || dir.Ino != parent.Ino {
		t.Errorf("inode %d above dir, %d at the root, %v", dir.Ino, parent.Ino, err)
	}
	if parent.Nlink != 4 {
		t.Errorf("%d links of the root, which has two directories", parent.Nlink)
	}
}

// TestTreeRefuses: what is no directory is not entered, what is not there is not found, nothing is written.
func TestTreeRefuses(t *testing.T) {
	m := serve(t, setup{serverConfig: serverConfig{Tree: true}})
	for path, want := range map[string]error{
		"nothing": syscall.ENOENT, "dir/nothing": syscall.ENOENT, "a.txt/x": syscall.ENOTDIR, "dir/deep/whole/x": syscall.ENOTDIR, "dir/link/x": syscall.ENOTDIR,
	} {
		if _, err := os.Stat(filepath.Join(m.dir, path)); !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for what, err := range map[string]error{
		"create": os.WriteFile(filepath.Join(m.dir, "dir", "new"), nil, 0o644),
		"write":  os.WriteFile(filepath.Join(m.dir, "dir", "b.bin"), nil, 0o644),
		"mkdir":  os.Mkdir(filepath.Join(m.dir, "dir", "d"), 0o755),
		"remove": os.Remove(filepath.Join(m.dir, "dir", "link")),
		"rename": os.Rename(filepath.Join(m.dir, "a.txt"), filepath.Join(m.dir, "dir", "a.txt")),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestTreeIsLazy: a read waits for its own bytes only, and others do not wait for it.
func TestTreeIsLazy(t *testing.T) {
	m := serve(t, setup{serverConfig: serverConfig{Tree: true}, hold: true})
	got := make(chan []byte)
	go func() {
		b, _ := os.ReadFile(filepath.Join(m.dir, "last"))
		got <- b
	}()
	m.until("a parked read", func(a answer) bool { return a.Stats.Waiting == 1 })
	if a := m.stats(); a.Bytes != 0 {
		t.Errorf("%d bytes were answered", a.Bytes)
	}
	m.ask(command{Op: "present", Off: 0, N: 1000})
	if b, err := os.ReadFile(filepath.Join(m.dir, "a.txt")); err != nil || !bytes.Equal(b, m.want[:1000]) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	m.ask(command{Op: "present", Off: int64(len(m.want)) - 1, N: 1})
	if b := <-got; !bytes.Equal(b, m.want[len(m.want)-1:]) {
		t.Errorf("%x", b)
	}
	m.ask(command{Op: "fail", Class: "unavailable"})
	if _, err := os.ReadFile(filepath.Join(m.dir, "dir", "b.bin")); !errors.Is(err, syscall.EIO) {
		t.Errorf("absent bytes that nobody has: %v", err)
	}
}

// TestTreePassthrough: a file that is all of its blob is handed to the kernel once nobody has it open through us;
// an extent never is. Open descriptors stay right.
func TestTreePassthrough(t *testing.T) {
	m := serve(t, setup{serverConfig: serverConfig{Tree: true}})
	if !m.first.CanPass {
		t.Skip("passthrough needs root and Linux 6.9")
	}
	whole, extent := filepath.Join(m.dir, "dir", "deep", "whole"), filepath.Join(m.dir, "a.txt")
	early, err := os.Open(whole)
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	read := func(path string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(m.want, b) || len(b) == 0 {
			t.Errorf("%s: %d bytes, %v", path, len(b), err)
		}
	}
	read(whole)
	m.ask(command{Op: "complete"})
	read(whole) // early has it open through us
	read(extent)
	if s := m.stats(); s.PassthroughOpens != 0 {
		t.Errorf("%d opens were passed through", s.PassthroughOpens)
	}
	if b, err := io.ReadAll(early); err != nil || !bytes.Equal(b, m.want) {
		t.Errorf("the early descriptor: %d bytes, %v", len(b), err)
	}
	early.Close()
	// RELEASE comes after close(2) has returned.
	for deadline := time.Now().Add(30 * time.Second); m.stats().PassthroughOpens == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the complete file is never passed through")
		}
		read(whole)
		read(extent)
	}
	reads := m.stats().Reads
	late, err := os.Open(whole)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	dropCaches(t, late)
	read(whole)
	if s := m.stats(); s.Reads != reads {
		t.Errorf("%d reads came to us", s.Reads-reads)
	}
	read(extent)
}

func TestTreeAttributes(t *testing.T) {
	m := serve(t, setup{serverConfig: serverConfig{Tree: true, Source: "magnet:?xt=urn:btih:00", Digest: "sha256:00"}})
	for path, want := range map[string]string{".": "user.pantala.id user.pantala.digest user.pantala.present user.pantala.source", "dir": "", "a.txt": "user.pantala.id", "dir/empty": ""} {
		buf := make([]byte, 1000)
		n, err := unix.Listxattr(filepath.Join(m.dir, path), buf)
		if got := strings.Join(strings.Fields(strings.ReplaceAll(string(buf[:max(n, 0)]), "\x00", " ")), " "); err != nil || got != want {
			t.Errorf("%s has %q, %v; want %q", path, got, err, want)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(m.dir, &st); err != nil || st.Files != 9+many || st.Bfree != 0 {
		t.Errorf("%+v %v", st, err)
	}
}

func TestMountTreeRefuses(t *testing.T) {
	b := localBlob(t, 100)
	file := func(off, n int64, path ...string) TreeFile {
		return TreeFile{File: File{Blob: b}, Path: path, Offset: off, Length: n}
	}
	for name, files := range map[string][]TreeFile{
		"none":      nil,
		"no name":   {file(0, 1)},
		"slash":     {file(0, 1, "a/b")},
		"dots":      {file(0, 1, "..", "b")},
		"twice":     {file(0, 1, "a"), file(0, 1, "a")},
		"in a file": {file(0, 1, "a"), file(0, 1, "a", "b")},
		"over":      {file(0, 1, "a", "b"), file(0, 1, "a")},
		"outside":   {file(1, 100, "a")},
		"negative":  {file(-1, 1, "a")},
		"no bytes":  {{Path: []string{"a"}, Length: 1}},
	} {
		if _, err := MountTree(context.Background(), t.TempDir(), files, File{}, Defaults()); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
