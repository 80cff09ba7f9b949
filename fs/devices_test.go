package fs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mountNew mounts a file system by fsopen(2) and returns its directory; it is gone at the end of the test.
func mountNew(t testing.TB, fsType string, options [][2]string, attr int) (string, error) {
	t.Helper()
	dir := t.TempDir()
	fd, err := unix.Fsopen(fsType, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("fsopen %s: %w", fsType, err)
	}
	defer unix.Close(fd)
	for _, o := range options {
		if err := unix.FsconfigSetString(fd, o[0], o[1]); err != nil {
			return "", fmt.Errorf("%s %v: %w", fsType, o, err)
		}
	}
	if attr&unix.MOUNT_ATTR_RDONLY != 0 {
		unix.FsconfigSetFlag(fd, "ro")
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		msg := make([]byte, 4096)
		n, _ := unix.Read(fd, msg)
		return "", fmt.Errorf("%s: %w: %s", fsType, err, msg[:max(n, 0)])
	}
	m, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return "", fmt.Errorf("fsmount %s: %w", fsType, err)
	}
	defer unix.Close(m)
	if err := unix.MoveMount(m, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "", fmt.Errorf("move_mount %s: %w", fsType, err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, nil
}

// someFiles makes a directory with a few files of many lengths.
func someFiles(t testing.TB, files int, largest int) (dir string, contents map[string][]byte) {
	t.Helper()
	dir, contents = t.TempDir(), map[string][]byte{}
	r := rand.NewChaCha8([32]byte{1})
	rng := rand.New(r)
	for i := range files {
		b := make([]byte, 1+rng.IntN(largest))
		r.Read(b)
		name := fmt.Sprintf("file-%d", i)
		contents[name] = b
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, contents
}

func sameFiles(t testing.TB, dir string, contents map[string][]byte) {
	t.Helper()
	for name, want := range contents {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestErofsOverDevices: EROFS reads a device of ours, and overlayfs that, whatever the mode of the device.
func TestErofsOverDevices(t *testing.T) {
	src, contents := someFiles(t, 15, 2<<20)
	meta, device := erofsImage(t, src)
	for _, c := range []struct {
		name               string
		passthrough, whole bool
	}{
		{"arriving", false, false},
		{"arriving, passthrough allowed", true, false},
		{"complete, passthrough", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := serveDevices(t, Options{Passthrough: c.passthrough})
			a := d.ask(devCommand{Op: "add", Name: "layer", ID: 7, Data: device, Full: c.whole})
			mnt, err := mountNew(t, "erofs", [][2]string{{"source", meta}, {"device", a.Path}}, unix.MOUNT_ATTR_RDONLY)
			if err != nil {
				t.Fatal(err)
			}
			upper := t.TempDir()
			for _, n := range []string{"u", "w"} {
				os.Mkdir(filepath.Join(upper, n), 0o755)
			}
			over, err := mountNew(t, "overlay", [][2]string{{"lowerdir", mnt}, {"upperdir", upper + "/u"}, {"workdir", upper + "/w"}}, 0)
			if err != nil {
				t.Fatal(err)
			}
			sameFiles(t, over, contents)
			sameFiles(t, mnt, contents)
			s := d.ask(devCommand{Op: "stats"}).Stats
			if passed := c.passthrough && c.whole; passed != (s.PassthroughOpens > 0) || passed != (s.Reads == 0) {
				t.Errorf("%+v", s)
			}
			d.refused("busy", devCommand{Op: "remove", Name: "layer"})
		})
	}
}

// TestErofsImageOnDevices shows the rule about what may lie where: the image itself must not be on a mount that may
// pass files through, its devices may.
func TestErofsImageOnDevices(t *testing.T) {
	src, contents := someFiles(t, 5, 100_000)
	meta, device := erofsImage(t, src)
	for _, pass := range []bool{false, true} {
		d := serveDevices(t, Options{Passthrough: pass})
		if pass && !d.first.CanPass {
			t.Skip("this kernel has no FUSE passthrough")
		}
		image := d.ask(devCommand{Op: "add", Name: "meta", ID: 2, Data: meta}).Path
		layer := d.ask(devCommand{Op: "add", Name: "layer", ID: 3, Data: device}).Path
		mnt, err := mountNew(t, "erofs", [][2]string{{"source", image}, {"device", layer}}, unix.MOUNT_ATTR_RDONLY)
		switch {
		case pass && err == nil:
			t.Error("EROFS takes an image from a stacked mount: the rule in decision 17 has changed")
		case !pass && err != nil:
			t.Error(err)
		case !pass:
			sameFiles(t, mnt, contents)
		}
	}
}

// TestDevicesGrowComplete: a device that is open goes on as it was opened when it becomes complete, later opens are
// passed through as soon as that is possible, and no read fails.
func TestDevicesGrowComplete(t *testing.T) {
	src, contents := someFiles(t, 10, 1<<20)
	meta, device := erofsImage(t, src)
	d := serveDevices(t, Options{Passthrough: true})
	path := d.ask(devCommand{Op: "add", Name: "layer", ID: 9, Data: device}).Path
	erofs := func() string {
		t.Helper()
		mnt, err := mountNew(t, "erofs", [][2]string{{"source", meta}, {"device", path}}, unix.MOUNT_ATTR_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		return mnt
	}
	first := erofs()
	d.ask(devCommand{Op: "complete", Name: "layer"})
	second := erofs()
	sameFiles(t, second, contents)
	sameFiles(t, first, contents)
	if n := d.ask(devCommand{Op: "stats"}).Stats.PassthroughOpens; n > 0 {
		t.Errorf("%d opens were passed through while the file was open from before", n)
	}
	for _, dir := range []string{first, second} {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
	}
	// The kernel sends RELEASE a moment after it has let go of the file.
	d.until("an open that is passed through", func(a devAnswer) bool {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return d.ask(devCommand{Op: "stats"}).Stats.PassthroughOpens > a.Stats.PassthroughOpens
	})
	reads := d.ask(devCommand{Op: "stats"}).Stats.Reads
	sameFiles(t, erofs(), contents)
	if now := d.ask(devCommand{Op: "stats"}).Stats.Reads; now != reads {
		t.Errorf("%d READ requests for a file that is passed through", now-reads)
	}
}

// TestDevicesComeAndGo: files are listed and found by name while they are there, and not before or after.
func TestDevicesComeAndGo(t *testing.T) {
	d := serveDevices(t, Options{Passthrough: true})
	data := filepath.Join(t.TempDir(), "data")
	want := content(100_000)
	if err := os.WriteFile(data, want, 0o600); err != nil {
		t.Fatal(err)
	}
	names := func() (list []string) {
		entries, err := os.ReadDir(d.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			list = append(list, e.Name())
		}
		return list
	}
	if n := names(); len(n) != 0 {
		t.Errorf("an empty mount lists %v", n)
	}
	if _, err := os.Stat(filepath.Join(d.dir, "b")); !os.IsNotExist(err) {
		t.Error(err)
	}
	for i, name := range []string{"b", "a", "c"} {
		path := d.ask(devCommand{Op: "add", Name: name, ID: uint64(1000 - i), Data: data, Full: name == "c"}).Path
		if path != filepath.Join(d.dir, name) {
			t.Errorf("path %s", path)
		}
		if st := stat(t, path); st.Ino != uint64(1000-i) || st.Size != int64(len(want)) || st.Mode != unix.S_IFREG|0o400 {
			t.Errorf("%+v", st)
		}
	}
	if n := names(); !slices.Equal(n, []string{"a", "b", "c"}) {
		t.Errorf("listed %v", n)
	}
	for _, bad := range []devCommand{
		{Op: "add", Name: "a", ID: 5, Data: data}, {Op: "add", Name: "d", ID: 1000, Data: data},
		{Op: "add", Name: "x/y", ID: 6, Data: data}, {Op: "add", Name: "", ID: 6, Data: data}, {Op: "add", Name: "d", ID: 1, Data: data},
	} {
		d.refused("invalid", bad)
	}
	d.refused("notfound", devCommand{Op: "remove", Name: "nobody"})
	for _, name := range []string{"a", "c"} {
		path := filepath.Join(d.dir, name)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: %v", name, err)
		}
		d.refused("busy", devCommand{Op: "remove", Name: name})
		f.Close()
		d.until("RELEASE", func(devAnswer) bool {
			a, err := d.send(devCommand{Op: "remove", Name: name})
			return err == nil && a.Err == ""
		})
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still found: %v", name, err)
		}
	}
	if n := names(); !slices.Equal(n, []string{"b"}) {
		t.Errorf("listed %v", n)
	}
	// A name may come again, as another node.
	if err := os.WriteFile(data, want[:5000], 0o600); err != nil {
		t.Fatal(err)
	}
	d.ask(devCommand{Op: "add", Name: "a", ID: 2000, Data: data})
	if b, err := os.ReadFile(filepath.Join(d.dir, "a")); err != nil || !bytes.Equal(b, want[:5000]) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(d.dir, name), nil, 0o600); err == nil {
			t.Error("written to")
		}
	}
	d.ask(devCommand{Op: "unmount"})
	d.ask(devCommand{Op: "remove", Name: "b"}) // the order does not matter
}

// TestDevicesAreOpenWhenTheMountEnds: what the kernel has had open is removed without waiting for it.
func TestDevicesAreOpenWhenTheMountEnds(t *testing.T) {
	d := serveDevices(t, Options{Passthrough: true})
	data := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(data, content(1000), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"arriving", "whole"} {
		f, err := os.Open(d.ask(devCommand{Op: "add", Name: name, ID: uint64(2 + i), Data: data, Full: name == "whole"}).Path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	if err := AbortDir(d.dir); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for _, name := range []string{"arriving", "whole"} {
		d.until("removal", func(devAnswer) bool {
			a, err := d.send(devCommand{Op: "remove", Name: name})
			return err == nil && a.Err == ""
		})
	}
	t.Log(time.Since(start))
	if text := d.stderr.String(); strings.Contains(text, "level=WARN") {
		t.Error(text)
	}
}

// TestDevicesWhileReading: files come and go while others are read.
func TestDevicesWhileReading(t *testing.T) {
	d := serveDevices(t, Options{Passthrough: true})
	data := filepath.Join(t.TempDir(), "data")
	want := content(2 << 20)
	if err := os.WriteFile(data, want, 0o600); err != nil {
		t.Fatal(err)
	}
	path := d.ask(devCommand{Op: "add", Name: "stays", ID: 2, Data: data}).Path
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, want) {
					t.Errorf("read: %v", err)
					return
				}
			}
		})
	}
	for i := range 100 {
		name := fmt.Sprint(i)
		p := d.ask(devCommand{Op: "add", Name: name, ID: uint64(10 + i), Data: data, Full: i%2 == 0}).Path
		if i%3 == 0 {
			if b, err := os.ReadFile(p); err != nil || !bytes.Equal(b, want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		d.until("remove", func(devAnswer) bool {
			a, err := d.send(devCommand{Op: "remove", Name: name})
			return err == nil && a.Err == ""
		})
	}
	close(stop)
	wg.Wait()
}

// TestErofsReaderIsKilled: a reader of EROFS whose bytes are absent is gone when it is killed, others go on, and what
// could not be read is read when it has come.
func TestErofsReaderIsKilled(t *testing.T) {
	src, contents := someFiles(t, 2, 1<<20)
	meta, device := erofsImage(t, src)
	d := serveDevices(t, Options{})
	path := d.ask(devCommand{Op: "add", Name: "layer", ID: 2, Data: device, Ms: -1}).Path
	mnt, err := mountNew(t, "erofs", [][2]string{{"source", meta}, {"device", path}}, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	var readers []*reader
	for range 3 {
		readers = append(readers, startReader(t, "read", filepath.Join(mnt, "file-0"), 0))
	}
	d.until("parked reads", func(a devAnswer) bool { return a.Waiting > 0 })
	for _, r := range readers {
		r.cmd.Process.Kill()
	}
	for _, r := range readers {
		r.dies()
	}
	d.ask(devCommand{Op: "complete", Name: "layer"})
	sameFiles(t, mnt, contents)
}

// TestProbeDevices: what the probe says is what a mount finds.
func TestProbeDevices(t *testing.T) {
	needFUSE(t)
	s := ProbeDevices(t.Context())
	if s.Mount != nil || s.Protocol == "" {
		t.Fatalf("%+v", s)
	}
	d := serveDevices(t, Options{Passthrough: true})
	if d.first.CanPass != (s.Passthrough == nil) {
		t.Errorf("passthrough: the probe says %v, a mount %v", s.Passthrough, d.first.CanPass)
	}
	t.Log(s)

	// An old kernel, as its INIT would look.
	init := make([]byte, inHeaderSize+64)
	host.PutUint32(init[inHeaderSize:], 7)
	host.PutUint32(init[inHeaderSize+4:], 38)
	if s := supportOf(init); s.Mount != nil || s.Passthrough == nil || s.Handover == nil || !strings.Contains(s.String(), "6.9") {
		t.Errorf("%s", s)
	}
}
