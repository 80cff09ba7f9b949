package clientstest

import (
	"strings"

	"github.com/pantala/pantala/e2e/e2etest"
)

// Aria2 starts aria2 on port 6881 of a host. It goes on seeding when it has everything; seed says that it has.
func Aria2(w *e2etest.World, h *e2etest.Host, t Torrent, dir string, seed bool) *e2etest.Process {
	w.T.Helper()
	program := e2etest.NeedProgram(w.T, "aria2c", "apt-get install aria2")
	args := []string{program, "--no-conf", "--dir", dir, "--listen-port=6881", "--enable-dht=false", "--enable-dht6=false",
		"--bt-enable-lpd=false", "--enable-peer-exchange=false", "--seed-ratio=0", "--file-allocation=none",
		"--summary-interval=0", "--console-log-level=notice", "--show-console-readout=false", "--allow-overwrite=true"}
	if seed {
		args = append(args, "--check-integrity=true", "--bt-hash-check-seed=true")
	}
	return child(w, h, e2etest.Command{Args: append(args, t.Path)})
}

// Aria2Finished reports whether aria2 says that it has everything.
func Aria2Finished(p *e2etest.Process) bool { return strings.Contains(p.Output(), "Download complete") }
