package erofs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// stored writes the image of layers, and the layers, into files.
func stored(t testing.TB, layers ...[]byte) (meta string, devices []string) {
	t.Helper()
	merged, err := merge(layers...)
	if err != nil {
		t.Fatal(err)
	}
	var img bytes.Buffer
	if _, err := Write(&img, merged, Options{}); err != nil {
		t.Fatal(err)
	}
	return store(t, img.Bytes(), layers)
}

func store(t testing.TB, img []byte, layers [][]byte) (meta string, devices []string) {
	t.Helper()
	dir := t.TempDir()
	meta = filepath.Join(dir, "meta")
	if err := os.WriteFile(meta, img, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, l := range layers {
		devices = append(devices, filepath.Join(dir, fmt.Sprint("layer", i)))
		if err := os.WriteFile(devices[i], l, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return meta, devices
}

var twoLayers = [][]byte{
	archive(dir("d"), file("d/a", "from below"), file("x", strings.Repeat("x", 5000))),
	archive(file("d/b", "from above"), file("y", strings.Repeat("y", 100_000)), symlink("l", "d/a")),
}

// flatten makes the one file in which everything lies at its place.
func flatten(t testing.TB, meta string, layers [][]byte) string {
	t.Helper()
	b, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	img, err := OpenFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	path := filepath.Join(t.TempDir(), "flat")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	for i, d := range img.Devices() {
		if _, err := f.WriteAt(layers[i], d.Start); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(d.Start + d.Length); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// TestFlat: the same metadata, mounted in one file through a loop device, is the same tree; the loop device goes with
// the mount.
func TestFlat(t *testing.T) {
	needErofs(t)
	need(t, "loop devices", Probe(t.Context()).Loop, "modprobe loop")
	meta, devices := stored(t, twoLayers...)
	want := lookAt(t, mountTree(t, meta, devices), 0)
	flat := flatten(t, meta, twoLayers)
	at := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := MountFlat(t.Context(), flat, at); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	for _, d := range differences(want, lookAt(t, at, 0)) {
		t.Error(d)
	}
	if loops := loopsOf(t, flat); len(loops) != 1 {
		t.Errorf("loop devices of the mount: %v", loops)
	}
	if err := Unmount(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); len(loopsOf(t, flat)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("left behind: %v", loopsOf(t, flat))
		}
	}
	// What is no image leaves no loop device either.
	if _, err := MountFlat(t.Context(), devices[0], at); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("an archive as an image: %v", err)
	}
	for end := time.Now().Add(10 * time.Second); len(loopsOf(t, devices[0])) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("left behind: %v", loopsOf(t, devices[0]))
		}
	}
}

// loopsOf are the loop devices over a file.
func loopsOf(t testing.TB, path string) (all []string) {
	t.Helper()
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if b, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(b)) == path {
			all = append(all, n)
		}
	}
	return all
}

// TestMountErrors: what cannot be mounted is told in the kernel's words, and leaves nothing mounted.
func TestMountErrors(t *testing.T) {
	needErofs(t)
	meta, devices := stored(t, twoLayers...)
	at := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken")
	b, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	b[superOffset+90] ^= 1
	if err := os.WriteFile(broken, b, 0o600); err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	fails := func(ctx context.Context, meta string, devices []string, at string) error {
		_, err := Mount(ctx, meta, devices, at)
		return err
	}
	for name, c := range map[string]struct {
		err  error
		want error
		text string
	}{
		"no image":       {fails(t.Context(), devices[0], nil, at), blob.ErrInvalid, "magic number"},
		"checksum":       {fails(t.Context(), broken, devices, at), blob.ErrCorrupt, "checksum"},
		"device missing": {fails(t.Context(), meta, devices[:1], at), blob.ErrInvalid, "2 layers, 1 devices"},
		"device absent":  {fails(t.Context(), meta, []string{devices[0], meta + "-not"}, at), os.ErrNotExist, ""},
		"no directory":   {fails(t.Context(), meta, devices, meta), nil, "not a directory"},
		"no such":        {fails(t.Context(), meta, devices, at+"-not"), os.ErrNotExist, ""},
		"canceled":       {fails(canceled, meta, devices, at), context.Canceled, ""},
	} {
		if c.err == nil {
			t.Errorf("%s: mounted", name)
			unix.Unmount(at, unix.MNT_DETACH)
			continue
		}
		if c.want != nil && !errors.Is(c.err, c.want) || !strings.Contains(c.err.Error(), c.text) {
			t.Errorf("%s: %v", name, c.err)
		}
		t.Logf("%s: %v", name, c.err)
	}
	var st, parent unix.Stat_t
	if unix.Stat(at, &st) != nil || unix.Stat(filepath.Dir(at), &parent) != nil || st.Dev != parent.Dev {
		t.Error("something is mounted")
	}
}

// TestLongPaths: fsconfig(2) takes values of less than 256 bytes; paths may be longer.
func TestLongPaths(t *testing.T) {
	needErofs(t)
	long := t.TempDir()
	for range 5 {
		long = filepath.Join(long, strings.Repeat("p", 100))
	}
	if err := os.MkdirAll(filepath.Join(long, "mnt"), 0o700); err != nil {
		t.Fatal(err)
	}
	meta, devices := stored(t, twoLayers...)
	for _, p := range append([]*string{&meta}, &devices[0], &devices[1]) {
		to := filepath.Join(long, filepath.Base(*p))
		if err := os.Rename(*p, to); err != nil {
			t.Fatal(err)
		}
		*p = to
	}
	at := filepath.Join(long, "mnt")
	if _, err := Mount(t.Context(), meta, devices, at); err != nil {
		t.Fatal(err)
	}
	defer cleanMount(t, at)
	if b, err := os.ReadFile(filepath.Join(at, "d/b")); err != nil || string(b) != "from above" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestUnmountBusy: a mount in use stays, works, and can be taken away later.
func TestUnmountBusy(t *testing.T) {
	needErofs(t)
	meta, devices := stored(t, twoLayers...)
	at := mountTree(t, meta, devices)
	f, err := os.Open(filepath.Join(at, "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := Unmount(ctx, at); !errors.Is(err, ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if _, err := f.ReadAt(make([]byte, 100), 0); err != nil {
		t.Errorf("after a failed unmount: %v", err)
	}
	time.AfterFunc(300*time.Millisecond, func() { f.Close() })
	if err := Unmount(t.Context(), at); err != nil {
		t.Errorf("the last user went away: %v", err)
	}
	if err := Unmount(t.Context(), at); err != nil {
		t.Errorf("nothing mounted: %v", err)
	}
}

// TestReadAhead: a mount reads ahead as far as we want, where the kernel lets us say so.
func TestReadAhead(t *testing.T) {
	needErofs(t)
	meta, devices := stored(t, twoLayers...)
	for range 10 { // of other mounts of this moment ours cannot be told
		_, b := mountBacked(t, meta, devices)
		if b == "" {
			continue
		}
		for _, want := range []int{ReadAheadWhole, ReadAheadLazy} {
			if want != ReadAheadWhole { // which it has from the start
				b.ReadAhead(want)
			}
			if is, err := os.ReadFile(string(b)); err != nil || strings.TrimSpace(string(is)) != strconv.Itoa(want) {
				t.Errorf("%s: %q and %v, not %d", b, is, err, want)
			}
		}
		return
	}
	t.Error("the backing device of no mount is known")
}
