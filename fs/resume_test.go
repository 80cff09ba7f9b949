package fs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// kept are options of a mount that is held. The socket is in a directory of its own.
func kept(t testing.TB, o Options) Options {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "hold.sock")
	o.Keep = &Keep{Command: []string{"/usr/bin/env", roleEnv + "=holder", testBinary(t), socket}, Socket: socket}
	t.Cleanup(func() { // after the mount is gone
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if _, err := os.Lstat(socket); os.IsNotExist(err) {
				return
			}
			if time.Now().After(end) {
				t.Error("the holder does not exit although its mount is gone")
				return
			}
		}
	})
	return o
}

// killServer is kill -9 of the server, whose mount is held.
func (d *devices) killServer() {
	d.t.Helper()
	if err := d.cmd.Process.Kill(); err != nil {
		d.t.Fatal(err)
	}
	d.in.Close()
	d.cmd.Wait()
}

// erofsReaders read random parts of the files of an EROFS mount until stop is called, with nothing in any page cache,
// and compare. stop returns how many reads there were and the longest.
func erofsReaders(t *testing.T, n int, mnt, device string, contents map[string][]byte) (stop func() (int64, time.Duration)) {
	t.Helper()
	var names []string
	for name := range contents {
		names = append(names, name)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	var reads, longest atomic.Int64
	drop := func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	for r := range n {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(r), 9))
			for {
				select {
				case <-done:
					return
				default:
				}
				name := names[rng.IntN(len(names))]
				want := contents[name]
				off := rng.IntN(len(want))
				want = want[off:min(len(want), off+1+rng.IntN(200_000))]
				start := time.Now()
				f, err := os.Open(filepath.Join(mnt, name))
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				if rng.IntN(2) == 0 {
					if err := drop(device); err != nil {
						t.Errorf("device: %v", err)
					}
					unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
				}
				got := make([]byte, len(want))
				_, err = f.ReadAt(got, int64(off))
				f.Close()
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s at %d, %d bytes: %v, equal: %v", name, off, len(want), err, bytes.Equal(got, want))
					return
				}
				reads.Add(1)
				for took := int64(time.Since(start)); ; {
					old := longest.Load()
					if took <= old || longest.CompareAndSwap(old, took) {
						break
					}
				}
			}
		})
	}
	return func() (int64, time.Duration) {
		close(done)
		wg.Wait()
		return reads.Load(), time.Duration(longest.Load())
	}
}

// TestKilledUnderReaders: the process that serves the layers is killed again and again while EROFS is read. No byte is
// wrong, no read fails, none hangs.
func TestKilledUnderReaders(t *testing.T) {
	needResend(t)
	src, contents := someFiles(t, 20, 2<<20)
	meta, device := erofsImage(t, src)
	d := serveDevices(t, kept(t, Options{Passthrough: true}))
	path := d.ask(devCommand{Op: "add", Name: "layer", ID: 5, Data: device, Ms: 3}).Path
	passed := d.ask(devCommand{Op: "add", Name: "whole", ID: 6, Data: device, Full: true}).Path
	var mounts []string
	for _, p := range []string{path, passed} {
		mnt, err := mountNew(t, "erofs", [][2]string{{"source", meta}, {"device", p}}, unix.MOUNT_ATTR_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		mounts = append(mounts, mnt)
	}
	stop := erofsReaders(t, 4, mounts[0], path, contents)
	stopPassed := erofsReaders(t, 2, mounts[1], passed, contents)
	rng := rand.New(rand.NewPCG(7, uint64(time.Now().UnixNano())))
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	for round := range rounds {
		time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
		if round%5 == 4 { // in good order
			d.ask(devCommand{Op: "handover"})
			d.ask(devCommand{Op: "leave"})
			d.in.Close()
			d.cmd.Wait()
		} else {
			d.killServer()
		}
		if f, err := os.Open(device); err == nil { // the next one begins with a cold disk
			f.Sync()
			dropCaches(t, f)
			f.Close()
		}
		d.start(true)
		if d.first.Err != "" {
			t.Fatalf("round %d: %s\n%s", round, d.first.Err, d.stderr)
		}
		if n := len(d.first.Adopted); n != 2 || d.first.Adopted[0] != (Adopted{5, "layer", stat(t, device).Size}) {
			t.Fatalf("round %d: adopted %+v", round, d.first.Adopted)
		}
		d.ask(devCommand{Op: "add", Name: "layer", ID: 5, Data: device, Ms: rng.IntN(10)})
		d.ask(devCommand{Op: "add", Name: "whole", ID: 6, Data: device, Full: true})
		d.ask(devCommand{Op: "settle"})
	}
	reads, longest := stop()
	whole, longestWhole := stopPassed()
	t.Logf("%d reads through us, the longest %v; %d of what is passed through, the longest %v", reads, longest, whole, longestWhole)
	if reads == 0 || whole == 0 {
		t.Error("nothing was read")
	}
	// What was counted is right: both can be removed once nobody has them open.
	for i, mnt := range mounts {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
		d.ask(devCommand{Op: "remove", Name: []string{"layer", "whole"}[i]})
	}
	d.ask(devCommand{Op: "unmount"})
}

// TestResumeWaits: reads of a device that the successor has not opened yet wait for it, those of one that it cannot open
// fail, and killed readers are gone.
func TestResumeWaits(t *testing.T) {
	needResend(t)
	data := filepath.Join(t.TempDir(), "data")
	want := content(300_000)
	if err := os.WriteFile(data, want, 0o600); err != nil {
		t.Fatal(err)
	}
	d := serveDevices(t, kept(t, Options{}))
	var paths []string
	for i := range 3 {
		paths = append(paths, d.ask(devCommand{Op: "add", Name: fmt.Sprint("layer", i), ID: uint64(10 + i), Data: data, Ms: -1}).Path)
	}
	old, err := os.Open(paths[0]) // open from before, read after
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	before := startReader(t, "read", paths[0], 8192) // waits while the server dies
	d.until("a parked read", func(a devAnswer) bool { return a.Waiting == 1 })
	d.ask(devCommand{Op: "remove", Name: "layer2"})
	d.killServer()
	d.start(true)
	if n := len(d.first.Adopted); n != 2 {
		t.Fatalf("adopted %+v", d.first.Adopted)
	}
	if st := stat(t, paths[1]); st.Size != int64(len(want)) || st.Ino != 11 {
		t.Errorf("%+v", st)
	}
	failing, killed := startReader(t, "read", paths[1], 0), startReader(t, "read", paths[1], 128<<10)
	d.until("reads that wait for their blob", func(a devAnswer) bool { return a.Stats.Waiting >= 3 })
	killed.cmd.Process.Kill()
	killed.dies()

	d.refused("invalid", devCommand{Op: "add", Name: "layer0", ID: 99, Data: data})
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, want[:1000], 0o600); err != nil {
		t.Fatal(err)
	}
	d.refused("invalid", devCommand{Op: "add", Name: "layer0", ID: 10, Data: short})
	d.ask(devCommand{Op: "add", Name: "layer0", ID: 10, Data: data})
	d.refused("invalid", devCommand{Op: "add", Name: "layer0", ID: 10, Data: data})
	got := make([]byte, len(want))
	if _, err := old.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a file that was open before: %v", err)
	}
	if line := before.line(); len(line) != 64 {
		t.Errorf("a read from before: %s", line)
	}
	d.ask(devCommand{Op: "settle"})
	if line := failing.line(); line != syscall.EIO.Error() {
		t.Errorf("a read of a device that nobody opens: %q", line)
	}
	if _, err := os.ReadFile(paths[1]); err == nil {
		t.Error("a device that nobody opens is read")
	}
	d.until("removal", func(devAnswer) bool {
		a, err := d.send(devCommand{Op: "remove", Name: "layer1"})
		return err == nil && a.Err == ""
	})
}

// TestHolderDies: another one takes its place at the next change, and knows all.
func TestHolderDies(t *testing.T) {
	needResend(t)
	data := filepath.Join(t.TempDir(), "data")
	want := content(100_000)
	if err := os.WriteFile(data, want, 0o600); err != nil {
		t.Fatal(err)
	}
	d := serveDevices(t, kept(t, Options{}))
	path := d.ask(devCommand{Op: "add", Name: "a", ID: 2, Data: data}).Path
	first := d.ask(devCommand{Op: "stats"}).Holder
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := d.ask(devCommand{Op: "add", Name: "b", ID: 3, Data: data}).Holder
	if second == 0 || second == first {
		t.Fatalf("holder %d after %d", second, first)
	}
	d.killServer()
	d.start(true)
	if n := len(d.first.Adopted); n != 2 {
		t.Fatalf("adopted %+v", d.first.Adopted)
	}
	d.ask(devCommand{Op: "add", Name: "a", ID: 2, Data: data})
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, want) {
		t.Error(err)
	}
}

// TestNothingToResume: without a holder, or when the mount is gone, there is nothing to take over.
func TestNothingToResume(t *testing.T) {
	needResend(t)
	dir := t.TempDir()
	socket := filepath.Join(t.TempDir(), "none")
	if _, err := ResumeDevices(t.Context(), dir, Options{Keep: &Keep{Socket: socket}}); classOf(err) != "notmounted" {
		t.Error(err)
	}
	if _, err := ResumeDevices(t.Context(), dir, Options{}); err == nil {
		t.Error("without a holder")
	}
	d := serveDevices(t, kept(t, Options{}))
	d.killServer()
	if err := UnmountDir(d.dir, true); err != nil {
		t.Fatal(err)
	}
	if _, err := ResumeDevices(t.Context(), d.dir, d.options); classOf(err) != "notmounted" {
		t.Error(err)
	}
	d.start(false) // for the cleanup, and because it must work
	if d.first.Err != "" {
		t.Fatal(d.first.Err)
	}
}

// needResend skips on kernels that cannot send requests again.
func needResend(t testing.TB) {
	t.Helper()
	needFUSE(t)
	if s := ProbeDevices(t.Context()); s.Handover != nil {
		t.Skip(s.Handover)
	}
}
