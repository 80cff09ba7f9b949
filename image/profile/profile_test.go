package profile

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

// TestGolden: the bytes of the format, as docs/wire.md has them.
func TestGolden(t *testing.T) {
	p := &Profile{Starts: 3, Blind: []uint16{2, 7, 300}, Touches: []Touch{{0, 0}, {0, 1}, {5, 700}, {0, 2}, {5, 690}, {5, 691}}}
	const want = "70747001" + "03" + "03" + "02" + "04" + "a402" + "06" + "00" + "00" + "f115" + "05" + "01" + "00" + "2b" + "05" + "00" + "4af3d588"
	got := hex.EncodeToString(p.Append(nil))
	if got[:len(got)-8] != want[:len(want)-8] {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got != want {
		t.Errorf("sum: got %s want %s", got[len(got)-8:], want[len(want)-8:])
	}
}

// profiles draws any profile.
func profiles(t *rapid.T) *Profile {
	touch := rapid.Custom(func(t *rapid.T) Touch {
		return Touch{uint16(rapid.SampledFrom([]int{0, 1, 2, 126, MaxLayers - 1}).Draw(t, "layer")), rapid.OneOf(rapid.Uint32Range(0, 40), rapid.Uint32Range(0, MaxSpans-1)).Draw(t, "span")}
	})
	blind := rapid.SliceOfNDistinct(rapid.Uint16Range(0, MaxLayers-1), 0, 9, rapid.ID).Draw(t, "blind")
	slices.Sort(blind)
	return &Profile{
		Blind:   blind,
		Starts:  rapid.IntRange(1, MaxStarts).Draw(t, "starts"),
		Touches: rapid.SliceOfNDistinct(touch, 0, 60, rapid.ID).Draw(t, "touches"),
	}
}

// TestRoundTrip: what is written is read again, and nothing shorter, longer or changed is.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := profiles(t)
		b := p.Append(nil)
		got, err := Parse(b)
		if err != nil || got.Starts != p.Starts || !slices.Equal(got.Blind, p.Blind) || !slices.Equal(got.Touches, p.Touches) {
			t.Fatalf("%v: %v became %v", err, p, got)
		}
		if cut := rapid.IntRange(0, len(b)-1).Draw(t, "cut"); parses(b[:cut]) {
			t.Fatalf("%d of %d bytes are a profile", cut, len(b))
		}
		if parses(append(b, 0)) {
			t.Fatal("a byte too many is read over")
		}
		flip := rapid.IntRange(0, 8*len(b)-1).Draw(t, "flip")
		b[flip/8] ^= 1 << (flip % 8)
		if parses(b) {
			t.Fatalf("bit %d is not noticed", flip)
		}
	})
}

func parses(b []byte) bool {
	_, err := Parse(b)
	if err != nil && !errors.Is(err, blob.ErrInvalid) {
		panic(err)
	}
	return err == nil
}

// TestSize: the longest profile fits into MaxBytes, and what a start is like takes two to four bytes a span.
func TestSize(t *testing.T) {
	worst, usual := &Profile{Starts: MaxStarts}, &Profile{Starts: 1}
	for i := range MaxLayers {
		worst.Blind = append(worst.Blind, uint16(i))
	}
	for i := range MaxTouches {
		span := uint32(i / 2)
		if i/2%2 == 1 {
			span = MaxSpans - 1 - uint32(i/2)
		}
		worst.Touches = append(worst.Touches, Touch{uint16(MaxLayers - 1 - i%2), span})
		if i < 1000 {
			usual.Touches = append(usual.Touches, Touch{uint16(i / 7 % 12), uint32(i * 2654435761 % 4001)})
		}
	}
	if n := len(worst.Append(nil)); n > MaxBytes || n < MaxBytes-MaxBytes/10 {
		t.Errorf("the longest profile is %d bytes, MaxBytes is %d", n, MaxBytes)
	}
	if n := len(usual.Append(nil)); n < 2000 || n > 4000 {
		t.Errorf("1000 spans take %d bytes", n)
	}
}

// sum adds the checksum.
func sum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// FuzzParse: whatever the bytes, a profile within bounds comes out, which is written as it was read, or an error.
func FuzzParse(f *testing.F) {
	f.Add((&Profile{Starts: 1}).Append(nil))
	f.Add((&Profile{Starts: 3, Blind: []uint16{0, 1, 9}, Touches: []Touch{{0, 0}, {0, 1}, {5, 700}, {0, 2}, {5, 690}}}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		// The sum is set right: else nothing gets past it.
		if len(b) > 8 {
			fixed := sum(slices.Clone(b[:len(b)-4]))
			if p, err := Parse(fixed); err == nil && !bytes.Equal(p.Append(nil), fixed) {
				t.Fatalf("%x is read as %v, which is %x", fixed, p, p.Append(nil))
			}
		}
		if p, err := Parse(b); err == nil && !bytes.Equal(p.Append(nil), b) {
			t.Fatalf("%x is read as %v", b, p)
		} else if err != nil && !errors.Is(err, blob.ErrInvalid) {
			t.Fatal(err)
		}
	})
}

// TestMergeProperties: what a merged profile promises, of any profiles.
func TestMergeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *Profile {
			spans := rapid.Permutation([]uint32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}).Draw(t, "spans")
			p := &Profile{Starts: 1}
			for l := range uint16(3) {
				if rapid.IntRange(0, 2).Draw(t, "blind") == 0 {
					p.Blind = append(p.Blind, l)
				}
			}
			for _, s := range spans[:rapid.IntRange(0, len(spans)).Draw(t, "n")] {
				p.Touches = append(p.Touches, Touch{uint16(s % 3), s})
			}
			return p
		}), 1, 20).Draw(t, "all")
		m := Merge(all...)
		if m.Starts != len(all) || m.check() != nil {
			t.Fatalf("%v: %v", m, m.check())
		}
		if one := Merge(all[0], all[0], all[0]); !slices.Equal(one.Touches, all[0].Touches) {
			t.Fatalf("thrice the same became another: %v, %v", all[0], one)
		}
		for l := range uint16(3) {
			if slices.Contains(m.Blind, l) != !slices.ContainsFunc(all, func(p *Profile) bool { return !slices.Contains(p.Blind, l) }) {
				t.Fatalf("blind to %v", m.Blind)
			}
		}
		shuffled := rapid.Permutation(all).Draw(t, "shuffled")
		if !reflect.DeepEqual(Merge(shuffled...), m) {
			t.Fatal("the order of the arguments matters")
		}
		var written [][]byte
		for _, p := range all {
			written = append(written, p.Append(nil))
		}
		if !bytes.Equal(MergeBytes(append(written, []byte("rubbish"))), m.Append(nil)) {
			t.Fatal("merged bytes differ")
		}
		place := func(p *Profile, t Touch) int { return slices.Index(p.Touches, t) }
		for s := range uint32(10) {
			a, n, could := Touch{uint16(s % 3), s}, 0, 0
			for _, p := range all {
				switch {
				case place(p, a) >= 0:
					n++
					could++
				case !slices.Contains(p.Blind, a.Layer):
					could++
				}
			}
			if in := place(m, a) >= 0; in != (n > 0 && 10*n >= 3*could) {
				t.Fatalf("%v, read by %d of %d, is there: %v", a, n, could, in)
			}
			for s2 := range uint32(10) {
				b := Touch{uint16(s2 % 3), s2}
				before := a != b
				for _, p := range all {
					before = before && place(p, a) >= 0 && place(p, b) >= 0 && place(p, a) < place(p, b)
				}
				if before && place(m, a) > place(m, b) {
					t.Fatalf("%v comes before %v in all starts, but not in the merged profile", a, b)
				}
			}
		}
	})
}

// TestPlan: what is not there is left out, and the budget holds.
func TestPlan(t *testing.T) {
	p := &Profile{Starts: 1, Touches: []Touch{{0, 1}, {9, 9}, {1, 0}, {0, 2}, {0, 3}}}
	length := func(t Touch) int64 {
		if t.Layer > 1 {
			return 0
		}
		return 100
	}
	for budget, want := range map[int64]int{0: 0, 99: 0, 100: 1, 399: 3, 400: 4, 1 << 40: 4} {
		got := p.Plan(length, budget)
		if len(got) != want || slices.Contains(got, Touch{9, 9}) {
			t.Errorf("budget %d: %v", budget, got)
		}
	}
	if b := MergeBytes([][]byte{nil, []byte("ptp\x01")}); b != nil {
		t.Errorf("of nothing became %x", b)
	}
}
