package inflate

import "math/bits"

const (
	maxCodeBits = 15 // RFC 1951 section 3.2.7

	// litBits and distBits are how many bits the first lookup of a symbol takes; longer codes, which are rare by
	// their nature, take a second one. 8 KiB and 2 KiB leave most of a first-level cache to the data.
	litBits  = 11
	distBits = 9

	// Room for the first table and all second ones: no complete code of 288 symbols needs more than 2342 entries,
	// nor one of 32 more than 594 (zlib's examples/enough.c tells: `enough 288 11 15`, `enough 32 9 15`). Powers of
	// two, so that a mask keeps an index inside.
	litSize  = 4096
	distSize = 1024
)

// An entry is what a lookup finds:
//
//	bits 0–7    how many bits of input the symbol takes, extra bits included; second: bits of the first lookup
//	bits 8–12   how many of them are the code itself; second: bits of the second lookup
//	bit 13      second: the code goes on in another table, at the value
//	bit 14      special: second, or the end of the block, or a code that must not occur
//	bit 15      literal
//	bits 16–31  the literal, the base of a length or of a distance, or the place of the second table
type entry = uint32

const (
	second  entry = 1 << 13
	special entry = 1 << 14
	literal entry = 1 << 15

	endOfBlock = special
	badCode    = special | 1<<16
)

// Bases and extra bits of RFC 1951 section 3.2.5.
var (
	lengthBase = [29]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115,
		131, 163, 195, 227, 258}
	lengthExtra = [29]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	distBase    = [30]uint16{1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
		2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577}
	distExtra = [30]uint8{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12,
		13, 13}
)

// The alphabets: entries without the bits of the code, which the table adds.
var (
	litSymbols = func() (s [288]entry) {
		for i := range s {
			switch {
			case i < 256:
				s[i] = literal | entry(i)<<16
			case i == 256:
				s[i] = endOfBlock
			case i < 286:
				s[i] = entry(lengthBase[i-257])<<16 | entry(lengthExtra[i-257])
			default:
				s[i] = badCode
			}
		}
		return s
	}()
	distSymbols = func() (s [32]entry) {
		for i := range s {
			s[i] = badCode
			if i < len(distBase) {
				s[i] = entry(distBase[i])<<16 | entry(distExtra[i])
			}
		}
		return s
	}()
	lengthSymbols = func() (s [19]entry) { // of the code in which the codes' lengths are written
		for i := range s {
			s[i] = entry(i) << 16
		}
		return s
	}()
)

// build fills table for the canonical code in which symbol i of the alphabet has lengths[i] bits (0: it does not
// occur), with first lookups of tableBits. It reports whether there is such a code: the lengths must neither ask for
// more codes than there are nor leave codes over, except that, as for compress/flate and zlib, there may be no symbol
// at all, or just one of one bit; what is left over then is badCode.
func build(table []entry, tableBits int, lengths []uint8, alphabet []entry) bool {
	var count [maxCodeBits + 1]int
	for _, n := range lengths {
		count[n]++
	}
	left := 1
	for n := 1; n <= maxCodeBits; n++ {
		left = left<<1 - count[n]
		if left < 0 {
			return false
		}
	}
	used := len(lengths) - count[0]
	if left > 0 {
		if used > 1 || used == 1 && count[1] != 1 {
			return false
		}
		for i := range table[:1<<tableBits] {
			table[i] = badCode
		}
		if used == 0 {
			return true
		}
	}

	// Symbols in the order of their codes: by length, then by number.
	var sorted [288]uint16
	var at [maxCodeBits + 2]int
	for n := 1; n <= maxCodeBits; n++ {
		at[n+1] = at[n] + count[n]
	}
	for s, n := range lengths {
		if n != 0 {
			sorted[at[n]] = uint16(s)
			at[n]++
		}
	}

	// code is the code bit-reversed, as it arrives: its first bit is its lowest. The table of n bits is the table of
	// n-1 bits twice, with the codes of n bits put where nothing was.
	code, next := uint32(0), 0
	for n := 1; n <= tableBits; n++ {
		if n > 1 {
			copy(table[1<<(n-1):1<<n], table[:1<<(n-1)])
		}
		for _, s := range sorted[next : next+count[n]] {
			table[code] = alphabet[s] + entry(n) + entry(n)<<8
			code = after(code, n)
		}
		next += count[n]
	}

	// Longer codes come sorted by what their first lookup sees. The second table for one such prefix is as wide as
	// its longest code: as the code is complete, that is when the codes that follow have filled it.
	top, from, width := 1<<tableBits, 0, 0
	prefix := uint32(1 << 31) // none
	for n := tableBits + 1; n <= maxCodeBits; n++ {
		for i, s := range sorted[next : next+count[n]] {
			if p := code & (1<<tableBits - 1); p != prefix {
				prefix, from, width = p, top, n-tableBits
				for room := 1<<width - (count[n] - i); room > 0; {
					width++
					room = room<<1 - count[tableBits+width]
				}
				top += 1 << width
				table[prefix] = special | second | entry(from)<<16 | entry(width)<<8 | entry(tableBits)
			}
			e := alphabet[s] + entry(n-tableBits) + entry(n-tableBits)<<8
			for j := int(code >> tableBits); j < 1<<width; j += 1 << (n - tableBits) {
				table[from+j] = e
			}
			code = after(code, n)
		}
		next += count[n]
	}
	return true
}

// after is the bit-reversed code of n bits that follows code; behind the last one it is 0. It counts up from the
// highest bit: the highest zero becomes one, what is above becomes zero.
func after(code uint32, n int) uint32 {
	zero := bits.Len32(code ^ (1<<n - 1))
	if zero == 0 {
		return 0
	}
	bit := uint32(1) << (zero - 1)
	return code&(bit-1) | bit
}
