package clientstest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/pantala/pantala/e2e/e2etest"
)

// built is tools/anacrolix-peer, a module of its own.
var built struct {
	once sync.Once
	path string
	err  error
}

// needAnacrolix builds the program: its modules are not among those of pantala, and have to be fetched once.
func needAnacrolix(t testing.TB) {
	t.Helper()
	built.once.Do(func() {
		dir := e2etest.Shared(t)
		built.path = filepath.Join(dir, "anacrolix-peer")
		build := exec.Command("go", "build", "-o", built.path, ".")
		build.Dir = filepath.Join(e2etest.Repository(t), "tools", "anacrolix-peer")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	e2etest.Need(t, "anacrolix/torrent", built.err, "let go build ./tools/anacrolix-peer reach a module proxy")
}

func anacrolix(w *e2etest.World, h *e2etest.Host, t Torrent, dir string, _ bool) {
	w.T.Helper()
	needAnacrolix(w.T)
	in, out, err := os.Pipe()
	if err != nil {
		w.T.Fatal(err)
	}
	child(w, h, e2etest.Command{Args: []string{built.path, t.Path, dir, fmt.Sprintf("%s:%d", h.IP, Port)}, Stdin: in})
	in.Close()
	w.Defer(func() { out.Close() })
}
