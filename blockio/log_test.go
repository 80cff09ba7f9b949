package blockio

import (
	"bytes"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pantala/pantala/blob"
)

var (
	bootA = session{boot: [16]byte{1}, ino: 7}
	bootB = session{boot: [16]byte{2}, ino: 7}
	moved = session{boot: [16]byte{1}, ino: 8}
)

// encode is a log of small with the given records.
func encode(recs ...record) []byte {
	var p []byte
	for _, r := range recs {
		p = appendRecord(p, logSeed(testID(1), small), r)
	}
	return p
}

// members is a bitmap of blocks of small as a string of 0 and 1.
func members(s bitmap) string {
	out := make([]byte, small.Blocks())
	for i := range out {
		out[i] = '0'
		if s.get(uint32(i)) {
			out[i] = '1'
		}
	}
	return string(out)
}

func present(first, count uint32) record { return record{kind: kindPresent, a: first, b: count} }

func TestReplay(t *testing.T) {
	const none = "000000000000000000000"
	for _, c := range []struct {
		name                 string
		log                  []byte
		present, firm, doubt string
	}{
		{"empty", nil, none, none, none},
		{"one run", encode(bootA.record(), present(2, 3)), "001110000000000000000", none, none},
		{"direct", encode(bootA.record(), record{kind: kindPresent, arg: flagFirm, a: 20, b: 1}),
			"000000000000000000001", "000000000000000000001", none},
		{"confirmed", encode(bootA.record(), present(0, 4), record{kind: kindFirm, a: 1, b: 1}),
			"111100000000000000000", "010000000000000000000", none},
		{"dropped and put again", encode(bootA.record(), present(0, 4), record{kind: kindDrop, a: 0, b: 4}, present(1, 1)),
			"010000000000000000000", none, none},
		{"other boot", encode(bootB.record(), present(0, 2)), "110000000000000000000", none, "110000000000000000000"},
		{"other boot, synced in part", encode(bootB.record(), present(0, 2), numbered(kindSynced, 2*recordSize), present(2, 2)),
			"111100000000000000000", none, "001100000000000000000"},
		{"sync of the future counts for nothing", encode(bootB.record(), present(0, 2), numbered(kindSynced, 3*recordSize)),
			"110000000000000000000", none, "110000000000000000000"},
		{"other boot, then this one", encode(bootB.record(), present(0, 2), bootA.record(), present(4, 1)),
			"110010000000000000000", none, "110000000000000000000"},
		{"no boot record", encode(present(0, 1)), "100000000000000000000", none, "111111111111111111111"},
		{"a copy of the folder", encode(moved.record(), present(0, 1), numbered(kindSynced, 2*recordSize)),
			"100000000000000000000", none, "111111111111111111111"},
		{"torn tail", append(encode(bootA.record(), present(0, 1)), encode(present(1, 1))[:47]...), "100000000000000000000", none, none},
		{"torn in the middle", append(append(encode(bootA.record(), present(0, 1)), 1, 2, 3), encode(present(1, 1))...),
			"110000000000000000000", none, "111111111111111111111"},
		{"out of range", encode(bootA.record(), present(20, 2), present(0, 0), present(1<<32-1, 2)), none, none, none},
		{"another blob's", appendRecord(encode(bootA.record()), logSeed(testID(2), small), present(0, 1)), none, none, none},
	} {
		s := replay(c.log, testID(1), small, bootA)
		got := []string{members(s.present), members(s.firm), members(s.doubt)}
		want := []string{c.present, c.firm, c.doubt}
		if c.name == "empty" { // no log, no boot: nothing is present, so doubt is of no matter
			got[2] = none
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestReplayRoots(t *testing.T) {
	h := blob.Hash{9}
	s := replay(encode(bootA.record(),
		record{kind: kindRoot, arg: uint8(blob.Claimed), a: 0, hash: h},
		record{kind: kindRoot, arg: uint8(blob.Claimed), a: 1, hash: h},
		record{kind: kindUnroot, arg: flagDisputed, a: 1},
		record{kind: kindRoot, arg: uint8(blob.Direct), a: 5, hash: h},
		record{kind: kindRoot, arg: uint8(blob.Direct), a: 6, hash: h}, // there is no piece 6
		record{kind: kindRoot, arg: 77, a: 2, hash: h},                 // nor such trust
	), testID(1), small, bootA)
	want := map[uint32]root{0: {h, blob.Claimed}, 5: {h, blob.Direct}}
	if !maps.Equal(s.roots, want) || !maps.Equal(s.disputed, map[uint32]bool{1: true}) {
		t.Errorf("roots %v, disputed %v", s.roots, s.disputed)
	}
}

// FuzzLog: any bytes replay without a panic, to numbers in range, and the compact form of the result replays
// to the same, without a doubt left that was none.
func FuzzLog(f *testing.F) {
	h := blob.Hash{9}
	good := encode(bootA.record(), present(0, 4), record{kind: kindLeaves, arg: flagFirm, a: 4, b: 4},
		record{kind: kindRoot, arg: uint8(blob.Direct), a: 3, hash: h}, record{kind: kindUnroot, arg: flagDisputed, a: 4},
		record{kind: kindDrop, a: 2, b: 1}, record{kind: kindFirm, a: 0, b: 1},
		use{at: time.Unix(5, 6), freq: 2, main: true}.record(), numbered(kindSynced, 96), bootB.record(), present(9, 3))
	f.Add(good, uint16(0), byte(0))
	f.Add(good, uint16(50), byte(1))
	f.Add(good[7:], uint16(300), byte(255))
	f.Add([]byte{}, uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, raw []byte, at uint16, flip byte) {
		raw = bytes.Clone(raw)
		// Besides raw bytes, which hardly ever have a right checksum, records made from them.
		var log []byte
		for i := 0; i+recordSize <= len(raw); i += recordSize {
			var r record
			r.kind, r.arg = kind(raw[i+2]), raw[i+3]
			r.a, r.b = uint32(raw[i+4]), uint32(raw[i+8])
			copy(r.hash[:], raw[i+12:])
			log = appendRecord(log, logSeed(testID(1), small), r)
		}
		if int(at) < len(log) {
			log[at] ^= flip
		}
		for _, log := range [][]byte{raw, log} {
			s := replay(log, testID(1), small, bootA)
			for _, set := range []bitmap{s.present, s.leaf, s.firm, s.doubt} {
				if set[0].Load()>>small.Blocks() != 0 {
					t.Fatalf("blocks beyond the end: %b", set[0].Load())
				}
			}
			if s.end > int64(len(log)) || s.synced > s.end {
				t.Fatalf("end %d, synced %d of %d", s.end, s.synced, len(log))
			}
			if int(at) < len(log) && flip != 0 && s.records > len(log)/recordSize {
				t.Fatalf("%d records in %d bytes", s.records, len(log))
			}
			c := replay(s.compact(testID(1), small, bootA), testID(1), small, bootB)
			if members(c.present) != members(s.present) || members(c.leaf) != members(s.leaf) || members(c.firm) != members(s.firm) ||
				!maps.Equal(c.roots, s.roots) || !maps.Equal(c.disputed, s.disputed) || c.doubt.any(small.Blob()) || c.damaged {
				t.Fatal("the compact log says something else")
			}
		}
	})
}

func FuzzMeta(f *testing.F) {
	m := metaFile{Version: metaVersion, ID: testID(1).String(), Size: 10, PieceLength: 1 << 18, Pinned: true, Meta: Meta{
		Source: "http://origin.example/x", Name: "x", Validator: `"e"`, ModTime: time.Unix(1, 0).UTC()}}
	raw, err := encodeMeta(&m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	m.Import = &importOf{Path: "/srv/x", Size: 10, MTime: 5, Ino: 6}
	raw, _ = encodeMeta(&m)
	f.Add(raw)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"version":1,"id":"sha256:","size":-1}`))
	f.Add(make([]byte, 4096)) // what a power loss may leave
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, id, err := parseMeta(raw)
		if err != nil {
			return
		}
		if err := m.geometry().Check(); err != nil {
			t.Fatal(err)
		}
		again, err := encodeMeta(&m)
		if err != nil {
			return // grew beyond the bound by escaping
		}
		m2, id2, err := parseMeta(again)
		if err != nil || id != id2 || cmp.Diff(m, m2) != "" {
			t.Fatalf("%v %s", err, cmp.Diff(m, m2))
		}
	})
}
