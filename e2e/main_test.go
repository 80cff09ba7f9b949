package e2e

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

var full = flag.Bool("full", os.Getenv("E2E_FULL") == "1", "1 GiB files and fifty kills")

func TestMain(m *testing.M) { e2etest.Main(m) }

// readLimit bounds the reading of one whole file: 1 GiB at 9 MB/s, a hundredth of what loopback gives.
const readLimit = 2 * time.Minute

// big is the file of the tests that are about moving bytes.
func big(t *testing.T) e2etest.File {
	t.Helper()
	if *full {
		return e2etest.Content(t, 1<<30, 1)
	}
	return e2etest.Content(t, 256<<20, 1)
}

// small is the file of the tests that are about something else: 64 MiB, and not a multiple of anything.
func small(t *testing.T) e2etest.File {
	t.Helper()
	return e2etest.Content(t, 64<<20+12345, 2)
}

// sum starts sha256sum on a file of a mount.
func sum(w *e2etest.World, path string) *e2etest.Process {
	return w.Start(e2etest.Command{Args: []string{"sha256sum", path}})
}

// mustSum waits for sha256sum and compares.
func mustSum(t *testing.T, p *e2etest.Process, want e2etest.File) {
	t.Helper()
	r := p.Wait(readLimit)
	if got, _, _ := strings.Cut(r.Stdout, " "); r.Code != 0 || got != want.SHA256 {
		t.Fatalf("want %s\n%v", want.SHA256, r)
	}
}

// atMost fails the test when more bytes were used than the promise allows.
func atMost(t *testing.T, what string, got, limit int64) {
	t.Helper()
	if got > limit {
		t.Errorf("%s: %s, the promise is at most %s", what, e2etest.MiB(got), e2etest.MiB(limit))
	}
}

// allFromPeers reports whether peers sent all of a file. What a reader and the fill bring at the same time counts twice.
func allFromPeers(m e2etest.MountStatus, file e2etest.File) bool {
	return m.FromPeers >= file.Size && m.FromPeers <= file.Size+1<<20
}
