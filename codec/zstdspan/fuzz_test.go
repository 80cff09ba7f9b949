package zstdspan

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
)

// seeds are small streams with all that there is: levels, long matches, noise, zeros, frames of every kind.
func seeds(f *testing.F) (all [][]byte) {
	text := []byte(strings.Repeat("the quick brown fox ", 40) + "jumps")
	for _, in := range [][]byte{nil, {1}, text, make([]byte, 5000), content()[1<<20 : 1<<20+6000]} {
		for _, l := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedBetterCompression, zstd.SpeedBestCompression} {
			b := klauspost(f, in, zstd.WithEncoderLevel(l), zstd.WithSingleSegment(l == zstd.SpeedFastest), zstd.WithEncoderCRC(l != zstd.SpeedBestCompression))
			all = append(all, b, append(append(bytes.Clone(b), 0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9), b...))
		}
	}
	return all
}

// oracle decodes with another decoder. Of more than limit bytes it gives up.
func oracle(stored []byte, limit int64) ([]byte, error) {
	d, err := zstd.NewReader(bytes.NewReader(stored), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(MaxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return io.ReadAll(io.LimitReader(d, limit))
}

// FuzzScan: Scan and another decoder give the same bytes or both an error; and what Scan made points of can be decoded
// from each of them.
func FuzzScan(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b, uint16(3000))
	}
	const limit = 4 << 20
	f.Fuzz(func(t *testing.T, stored []byte, spacing uint16) {
		full := errors.New("full")
		var got []byte
		var points []codec.Point
		err := Scan(bytes.NewReader(stored), codec.Spacing{Stored: int64(spacing), Decoded: int64(spacing)}, func(p []byte) error {
			if got = append(got, p...); len(got) > limit {
				return full
			}
			return nil
		}, func(p codec.Point) error {
			points = append(points, p)
			return nil
		})
		if err == full {
			return
		}
		if err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) {
			t.Fatalf("class of %v", err)
		}
		want, werr := oracle(stored, limit+1)
		if (err == nil) != (werr == nil) {
			t.Fatalf("Scan: %v after %d bytes; the other decoder: %v after %d", err, len(got), werr, len(want))
		}
		if err != nil {
			return
		}
		if !bytes.Equal(got, want) {
			t.Fatal("other bytes than the other decoder's")
		}
		for i, p := range points {
			end := codec.Point{Out: int64(len(want)), In: int64(len(stored))}
			if i+1 < len(points) {
				end = points[i+1]
			}
			dst := make([]byte, end.Out-p.Out)
			if err := Span(dst, stored[p.In:end.In], p.Bit, p.Window); err != nil {
				t.Fatalf("span %d: %v", i, err)
			}
			if !bytes.Equal(dst, want[p.Out:end.Out]) {
				t.Fatalf("span %d decodes to something else", i)
			}
		}
	})
}

// FuzzSpan: whatever bytes and window come, Span fills dst or says why not, and writes nowhere else.
func FuzzSpan(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b, []byte(nil), uint16(1000))
		_, points, err := scan(b, codec.Spacing{Stored: 1000, Decoded: 1000})
		if err != nil {
			f.Fatal(err)
		}
		for _, p := range points {
			f.Add(b[p.In:], p.Window, uint16(1000))
		}
	}
	f.Fuzz(func(t *testing.T, src, window []byte, n uint16) {
		dst := make([]byte, int(n)+1)
		dst[n] = 0xa5
		if err := Span(dst[:n:n], src, 0, window); err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) {
			t.Fatalf("class of %v", err)
		}
		if dst[n] != 0xa5 {
			t.Fatal("written beyond the end")
		}
	})
}
