package bench

import (
	"os"
	"testing"

	"github.com/pantala/pantala/e2e/e2etest"
)

// BenchmarkFromPeer reads a whole file through a cold mount whose bytes come from another node of this machine:
// every one of them verified on the way.
func BenchmarkFromPeer(b *testing.B) {
	b.Run("pantala", func(b *testing.B) {
		w := e2etest.New(b)
		_, url, file := origin(b, w)
		tr := w.Tracker()
		seed := fresh(w, "--tracker", tr.URL)
		path := seed.Mount(url)
		w.MustRead(limit, e2etest.Read{Path: path, Want: file.Path})
		w.Until(limit, "the seeder is complete", func() bool { return seed.MountStatus(path).Present == file.Size })
		seeder := seed.PID()
		var all []cold
		var up, share samples
		for b.Loop() {
			b.StopTimer()
			n := fresh(w, "--tracker", tr.URL)
			path := n.Mount(url, "--fill", "never")
			pid, before := n.PID(), e2etest.CPU(seeder)
			b.StartTimer()
			c := readCold(w, pid, e2etest.Read{Path: path})
			b.StopTimer()
			all = append(all, c)
			up = append(up, (e2etest.CPU(seeder)-before).Seconds()/(float64(file.Size)/gib))
			share = append(share, 100*float64(n.MountStatus(path).FromPeers)/float64(file.Size))
			n.Stop()
			os.RemoveAll(n.State)
			b.StartTimer()
		}
		sequence(b, file.Size, all)
		b.ReportMetric(up.median(), "seeder-cpu-s/GiB")
		b.ReportMetric(share.median(), "%-from-peers")
	})
}
