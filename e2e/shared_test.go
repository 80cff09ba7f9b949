package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// Two trackers share their state. In the middle of a download the store is killed, and then the tracker that the swarm
// uses: no read fails, the nodes meet at the other tracker, and the origin sends the file hardly more than once.
func TestTrackersShareStateAndDie(t *testing.T) {
	redis := e2etest.NeedProgram(t, "redis-server", "apt-get install redis-server")
	w := e2etest.New(t)
	file := small(t)
	ng := w.Nginx("1500k")
	ng.Serve(file, "model.bin")
	url := ng.URL + "/slow/model.bin"
	store := fmt.Sprintf("127.0.0.1:%d", e2etest.FreePort(t))
	_, port, _ := strings.Cut(store, ":")
	kept := w.Start(e2etest.Command{Args: []string{redis, "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", w.Dir("redis")}})
	w.Defer(func() { kept.Signal(9); kept.Wait(5 * time.Second) })
	w.Until(10*time.Second, "redis listens", func() bool { return e2etest.Listening(store) })
	one, two := w.Tracker("--state", "redis://"+store+"/0"), w.Tracker("--state", "redis://"+store+"/0")
	stats := func(tr *e2etest.Tracker) string {
		r, err := http.Get(strings.TrimSuffix(tr.URL, "announce") + "stats")
		if err != nil {
			return ""
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return string(b)
	}
	for _, tr := range []*e2etest.Tracker{one, two} {
		w.Until(10*time.Second, "the trackers share", func() bool { return strings.Contains(stats(tr), `"ok":true`) })
	}
	var nodes []*e2etest.Node
	var sums []*e2etest.Process
	for _, name := range []string{"a", "b", "c"} {
		n := w.Node(name, "--tracker", one.URL+","+two.URL, "--pex", "off", "--lsd", "off")
		nodes = append(nodes, n)
		sums = append(sums, sum(w, n.Mount(url)))
	}
	w.Until(readLimit, "a tenth of the file is on all nodes", func() bool {
		for _, n := range nodes {
			if e2etest.Disk(n.State) < file.Size/10 {
				return false
			}
		}
		return true
	})
	kept.Signal(9)
	used, other := one, two
	if strings.Contains(stats(two), `"nodes":3`) {
		used, other = two, one
	}
	w.Until(10*time.Second, "/stats says that the store is away", func() bool { return strings.Contains(stats(used), `"ok":false`) })
	if sums[0].Ended() {
		t.Fatal("the download was over before the tracker was gone: lower the rate")
	}
	used.Kill()
	w.Until(10*time.Second, "the nodes meet at the other tracker", func() bool { return strings.Contains(stats(other), `"nodes":3`) })
	for _, p := range sums {
		mustSum(t, p, file)
	}
	for _, n := range nodes {
		if m := n.MountStatus(""); m.Errors != 0 {
			t.Errorf("%d reads failed", m.Errors)
		}
		n.Stop()
	}
	ng.Stop()
	t.Logf("nginx sent %.3f times the file", float64(ng.Sent())/float64(file.Size))
	atMost(t, "sent by nginx", ng.Sent(), file.Size*200/100) // each node may read on by itself for a second
}
