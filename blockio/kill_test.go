package blockio

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/pantala/pantala/blob"
)

// childEnv names the folder in which a re-executed test binary puts blocks until it is killed.
const childEnv = "BLOCKIO_TEST_CHILD"

var killed = blob.Geometry{Size: 48<<20 + 1234, PieceLength: 256 << 10}

// childPuts puts the absent blocks of a blob from two goroutines and prints the first block of each run
// after its Put returned.
func childPuts(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
	}
	s, err := Open(dir, Options{})
	fail(err)
	b, err := s.Open(testID(1), killed, Meta{})
	fail(err)
	all := content(killed.Size, 1)
	var wg sync.WaitGroup
	for w := range uint32(2) {
		wg.Go(func() {
			for first := w * 5; first < killed.Blocks(); first += 10 {
				r := run(first, 5).Intersect(killed.Blob())
				if b.Has(r) {
					continue
				}
				fail(b.Put(r, part(all, killed, r), blob.Direct))
				fmt.Println(first)
			}
		})
	}
	wg.Wait()
	fmt.Println("done")
	_, _ = io.Copy(io.Discard, os.Stdin) // until killed
}

// kill -9 at random points, again and again: every block whose Put had returned is there, and right.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	all := content(killed.Size, 1)
	kept := map[uint32]bool{}
	for round := range 12 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
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
		// The child writes its lines with one write each, so those that arrive are whole; killing it after a
		// random number of them hits another point of a Put every time.
		for left := 1 + rand.IntN(60); in.Scan() && in.Text() != "done"; left-- {
			if left == 0 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			var first uint32
			if _, err := fmt.Sscan(in.Text(), &first); err != nil {
				t.Fatal(err)
			}
			kept[first] = true
		}
		_ = cmd.Process.Kill()
		stdin.Close()
		_ = cmd.Wait() // killed

		s := openStore(t, dir, Options{})
		b := openBlob(t, s, 1, killed)
		for first := range kept {
			if r := run(first, 5).Intersect(killed.Blob()); !b.Has(r) {
				t.Errorf("round %d: blocks %v had been put and are gone", round, r)
			}
		}
		verify(t, b, all)
		for first := uint32(0); first < killed.Blocks(); first += 5 { // Puts that were not reported any more
			if r := run(first, 5).Intersect(killed.Blob()); b.Has(r) {
				kept[first] = true
			} else if b.present.any(r) {
				t.Errorf("round %d: half a Put is believed: %v", round, r)
			}
		}
		if round%2 == 0 {
			crash(s)
		} else if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(kept) == 0 {
		t.Fatal("no child put anything")
	}
}
