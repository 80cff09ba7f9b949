package e2e

import (
	"net"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// "N cold nodes that start together split the origin's bytes between them": both read everything, the origin
// sends the file once, 5 % apart.
func TestTwoNodesTogetherReadTheOriginOnce(t *testing.T) {
	w := e2etest.New(t)
	file := big(t)
	ng := w.Nginx("100m")
	url := ng.Serve(file, "model.bin")
	tr := w.Tracker()
	a, b := w.Node("a", "--tracker", tr.URL), w.Node("b", "--tracker", tr.URL)
	dirs := []string{w.Dir("a-mnt"), w.Dir("b-mnt")}

	var mounts, sums []*e2etest.Process
	for i, n := range []*e2etest.Node{a, b} {
		mounts = append(mounts, n.Start("mount", url, dirs[i]))
	}
	for i, p := range mounts {
		if r := p.Wait(30 * time.Second); r.Code != 0 {
			t.Fatalf("%v", r)
		}
		sums = append(sums, sum(w, dirs[i]+"/model.bin"))
	}
	for _, p := range sums {
		mustSum(t, p, file)
	}
	var exchanged int64
	for name, n := range map[string]*e2etest.Node{"a": a, "b": b} {
		m := n.MountStatus("")
		exchanged += m.FromPeers
		t.Logf("node %s: %s from peers, %s from the origin", name, e2etest.MiB(m.FromPeers), e2etest.MiB(m.FromOrigin))
		if m.Errors != 0 {
			t.Errorf("node %s: %d reads failed", name, m.Errors)
		}
	}
	// Who is a little ahead fetches more from the origin; together each byte comes from there once and from the
	// other node once.
	if exchanged*100 < file.Size*90 {
		t.Errorf("the two nodes exchanged only %s of %s", e2etest.MiB(exchanged), e2etest.MiB(file.Size))
	}
	a.Stop()
	b.Stop()
	ng.Stop()
	t.Logf("nginx sent %s for a file of %s: %.3f×", e2etest.MiB(ng.Sent()), e2etest.MiB(file.Size), float64(ng.Sent())/float64(file.Size))
	atMost(t, "sent by nginx", ng.Sent(), file.Size*105/100)
}

// The second machine gets the bytes from the first: ≥ 95 % by its own status, and nginx agrees.
func TestSecondNodeReadsFromTheFirst(t *testing.T) {
	w := e2etest.New(t)
	file := big(t)
	ng := w.Nginx("100m")
	url := ng.Serve(file, "model.bin")
	tr := w.Tracker()
	a, b := w.Node("a", "--tracker", tr.URL), w.Node("b", "--tracker", tr.URL)

	mustSum(t, sum(w, a.Mount(url)), file)
	path := b.Mount(url)
	mustSum(t, sum(w, path), file)
	m := b.MountStatus(path)
	t.Logf("second node: %s from peers, %s from the origin", e2etest.MiB(m.FromPeers), e2etest.MiB(m.FromOrigin))
	if m.FromPeers*100 < file.Size*95 {
		t.Errorf("only %.1f %% of the second node's bytes came from the first", 100*float64(m.FromPeers)/float64(file.Size))
	}
	if m.Present != file.Size {
		t.Errorf("present = %d after all of %d bytes were read", m.Present, file.Size)
	}
	a.Stop()
	b.Stop()
	ng.Stop()
	atMost(t, "sent by nginx", ng.Sent(), file.Size*105/100)
}

// A peer that sends wrong bytes is found out and left; who reads notices nothing.
func TestLyingPeer(t *testing.T) {
	for _, honest := range []bool{false, true} {
		name := map[bool]string{false: "alone", true: "beside an honest one"}[honest]
		t.Run(name, func(t *testing.T) {
			w := e2etest.New(t)
			file := small(t)
			ng := w.Nginx("100m")
			url := ng.Serve(file, "model.bin")
			tr := w.Tracker()
			liar := w.Liar(tr.URL)
			l := w.Node("liar", "--tracker", liar.Tracker)
			mustSum(t, sum(w, l.Mount(url)), file)
			if honest {
				mustSum(t, sum(w, w.Node("honest", "--tracker", tr.URL).Mount(url)), file)
			}
			before := liar.Lies.Load()

			b := w.Node("b", "--tracker", tr.URL)
			path := b.Mount(url, "--fill", "never")
			found, _ := w.MustRead(readLimit, e2etest.Read{Path: path, Want: file.Path})
			if found.Bytes != file.Size {
				t.Errorf("read %d bytes of %d", found.Bytes, file.Size)
			}
			m := b.MountStatus(path)
			lies := liar.Lies.Load() - before
			t.Logf("%d lies told over %d connections (%d cut), %s from peers, %s from the origin", lies,
				liar.Conns.Load(), liar.Cut.Load(), e2etest.MiB(m.FromPeers), e2etest.MiB(m.FromOrigin))
			t.Logf("peers: %+v", b.Status().Peers)
			if m.Errors != 0 {
				t.Errorf("%d reads failed", m.Errors)
			}
			if liar.Lies.Load() == 0 {
				t.Error("the liar was never asked: this test has shown nothing")
			}
			if liar.Cut.Load() == 0 {
				t.Error("nobody has left the liar")
			}
			// All that it can have sent is one full queue of requests (512 blocks) on each connection.
			if limit := 512 * liar.Conns.Load(); lies > limit {
				t.Errorf("%d blocks were taken from the liar before it was left; %d is a full queue per connection", lies, limit)
			}
		})
	}
}

// A read never depends on the tracker: dead from the start, or answering nothing.
func TestDeadTracker(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed := e2etest.FreePort(t)
	for name, addr := range map[string]string{"refuses": (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: closed}).String(), "silent": silent.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			w := e2etest.New(t)
			file := small(t)
			url := w.Nginx("100m").Serve(file, "model.bin")
			n := w.Node("n", "--tracker", "http://"+addr+"/announce")
			path := n.Mount(url)
			mustSum(t, sum(w, path), file)
			if m := n.MountStatus(path); m.Errors != 0 {
				t.Errorf("%d reads failed", m.Errors)
			}
		})
	}
}

// The tracker is killed while two nodes download from each other and from the origin.
func TestTrackerKilledMidway(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	ng := w.Nginx("4m")
	ng.Serve(file, "model.bin")
	url := ng.URL + "/slow/model.bin"
	tr := w.Tracker()
	a, b := w.Node("a", "--tracker", tr.URL), w.Node("b", "--tracker", tr.URL)
	pa, pb := a.Mount(url, "--fill", "never"), b.Mount(url, "--fill", "never")
	sa, sb := sum(w, pa), sum(w, pb)
	w.Until(readLimit, "a quarter of the file is on both nodes", func() bool {
		return e2etest.Disk(a.State) > file.Size/4 && e2etest.Disk(b.State) > file.Size/4
	})
	tr.Kill()
	if sa.Ended() || sb.Ended() {
		t.Fatal("the download was over before the tracker was killed: lower the rate")
	}
	mustSum(t, sa, file)
	mustSum(t, sb, file)
	for _, n := range []*e2etest.Node{a, b} {
		if m := n.MountStatus(""); m.Errors != 0 {
			t.Errorf("%d reads failed", m.Errors)
		}
	}
}
