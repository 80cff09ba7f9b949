package node

import (
	"bytes"
	"errors"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/metainfo"
	"github.com/pantala/pantala/origin/origintest"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/tracker"
)

// shareFile has a node share bytes, and returns the magnet link without what would help to find the node: only
// the trackers and peers named here.
func shareFile(t *testing.T, n *Node, want []byte, trackers, peers []string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.bin")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	reply, err := n.Share(patient(t), control.ShareRequest{Path: path, Options: control.Options{Trackers: trackers}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := metainfo.ParseMagnet(reply.Magnet)
	if err != nil {
		t.Fatal(err)
	}
	m.Trackers, m.Peers = trackers, peers
	return m.String()
}

// open starts a download and leaves it running.
func open(t *testing.T, n *Node, source string, limit int64) *Download {
	t.Helper()
	d, err := n.Download(patient(t), source, control.Options{}, limit, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// meets reports whether a node is connected to the one that listens on addr.
func meets(n *Node, addr netip.AddrPort) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.live {
		for _, j := range l.joined() {
			if slices.ContainsFunc(j.torrent.Peers(), func(p swarm.PeerInfo) bool { return p.Listens == addr && !p.Banned }) {
				return true
			}
		}
	}
	return false
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come true", what)
		}
	}
}

// TestPeersOfPeers: A, B, C in a row, no tracker: C is told of B only and reaches A.
func TestPeersOfPeers(t *testing.T) {
	want := origintest.Bytes(31, 3<<20)
	a, b, c := start(t, conf(t)), start(t, conf(t)), start(t, conf(t))
	toA := shareFile(t, a, want, nil, []string{a.swarm.Addr().String()})
	defer open(t, b, toA, 64<<10).Close() // it has next to nothing
	eventually(t, "B has met A", func() bool { return meets(b, a.swarm.Addr()) })
	m, _ := metainfo.ParseMagnet(toA)
	m.Peers = []string{b.swarm.Addr().String()}
	got, st := fetchAll(t, c, m.String(), control.Options{})
	if !bytes.Equal(got, want) || st.FromPeers != int64(len(want)) {
		t.Errorf("%+v", st)
	}
}

// TestPEXOff: the same row; B does not exchange peers.
func TestPEXOff(t *testing.T) {
	off := conf(t)
	off.PEX = false
	a, b, c := start(t, conf(t)), start(t, off), start(t, conf(t))
	toA := shareFile(t, a, origintest.Bytes(32, 3<<20), nil, []string{a.swarm.Addr().String()})
	defer open(t, b, toA, 1).Close()
	m, _ := metainfo.ParseMagnet(toA)
	m.Peers = []string{b.swarm.Addr().String()}
	defer open(t, c, m.String(), 0).Close()
	eventually(t, "C has met B, and B A", func() bool { return meets(c, b.swarm.Addr()) && meets(b, a.swarm.Addr()) })
	time.Sleep(2 * time.Second) // others tell after half a second, and look once a second
	if meets(c, a.swarm.Addr()) {
		t.Error("C has met A")
	}
}

// TestWithoutTracker: two nodes that name nobody find each other on the local network, or by the DHT.
func TestWithoutTracker(t *testing.T) {
	for name, set := range map[string]func(c *config.Config, first *Node){
		"local network": func(c *config.Config, _ *Node) { c.LSD = config.On },
		"DHT": func(c *config.Config, first *Node) {
			c.DHT = true
			if first != nil {
				c.Bootstrap = []string{first.finders.dht.Addr().String()}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := origintest.Bytes(33, 1<<20+5)
			ca, cb := conf(t), conf(t)
			set(&ca, nil)
			a := start(t, ca)
			link := shareFile(t, a, want, nil, nil)
			set(&cb, a)
			got, st := fetchAll(t, start(t, cb), link, control.Options{})
			if !bytes.Equal(got, want) || st.FromPeers != int64(len(want)) {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestKnownPeersAfterRestart: B has met A once; after a restart of both it finds A again though nobody names it.
func TestKnownPeersAfterRestart(t *testing.T) {
	want := origintest.Bytes(34, 3<<20)
	ca, cb := conf(t), conf(t)
	a := start(t, ca)
	ca.Listen = a.swarm.Addr().String() // where it is after the restart too
	link := shareFile(t, a, want, nil, []string{ca.Listen})
	b := start(t, cb)
	d := open(t, b, link, 64<<10)
	eventually(t, "something has come", func() bool { return d.Status().FromPeers > 0 })
	d.Close()
	for _, n := range []*Node{b, a} {
		if err := n.Close(patient(t)); err != nil {
			t.Fatal(err)
		}
	}
	link = shareFile(t, start(t, ca), want, nil, nil)
	got, st := fetchAll(t, start(t, cb), link, control.Options{})
	if !bytes.Equal(got, want) || st.FromPeers == 0 {
		t.Errorf("%+v", st)
	}
}

// TestTrackersDieMidway: both trackers die while two nodes download. Nothing fails, and the two stay together with
// one that comes later and knows one of them.
func TestTrackersDieMidway(t *testing.T) {
	want := origintest.Bytes(35, 4<<20)
	var urls []string
	var kill []func()
	for range 2 {
		s := tracker.NewServer(tracker.ServerOptions{})
		h := httptest.NewServer(s)
		once := false
		k := func() {
			if !once {
				once = true
				s.Close()
				h.CloseClientConnections()
				h.Close()
			}
		}
		t.Cleanup(k)
		urls, kill = append(urls, h.URL+"/announce"), append(kill, k)
	}
	a, b, c := start(t, conf(t)), start(t, conf(t)), start(t, conf(t))
	link := shareFile(t, a, want, urls, nil)
	d := open(t, b, link, 2<<20)
	defer d.Close()
	eventually(t, "a quarter is here", func() bool { return d.Status().Present > int64(len(want)/4) })
	for _, k := range kill {
		k()
	}
	if d.Status().Complete {
		t.Fatal("the download was over before the trackers died: lower the rate")
	}
	m, _ := metainfo.ParseMagnet(link)
	m.Peers = []string{b.swarm.Addr().String()}
	got, st := fetchAll(t, c, m.String(), control.Options{})
	if !bytes.Equal(got, want) || st.Errors != 0 {
		t.Errorf("%+v", st)
	}
	if err := d.Wait(patient(t), blob.Hash{}, func(control.Transfer) {}); err != nil {
		t.Error(err)
	}
	if st := d.Status(); st.Errors != 0 || st.FromPeers != int64(len(want)) {
		t.Errorf("%+v", st)
	}
}

// TestKnownPeersFiles: what is kept is bounded, sorted by worth, and forgotten with its blob.
func TestKnownPeersFiles(t *testing.T) {
	k := knownPeers{t.TempDir()}
	addr := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 6881)
	}
	infos := []swarm.PeerInfo{
		{Listens: addr(1), Uploaded: 9}, {Listens: addr(2), Downloaded: 5}, {Downloaded: 100}, {Listens: addr(3), Downloaded: 7},
		{Listens: addr(4), Downloaded: 50, Banned: true},
	}
	got := worth(infos, []netip.AddrPort{addr(3), addr(4), addr(5)})
	if want := []netip.AddrPort{addr(3), addr(2), addr(1), addr(5)}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	var many []netip.AddrPort
	for i := range 200 {
		many = append(many, addr(i))
	}
	id := blob.DigestID(blob.Hash{1})
	if err := k.put(id, many); err != nil {
		t.Fatal(err)
	}
	if n := len(k.get(id)); n != maxKnown {
		t.Errorf("%d are kept", n)
	}
	for _, junk := range []string{"", "{}", `["x"]`, string(bytes.Repeat([]byte("["), 2*maxKnownFile))} {
		if err := os.WriteFile(filepath.Join(k.dir, k.name(id)), []byte(junk), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := k.get(id); len(got) != 0 {
			t.Errorf("%.20q: %v", junk, got)
		}
	}
	n := start(t, conf(t))
	if err := k.sweep(n.store, n.library()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(k.dir, k.name(id))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of a blob that is gone is still there: %v", err)
	}
	if err := (knownPeers{filepath.Join(k.dir, "none")}).sweep(n.store, n.library()); err != nil {
		t.Error(err)
	}
}

// TestDiscoveryThatCannotStart: what was asked for and cannot be had is an error, and leaves nothing running.
func TestDiscoveryThatCannotStart(t *testing.T) {
	var busy net.PacketConn
	for busy == nil { // a port that is taken for UDP and free for TCP
		u, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		if l, err := net.Listen("tcp4", u.LocalAddr().String()); err == nil {
			l.Close()
			busy = u
		}
	}
	c := conf(t)
	c.Listen, c.DHT, c.LSD = busy.LocalAddr().String(), true, config.On
	if _, err := New(c, Options{}); !errors.Is(err, blob.ErrUnavailable) || !strings.Contains(err.Error(), "--dht") {
		t.Errorf("%v", err)
	}
	c.DHT = false
	start(t, c) // everything has been given back
}
