package device

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const childEnv = "PANTALA_DEVICE_TEST_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		child(path)
	}
	goleak.VerifyTestMain(m)
}

// killed is the layer of [TestKill].
func killed() *layer { return newLayer(99, even(60, 50_003)...) }

// child reads all of a device in random order and prints each span that it has read, until it is killed.
func child(path string) {
	l := killed()
	d, err := l.tryOpen(path, &memory{bytes: l.stored}, nil)
	if err == nil {
		for _, i := range rand.Perm(len(l.index.Spans)) {
			if err = d.ReadAt(context.Background(), make([]byte, 1), l.index.Spans[i].Device); err != nil {
				break
			}
			fmt.Println(i)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	fmt.Println("done")
	_, _ = io.Copy(io.Discard, os.Stdin) // until killed
}

// kill -9 at random points, again and again: what was read is found again, and no byte is wrong.
func TestKill(t *testing.T) {
	l := killed()
	path := filepath.Join(t.TempDir(), "layer")
	seen := map[int]bool{}
	for round := range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+path)
		cmd.Stderr = os.Stderr
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
		in := bufio.NewScanner(stdout)
		for left := 1 + rand.IntN(25); in.Scan() && in.Text() != "done"; left-- {
			if left == 0 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			var i int
			if _, err := fmt.Sscan(in.Text(), &i); err != nil {
				t.Fatal(err)
			}
			seen[i] = true
		}
		_ = cmd.Process.Kill()
		stdin.Close()
		_ = cmd.Wait() // killed

		if round%2 == 1 { // damage as a power cut leaves it: a block of a span that was there is empty
			f := openFile(t, path, os.O_RDWR)
			for i := range seen {
				if _, err := f.WriteAt(make([]byte, 4096), l.index.Spans[i].Device+20_000); err != nil {
					t.Fatal(err)
				}
				delete(seen, i)
				break
			}
			f.Close()
		}
		// Without a source: only what is there can be read.
		none := &memory{bytes: l.stored, before: func(context.Context, int64, int) error { return errNone }}
		d, err := l.tryOpen(path, none, nil)
		if err != nil {
			t.Fatal(err)
		}
		sealed := d.Present() == d.Size() // on a busy machine the kill came after the end: nothing had to be looked for
		for i := range seen {
			l.check(t, d, l.index.Spans[i].Device, int(l.index.Spans[i].Length))
		}
		for i := range l.index.Spans {
			p := make([]byte, l.index.Spans[i].Length)
			if err := d.ReadAt(t.Context(), p, l.index.Spans[i].Device); err == nil {
				l.check(t, d, l.index.Spans[i].Device, len(p))
			} else if !errors.Is(err, errNone) {
				t.Fatal(err)
			}
		}
		if s := d.Stats(); s.Decodes != 0 || !sealed && s.Found < int64(len(seen)) {
			t.Errorf("round %d: %+v, %d were read before", round, s, len(seen))
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A sealed file is believed as it is; one that was changed after is not.
func TestSeal(t *testing.T) {
	l := newLayer(20, even(5, 100_000)...)
	path := filepath.Join(t.TempDir(), "layer")
	reopen := func(src *memory) *Device {
		t.Helper()
		d, err := l.tryOpen(path, src, nil)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := reopen(&memory{bytes: l.stored})
	l.check(t, d, 0, 500_000)
	<-d.Completed()
	d.Close()
	if !Sealed(path, 500_000) || Sealed(path, 500_001) || Sealed(path+"x", 500_000) {
		t.Error("Sealed")
	}

	none := &memory{before: func(context.Context, int64, int) error { return errNone }}
	d = reopen(none)
	if !d.Complete() || d.Present() != 500_000 {
		t.Error("a sealed file is not complete")
	}
	l.check(t, d, 0, 500_000)
	if s := d.Stats(); s.Found != 0 {
		t.Errorf("%+v", s)
	}
	d.Close()

	f := openFile(t, path, os.O_RDWR)
	if _, err := f.WriteAt([]byte("changed"), 250_000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if Sealed(path, 500_000) {
		t.Error("a changed file is believed")
	}
	src := &memory{bytes: l.stored}
	d = reopen(src)
	if d.Complete() {
		t.Error("a changed file is believed")
	}
	l.check(t, d, 0, 500_000)
	if n := src.reads(); n != 1 {
		t.Errorf("%d spans were read again; one was changed", n)
	}
	<-d.Completed()
	d.Close()

	if err := os.Chtimes(path, time.Now(), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	d = reopen(none)
	if d.Complete() {
		t.Error("another file is believed")
	}
	l.check(t, d, 0, 500_000) // found by digests
	<-d.Completed()
	d.Close()

	// A file of another length is begun anew.
	if err := os.Truncate(path, 400_000); err != nil {
		t.Fatal(err)
	}
	src = &memory{bytes: l.stored}
	d = reopen(src)
	l.check(t, d, 0, 500_000)
	if n := src.reads(); n != 5 {
		t.Errorf("%d spans were read", n)
	}
	d.Close()
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := Remove(path); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestWhole: a file that its caller has just written is served at once, sealed soon, and believed after a restart; one
// of another length is not.
func TestWhole(t *testing.T) {
	l := newLayer(5, even(20, 100_003)...)
	path := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(path, l.decoded, 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{Index: l.index, Windows: &memory{bytes: l.file}, Stored: &memory{bytes: l.stored}, Path: path, Pool: NewPool(PoolOptions{}), Whole: true}
	d, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	if d.Present() != d.Size() {
		t.Errorf("%d of %d bytes are present", d.Present(), d.Size())
	}
	<-d.Completed()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if !Sealed(path, int64(len(l.decoded))) {
		t.Error("not sealed")
	}
	if err := os.WriteFile(path, l.decoded[:1<<20], 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(c); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Present() != 0 {
		t.Errorf("%d bytes of a file that is too short are believed", d.Present())
	}
}
