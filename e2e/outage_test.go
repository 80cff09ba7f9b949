package e2e

import (
	"slices"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

const (
	// fallback is how long a read may take after the tracker is gone. The promise is a second; twice that is tested,
	// since other tests use the machine, too.
	fallback = 2 * time.Second
	// reform is how long after the tracker is back nodes that did not know each other may take to meet.
	reform = 10 * time.Second
	// outage is how long the tracker is away: longer than a node waits for its answer, and than a lease.
	outage = 6 * time.Second
)

// A tracker that is away, killed or cut off from the network, costs no read: nodes go on with the peers they know and
// with the origin; what is read anew during the outage comes within a second. When the tracker is back, nodes that
// came in the meantime find the others by it.
func TestTrackerOutage(t *testing.T) {
	for _, how := range []string{"killed", "cut off"} {
		t.Run(how, func(t *testing.T) {
			w := e2etest.New(t)
			lan := w.Net()
			service, web := lan.Host(), lan.Host()
			file := small(t)
			web.Cap("80mbit") // 64 MiB take 7 s at least: the load outlives the beginning of the outage
			url := web.Nginx().Serve(file, "model.bin")
			tr := service.Tracker()
			node := func(name string) *e2etest.Node {
				return lan.Host().Node(name, "--tracker", tr.URL, "--pex", "off", "--lsd", "off")
			}
			a, b, late := node("a"), node("b"), node("late")
			pa, pb := a.Mount(url, "--fill", "never"), b.Mount(url, "--fill", "never")
			sa, sb := sum(w, pa), sum(w, pb)
			w.Until(readLimit, "a tenth of the file is on both nodes", func() bool {
				return e2etest.Disk(a.State) > file.Size/10 && e2etest.Disk(b.State) > file.Size/10
			})
			if sa.Ended() || sb.Ended() {
				t.Fatal("the download was over before the tracker was gone: lower the rate")
			}
			if how == "killed" {
				tr.Kill()
			} else {
				service.Link(false)
			}
			gone := time.Now()
			// Far ahead of where the readers are: nobody has it, and its lease would have to be asked for.
			random := e2etest.Read{Path: pa, Want: file.Path, Off: file.Size - 8<<20, Block: 4096, Random: 40, Seed: 3, Drop: true}
			found, _ := w.MustRead(readLimit, random)
			t.Logf("random reads without the tracker: p50 %.1f ms, p99 %.1f ms", found.P50/1e3, found.P99/1e3)
			if worst := time.Duration(found.P99 * 1e3); worst > fallback {
				t.Errorf("a read waited for %v after the tracker was gone, the promise is %v", worst, fallback/2)
			}
			// A node that starts now knows nobody, and reads from the origin.
			start := time.Now()
			pl := late.Mount(url, "--fill", "never")
			w.MustRead(readLimit, e2etest.Read{Path: pl, Want: file.Path, Len: 4096})
			t.Logf("a new node, from the command to the first bytes: %v", time.Since(start).Round(time.Millisecond))
			time.Sleep(time.Until(gone.Add(outage)))
			if how == "killed" {
				tr = service.Tracker()
			} else {
				service.Link(true)
			}
			back := time.Now()
			if !e2etest.Poll(2*reform, func() bool {
				time.Sleep(100 * time.Millisecond)
				return slices.ContainsFunc(late.Status().Peers, func(p e2etest.PeerStatus) bool { return !p.Banned })
			}) {
				t.Errorf("%v after the tracker is back the new node has no peer", 2*reform)
			}
			if took := time.Since(back); took > reform {
				t.Errorf("the swarm has formed again after %v, the promise is %v", took, reform)
			} else {
				t.Logf("the swarm has formed again after %v", took.Round(time.Millisecond))
			}
			mustSum(t, sa, file)
			mustSum(t, sb, file)
			for _, n := range []*e2etest.Node{a, b, late} {
				if m := n.MountStatus(""); m.Errors != 0 {
					t.Errorf("%d reads failed", m.Errors)
				}
			}
		})
	}
}
