package inflate

import (
	"bytes"
	"compress/flate"
	stdgzip "compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
)

// most is as much as a fuzzed file is decoded to.
const most = 4 << 20

var errMost = errors.New("long enough")

// FuzzScan: what compress/gzip decodes, Scan decodes to the same bytes; what it refuses, Scan refuses, except for
// padding, and for names longer than 512 bytes. And spans resume.
func FuzzScan(f *testing.F) {
	for _, kinds := range [][]int{{0}, {1}, {2}, {0, 1, 2}} {
		stored, _ := generated(1, 2, 4, 100, kinds...)
		f.Add(stored)
	}
	f.Add(stdMember([]byte("some text"), nil2("some text")))
	f.Fuzz(scanAgrees)
}

func scanAgrees(t *testing.T, stored []byte) {
	var got scanned
	err := Scan(bytes.NewReader(stored), codec.Spacing{Decoded: 1}, func(p []byte) error {
		if got.decoded = append(got.decoded, p...); len(got.decoded) > most {
			return errMost
		}
		return nil
	}, func(p codec.Point) error {
		got.points = append(got.points, p)
		return nil
	})
	if err == errMost {
		return
	}
	if err != nil && !errors.Is(err, blob.ErrCorrupt) {
		t.Fatalf("class of %v", err)
	}
	want, stdErr := byStd(stored)
	if err != nil {
		if stdErr == nil {
			t.Fatalf("compress/gzip decodes %d bytes; %v", len(want), err)
		}
		return
	}
	if stdErr != nil && stdErr != stdgzip.ErrHeader && !(stdErr == io.ErrUnexpectedEOF && bytes.HasSuffix(stored, []byte{0})) {
		t.Fatalf("compress/gzip refuses: %v", stdErr)
	}
	if stdErr == nil && !bytes.Equal(got.decoded, want) || !bytes.HasPrefix(got.decoded, want) {
		t.Fatalf("%d bytes, compress/gzip %d", len(got.decoded), len(want))
	}
	got.check(t, stored, codec.Spacing{Decoded: 1})
	got.spans(stored, func(i int, p codec.Point, src, want []byte) {
		dst, intact := exact(len(want))
		if err := Span(dst, src, p.Bit, p.Window); err != nil || !bytes.Equal(dst, want) || !intact() {
			t.Fatalf("span %d: %v", i, err)
		}
	})
}

// FuzzDeflate: what compress/flate decodes, Scan decodes to the same bytes and spans resume; what it refuses, Scan
// refuses. Unlike in FuzzScan, checksums are always right.
func FuzzDeflate(f *testing.F) {
	for _, kinds := range [][]int{{0}, {1}, {2}, {0, 1, 2}} {
		stored, _ := generated(3, 1, 4, 100, kinds...)
		f.Add(stored[10 : len(stored)-trailer])
	}
	f.Fuzz(deflateAgrees)
}

func deflateAgrees(t *testing.T, deflated []byte) {
	in := bytes.NewReader(deflated)
	want, stdErr := io.ReadAll(io.LimitReader(flate.NewReader(in), most))
	if len(want) == most {
		return
	}
	file := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, deflated[:len(deflated)-in.Len()]...)
	file = binary.LittleEndian.AppendUint32(file, crc32.ChecksumIEEE(want))
	file = binary.LittleEndian.AppendUint32(file, uint32(len(want)))
	got, err := scanAll(t, bytes.NewReader(file), codec.Spacing{Decoded: 1})
	switch {
	case stdErr != nil && !errors.Is(err, blob.ErrCorrupt):
		t.Fatalf("compress/flate: %v; we: %v", stdErr, err)
	case stdErr != nil:
		return
	case err != nil || !bytes.Equal(got.decoded, want):
		t.Fatalf("%d bytes of %d: %v", len(got.decoded), len(want), err)
	}
	got.check(t, file, codec.Spacing{Decoded: 1})
	got.spans(file, func(i int, p codec.Point, src, want []byte) {
		dst, intact := exact(len(want))
		if err := Span(dst, src, p.Bit, p.Window); err != nil || !bytes.Equal(dst, want) || !intact() {
			t.Fatalf("span %d: %v", i, err)
		}
	})
}

// TestDamagedDeflate is FuzzDeflate over streams with a few bits changed.
func TestDamagedDeflate(t *testing.T) {
	for seed := range uint64(2000) {
		damaged(t, seed)
	}
}

func damaged(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 77))
	kinds := [][]int{{1}, {2}, {2}, {0, 1, 2}}[r.IntN(4)]
	stored, _ := generated(seed, 1, 1+r.IntN(4), 2+r.IntN(400), kinds...)
	d := stored[10 : len(stored)-trailer]
	for range r.IntN(4) {
		d[r.IntN(len(d))] ^= 1 << r.IntN(8)
	}
	deflateAgrees(t, d[:len(d)-max(0, r.IntN(20)-15)%len(d)])
}

// FuzzSpan: whatever comes, it is decoded or refused, within dst and src.
func FuzzSpan(f *testing.F) {
	stored, _ := generated(2, 2, 8, 300, 0, 1, 2)
	s, err := scanAll(f, bytes.NewReader(stored), codec.Spacing{Decoded: 1})
	if err != nil {
		f.Fatal(err)
	}
	s.spans(stored, func(_ int, p codec.Point, src, want []byte) { f.Add(src, uint32(len(want)), p.Bit, p.Window) })
	for _, sample := range inGo() {
		s, err := scanAll(f, bytes.NewReader(sample.stored), codec.Spacing{Stored: 100 << 10})
		if err == nil && len(s.points) > 1 {
			p := s.points[1]
			f.Add(sample.stored[p.In:][:2000], uint32(3000), p.Bit, p.Window)
		}
	}
	f.Fuzz(func(t *testing.T, src []byte, n uint32, bit uint8, window []byte) {
		dst, intact := exact(int(n % (256 << 10)))
		err := Span(dst, bytes.Clone(src), bit, window)
		if err != nil && !errors.Is(err, blob.ErrCorrupt) {
			t.Fatalf("class of %v", err)
		}
		if !intact() {
			t.Fatal("written outside of dst")
		}
		again, _ := exact(len(dst))
		if e := Span(again, src, bit, window); (e == nil) != (err == nil) || err == nil && !bytes.Equal(dst, again) {
			t.Fatalf("twice: %v, %v", err, e)
		}
	})
}
