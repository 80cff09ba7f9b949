package bench

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// BenchmarkFirstByte is the time from the command to the end of `head -c 4096` on a mount that did not exist: ms.
// "pantala" starts its daemon as well, as on a machine that has just come up; "pantala-running" asks a daemon that
// already serves another mount.
func BenchmarkFirstByte(b *testing.B) {
	head := func(b *testing.B, w *e2etest.World, path string) {
		b.Helper()
		if r := w.MustRun(limit, "head", "-c", "4096", path); len(r.Stdout) != 4096 {
			b.Fatalf("head got %d bytes", len(r.Stdout))
		}
	}
	b.Run("rclone", func(b *testing.B) {
		w := e2etest.New(b)
		ng, _, _ := origin(b, w)
		var ms samples
		for b.Loop() {
			b.StopTimer()
			dir := w.Dir("rclone")
			b.StartTimer()
			start := time.Now()
			p := mountRclone(b, w, ng, dir)
			head(b, w, filepath.Join(dir, name))
			ms = append(ms, float64(time.Since(start).Microseconds())/1e3)
			b.StopTimer()
			unmountRclone(b, w, p, dir)
			b.StartTimer()
		}
		rival["firstbyte"] = ms.median()
		hideTime(b)
		b.ReportMetric(ms.median(), "ms")
	})
	for _, running := range []bool{false, true} {
		b.Run(map[bool]string{false: "pantala", true: "pantala-running"}[running], func(b *testing.B) {
			w := e2etest.New(b)
			ng, url, _ := origin(b, w)
			other := ng.Serve(e2etest.Content(b, 1<<20, 7), "other.bin")
			var ms samples
			for b.Loop() {
				b.StopTimer()
				n := fresh(w)
				if running {
					n.Mount(other, "--fill", "never")
				}
				dir := w.Dir("mnt")
				b.StartTimer()
				start := time.Now()
				n.MountAt(dir, url, "--fill", "never")
				head(b, w, filepath.Join(dir, name))
				ms = append(ms, float64(time.Since(start).Microseconds())/1e3)
				b.StopTimer()
				n.Stop()
				os.RemoveAll(n.State)
				b.StartTimer()
			}
			hideTime(b)
			b.ReportMetric(ms.median(), "ms")
			against(b, "firstbyte", ms.median(), false, "x-rclone")
		})
	}
}
