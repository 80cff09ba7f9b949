package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/clients/clientstest"
	"github.com/pantala/pantala/e2e/e2etest"
)

// twoAnnounce has two libtorrent sessions announce to one tracker, one after the other, and prints whom each was told
// of, and the error if there was one.
const twoAnnounce = `
import sys, time, libtorrent as lt
url, host, swarm = sys.argv[1:4]
all = []
for k in range(2):
    s = lt.session({'listen_interfaces': '%s:0' % host, 'enable_dht': False, 'enable_lsd': False, 'enable_upnp': False, 'enable_natpmp': False,
        'alert_mask': lt.alert.category_t.all_categories, 'validate_https_trackers': False})
    p = lt.parse_magnet_uri('magnet:?xt=urn:btih:' + swarm)
    p.trackers, p.save_path = [url], '/nonexistent'
    p.flags &= ~lt.torrent_flags.paused
    all.append((s, s.add_torrent(p)))
    end, heard = time.time() + 60, False
    while not heard and time.time() < end:
        s.wait_for_alert(200)
        for a in s.pop_alerts():
            if isinstance(a, lt.tracker_reply_alert):
                print('TOLD', k, a.num_peers, flush=True)
                heard = True
            if isinstance(a, lt.tracker_error_alert):
                print('ERROR', a.message(), flush=True)
`

// TestTrackerServesLibtorrent: libtorrent announces to our tracker over HTTP and UDP, IPv4 and IPv6, and the second of
// two peers is told of the first.
func TestTrackerServesLibtorrent(t *testing.T) {
	clientstest.NeedLibtorrent(t)
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		w := e2etest.New(t)
		addr := fmt.Sprintf("%s:%d", host, e2etest.FreePort(t))
		p := w.Start(e2etest.Command{Args: []string{e2etest.Binary(t), "tracker", "--listen", addr}})
		w.Until(10*time.Second, "the tracker prints its URLs", func() bool {
			if p.Ended() {
				t.Fatalf("%v", p.Wait(0))
			}
			return strings.Contains(p.Output(), "udp://"+addr+"/announce")
		})
		w.Defer(func() {
			p.Signal(15)
			if r := p.Wait(10 * time.Second); r.Code != 0 {
				t.Errorf("%v", r)
			}
		})
		swarms := map[string]string{"http": strings.Repeat("5a", 20), "udp": strings.Repeat("a5", 20)}
		for scheme := range swarms {
			r := w.Run(2*time.Minute, "/usr/bin/python3", "-c", twoAnnounce, scheme+"://"+addr+"/announce", host, swarms[scheme])
			if r.Code != 0 || !strings.Contains(r.Stdout, "TOLD 0 ") || strings.Contains(r.Stdout, "ERROR") {
				t.Errorf("%s over %s: %v", host, scheme, r)
			}
			_, told, _ := strings.Cut(r.Stdout, "TOLD 1 ")
			if told = strings.TrimSpace(told); told == "" || told == "0" {
				t.Errorf("%s over %s: the second peer was told of %q", host, scheme, told)
			}
		}
		resp, err := http.Get("http://" + addr + "/stats")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if strings.Contains(string(body), `"announces":0`) || !strings.Contains(string(body), `"refused":0`) {
			t.Errorf("statistics %s", body)
		}
	}
}
