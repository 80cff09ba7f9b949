package bench

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

func TestMain(m *testing.M) {
	if os.Getenv(deviceRole) != "" {
		os.Exit(serveLayer())
	}
	e2etest.Main(m)
}

const (
	limit = 5 * time.Minute // of any one child
	gib   = float64(1 << 30)
	name  = "model.bin"
)

// size is BENCH_SIZE: bytes, or a number with MiB or GiB.
func size(b *testing.B) int64 {
	b.Helper()
	s := os.Getenv("BENCH_SIZE")
	if s == "" {
		return 256 << 20
	}
	shift := 0
	for unit, bits := range map[string]int{"MiB": 20, "GiB": 30} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			s, shift = n, bits
		}
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n <= 0 {
		b.Fatalf("BENCH_SIZE=%q is not a size such as 256MiB or 1GiB", os.Getenv("BENCH_SIZE"))
	}
	return n << shift
}

// origin is nginx with the file of this run, in the page cache.
func origin(b *testing.B, w *e2etest.World) (ng *e2etest.Nginx, url string, file e2etest.File) {
	b.Helper()
	file = e2etest.Content(b, size(b), 1)
	ng = w.Nginx("1000m")
	url = ng.Serve(file, name)
	w.MustRead(limit, e2etest.Read{Path: file.Path})
	return ng, url, file
}

// samples are the measurements of one benchmark; what is reported is their median.
type samples []float64

func (s samples) median() float64 { return s.at(50) }

// at is a percentile.
func (s samples) at(percent int) float64 {
	if len(s) == 0 {
		return 0
	}
	s = slices.Sorted(slices.Values(s))
	return s[min(len(s)-1, len(s)*percent/100)]
}

// rival is the figure of a rival in this run, by benchmark and unit, for the ratios.
var rival = map[string]float64{}

// against reports the ratio of ours to the rival's figure, turned so that more than 1 is better for us.
func against(b *testing.B, key string, ours float64, moreIsBetter bool, unit string) {
	theirs := rival[key]
	if theirs == 0 || ours == 0 {
		return // the rival was not run
	}
	if moreIsBetter {
		b.ReportMetric(ours/theirs, unit)
	} else {
		b.ReportMetric(theirs/ours, unit)
	}
}

// fresh is a node with an empty cache. Its folders are as new as it is, so that nothing is warm.
func fresh(w *e2etest.World, flags ...string) *e2etest.Node { return w.Node("n", flags...) }

// mountRclone mounts an nginx by rclone on dir and returns when the kernel has the mount.
func mountRclone(b *testing.B, w *e2etest.World, ng *e2etest.Nginx, dir string) *e2etest.Process {
	b.Helper()
	program := e2etest.NeedProgram(b, "rclone", "apt-get install rclone fuse3")
	p := w.Start(e2etest.Command{Args: []string{program, "mount", ":http:", dir, "--http-url", ng.URL, "--read-only", "--config", "/dev/null"}})
	for end := time.Now().Add(20 * time.Second); len(e2etest.MountsBelow(dir)) == 0; time.Sleep(200 * time.Microsecond) {
		if p.Ended() || time.Now().After(end) {
			b.Fatalf("rclone does not mount: %v", p.Wait(0))
		}
	}
	return p
}

func unmountRclone(b *testing.B, w *e2etest.World, p *e2etest.Process, dir string) {
	b.Helper()
	if err := e2etest.ForceUnmount(dir); err != nil {
		b.Fatal(err)
	}
	if r := p.Wait(20 * time.Second); r.TimedOut {
		b.Fatalf("%v", r)
	}
}

// cold is one reading of a mount that has nothing yet.
type cold struct {
	seconds, cpu, daemon, p50, p95, rss, anon float64 // seconds, CPU seconds of both and of the daemon alone, µs, MiB
}

// readCold reads path, served by pid, and measures both sides.
func readCold(w *e2etest.World, pid int, r e2etest.Read) cold {
	w.T.Helper()
	before := e2etest.CPU(pid)
	found, res := w.MustRead(limit, r)
	daemon := (e2etest.CPU(pid) - before).Seconds()
	_, anon, peak := e2etest.RSS(pid)
	return cold{found.Passes[0], daemon + res.CPU.Seconds(), daemon, found.P50, found.P95, float64(peak) / (1 << 20), float64(anon) / (1 << 20)}
}

// pantalaCold measures one cold reading by a fresh node, outside of b's timer except for the reading.
func pantalaCold(b *testing.B, w *e2etest.World, url string, r e2etest.Read) cold {
	b.Helper()
	n := fresh(w)
	r.Path = n.Mount(url, "--fill", "never")
	pid := n.PID()
	b.StartTimer()
	c := readCold(w, pid, r)
	b.StopTimer()
	n.Stop()
	os.RemoveAll(n.State)
	return c
}

func rcloneCold(b *testing.B, w *e2etest.World, ng *e2etest.Nginx, r e2etest.Read) cold {
	b.Helper()
	dir := w.Dir("rclone")
	p := mountRclone(b, w, ng, dir)
	r.Path = filepath.Join(dir, name)
	b.StartTimer()
	c := readCold(w, p.PID(), r)
	b.StopTimer()
	unmountRclone(b, w, p, dir)
	return c
}

// hideTime drops ns/op where it would only repeat, or contradict, the figures that matter.
func hideTime(b *testing.B) { b.ReportMetric(0, "ns/op") }
