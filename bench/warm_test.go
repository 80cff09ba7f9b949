package bench

import (
	"slices"
	"testing"

	"github.com/pantala/pantala/e2e/e2etest"
)

// passes is how often a warm file is read, alternating with the plain one. The fastest pass of each counts: the work
// is always the same, so whatever makes a pass slower is somebody else.
const passes = 21

// warm mounts the file, reads it until it is complete, and measures readers that open it again against the plain
// file (perPass units of work a pass): both warm in the page cache of the disk, in one process, pass by pass in turn.
func warm(b *testing.B, r e2etest.Read, perPass float64, unit string) {
	w := e2etest.New(b)
	_, url, file := origin(b, w)
	n := fresh(w)
	path := n.Mount(url)
	w.MustRead(limit, e2etest.Read{Path: path, Want: file.Path})
	w.Until(limit, "the blob is complete", func() bool { return n.MountStatus(path).Present == file.Size })
	r.Path, r.Against, r.Passes = path, file.Path, passes
	before := n.MountStatus(path).Requests
	var ours, plain samples
	for b.Loop() {
		found, _ := w.MustRead(limit, r)
		ours = append(ours, found.Passes...)
		plain = append(plain, found.Against...)
	}
	b.Logf("%d requests reached the node during %d passes", n.MountStatus(path).Requests-before, b.N*passes)
	hideTime(b)
	b.ReportMetric(perPass/slices.Min(ours), unit)
	b.ReportMetric(perPass/slices.Min(plain), "plain-"+unit)
	b.ReportMetric(slices.Min(plain)/slices.Min(ours), "x-plain")
}

// BenchmarkWarmSequential reads a complete, reopened file in reads of 1 MiB.
func BenchmarkWarmSequential(b *testing.B) {
	b.Run("pantala", func(b *testing.B) { warm(b, e2etest.Read{}, float64(size(b))/1e6, "MB/s") })
}

// BenchmarkWarmRandom reads a complete, reopened file 4 KiB at a time at random.
func BenchmarkWarmRandom(b *testing.B) {
	const reads = 1 << 16
	b.Run("pantala", func(b *testing.B) {
		warm(b, e2etest.Read{Block: 4096, Random: reads, Seed: 7}, reads, "reads/s")
	})
}
