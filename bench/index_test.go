package bench

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/image/build"
)

// ownCPU is the user and system time of this process.
func ownCPU(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkIndex makes the index of a layer of gzip from a file in the page cache: hashed twice, decoded, its spans
// hashed, its archive scanned, and written to a file beside that. The rival only lists it: gzip -dc | tar t. One after
// the other in each round, medians. The layer is BENCH_LAYER, or the Go installation.
func BenchmarkIndex(b *testing.B) {
	layer := os.Getenv("BENCH_LAYER")
	if layer == "" {
		layer = filepath.Join(b.TempDir(), "layer.gz")
		if err := os.WriteFile(layer, encoders[1].encode(b, goTar(b)), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	gzip, tar := e2etest.NeedProgram(b, "gzip", "apt-get install gzip"), e2etest.NeedProgram(b, "tar", "apt-get install tar")
	decoded := filepath.Join(b.TempDir(), "decoded")

	var built *build.Built
	var took, cpu, theirs, theirCPU samples
	for b.Loop() {
		before, start := ownCPU(b), time.Now()
		f, err := os.Open(layer)
		if err != nil {
			b.Fatal(err)
		}
		out, err := os.Create(decoded)
		if err != nil {
			b.Fatal(err)
		}
		if built, err = build.Build(b.Context(), f, build.Options{Decoded: out}); err != nil {
			b.Fatal(err)
		}
		f.Close()
		took, cpu = append(took, time.Since(start).Seconds()), append(cpu, (ownCPU(b)-before).Seconds())
		out.Close()
		if err := os.Remove(decoded); err != nil {
			b.Fatal(err)
		}

		start = time.Now()
		list := exec.Command("sh", "-c", `"$0" -dc "$1" | "$2" t >/dev/null`, gzip, layer, tar)
		if text, err := list.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, text)
		}
		theirs = append(theirs, time.Since(start).Seconds())
		theirCPU = append(theirCPU, (list.ProcessState.UserTime() + list.ProcessState.SystemTime()).Seconds())
	}
	var file bytes.Buffer
	n, err := built.Encode(&file)
	if err != nil {
		b.Fatal(err)
	}
	hideTime(b)
	b.ReportMetric(float64(built.Stored)/1e6/took.median(), "MB/s") // of the layer as it comes
	b.ReportMetric(float64(built.Stored)/1e6/theirs.median(), "gzip-tar-MB/s")
	b.ReportMetric(cpu.median()/float64(built.Size)*gib, "cpu-s/GiB") // decoded
	b.ReportMetric(theirCPU.median()/float64(built.Size)*gib, "gzip-tar-cpu-s/GiB")
	b.ReportMetric(100*float64(n)/float64(built.Stored), "index-%")
}
