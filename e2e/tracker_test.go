package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/e2e/clients/clientstest"
	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/image/profile"
	"github.com/pantala/pantala/tracker"
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

// TestTrackerKeepsRecords: the tracker merges what nodes have recorded of an image, refuses what is no profile, and tells
// who has the index of a layer.
func TestTrackerKeepsRecords(t *testing.T) {
	w := e2etest.New(t)
	addr := fmt.Sprintf("127.0.0.1:%d", e2etest.FreePort(t))
	p := w.Start(e2etest.Command{Args: []string{e2etest.Binary(t), "tracker", "--listen", addr, "--udp", "off"}})
	w.Until(10*time.Second, "the tracker prints its URL", func() bool { return strings.Contains(p.Output(), addr) })
	w.Defer(func() {
		p.Signal(15)
		if r := p.Wait(10 * time.Second); r.Code != 0 {
			t.Errorf("%v", r)
		}
	})
	node := func(n byte) *tracker.Records {
		r := tracker.NewRecords(tracker.RecordsOptions{
			Trackers: []string{"http://" + addr + "/announce"}, PeerID: [20]byte{n}, Port: 1000, IP: fmt.Sprintf("10.0.0.%d", n), Patience: 10 * time.Second,
		})
		w.Defer(func() { r.Close() })
		return r
	}
	image, layer := blob.Hash{1}, blob.Hash{2}
	for n := range byte(4) {
		// All read one span, and each another.
		one := profile.Profile{Starts: 1, Touches: []profile.Touch{{Layer: 0, Span: uint32(n) + 10}, {Layer: 3, Span: 5}}}
		if err := node(n+1).ReportProfile(t.Context(), image, one.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := node(9).Profile(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := profile.Parse(b); err != nil || m.Starts != 4 || !slices.Equal(m.Touches, []profile.Touch{{Layer: 3, Span: 5}}) {
		t.Errorf("%v, %v", m, err)
	}
	if err := node(5).ReportProfile(t.Context(), image, []byte("no profile")); err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("what is no profile: %v", err)
	}
	claim := tracker.IndexClaim{Root: blob.Hash{3}, Digest: blob.Hash{4}, Size: 5, Trust: blob.Built}
	if err := node(6).ClaimIndex(layer, claim); err != nil {
		t.Fatal(err)
	}
	asks := node(7)
	w.Until(10*time.Second, "the claim about a layer", func() bool {
		all, err := asks.Index(t.Context(), layer)
		return err == nil && len(all) == 1 && all[0].Root == claim.Root && len(all[0].Peers) == 1 && all[0].Peers[0] == netip.MustParseAddrPort("10.0.0.6:1000")
	})
}
