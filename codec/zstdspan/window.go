package zstdspan

import (
	"encoding/binary"

	"github.com/pantala/pantala/codec"
)

// A window in its packed form, which is what an index keeps of a point inside of a frame:
//
//	byte       0: what follows is as it stands; 1: it is a zstd frame
//	uvarint    length of what follows, before it was compressed
//	then, perhaps compressed:
//	byte       1: a checksum follows the frame; 0: none
//	uvarint    length of the frame's window in bytes
//	3 uvarint  repeat offsets
//	4 tables   of literal lengths, offsets, match lengths, and the Huffman tree, each:
//	           byte mode (0 predefined, 1 one symbol, 2 described, 3 none or not needed),
//	           uvarint length and bytes of the symbol or description as RFC 8878 has it
//	uvarint    number of runs
//	runs       farthest first, each: uvarint how many bytes are left out before it (of the first: its distance from the
//	           point), uvarint length
//	bytes      of all runs, one after the other
const (
	packedPlain = iota
	packedZstd
)

// point is what a decoder knew at the start of a block.
type point struct {
	checksum bool
	window   int64
	reps     [3]uint32
	tables   [sequenceTables + 1]origin
}

// snapshot notes what d knows now. It keeps p's memory.
func (d *decoder) snapshot(p *point) {
	p.checksum, p.window, p.reps = d.frame.checksum, d.frame.window, d.reps
	for i := range d.codings {
		p.tables[i].set(d.codings[i].origin.mode, d.codings[i].origin.text)
	}
	p.tables[sequenceTables].set(d.treeOf.mode, d.treeOf.text)
}

// packer is memory to pack windows in.
type packer struct{ head, runs, bytes, out []byte }

// pack makes the packed form of a window, which is the caller's to keep. Of the tables only those that are needed are
// kept.
func (k *packer) pack(p *point, needed [sequenceTables + 1]bool, kept *pages) []byte {
	b := append(k.head[:0], 0)
	if p.checksum {
		b[0] = 1
	}
	b = binary.AppendUvarint(b, uint64(p.window))
	for _, r := range p.reps {
		b = binary.AppendUvarint(b, uint64(r))
	}
	for i, t := range p.tables {
		if !needed[i] {
			t = origin{mode: modeNone}
		}
		b = append(b, t.mode)
		b = binary.AppendUvarint(b, uint64(len(t.text)))
		b = append(b, t.text...)
	}
	runs, bytes := k.runs[:0], k.bytes[:0]
	count, end := uint64(0), 0 // end: the distance at which the last run ended
	kept.runs(func(distance int, run []byte) {
		if count == 0 {
			end = 2 * distance
		}
		runs = binary.AppendUvarint(runs, uint64(end-distance))
		runs = binary.AppendUvarint(runs, uint64(len(run)))
		bytes = append(bytes, run...)
		end = distance - len(run)
		count++
	})
	b = binary.AppendUvarint(b, count)
	b = append(append(b, runs...), bytes...)
	out := binary.AppendUvarint(append(k.out[:0], packedZstd), uint64(len(b)))
	out = codec.Shrink(out, b)
	if len(out) > len(b) {
		out = binary.AppendUvarint(append(out[:0], packedPlain), uint64(len(b)))
		out = append(out, b...)
	}
	*k = packer{b, runs, bytes, out}
	return append([]byte(nil), out...)
}

// errWindow: a window that no Scan has made.
const errWindow = damage("window of a point")

// fields reads a packed window. Once something is wrong it returns zeros.
type fields struct {
	b   []byte
	bad bool
}

// number reads a uvarint of at most most.
func (f *fields) number(most int64) int64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 || v > uint64(most) {
		f.bad = true
		return 0
	}
	f.b = f.b[n:]
	return int64(v)
}

func (f *fields) take(n int64) []byte {
	if n > int64(len(f.b)) {
		f.bad = true
		return nil
	}
	b := f.b[:n]
	f.b = f.b[n:]
	return b
}

// flag reads a byte of at most most.
func (f *fields) flag(most byte) byte {
	b := f.take(1)
	if f.bad || b[0] > most {
		f.bad = true
		return 0
	}
	return b[0]
}

// unpack makes d what it was at the point, and fills kept. A span of length decoded bytes uses no more of a window than
// that, in runs of three and more, so what is longer is refused before it takes memory.
func (d *decoder) unpack(packed []byte, length int, kept *pages, scratch []byte) ([]byte, error) {
	f := fields{b: packed}
	form := f.flag(packedZstd)
	size := f.number(4096 + 8*int64(length))
	if f.bad {
		return scratch, errWindow
	}
	if form == packedZstd {
		if int64(cap(scratch)) < size {
			scratch = make([]byte, size)
		}
		scratch = scratch[:size]
		if err := d.frames(scratch, f.b); err != nil {
			return scratch, err
		}
		f.b = scratch
	} else if int64(len(f.b)) != size {
		return scratch, errWindow
	}
	fr := frame{content: -1, checksum: f.flag(1) == 1, window: f.number(MaxWindow)}
	d.begin(fr)
	for i := range d.reps {
		d.reps[i] = uint32(f.number(MaxWindow))
		if d.reps[i] == 0 {
			f.bad = true
		}
	}
	for kind := range d.tables() {
		mode := f.flag(modeNone)
		text := f.take(f.number(256))
		if f.bad {
			return scratch, errWindow
		}
		if err := d.restore(kind, mode, text); err != nil {
			return scratch, err
		}
	}
	runs := fields{b: f.b}
	count := f.number(int64(length))
	runs.number(int64(length))
	for range count { // to find where their bytes begin
		f.number(MaxWindow)
		f.number(MaxWindow)
		if f.bad {
			return scratch, errWindow
		}
	}
	distance := fr.window
	for i := range count {
		gap := runs.number(MaxWindow)
		if i == 0 {
			gap = distance - gap
		}
		n := runs.number(MaxWindow)
		b := f.take(n)
		if gap < 0 || gap > distance || n > distance-gap || n == 0 {
			f.bad = true
		}
		if f.bad || runs.bad {
			return scratch, errWindow
		}
		kept.write(b, int(distance-gap))
		distance -= gap + n
	}
	if f.bad || len(f.b) != 0 {
		return scratch, errWindow
	}
	return scratch, nil
}

// tables are the kinds of tables a point has, in order.
func (d *decoder) tables() [sequenceTables + 1]struct{} { return [sequenceTables + 1]struct{}{} }

// restore makes a table from what a point keeps of it.
func (d *decoder) restore(kind int, mode uint8, text []byte) error {
	if mode == modeNone {
		if len(text) != 0 {
			return errWindow
		}
		return nil
	}
	if kind == sequenceTables {
		if mode != modeDescribed {
			return errWindow
		}
		n, err := d.tree.parse(append(make([]byte, pad), text...), pad, pad+len(text), &d.weights)
		if err == nil && n != len(text) {
			err = errWindow
		}
		return err
	}
	n, err := d.codings[kind].take(kind, mode, text)
	if err == nil && n != len(text) {
		err = errWindow
	}
	return err
}
