package inflate

import "encoding/binary"

const (
	winSize  = 32 << 10 // RFC 1951 section 2: distances reach no further
	maxMatch = 258      // section 3.2.5
	maxLits  = 286      // symbols of both alphabets that may occur, section 3.2.7
	maxDists = 30
	maxStock = maxLits + maxDists

	// maxHeader is more than a block's header takes: 17 bits, 19 lengths of 3 bits, and at most 14 bits for each of
	// the 316 lengths make 564 bytes.
	maxHeader = 1 << 10

	// nearEnd is more than what decodes to the last outSlack bytes of a buffer takes: 15 bits for each, or 48 for a
	// match of three.
	nearEnd = 1 << 10
)

// status is why run has stopped.
type status uint8

const (
	hungry    status = iota // input is used up, or, unless it is the last, nearly
	full                    // output is
	blockEnd                // between two blocks: what follows depends on the bit position and the window alone
	streamEnd               // behind the last block
	broken                  // see decoder.fault
)

// phase is where in a deflate stream a decoder stands.
type phase uint8

const (
	between phase = iota // blocks
	inStored
	inHuffman
)

// block is what the header of a block says (RFC 1951 sections 3.2.3 and 3.2.7).
type block struct {
	final       bool // it is the last of its stream
	fixed       bool // its codes are those of section 3.2.6; if not:
	lits, dists int  // how many symbols its codes have
	lengths     [maxStock]uint8
}

// decoder decodes one deflate stream from a slice to a slice. Both may be replaced while it runs, as long as what
// is unread and the last winSize bytes that were written stay where floor, member and pos say.
type decoder struct {
	in   []byte
	pos  int    // in[pos:] is unread, but for what bitBuf holds
	buf  uint64 // the bits before it, lowest first; zero beyond
	bits uint   // how many
	last bool   // in is the end of the input; otherwise run stops early, so that a symbol is never cut

	phase  phase
	block      // the one it is in
	stored int // bytes of it still to come, if it is a stored one

	// A match that begins before out[floor] goes to reach; it is damage when it begins before out[member], or, where
	// there is a past, before that.
	floor, member int
	used          *bitmap // if set: which of the winSize bytes before out[floor] matches refer to
	past          *window // if set: what lies before out[0]

	fault string // what is wrong

	lit       [litSize]entry
	dist      [distSize]entry
	haveFixed bool // lit and dist are those of section 3.2.6
}

// begin makes d ready for the stream, or the stretch of one from the end of a block on, at bit of in[pos].
func (d *decoder) begin(in []byte, pos int, bit uint8) bool {
	d.in, d.pos, d.buf, d.bits = in, pos, 0, 0
	d.phase, d.final, d.stored, d.fault = between, false, 0, ""
	if bit > 0 {
		if _, ok := d.take(uint(bit)); !ok {
			return false
		}
	}
	return true
}

// rest forgets the bits up to the next whole byte.
func (d *decoder) rest() {
	d.pos -= int(d.bits >> 3)
	d.buf, d.bits = 0, 0
}

// fill gets at least n bits into buf, n at most 56, where there are that many.
func (d *decoder) fill(n uint) bool {
	for d.bits < n {
		if d.pos >= len(d.in) {
			return false
		}
		d.buf |= uint64(d.in[d.pos]) << d.bits
		d.pos++
		d.bits += 8
	}
	return true
}

func (d *decoder) drop(n uint) {
	d.buf >>= n
	d.bits -= n
}

// take reads n bits, at most 32.
func (d *decoder) take(n uint) (uint, bool) {
	if !d.fill(n) {
		return 0, false
	}
	v := uint(d.buf & (1<<n - 1))
	d.drop(n)
	return v, true
}

func (d *decoder) fail(what string) status {
	d.fault = what
	return broken
}

const endsEarly = "it ends early"

// run goes on decoding into out[o:] and reports how far it came. It stops at the end of every block. When exact, for
// which in must be the last, it fills out. Otherwise it is full at the end of the first symbol that reaches the last
// maxMatch bytes of out, so that none is cut; where that is depends on the stream alone, and not on the portions in
// which it came, and nor do points that are made there.
func (d *decoder) run(out []byte, o int, exact bool) (int, status) {
	if d.phase == between {
		if !d.last && len(d.in)-d.pos < maxHeader {
			return o, hungry
		}
		if !d.header() {
			return o, broken
		}
	}
	end := len(out)
	if !exact {
		end -= maxMatch
	}
	var st status
	if d.phase == inStored {
		o, st = d.copyStored(out, o, end)
	} else {
		o, st = d.fast(out[:end], o)
		switch {
		case st == hungry && d.last, st == full && (d.last || len(d.in)-d.pos >= nearEnd):
			o, st = d.careful(out, o, end)
		case st == full:
			st = hungry
		}
	}
	if st == blockEnd {
		d.phase = between
		if d.final {
			st = streamEnd
		}
	}
	return o, st
}

func (d *decoder) copyStored(out []byte, o, end int) (int, status) {
	n := min(d.stored, len(d.in)-d.pos, end-o)
	if n > 0 {
		copy(out[o:o+n], d.in[d.pos:])
		d.pos += n
		d.stored -= n
		o += n
	}
	switch {
	case d.stored == 0:
		return o, blockEnd
	case o >= end:
		return o, full
	case d.last:
		return o, d.fail(endsEarly)
	}
	return o, hungry
}

// header reads the header of a block (RFC 1951 section 3.2.3) and builds its tables.
func (d *decoder) header() bool {
	h, ok := d.take(3)
	if !ok {
		d.fail(endsEarly)
		return false
	}
	d.final = h&1 != 0
	switch h >> 1 {
	case 0:
		d.rest()
		if len(d.in)-d.pos < 4 {
			d.fail(endsEarly)
			return false
		}
		n := binary.LittleEndian.Uint16(d.in[d.pos:])
		if n != ^binary.LittleEndian.Uint16(d.in[d.pos+2:]) {
			d.fail("a stored block's length and its complement differ")
			return false
		}
		d.pos += 4
		d.phase, d.stored = inStored, int(n)
		return true
	case 1:
		d.fixed = true
		return d.enter()
	case 2:
		d.fixed = false
		return d.dynamic() && d.enter()
	}
	d.fail("a block of reserved type")
	return false
}

var fixedLengths = func() (l [288]uint8) {
	for i := range l {
		switch {
		case i < 144 || i >= 280:
			l[i] = 8
		case i < 256:
			l[i] = 9
		default:
			l[i] = 7
		}
	}
	return l
}()

var fixedDists = [32]uint8{5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5}

// enter makes the tables of a block with codes.
func (d *decoder) enter() bool {
	d.phase = inHuffman
	if d.fixed && d.haveFixed {
		return true
	}
	lits, dists := fixedLengths[:], fixedDists[:]
	if !d.fixed {
		lits, dists = d.lengths[:d.lits], d.lengths[d.lits:d.lits+d.dists]
	}
	d.haveFixed = d.fixed
	if !build(d.dist[:], distBits, dists, distSymbols[:]) || !build(d.lit[:], litBits, lits, litSymbols[:]) {
		d.fail("the code lengths of a block do not make a prefix code")
		return false
	}
	return true
}

// lengthOrder is the order in which the lengths of the lengths' code are written: RFC 1951 section 3.2.7.
var lengthOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// dynamic reads the lengths of the codes of a block: RFC 1951 section 3.2.7.
func (d *decoder) dynamic() bool {
	sizes, ok := d.take(14)
	if !ok {
		d.fail(endsEarly)
		return false
	}
	lens := int(sizes>>10) + 4
	d.lits, d.dists = int(sizes&31)+257, int(sizes>>5&31)+1
	if d.lits > maxLits || d.dists > maxDists {
		d.fail("a block with codes for more symbols than there are")
		return false
	}
	var short [19]uint8
	for i := range lens {
		v, ok := d.take(3)
		if !ok {
			d.fail(endsEarly)
			return false
		}
		short[lengthOrder[i]] = uint8(v)
	}
	var table [1 << 7]entry
	if !build(table[:], 7, short[:], lengthSymbols[:]) {
		d.fail("the code of a block's code lengths is not a prefix code")
		return false
	}
	all := d.lengths[:d.lits+d.dists]
	for i := 0; i < len(all); {
		d.fill(14)
		e := table[d.buf&(1<<7-1)]
		if e&special != 0 {
			d.fail("a code length in a code that must not occur")
			return false
		}
		n := uint(e & 0xff)
		if n > d.bits {
			d.fail(endsEarly)
			return false
		}
		d.drop(n)
		s := e >> 16
		if s < 16 {
			all[i] = uint8(s)
			i++
			continue
		}
		more, least, value := uint(2), uint(3), uint8(0)
		switch s {
		case 16:
			if i == 0 {
				d.fail("a code length repeats one before the first")
				return false
			}
			value = all[i-1]
		case 17:
			more = 3
		case 18:
			more, least = 7, 11
		}
		v, ok := d.take(more)
		if !ok {
			d.fail(endsEarly)
			return false
		}
		repeat := int(least + v)
		if i+repeat > len(all) {
			d.fail("code lengths repeat beyond the last")
			return false
		}
		for range repeat {
			all[i] = value
			i++
		}
	}
	return true
}
