package clientstest

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/pantala/pantala/e2e/e2etest"
)

// qbittorrentConf leaves qBittorrent its defaults but for discovery and the questions that it asks at its first start.
const qbittorrentConf = `[LegalNotice]
Accepted=true

[BitTorrent]
Session\DHTEnabled=false
Session\LSDEnabled=false
Session\PeXEnabled=false
Session\BTProtocol=TCP
Session\Port=%[1]d
Session\InterfaceAddress=%[2]s
Session\AddTorrentPaused=false
Session\QueueingSystemEnabled=false

[Network]
PortForwardingEnabled=false

[Preferences]
General\Locale=en
WebUI\Address=127.0.0.1
WebUI\Port=8080
WebUI\UseUPnP=false
WebUI\LocalHostAuth=false
`

// qbittorrent runs qbittorrent-nox, which checks what is in dir by itself.
func qbittorrent(w *e2etest.World, h *e2etest.Host, t Torrent, dir string, _ bool) {
	w.T.Helper()
	home := w.Dir("qbittorrent")
	conf := filepath.Join(home, "qBittorrent", "config")
	if err := os.MkdirAll(conf, 0o755); err != nil {
		w.T.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(conf, "qBittorrent.conf"), fmt.Appendf(nil, qbittorrentConf, Port, h.IP), 0o644); err != nil {
		w.T.Fatal(err)
	}
	w.ShowLog(filepath.Join(home, "qBittorrent", "data", "logs", "qbittorrent.log"))
	child(w, h, e2etest.Command{
		Args: []string{e2etest.NeedProgram(w.T, "qbittorrent-nox", "apt-get install qbittorrent-nox"),
			"--profile=" + home, "--save-path=" + dir, "--skip-dialog=true", t.Path},
		Env: []string{"HOME=" + home, "XDG_CONFIG_HOME=" + home, "XDG_DATA_HOME=" + home, "LC_ALL=C.UTF-8"},
	})
}
