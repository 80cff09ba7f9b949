package bench

import (
	"archive/tar"
	"bytes"
	stdgzip "compress/gzip"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/codec/inflate"
	"github.com/pantala/pantala/e2e/e2etest"
)

// spanOf is how far apart points are: what image/index asks for.
const spanOf = 1 << 20

// goTar is a tar of the Go installation that runs this, programs first, then its source: what a layer of an image is
// made of. It is cut to 128 MiB, or to BENCH_SIZE.
func goTar(b *testing.B) []byte {
	b.Helper()
	most := int64(128 << 20)
	if os.Getenv("BENCH_SIZE") != "" {
		most = size(b)
	}
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Fatal(err)
	}
	root := strings.TrimSpace(string(out))
	var all bytes.Buffer
	w := tar.NewWriter(&all)
	for _, dir := range []string{"bin", "pkg", "src"} { // fs.WalkDir goes in the order of names
		err := fs.WalkDir(os.DirFS(root), dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			if int64(all.Len()) > most {
				return fs.SkipAll
			}
			data, err := os.ReadFile(filepath.Join(root, path))
			if err != nil {
				return err
			}
			if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(data))}); err != nil {
				return err
			}
			_, err = w.Write(data)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	if int64(all.Len()) < most/2 {
		b.Fatalf("%s holds %d bytes, less than half of %d", root, all.Len(), most)
	}
	return all.Bytes()[:min(most, int64(all.Len()))]
}

// encoders are who makes layers: docker, buildkit and containerd are written in Go; others use zlib.
var encoders = []struct {
	name   string
	encode func(b *testing.B, plain []byte) []byte
}{
	{"go", func(b *testing.B, plain []byte) []byte {
		var out bytes.Buffer
		w := stdgzip.NewWriter(&out)
		if _, err := w.Write(plain); err != nil {
			b.Fatal(err)
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
		return out.Bytes()
	}},
	{"gzip", func(b *testing.B, plain []byte) []byte {
		cmd := exec.Command(e2etest.NeedProgram(b, "gzip", "apt-get install gzip"), "-6nc")
		cmd.Stdin = bytes.NewReader(plain)
		out, err := cmd.Output()
		if err != nil {
			b.Fatal(err)
		}
		return out
	}},
}

// BenchmarkInflate decodes one layer from memory to nowhere, one decoder after the other in each round, and reports
// medians: ours as it builds an index (points, their windows, checksums), the standard library, klauspost, and the
// programs gzip and igzip, whose start counts too. index-% is what the windows take, of the stored layer.
func BenchmarkInflate(b *testing.B) {
	for _, e := range encoders {
		var plain, stored []byte
		b.Run("by="+e.name, func(b *testing.B) {
			if stored == nil {
				plain = goTar(b)
				stored = e.encode(b, plain)
			}
			file := filepath.Join(b.TempDir(), "layer.gz")
			if err := os.WriteFile(file, stored, 0o600); err != nil {
				b.Fatal(err)
			}
			check := func(n int64, err error) {
				b.Helper()
				if err != nil || n != int64(len(plain)) {
					b.Fatalf("%d bytes of %d: %v", n, len(plain), err)
				}
			}
			program := func(name, do string) func() {
				path := e2etest.NeedProgram(b, name, do)
				return func() {
					if err := exec.Command(path, "-dc", file).Run(); err != nil {
						b.Fatal(err)
					}
				}
			}
			var windows, points int
			decoders := []struct {
				name   string
				decode func()
				took   samples
			}{
				{name: "pantala", decode: func() {
					var n int64
					windows, points = 0, 0
					err := inflate.Scan(bytes.NewReader(stored), codec.Spacing{Decoded: spanOf},
						func(p []byte) error { n += int64(len(p)); return nil },
						func(p codec.Point) error { points++; windows += len(p.Window); return nil })
					check(n, err)
				}},
				{name: "std", decode: func() {
					r, err := stdgzip.NewReader(bytes.NewReader(stored))
					check(int64(len(plain)), err)
					check(io.Copy(io.Discard, r))
				}},
				{name: "klauspost", decode: func() {
					r, err := gzip.NewReader(bytes.NewReader(stored))
					check(int64(len(plain)), err)
					check(io.Copy(io.Discard, r))
				}},
				{name: "gzip", decode: program("gzip", "apt-get install gzip")},
				{name: "igzip", decode: program("igzip", "apt-get install isal")},
			}
			b.ResetTimer()
			for range b.N {
				for i := range decoders {
					start := time.Now()
					decoders[i].decode()
					decoders[i].took = append(decoders[i].took, time.Since(start).Seconds())
				}
			}
			hideTime(b)
			ours := decoders[0].took.median()
			for _, d := range decoders {
				b.ReportMetric(float64(len(plain))/1e6/d.took.median(), d.name+"-MB/s")
			}
			b.ReportMetric(decoders[2].took.median()/ours, "x-klauspost")
			b.ReportMetric(100*float64(windows)/float64(len(stored)), "index-%")
			b.Logf("%d bytes, %.2f decoded, %d points", len(stored), float64(len(plain))/float64(len(stored)), points)
		})
	}
}

// BenchmarkSpan decodes spans of a layer in random order: what a read of a byte of one costs before it is verified.
func BenchmarkSpan(b *testing.B) {
	for _, apart := range []int64{256 << 10, 1 << 20, 4 << 20} {
		b.Run(map[int64]string{256 << 10: "256KiB", 1 << 20: "1MiB", 4 << 20: "4MiB"}[apart], func(b *testing.B) {
			plain := goTar(b)
			stored := encoders[0].encode(b, plain)
			var points []codec.Point
			windows := 0
			err := inflate.Scan(bytes.NewReader(stored), codec.Spacing{Decoded: apart}, func([]byte) error { return nil },
				func(p codec.Point) error { points = append(points, p); windows += len(p.Window); return nil })
			if err != nil {
				b.Fatal(err)
			}
			points = append(points, codec.Point{Out: int64(len(plain)), In: int64(len(stored))})
			r := rand.New(rand.NewPCG(1, 1))
			dst := make([]byte, len(plain))
			var took samples
			var bytesOut int64
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				i := r.IntN(len(points) - 1)
				p, next := points[i], points[i+1]
				span := dst[:next.Out-p.Out]
				start := time.Now()
				err := inflate.Span(span, stored[p.In:min(next.In+1, int64(len(stored)))], p.Bit, p.Window)
				took = append(took, float64(time.Since(start).Microseconds()))
				if err != nil || !bytes.Equal(span, plain[p.Out:next.Out]) {
					b.Fatalf("span %d: %v", i, err)
				}
				bytesOut += int64(len(span))
			}
			hideTime(b)
			total := 0.0
			for _, t := range took {
				total += t
			}
			b.ReportMetric(took.at(50), "p50-µs")
			b.ReportMetric(took.at(99), "p99-µs")
			b.ReportMetric(float64(bytesOut)/total, "MB/s")
			b.ReportMetric(100*float64(windows)/float64(len(stored)), "index-%")
		})
	}
}
