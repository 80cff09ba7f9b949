package zstdspan

import (
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pantala/pantala/codec"
)

var spacing = codec.Spacing{Stored: 1 << 20, Decoded: 4 << 20}

// BenchmarkScan decodes a whole stream, points and windows included.
func BenchmarkScan(b *testing.B) {
	forEncoders(b, func(b *testing.B, stored []byte) {
		for b.Loop() {
			err := Scan(bytes.NewReader(stored), spacing, func([]byte) error { return nil }, func(codec.Point) error { return nil })
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkOther decodes the same with klauspost's decoder on one core, without points.
func BenchmarkOther(b *testing.B) {
	forEncoders(b, func(b *testing.B, stored []byte) {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
		if err != nil {
			b.Fatal(err)
		}
		defer d.Close()
		for b.Loop() {
			if err := d.Reset(bytes.NewReader(stored)); err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, d); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkSpan decodes all spans of a stream, one after the other.
func BenchmarkSpan(b *testing.B) {
	forEncoders(b, func(b *testing.B, stored []byte) {
		_, points, err := scan(stored, spacing)
		if err != nil {
			b.Fatal(err)
		}
		points = append(points, codec.Point{Out: int64(len(content())), In: int64(len(stored))})
		dst := make([]byte, len(content()))
		for b.Loop() {
			for i, p := range points[:len(points)-1] {
				if err := Span(dst[p.Out:points[i+1].Out], stored[p.In:points[i+1].In], 0, p.Window); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

func forEncoders(b *testing.B, run func(b *testing.B, stored []byte)) {
	for _, e := range encoders {
		switch e.name {
		case "zstd -3", "zstd -19", "klauspost default":
			stored := e.encode(b, content())
			b.Run(e.name, func(b *testing.B) {
				b.SetBytes(int64(len(content())))
				run(b, stored)
			})
		}
	}
}
