package inflate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
)

// scanned is what Scan has told.
type scanned struct {
	decoded []byte
	points  []codec.Point
}

func scanAll(t testing.TB, r io.Reader, space codec.Spacing) (scanned, error) {
	t.Helper()
	var s scanned
	err := Scan(r, space, func(p []byte) error {
		if len(p) == 0 {
			t.Error("emit of nothing")
		}
		if len(s.points) == 0 {
			t.Error("bytes before the first point")
		}
		s.decoded = append(s.decoded, p...)
		return nil
	}, func(p codec.Point) error {
		s.points = append(s.points, p)
		return nil
	})
	return s, err
}

// check holds the points against what codec.Scan and the package comment promise of them.
func (s scanned) check(t *testing.T, stored []byte, space codec.Spacing) {
	t.Helper()
	if len(s.points) == 0 || s.points[0].Out != 0 || s.points[0].In != 0 || s.points[0].Bit != 0 || s.points[0].Window != nil {
		t.Fatalf("first point: %+v", s.points)
	}
	for i, p := range s.points[1:] {
		last := s.points[i]
		if p.Out <= last.Out || p.In <= last.In || p.Out >= int64(len(s.decoded)) || p.In >= int64(len(stored)) {
			t.Fatalf("point %+v behind %+v of %d, %d", p, last, len(s.decoded), len(stored))
		}
		if p.Out-last.Out < space.Decoded && p.In-last.In < space.Stored {
			t.Errorf("point at %d, %d is too near to the one at %d, %d", p.Out, p.In, last.Out, last.In)
		}
		if header := bytes.HasPrefix(stored[p.In:], []byte{0x1f, 0x8b, 8}) && p.Bit == 0; p.Window == nil && !header {
			t.Errorf("point %d without a window is not at a header", i+1)
		}
	}
}

func TestScan(t *testing.T) {
	for _, f := range corpus(t) {
		t.Run(f.name, func(t *testing.T) {
			if !strings.HasPrefix(f.name, "padded") { // compress/gzip knows no padding
				if std, err := byStd(f.stored); err != nil || !bytes.Equal(std, f.decoded) {
					t.Fatalf("the sample is wrong: %v", err)
				}
			}
			for _, space := range []codec.Spacing{{Decoded: 1 << 20}, {Stored: 50000}, {Decoded: 1}, {Decoded: 100 << 10, Stored: 30 << 10}, {}} {
				s, err := scanAll(t, bytes.NewReader(f.stored), space)
				if err != nil || !bytes.Equal(s.decoded, f.decoded) {
					t.Fatalf("%+v: %d of %d bytes, %v", space, len(s.decoded), len(f.decoded), err)
				}
				s.check(t, f.stored, space)
				if (space == codec.Spacing{}) && len(s.points) != 1 {
					t.Errorf("%d points where none are due", len(s.points))
				}
			}
		})
	}
}

// TestScanReader: it does not matter in what portions the input comes, not for the points either; and a reader's own error is told as it is.
func TestScanReader(t *testing.T) {
	stored, decoded := generated(5, 4, 30, 3000, 0, 1, 2)
	long := library("one-block")
	for _, f := range []sample{{"mixed", stored, decoded}, {"one block", long.stored, long.decoded}, library("std-6")} {
		want, err := scanAll(t, bytes.NewReader(f.stored), codec.Spacing{Decoded: 50000})
		if err != nil || !bytes.Equal(want.decoded, f.decoded) || len(want.points) < 3 {
			t.Fatal(len(want.points), err)
		}
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"one byte": iotest.OneByteReader, "half": iotest.HalfReader, "data and end": iotest.DataErrReader,
			"any": func(r io.Reader) io.Reader { return &portions{r, rand.New(rand.NewPCG(1, 1))} },
		} {
			got, err := scanAll(t, wrap(bytes.NewReader(f.stored)), codec.Spacing{Decoded: 50000})
			if err != nil || !bytes.Equal(got.decoded, f.decoded) || !slices.EqualFunc(got.points, want.points, samePoint) {
				t.Errorf("%s, %s: %v, %d points of %d", f.name, name, err, len(got.points), len(want.points))
			}
		}
	}
	for _, own := range []error{io.ErrUnexpectedEOF, errors.New("cable cut")} {
		_, err := scanAll(t, io.MultiReader(bytes.NewReader(stored[:len(stored)/2]), iotest.ErrReader(own)), codec.Spacing{})
		if err != own {
			t.Errorf("%v became %v", own, err)
		}
	}
	if _, err := scanAll(t, stuck{}, codec.Spacing{}); err != io.ErrNoProgress {
		t.Errorf("a reader that brings nothing: %v", err)
	}
}

// portions reads less than it is asked for.
type portions struct {
	r    io.Reader
	rand *rand.Rand
}

func (p *portions) Read(b []byte) (int, error) {
	return p.r.Read(b[:min(len(b), 1+p.rand.IntN(5000))])
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func samePoint(a, b codec.Point) bool {
	return a.Out == b.Out && a.In == b.In && a.Bit == b.Bit && bytes.Equal(a.Window, b.Window)
}

// TestScanStops: an error of emit or mark ends it, and is what it returns.
func TestScanStops(t *testing.T) {
	stored, _ := generated(6, 3, 30, 20000, 2)
	stop := errors.New("enough")
	for after := range 4 {
		n := 0
		count := func() error {
			if n++; n > after {
				return stop
			}
			return nil
		}
		never := func() error { return nil }
		for _, f := range []struct{ emit, mark func() error }{{count, never}, {never, count}} {
			n = 0
			err := Scan(bytes.NewReader(stored), codec.Spacing{Decoded: 1}, func([]byte) error { return f.emit() }, func(codec.Point) error { return f.mark() })
			if err != stop || n != after+1 {
				t.Errorf("after %d: %v, %d calls", after, err, n)
			}
		}
	}
}

// TestScanHeaders: every field of RFC 1952 section 2.3, long ones too.
func TestScanHeaders(t *testing.T) {
	body := stdMember([]byte("text"), nil2("text"))[10:]
	long := strings.Repeat("n", 60000)
	extra := append([]byte{0xff, 0xff}, make([]byte, 0xffff)...)
	for _, h := range []struct {
		name   string
		flags  byte
		fields []byte
	}{
		{"plain", 0, nil},
		{"text", 1, nil},
		{"name", 8, []byte("n\x00")},
		{"long name", 8, []byte(long + "\x00")},
		{"comment", 16, []byte("c\x00")},
		{"extra", 4, []byte{2, 0, 1, 2}},
		{"empty extra", 4, []byte{0, 0}},
		{"long extra", 4, extra},
		{"all", 1 | 4 | 8 | 16, slices.Concat(extra, []byte("n\x00c\x00"))},
	} {
		for _, sum := range []int{0, 1, 2} { // without, with a right one, with a wrong one
			head := append([]byte{0x1f, 0x8b, 8, h.flags, 1, 2, 3, 4, 5, 6}, h.fields...)
			if sum > 0 {
				head[3] |= 2
				head = binary.LittleEndian.AppendUint16(head, uint16(crc32.ChecksumIEEE(head)+uint32(sum-1)))
			}
			member := append(head, body...)
			two := slices.Concat(member, member)
			got, err := scanAll(t, bytes.NewReader(two), codec.Spacing{Decoded: 1})
			if sum == 2 {
				if !errors.Is(err, blob.ErrCorrupt) {
					t.Errorf("%s with a wrong checksum: %v", h.name, err)
				}
				continue
			}
			if err != nil || string(got.decoded) != "texttext" {
				t.Errorf("%s, %d: %q, %v", h.name, sum, got.decoded, err)
			}
			if len(got.points) != 2 || got.points[1].In != int64(len(member)) || got.points[1].Window != nil {
				t.Errorf("%s: points %+v, not at %d", h.name, got.points, len(member))
			}
			dst := make([]byte, 8)
			if err := Span(dst, two, 0, nil); err != nil || string(dst) != "texttext" {
				t.Errorf("%s: span %q, %v", h.name, dst, err)
			}
		}
	}
	endless := append([]byte{0x1f, 0x8b, 8, 8, 1, 2, 3, 4, 5, 6}, bytes.Repeat([]byte("n"), 1<<20)...)
	if _, err := scanAll(t, bytes.NewReader(endless), codec.Spacing{}); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("a name without end: %v", err)
	}
}

// TestScanDamage: whatever is cut off, added or wrong is noticed.
func TestScanDamage(t *testing.T) {
	stored, decoded := generated(8, 2, 3, 200, 0, 1, 2)
	wrong := func(name string, b []byte) {
		t.Helper()
		if got, err := scanAll(t, bytes.NewReader(b), codec.Spacing{Decoded: 1}); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%s: %d bytes, %v", name, len(got.decoded), err)
		}
	}
	second := bytes.LastIndex(stored, []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255})
	for n := range stored {
		if n != second {
			wrong("cut", stored[:n])
		}
	}
	wrong("garbage behind", append(slices.Clone(stored), 'x'))
	wrong("garbage behind padding", append(slices.Clone(stored), 0, 0, 'x'))
	wrong("half a header behind", append(slices.Clone(stored), 0x1f, 0x8b, 8))
	wrong("padding in front", append([]byte{0}, stored...))
	wrong("another method", append([]byte{0x1f, 0x8b, 7}, stored[3:]...))
	for i := 1; i <= 8; i++ {
		b := slices.Clone(stored)
		b[len(b)-i] ^= 0x10
		wrong("trailer", b)
	}
	noticed := 0
	for i := range stored {
		b := slices.Clone(stored)
		b[i] ^= 1 << (i % 8)
		got, err := scanAll(t, bytes.NewReader(b), codec.Spacing{Decoded: 1})
		switch {
		case errors.Is(err, blob.ErrCorrupt):
			noticed++
		case err != nil || !bytes.Equal(got.decoded, decoded):
			t.Errorf("byte %d: %d wrong bytes, %v", i, len(got.decoded), err)
		} // otherwise: a time of a header, a distance to the same bytes elsewhere
	}
	if noticed < len(stored)/2 {
		t.Errorf("%d changes of %d were noticed", noticed, len(stored))
	}
}

// again brings the same bytes many times.
type again struct {
	data        []byte
	times, from int
}

func (a *again) Read(p []byte) (int, error) {
	if a.times == 0 {
		return 0, io.EOF
	}
	n := copy(p, a.data[a.from:])
	if a.from += n; a.from == len(a.data) {
		a.from, a.times = 0, a.times-1
	}
	return n, nil
}

// TestScanMemory: what Scan holds does not grow with the file, nor with how long its blocks are.
func TestScanMemory(t *testing.T) {
	for _, name := range []string{"std-6", "one-block"} {
		f := library(name)
		times := (64 << 20) / len(f.decoded)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		total, windows := 0, 0
		err := Scan(&again{data: f.stored, times: times}, codec.Spacing{Decoded: 1 << 20},
			func(p []byte) error { total += len(p); return nil },
			func(p codec.Point) error { windows += len(p.Window); return nil })
		runtime.ReadMemStats(&after)
		if err != nil || total != times*len(f.decoded) {
			t.Fatalf("%d bytes, %v", total, err)
		}
		if n := int(after.TotalAlloc-before.TotalAlloc) - 2*windows; n > 16<<20 {
			t.Errorf("%s: %d bytes allocated for a file of %d", name, n, total)
		}
	}
}
