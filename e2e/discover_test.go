package e2e

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/pantala/pantala/e2e/e2etest"
)

// link is a magnet link without trackers and peers, and with the peers named here instead.
func link(t *testing.T, magnet string, peers ...string) string {
	t.Helper()
	q, ok := strings.CutPrefix(magnet, "magnet:?")
	if !ok {
		t.Fatalf("%q is no magnet link", magnet)
	}
	var kept []string
	for part := range strings.SplitSeq(q, "&") {
		if !strings.HasPrefix(part, "tr=") && !strings.HasPrefix(part, "x.pe=") {
			kept = append(kept, part)
		}
	}
	for _, p := range peers {
		kept = append(kept, "x.pe="+url.QueryEscape(p))
	}
	return "magnet:?" + strings.Join(kept, "&")
}

// shared has a node share a file, and returns the magnet link.
func shared(t *testing.T, n *e2etest.Node, path string) string {
	t.Helper()
	var reply struct{ Magnet string }
	if err := json.Unmarshal([]byte(n.Must("share", "-o", "json", path).Stdout), &reply); err != nil {
		t.Fatal(err)
	}
	return reply.Magnet
}

// mountLink mounts a magnet link and returns the path of the file.
func mountLink(w *e2etest.World, n *e2etest.Node, magnet string) string {
	dir := w.Dir("mnt")
	n.MountAt(dir, magnet)
	return dir + "/model.bin"
}

// "Without a tracker the swarm goes on by peers of peers": A has the file, B has nothing of it and knows A, C is
// told of B alone. C reads all of it, from A.
func TestPeersOfPeersWithoutTracker(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	a, b, c := w.Node("a"), w.Node("b"), w.Node("c")
	magnet := shared(t, a, w.Write("model.bin", file.Bytes(t)))
	b.Mount(link(t, magnet, a.Status().Listen), "--fill", "never")
	mustSum(t, sum(w, mountLink(w, c, link(t, magnet, b.Status().Listen))), file)
	m := c.MountStatus("")
	if m.Errors != 0 || !allFromPeers(m, file) {
		t.Errorf("%d reads failed, %d of %d bytes came from peers", m.Errors, m.FromPeers, file.Size)
	}
	if n := len(c.Status().Peers); n != 2 {
		t.Errorf("C is connected to %d peers", n)
	}
}

// The same without naming anybody: local discovery, and the DHT with one node to start from.
func TestNobodyIsNamed(t *testing.T) {
	t.Run("local network", func(t *testing.T) {
		w := e2etest.New(t)
		file := small(t)
		a, b := w.Node("a", "--lsd", "on"), w.Node("b", "--lsd", "on")
		magnet := link(t, shared(t, a, w.Write("model.bin", file.Bytes(t))))
		mustSum(t, sum(w, mountLink(w, b, magnet)), file)
	})
	t.Run("DHT", func(t *testing.T) {
		w := e2etest.New(t)
		file := small(t)
		a := w.Node("a", "--dht")
		magnet := link(t, shared(t, a, w.Write("model.bin", file.Bytes(t))))
		b := w.Node("b", "--dht", "--dht-bootstrap", a.Status().Listen)
		mustSum(t, sum(w, mountLink(w, b, magnet)), file)
	})
}

// On a network, local discovery is on by itself: three hosts that name nobody find each other, and those that turned
// it off find nobody.
func TestHostsOfOneNetworkFindEachOther(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	lan := w.Net()
	var nodes []*e2etest.Node
	for _, name := range []string{"a", "b", "c"} {
		nodes = append(nodes, lan.Host().Node(name))
	}
	magnet := link(t, shared(t, nodes[0], w.Write("model.bin", file.Bytes(t))))
	paths := []string{mountLink(w, nodes[1], magnet), mountLink(w, nodes[2], magnet)}
	for _, p := range paths {
		mustSum(t, sum(w, p), file)
	}
	for _, n := range nodes[1:] {
		if m := n.MountStatus(""); !allFromPeers(m, file) || m.Errors != 0 {
			t.Errorf("%+v", m)
		}
	}
	off := lan.Host().Node("off", "--lsd", "off", "--timeout", "2s")
	if r := w.Run(readLimit, "head", "-c1", mountLink(w, off, magnet)); r.Code == 0 {
		t.Error("a host that does not look has found somebody")
	}
}
