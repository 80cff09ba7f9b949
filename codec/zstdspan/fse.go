package zstdspan

import "math/bits"

// cell is one state of a finite state entropy table (RFC 8878 section 4.1): what it stands for and how to get to the
// next state. From the low bits: value 32, how many extra bits are added to the value 8, bits of the next state 8, its
// base 16.
type cell uint64

func makeCell(value uint32, extra, nbits uint8, next uint16) cell {
	return cell(value) | cell(extra)<<32 | cell(nbits)<<40 | cell(next)<<48
}

func (c cell) value() uint32 { return uint32(c) }
func (c cell) extra() uint8  { return uint8(c >> 32) }
func (c cell) nbits() uint8  { return uint8(c >> 40) }
func (c cell) next() uint16  { return uint16(c >> 48) }

const (
	maxStates  = 512 // 9 bits: the highest accuracy, of literal and match lengths
	maxSymbols = 256 // as many as bytes have; weights of a Huffman tree use the first twelve
)

// table is a decoding table: 1<<log states.
type table struct {
	log    uint8
	states [maxStates]cell
}

// counts parses a table description (RFC 8878 section 4.1.1): how many states each symbol has, -1 for less than one. It
// returns the accuracy and how many bytes the description takes.
func counts(b []byte, maxLog uint8, norm []int16) (log uint8, symbols, used int, err error) {
	f := forward{b: b}
	log = uint8(f.peek(4)) + 5
	f.pos = 4
	if log > maxLog {
		return 0, 0, 0, damage("accuracy of an entropy table")
	}
	for left := 1 << log; left > 0; symbols++ {
		if symbols >= len(norm) {
			return 0, 0, 0, damage("too many symbols in an entropy table")
		}
		n := bits.Len(uint(left + 1)) // values 0 to left+1
		v := int(f.peek(n))
		low := 1<<(n-1) - 1
		if short := 1<<n - 1 - (left + 1); v&low < short {
			v &= low
			f.pos += n - 1
		} else {
			if v > low {
				v -= short
			}
			f.pos += n
		}
		norm[symbols] = int16(v - 1)
		left -= max(v-1, 1-v)
		if v != 1 {
			continue
		}
		for {
			zeros := int(f.peek(2))
			f.pos += 2
			if symbols+zeros >= len(norm) {
				return 0, 0, 0, damage("too many symbols in an entropy table")
			}
			for range zeros {
				symbols++
				norm[symbols] = 0
			}
			if zeros < 3 {
				break
			}
		}
		if f.pos > 8*len(b) {
			break
		}
	}
	if used = (f.pos + 7) / 8; used > len(b) {
		return 0, 0, 0, damage("entropy table cut short")
	}
	return log, symbols, used, nil
}

// build lays out the states of symbols (RFC 8878 section 4.1.1). meaning gives the value of a symbol and how many extra
// bits are added to it.
func (t *table) build(log uint8, norm []int16, meaning func(symbol int) (value uint32, extra uint8)) {
	size := 1 << log
	var (
		symbol [maxStates]uint8
		next   [maxSymbols]uint16
	)
	high := size
	for s, n := range norm {
		if n == -1 {
			high--
			symbol[high] = uint8(s)
			next[s] = 1
		} else {
			next[s] = uint16(n)
		}
	}
	at, step, mask := 0, size>>1+size>>3+3, size-1
	for s, n := range norm {
		for range n {
			symbol[at] = uint8(s)
			for at = (at + step) & mask; at >= high; at = (at + step) & mask {
			}
		}
	}
	t.log = log
	for i := range size {
		s := symbol[i]
		x := next[s]
		next[s]++
		nbits := log - uint8(bits.Len16(x)-1)
		value, extra := meaning(int(s))
		t.states[i] = makeCell(value, extra, nbits, x<<nbits-uint16(size))
	}
}
