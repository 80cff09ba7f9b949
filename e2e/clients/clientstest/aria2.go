package clientstest

import (
	"fmt"
	"regexp"

	"github.com/pantala/pantala/e2e/e2etest"
)

// Aria2 starts aria2 on port 6881 of a host; the path of the torrent may be a magnet link. It goes on seeding when it has everything; seed says that it has.
//
// At the notice level aria2 says "Download complete" only when it ends, so it has a hook that prints.
func Aria2(w *e2etest.World, h *e2etest.Host, t Torrent, dir string, seed bool) *e2etest.Process {
	w.T.Helper()
	program := e2etest.NeedProgram(w.T, "aria2c", "apt-get install aria2")
	args := []string{program, "--no-conf", "--dir", dir, fmt.Sprintf("--listen-port=%d", Port), "--enable-dht=false", "--enable-dht6=false",
		"--bt-enable-lpd=false", "--enable-peer-exchange=false", "--seed-ratio=0", "--file-allocation=none",
		"--summary-interval=0", "--console-log-level=notice", "--show-console-readout=false", "--allow-overwrite=true",
		"--on-bt-download-complete=/bin/echo"}
	if seed {
		args = append(args, "--check-integrity=true", "--bt-hash-check-seed=true")
	}
	return child(w, h, e2etest.Command{Args: append(args, t.Path)})
}

// hooked is what the hook prints: the id of the download, the number of files and the path of the first.
var hooked = regexp.MustCompile(`(?m)^[0-9a-f]{16} 1 /`)

// Aria2Finished reports whether aria2 has everything, verified.
func Aria2Finished(p *e2etest.Process) bool { return hooked.MatchString(p.Output()) }
