package clientstest

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/pantala/pantala/e2e/e2etest"
)

// transmissionConf leaves Transmission its defaults but for discovery, its remote control, and queues.
const transmissionConf = `{
	"bind-address-ipv4": %[1]q, "peer-port": %[2]d, "download-dir": %[3]q,
	"watch-dir-enabled": false, "start-added-torrents": true, "incomplete-dir-enabled": false,
	"rename-partial-files": false,
	"dht-enabled": false, "lpd-enabled": false, "pex-enabled": false, "utp-enabled": false, "port-forwarding-enabled": false,
	"rpc-enabled": false, "download-queue-enabled": false, "seed-queue-enabled": false, "ratio-limit-enabled": false,
	"scrape-paused-torrents-enabled": false, "preallocation": 0, "trash-original-torrent-files": false
}
`

// transmission runs transmission-daemon, which finds the torrent among those that it already knew, and checks what is in dir
// by itself.
func transmission(w *e2etest.World, h *e2etest.Host, t Torrent, dir string, _ bool) {
	w.T.Helper()
	home := w.Dir("transmission")
	torrents := filepath.Join(home, "torrents")
	if err := os.Mkdir(torrents, 0o755); err != nil {
		w.T.Fatal(err)
	}
	torrent, err := os.ReadFile(t.Path)
	if err != nil {
		w.T.Fatal(err)
	}
	for path, content := range map[string][]byte{
		filepath.Join(home, "settings.json"): fmt.Appendf(nil, transmissionConf, h.IP, Port, dir),
		filepath.Join(torrents, "x.torrent"): torrent,
	} {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			w.T.Fatal(err)
		}
	}
	log := filepath.Join(home, "log")
	w.ShowLog(log)
	child(w, h, e2etest.Command{Args: []string{e2etest.NeedProgram(w.T, "transmission-daemon", "apt-get install transmission-daemon"),
		"--foreground", "--config-dir", home, "--log-info", "--logfile", log}})
}
