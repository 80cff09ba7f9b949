package inflate

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// A generator writes deflate streams that no encoder would, but that are right: any block after any other, codes of
// any shape, matches anywhere. out is what they decode to.
type generator struct {
	r      *rand.Rand
	bytes  []byte
	buf    uint64
	n      int
	out    []byte
	member int // where in out this member begins
	// kinds are the types of blocks to write, blocks how many symbols they may have.
	kinds  []int
	blocks int
}

func (g *generator) put(v uint, n int) {
	g.buf |= uint64(v) << g.n
	for g.n += n; g.n >= 8; g.n -= 8 {
		g.bytes = append(g.bytes, byte(g.buf))
		g.buf >>= 8
	}
}

func (g *generator) align() {
	if g.n > 0 {
		g.put(0, 8-g.n)
	}
}

// code is a canonical code: for each symbol its bits, first one lowest, and how many.
type code struct {
	bits    []uint16
	lengths []uint8
}

func canonical(lengths []uint8) code {
	c := code{make([]uint16, len(lengths)), lengths}
	next := uint16(0)
	for n := uint8(1); n <= maxCodeBits; n++ {
		next <<= 1
		for s, l := range lengths {
			if l == n {
				c.bits[s] = bits.Reverse16(next) >> (16 - n)
				next++
			}
		}
	}
	return c
}

func (g *generator) symbol(c code, s int) {
	if c.lengths[s] == 0 {
		panic("no code")
	}
	g.put(uint(c.bits[s]), int(c.lengths[s]))
}

// shape makes a complete code for the symbols that are used, of any depths: even, or as deep as may be.
func (g *generator) shape(used []bool) []uint8 {
	var symbols []int
	for s, u := range used {
		if u {
			symbols = append(symbols, s)
		}
	}
	lengths := make([]uint8, len(used))
	if len(symbols) == 0 {
		return lengths
	}
	if len(symbols) == 1 {
		lengths[symbols[0]] = 1
		return lengths
	}
	leaves := []uint8{0}
	deep := g.r.IntN(4)
	for len(leaves) < len(symbols) {
		i := len(leaves) - 1
		if g.r.IntN(4) >= deep {
			i = g.r.IntN(len(leaves))
		}
		if leaves[i] == maxCodeBits {
			i = slices.Index(leaves, slices.Min(leaves))
		}
		leaves[i]++
		leaves = append(leaves, leaves[i])
	}
	g.r.Shuffle(len(symbols), func(i, j int) { symbols[i], symbols[j] = symbols[j], symbols[i] })
	for i, s := range symbols {
		lengths[s] = leaves[i]
	}
	return lengths
}

type token struct {
	literal, length, distance int // length 0: a literal
}

// tokens makes up the content of a block, and appends it to out.
func (g *generator) tokens() (all []token) {
	literals := 1 + g.r.IntN(256)
	matches := g.r.IntN(10)
	for range g.blocks/2 + g.r.IntN(g.blocks/2+1) {
		have := min(len(g.out)-g.member, winSize)
		if have == 0 || g.r.IntN(10) >= matches {
			b := g.r.IntN(literals)
			g.out = append(g.out, byte(b))
			all = append(all, token{literal: b})
			continue
		}
		t := token{length: 3 + g.r.IntN(8), distance: 1 + g.r.IntN(have)}
		switch g.r.IntN(8) {
		case 0:
			t.length = 3 + g.r.IntN(256)
		case 1:
			t.length = 258
		}
		switch g.r.IntN(4) {
		case 0:
			t.distance = have
		case 1:
			t.distance = 1 + g.r.IntN(min(have, 20))
		}
		for range t.length {
			g.out = append(g.out, g.out[len(g.out)-t.distance])
		}
		all = append(all, t)
	}
	return all
}

// lengthSymbol and distSymbol find what RFC 1951 section 3.2.5 writes a length and a distance by.
func (g *generator) lengthSymbol(n int) (s int, extra uint, more int) {
	s = 28
	if n < 258 || g.r.IntN(4) == 0 { // 258 has two ways
		for s = 27; int(lengthBase[s]) > n; s-- {
		}
	}
	return s, uint(n) - uint(lengthBase[s]), int(lengthExtra[s])
}

func distSymbol(d int) (s int, extra uint, more int) {
	for s = 29; int(distBase[s]) > d; s-- {
	}
	return s, uint(d) - uint(distBase[s]), int(distExtra[s])
}

func (g *generator) block(final bool) {
	kind := g.kinds[g.r.IntN(len(g.kinds))]
	g.put(uint(kind)<<1|uint(b2i(final)), 3)
	if kind == 0 {
		n := g.r.IntN(min(65535, g.blocks) + 1)
		g.align()
		g.bytes = binary.LittleEndian.AppendUint16(g.bytes, uint16(n))
		g.bytes = binary.LittleEndian.AppendUint16(g.bytes, ^uint16(n))
		for range n {
			b := byte(g.r.IntN(256))
			g.bytes, g.out = append(g.bytes, b), append(g.out, b)
		}
		return
	}
	type written struct {
		lit, lengthMore, dist, distMore int
		lengthExtra, distExtra          uint
	}
	var all []written
	lits, dists := make([]bool, 286), make([]bool, 30)
	lits[256] = true
	for _, t := range g.tokens() {
		w := written{lit: t.literal, dist: -1}
		if t.length > 0 {
			w.lit, w.lengthExtra, w.lengthMore = g.lengthSymbol(t.length)
			w.lit += 257
			w.dist, w.distExtra, w.distMore = distSymbol(t.distance)
			dists[w.dist] = true
		}
		lits[w.lit] = true
		all = append(all, w)
	}
	var lit, dist code
	if kind == 1 {
		lit, dist = canonical(fixedLengths[:]), canonical(slices.Repeat([]uint8{5}, 32))
	} else {
		for range g.r.IntN(100) { // codes that do not occur
			lits[g.r.IntN(286)] = true
		}
		lit, dist = canonical(g.shape(lits)), canonical(g.shape(dists))
		g.codes(lit.lengths, dist.lengths)
	}
	for _, w := range all {
		g.symbol(lit, w.lit)
		if w.dist >= 0 {
			g.put(w.lengthExtra, w.lengthMore)
			g.symbol(dist, w.dist)
			g.put(w.distExtra, w.distMore)
		}
	}
	g.symbol(lit, 256)
}

// codes writes the header of a dynamic block.
func (g *generator) codes(lit, dist []uint8) {
	trim := func(l []uint8, least int) []uint8 {
		for len(l) > least && l[len(l)-1] == 0 && g.r.IntN(20) > 0 {
			l = l[:len(l)-1]
		}
		return l
	}
	lit, dist = trim(lit, 257), trim(dist, 1)
	g.put(uint(len(lit)-257), 5)
	g.put(uint(len(dist)-1), 5)
	g.put(19-4, 4)
	used := slices.Repeat([]bool{true}, 19)
	lengths := g.shape(used)
	for slices.Max(lengths) > 7 {
		lengths = g.shape(used)
	}
	for _, s := range lengthOrder {
		g.put(uint(lengths[s]), 3)
	}
	c := canonical(lengths)
	all := slices.Concat(lit, dist)
	for i := 0; i < len(all); {
		same := 1
		for i+same < len(all) && all[i+same] == all[i] {
			same++
		}
		again := 0
		for i > 0 && i+again < len(all) && all[i+again] == all[i-1] {
			again++
		}
		switch {
		case again >= 3 && g.r.IntN(3) > 0:
			n := min(again, 6)
			g.symbol(c, 16)
			g.put(uint(n-3), 2)
			i += n
		case all[i] == 0 && same >= 11 && g.r.IntN(5) > 0:
			n := min(same, 138)
			g.symbol(c, 18)
			g.put(uint(n-11), 7)
			i += n
		case all[i] == 0 && same >= 3 && g.r.IntN(5) > 0:
			n := min(same, 10)
			g.symbol(c, 17)
			g.put(uint(n-3), 3)
			i += n
		default:
			g.symbol(c, int(all[i]))
			i++
		}
	}
}

// gzipMember appends a member of so many blocks.
func (g *generator) gzipMember(blocks int) {
	g.bytes = append(g.bytes, 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255)
	g.member = len(g.out)
	for i := range blocks {
		g.block(i == blocks-1)
	}
	g.align()
	d := g.out[g.member:]
	g.bytes = binary.LittleEndian.AppendUint32(g.bytes, crc32.ChecksumIEEE(d))
	g.bytes = binary.LittleEndian.AppendUint32(g.bytes, uint32(len(d)))
}

// generated is a gzip file of members of blocks, and its content.
func generated(seed uint64, members, blocks, symbols int, kinds ...int) (stored, decoded []byte) {
	g := generator{r: rand.New(rand.NewPCG(seed, 1)), kinds: kinds, blocks: symbols}
	for range members {
		g.gzipMember(blocks)
	}
	return g.bytes, g.out
}
