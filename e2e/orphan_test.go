package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// The tracker is killed while eight hosts fetch all of a file that a web server has, and stays away. What the plan
// promised of pieces that nobody vouches for now comes from the origin instead, the rest from peers: all of them
// finish, and none stands still for ever on the way, neither while all stay nor when one dies, whom nobody replaces.
func TestBulkGoesOnWithoutTracker(t *testing.T) {
	const (
		hosts = 8
		// still is how long a node may get nothing: a run that was asked of a peer waits there for 20 s at most, and who
		// died may have been the one to bring it; half as much again for a busy machine.
		still = 30 * time.Second
		rate  = "160mbit" // 64 MiB take 3.4 s from one host; eight times that, should each read all by itself, 28 s
	)
	for _, dies := range []bool{false, true} {
		try := func(t *testing.T) (began bool) {
			w := e2etest.New(t)
			defer w.End()
			lan := w.Net()
			service, web := lan.Host(), lan.Host()
			file := small(t)
			web.Cap(rate)
			ng := web.Nginx()
			url := ng.Serve(file, "model.bin")
			tr := service.Tracker()
			var nodes []*e2etest.Node
			var ips []*e2etest.Host
			for i := range hosts {
				h := lan.Host()
				h.Cap(rate)
				ips = append(ips, h)
				nodes = append(nodes, h.Node(fmt.Sprintf("n%d", i+1), "--tracker", tr.URL))
				nodes[i].Start("daemon")
			}
			w.Until(time.Minute, "all daemons listen", func() bool {
				return !slices.ContainsFunc(ips, func(h *e2etest.Host) bool { return !h.Listening(6881) })
			})
			start := time.Now()
			var fetching []*e2etest.Process
			for _, n := range nodes {
				fetching = append(fetching, n.Start("share", "-q", url))
			}
			w.Until(readLimit, "a fifth of the file is on every node", func() bool {
				return !slices.ContainsFunc(nodes, func(n *e2etest.Node) bool { return e2etest.Disk(n.State) < file.Size/5 })
			})
			if slices.ContainsFunc(fetching, (*e2etest.Process).Ended) {
				return false
			}
			tr.Kill()
			gone, victim := time.Now(), -1
			if dies {
				victim = 0
				nodes[victim].Kill()
			}
			// How long each node got nothing, while it lacked something.
			var last [hosts]time.Time
			var had [hosts]int64
			var longest [hosts]time.Duration
			for i := range last {
				last[i] = gone
			}
			e2etest.Poll(readLimit, func() bool {
				over := true
				for i, n := range nodes {
					if i == victim || fetching[i].Ended() || had[i] >= file.Size {
						over = over && (i == victim || fetching[i].Ended())
						continue
					}
					over = false
					// Less than a piece at a time is what it reads to find out what is wrong.
					if d := e2etest.Disk(n.State); d >= had[i]+256<<10 || d >= file.Size {
						had[i], last[i] = d, time.Now()
					}
					longest[i] = max(longest[i], time.Since(last[i]))
				}
				time.Sleep(50 * time.Millisecond)
				return over
			})
			for i, p := range fetching {
				if i == victim {
					continue
				}
				if longest[i] > still {
					t.Errorf("node %d got nothing for %v", i+1, longest[i])
				}
				if r := p.Wait(time.Second); r.Code != 0 {
					t.Errorf("node %d, which has %s: %v", i+1, e2etest.MiB(had[i]), r)
					continue
				}
				t.Logf("node %d: all of it %.1f s after the tracker was gone; got nothing for %v at most", i+1, p.EndedAt().Sub(gone).Seconds(), longest[i].Round(10*time.Millisecond))
			}
			ng.Stop()
			t.Logf("tracker gone after %.1f s; origin sent %.2f times the file", gone.Sub(start).Seconds(), float64(ng.Sent())/float64(file.Size))
			return true
		}
		t.Run(map[bool]string{false: "all stay", true: "one dies"}[dies], func(t *testing.T) {
			for range 3 {
				if try(t) {
					return
				}
				t.Log("the machine was busy, and a download was over before the tracker was gone: again")
			}
			t.Error("downloads are always over before the tracker is gone: lower the rate")
		})
	}
}
