package zstdspan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// content is like a layer: machine code (this program), text, noise, zeros, and copies of it all from near and far.
var content = sync.OnceValue(func() []byte {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	code, err := os.ReadFile(exe)
	if err != nil {
		panic(err)
	}
	code = code[:min(len(code), 3<<20)]
	r := rand.New(rand.NewPCG(1, 2))
	var b []byte
	b = append(b, code...)
	for len(b) < 5<<20+1<<19 {
		switch r.IntN(8) {
		case 0:
			b = append(b, make([]byte, r.IntN(20000))...)
		case 1:
			noise := make([]byte, r.IntN(300000))
			rand.NewChaCha8([32]byte{byte(len(b))}).Read(noise)
			b = append(b, noise...)
		case 2:
			from := r.IntN(len(b))
			b = append(b, b[from:min(len(b), from+r.IntN(100000))]...)
		default:
			for range 2000 {
				b = fmt.Appendf(b, "usr/lib/python3.%d/site-packages/%x.py\n", r.IntN(14), r.IntN(1<<20))
			}
		}
	}
	return append(b, code[1<<20:]...)
})

// need fails where the machine should have the program, and skips elsewhere.
func need(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("%v (tools/prereq.sh installs it)", err)
	default:
		t.Skip(err)
	}
	return path
}

// command runs a filter.
func command(t testing.TB, in []byte, name string, args ...string) []byte {
	t.Helper()
	c := exec.Command(need(t, name), args...)
	c.Stdin = bytes.NewReader(in)
	var diag bytes.Buffer
	c.Stderr = &diag
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, diag.String())
	}
	return out
}

func klauspost(t testing.TB, in []byte, o ...zstd.EOption) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, o...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(in); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// encoders are what layers are made with.
var encoders = []struct {
	name   string
	encode func(t testing.TB, in []byte) []byte
}{
	{"zstd -1", func(t testing.TB, in []byte) []byte { return command(t, in, "zstd", "-1", "-c") }},
	{"zstd -3", func(t testing.TB, in []byte) []byte { return command(t, in, "zstd", "-3", "-c") }},
	{"zstd -9", func(t testing.TB, in []byte) []byte { return command(t, in, "zstd", "-9", "-c") }},
	{"zstd -19", func(t testing.TB, in []byte) []byte { return command(t, in, "zstd", "-19", "-c") }},
	{"zstd --fast", func(t testing.TB, in []byte) []byte { return command(t, in, "zstd", "--fast=5", "-c", "--no-check") }},
	{"zstd --long", func(t testing.TB, in []byte) []byte { return command(t, in, "zstd", "-3", "--long=27", "-c") }},
	{"zstd -T2", func(t testing.TB, in []byte) []byte { return command(t, in, "zstd", "-3", "-T2", "-c") }},
	{"pzstd", func(t testing.TB, in []byte) []byte { return command(t, in, "pzstd", "-3", "-p", "2", "-c") }},
	{"bsdtar", func(t testing.TB, in []byte) []byte {
		dir := t.TempDir() // what it writes to a pipe it fills up with zeros, which no decoder of zstd takes
		if err := os.WriteFile(dir+"/file", in, 0o600); err != nil {
			t.Fatal(err)
		}
		command(t, nil, "bsdtar", "-c", "--zstd", "-f", dir+"/layer", "-C", dir, "file")
		out, err := os.ReadFile(dir + "/layer")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}},
	{"klauspost fastest", func(t testing.TB, in []byte) []byte {
		return klauspost(t, in, zstd.WithEncoderLevel(zstd.SpeedFastest))
	}},
	{"klauspost default", func(t testing.TB, in []byte) []byte {
		return klauspost(t, in, zstd.WithEncoderLevel(zstd.SpeedDefault))
	}},
	{"klauspost better", func(t testing.TB, in []byte) []byte {
		return klauspost(t, in, zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	}},
	{"klauspost best", func(t testing.TB, in []byte) []byte {
		return klauspost(t, in, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderCRC(false))
	}},
	{"frames", func(t testing.TB, in []byte) []byte { // many frames with skippable ones between them
		var b []byte
		for chunk := range slices.Chunk(in, 300<<10) {
			b = append(b, 0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c')
			b = append(b, klauspost(t, chunk)...)
		}
		return append(b, klauspost(t, nil)...)
	}},
}

// straight decodes with another decoder.
func straight(t testing.TB, stored []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(bytes.NewReader(stored), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(MaxWindow))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out, err := io.ReadAll(d)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// scan keeps all that Scan tells.
func scan(stored []byte, s codec.Spacing) (decoded []byte, points []codec.Point, err error) {
	err = Scan(bytes.NewReader(stored), s, func(p []byte) error {
		decoded = append(decoded, p...)
		return nil
	}, func(p codec.Point) error {
		points = append(points, p)
		return nil
	})
	return decoded, points, err
}

// TestSpans: whatever made a stream, each of its spans decodes alone to what the whole has in that place.
func TestSpans(t *testing.T) {
	for _, e := range encoders {
		t.Run(e.name, func(t *testing.T) {
			stored := e.encode(t, content())
			want := straight(t, stored)
			for _, s := range []codec.Spacing{{Stored: 64 << 10, Decoded: 200 << 10}, {Stored: 1 << 20, Decoded: 4 << 20}} {
				got, points, err := scan(stored, s)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want) {
					t.Fatal("Scan decodes to something else")
				}
				checkSpans(t, stored, want, points)
				overhead, inner := 0, 0
				for _, p := range points {
					overhead += len(p.Window)
					if p.Window != nil {
						inner++
					}
				}
				if least := len(want) / int(s.Decoded+s.Decoded/4+maxBlock); len(points) < least {
					t.Errorf("%d points, not %d", len(points), least)
				}
				t.Logf("%d KiB: %d spans, %d of them inside of a frame, windows %.2f %% of %d KiB", s.Decoded>>10, len(points), inner, 100*float64(overhead)/float64(len(stored)), len(stored)>>10)
			}
		})
	}
}

// checkSpans decodes each span from exactly what may be looked at, and from more.
func checkSpans(t *testing.T, stored, want []byte, points []codec.Point) {
	t.Helper()
	if len(points) == 0 || points[0].Out != 0 || points[0].In != 0 || points[0].Window != nil {
		t.Fatal("no point at the start")
	}
	var wait sync.WaitGroup
	for i, p := range points {
		end := codec.Point{Out: int64(len(want)), In: int64(len(stored))}
		if i+1 < len(points) {
			end = points[i+1]
		}
		if end.Out <= p.Out || end.In <= p.In {
			t.Fatalf("point %d at %d, %d, the next at %d, %d", i, p.Out, p.In, end.Out, end.In)
		}
		wait.Go(func() {
			for _, src := range [][]byte{stored[p.In:end.In], stored[p.In:]} {
				dst := make([]byte, end.Out-p.Out)
				if err := Span(dst, src, p.Bit, p.Window); err != nil {
					t.Errorf("span %d: %v", i, err)
				} else if !bytes.Equal(dst, want[p.Out:end.Out]) {
					t.Errorf("span %d decodes to something else", i)
				}
			}
			if err := Span(make([]byte, end.Out-p.Out), stored[p.In:p.In+(end.In-p.In)/2], p.Bit, p.Window); !errors.Is(err, blob.ErrCorrupt) {
				t.Errorf("span %d cut short: %v", i, err)
			}
		})
	}
	wait.Wait()
}
