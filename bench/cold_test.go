package bench

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pantala/pantala/e2e/e2etest"
)

// sequence reports samples of cold sequential readings.
func sequence(b *testing.B, bytes int64, all []cold) (mbs, cpu float64) {
	var m, c, d, rss, anon samples
	for _, x := range all {
		m = append(m, float64(bytes)/1e6/x.seconds)
		c = append(c, x.cpu/(float64(bytes)/gib))
		d = append(d, x.daemon/(float64(bytes)/gib))
		rss, anon = append(rss, x.rss), append(anon, x.anon)
	}
	hideTime(b)
	b.ReportMetric(m.median(), "MB/s")
	b.ReportMetric(c.median(), "cpu-s/GiB")
	if rss.median() > 0 { // there is a daemon
		b.ReportMetric(d.median(), "daemon-cpu-s/GiB")
		b.ReportMetric(rss.median(), "rss-MiB") // pages of the cache file that it has mapped included
		b.ReportMetric(anon.median(), "anon-MiB")
	}
	return m.median(), c.median()
}

// BenchmarkColdSequential reads a whole file once in order, in reads of 1 MiB, through a mount that has nothing. What
// pantala does besides, and rclone does not: it verifies every block and keeps it on the disk. curl writes
// the file to the same disk, unverified: what is left for a mount is the distance to it.
func BenchmarkColdSequential(b *testing.B) {
	b.Run("curl", func(b *testing.B) {
		w := e2etest.New(b)
		curl := e2etest.NeedProgram(b, "curl", "apt-get install curl")
		_, url, file := origin(b, w)
		var all []cold
		for b.Loop() {
			out := filepath.Join(w.Dir("curl"), "out")
			r := w.MustRun(limit, curl, "-s", "-o", out, url)
			all = append(all, cold{seconds: r.Took.Seconds(), cpu: r.CPU.Seconds()})
			os.Remove(out)
		}
		sequence(b, file.Size, all)
	})
	b.Run("rclone", func(b *testing.B) {
		w := e2etest.New(b)
		ng, _, file := origin(b, w)
		var all []cold
		for b.Loop() {
			b.StopTimer()
			all = append(all, rcloneCold(b, w, ng, e2etest.Read{}))
			b.StartTimer()
		}
		rival["sequential"], rival["cpu"] = sequence(b, file.Size, all)
	})
	b.Run("pantala", func(b *testing.B) {
		w := e2etest.New(b)
		_, url, file := origin(b, w)
		var all []cold
		for b.Loop() {
			b.StopTimer()
			all = append(all, pantalaCold(b, w, url, e2etest.Read{}))
			b.StartTimer()
		}
		mbs, cpu := sequence(b, file.Size, all)
		against(b, "sequential", mbs, true, "x-rclone")
		against(b, "cpu", cpu, false, "x-rclone-cpu")
	})
}

// randomReads is how many random reads one sample has: the 95th percentile rests on 50 of them.
const randomReads = 1000

func latency(b *testing.B, all []cold) (p50, p95 float64) {
	var x, y samples
	for _, c := range all {
		x, y = append(x, c.p50), append(y, c.p95)
	}
	hideTime(b)
	b.ReportMetric(x.median(), "p50-µs")
	b.ReportMetric(y.median(), "p95-µs")
	return x.median(), y.median()
}

// BenchmarkColdRandom reads 4 KiB at a time at random aligned offsets, each once, through a mount that has nothing.
func BenchmarkColdRandom(b *testing.B) {
	read := e2etest.Read{Block: 4096, Random: randomReads, Seed: 42, Drop: true}
	b.Run("rclone", func(b *testing.B) {
		w := e2etest.New(b)
		ng, _, _ := origin(b, w)
		var all []cold
		for b.Loop() {
			b.StopTimer()
			all = append(all, rcloneCold(b, w, ng, read))
			b.StartTimer()
		}
		rival["p50"], rival["p95"] = latency(b, all)
	})
	b.Run("pantala", func(b *testing.B) {
		w := e2etest.New(b)
		_, url, _ := origin(b, w)
		var all []cold
		for b.Loop() {
			b.StopTimer()
			all = append(all, pantalaCold(b, w, url, read))
			b.StartTimer()
		}
		p50, p95 := latency(b, all)
		against(b, "p50", p50, false, "x-rclone-p50")
		against(b, "p95", p95, false, "x-rclone-p95")
	})
}
