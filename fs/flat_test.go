package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/fs/erofs"
)

// flatOf is an image as one file in memory, and what a Flat is made of.
func flatOf(t *testing.T) (want []byte, img *erofs.Image, layers []*fakeBlob) {
	t.Helper()
	c, _ := testImage(t, t.TempDir())
	want, err := os.ReadFile(c.Meta)
	if err != nil {
		t.Fatal(err)
	}
	if img, err = erofs.OpenFile(c.Meta); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	for i, d := range img.Devices() {
		b, err := newFakeBlob(c.Layers[i])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.close)
		layers = append(layers, b)
		want = append(want, make([]byte, d.Start+d.Length-int64(len(want)))...)
		copy(want[d.Start:], b.mapped)
	}
	return want, img, layers
}

// TestFlatBlob: every stretch is right, whatever parts it lies in and whether they are present or come later.
func TestFlatBlob(t *testing.T) {
	want, img, layers := flatOf(t)
	f, err := NewFlat(img, []Blob{layers[0], layers[1]})
	if err != nil || f.Size() != int64(len(want)) {
		t.Fatalf("%v, %d bytes, want %d", err, f.Size(), len(want))
	}
	mem, err := unix.MemfdCreate("answers", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(mem)
	read := func(off int64, n int) error {
		for {
			at, err := unix.Seek(mem, 0, unix.SEEK_CUR)
			if err != nil {
				return err
			}
			switch _, err := f.WriteTo(mem, []byte("header"), off, n); {
			case err == nil:
				f.Touch(off, n)
				b := make([]byte, 6+n)
				if _, err := unix.Pread(mem, b, at); err != nil {
					return err
				}
				if string(b[:6]) != "header" || !bytes.Equal(b[6:], want[off:off+int64(n)]) {
					return errors.New("wrong bytes")
				}
				return nil
			case !errors.Is(err, blob.ErrAbsent):
				return err
			}
			w := &waiter{make(chan error, 1)}
			if !f.Want(off, n, w) {
				if err := <-w.told; err != nil {
					return err
				}
			}
		}
	}
	for _, b := range layers {
		b.auto = 0
	}
	edges := []int64{0, img.Devices()[0].Start, img.Devices()[1].Start, f.Size()}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		off, n := rng.Int64N(f.Size()), 1+rng.IntN(200_000)
		if rng.IntN(2) == 0 { // across an edge
			off = max(0, edges[rng.IntN(len(edges))]-rng.Int64N(9000))
		}
		off = min(off, f.Size()-1)
		n = int(min(int64(n), f.Size()-off))
		if err := read(off, n); err != nil {
			t.Fatalf("%d bytes at %d: %v", n, off, err)
		}
	}
	if layers[0].touched.Load() == 0 || layers[1].touched.Load() == 0 {
		t.Error("layers do not hear of reads")
	}
	hdr := []byte("header")
	cost := func(b Blob, off int64) float64 {
		return testing.AllocsPerRun(100, func() {
			if _, err := b.WriteTo(mem, hdr, off, 4096); err != nil {
				t.Fatal(err)
			}
			b.Touch(off, 4096)
		})
	}
	if n, layer := cost(f, edges[1]), cost(layers[0], 0); n > layer {
		t.Errorf("a present page costs %v allocations, whereas the layer's own costs %v", n, layer)
	}
}

// TestFlatCancel: a read is taken back from wherever it waits, and an error of one layer is that of the read.
func TestFlatCancel(t *testing.T) {
	_, img, layers := flatOf(t)
	f, err := NewFlat(img, []Blob{layers[0], layers[1]})
	if err != nil {
		t.Fatal(err)
	}
	second := img.Devices()[1].Start
	for _, off := range []int64{second, second - 4096} { // in one layer, in two
		w := &waiter{make(chan error, 1)}
		if f.Want(off, 8192, w) {
			t.Fatal("absent bytes are said to be present")
		}
		if !f.Cancel(w) || f.Cancel(w) {
			t.Errorf("at %d: not taken back, or twice", off)
		}
		if n := layers[0].wait() + layers[1].wait(); n > 0 {
			t.Errorf("at %d: %d reads still wait", off, n)
		}
	}
	layers[1].fail(errTest)
	w := &waiter{make(chan error, 1)}
	f.Want(second-4096, 8192, w)
	layers[0].finish()
	if err := <-w.told; !errors.Is(err, errTest) {
		t.Errorf("%v", err)
	}
	if f.Complete() || f.File() != nil {
		t.Error("a file to pass through")
	}
}

// TestFlatRefused: what does not fit together.
func TestFlatRefused(t *testing.T) {
	_, img, layers := flatOf(t)
	for name, c := range map[string]struct {
		layers []Blob
		want   error
	}{
		"too few": {[]Blob{layers[0]}, blob.ErrInvalid},
		"swapped": {[]Blob{layers[1], layers[0]}, blob.ErrCorrupt},
	} {
		if _, err := NewFlat(img, c.layers); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// needLoop is for tests that mount through a loop device.
func needLoop(t *testing.T) {
	t.Helper()
	needFUSE(t)
	if err := erofs.Probe(t.Context()).Loop; err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("this machine should have loop devices: %v", err)
		}
		t.Skip(err)
	}
}

// flatMount serves an image as one file, none of whose layers is there yet, and mounts it.
func flatMount(t *testing.T, d *devices, c imageConfig, ms int) (file, dir string) {
	t.Helper()
	serveFlat(d, c, ms)
	file, dir = filepath.Join(d.dir, "flat"), filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := erofs.MountFlat(t.Context(), file, dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return file, dir
}

func serveFlat(d *devices, c imageConfig, ms int) {
	d.t.Helper()
	for i, l := range c.Layers {
		d.ask(devCommand{Op: "add", Name: fmt.Sprint("layer", i), ID: uint64(10 + i), Data: l, Ms: ms})
	}
	d.ask(devCommand{Op: "flat", Name: "flat", ID: 2, Data: c.Meta, Layers: []string{"layer0", "layer1"}})
}

// loops counts the loop devices over a file.
func loops(t *testing.T, file string) (n int) {
	t.Helper()
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(b)) == file {
			n++
		}
	}
	return n
}

// TestFlatMount: an image whose layers arrive while it is read through a loop device is the tree that the kernel shows
// over files; a read that waits holds up no other; and nothing is left of it.
func TestFlatMount(t *testing.T) {
	needLoop(t)
	c, want := testImage(t, t.TempDir())
	d := serveDevices(t, Options{Passthrough: true})
	file, dir := flatMount(t, d, c, 1)
	d.ask(devCommand{Op: "auto", Name: "layer1", Ms: -1})
	hangs := startReader(t, "read", filepath.Join(dir, "attributes"), 0)
	d.until("a parked read", func(a devAnswer) bool { return a.Waiting > 0 })
	for name, b := range want {
		if name != "attributes" && !strings.HasPrefix(name, "wide/") && !strings.HasPrefix(name, "not") {
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, b) {
				t.Fatalf("%q, while another read waits: %d bytes, %v", name, len(got), err)
			}
		}
	}
	hangs.cmd.Process.Kill()
	hangs.dies()
	d.ask(devCommand{Op: "auto", Name: "layer1", Ms: 1})
	d.ask(devCommand{Op: "complete", Name: "layer1"})
	for name, b := range want {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%q: %d bytes, %v", name, len(got), err)
		}
	}
	if n := loops(t, file); n != 1 {
		t.Errorf("%d loop devices", n)
	}
	got := seen(t, dir)
	if err := erofs.Unmount(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	d.until("the loop device is gone", func(devAnswer) bool { return loops(t, file) == 0 })
	d.ask(devCommand{Op: "remove", Name: "flat"})
	if erofs.Probe(t.Context()).Files != nil {
		return
	}
	if _, err := erofs.Mount(t.Context(), c.Meta, c.Layers, dir); err != nil {
		t.Fatal(err)
	}
	defer erofs.Unmount(context.Background(), dir)
	for name, line := range seen(t, dir) {
		if got[name] != line {
			t.Errorf("%q:\nflat   %.300s\nlayers %.300s", name, got[name], line)
		}
	}
}

// TestFlatResumed: readers of a flat image wait while nobody serves it, whether the server was killed or handed over.
func TestFlatResumed(t *testing.T) {
	needLoop(t)
	needResend(t)
	c, want := testImage(t, t.TempDir())
	d := serveDevices(t, kept(t, Options{Passthrough: true}))
	_, dir := flatMount(t, d, c, -1)
	for _, how := range []string{"kill", "handover"} {
		name := map[string]string{"kill": "d/whole", "handover": "attributes"}[how]
		done := make(chan error, 1)
		go func() {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err == nil && !bytes.Equal(b, want[name]) {
				err = errors.New("wrong bytes")
			}
			done <- err
		}()
		d.until("a parked read", func(a devAnswer) bool { return a.Waiting > 0 })
		if how == "kill" {
			d.killServer()
		} else {
			d.ask(devCommand{Op: "handover"})
			d.ask(devCommand{Op: "leave"})
			d.in.Close()
			d.cmd.Wait()
		}
		d.start(true)
		if d.first.Err != "" || len(d.first.Adopted) != 3 {
			t.Fatalf("%s: %+v\n%s", how, d.first, d.stderr)
		}
		serveFlat(d, c, -1)
		for i := range c.Layers {
			if how == "kill" && i == 1 {
				continue
			}
			d.ask(devCommand{Op: "auto", Name: fmt.Sprint("layer", i), Ms: 1})
			d.ask(devCommand{Op: "complete", Name: fmt.Sprint("layer", i)})
		}
		d.ask(devCommand{Op: "settle"})
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("%s: %v", how, err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: the reader hangs", how)
		}
	}
}
