package inflate

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestBuild: a table finds each symbol by each of its codes' continuations, whatever the shape of the code.
func TestBuild(t *testing.T) {
	g := generator{r: rand.New(rand.NewPCG(4, 4))}
	for round := range 400 {
		used := make([]bool, 286)
		for range g.r.IntN(300) {
			used[g.r.IntN(286)] = true
		}
		used[256] = true
		lengths := g.shape(used)
		var table [litSize]entry
		if !build(table[:], litBits, lengths, litSymbols[:]) {
			t.Fatalf("round %d: no code", round)
		}
		c := canonical(lengths)
		for s, n := range lengths {
			if n == 0 {
				continue
			}
			for range 20 {
				bits := uint32(c.bits[s]) | g.r.Uint32()<<n
				e := table[bits&(1<<litBits-1)]
				took := e >> 8 & 31
				if e&second != 0 {
					took = litBits
					e = table[e>>16+bits>>litBits&(1<<(e>>8&31)-1)]
					took += e >> 8 & 31
				}
				if e&^0x1fff != litSymbols[s]&^0x1fff || took != uint32(n) {
					t.Fatalf("round %d: symbol %d of %d bits is found as %#x of %d bits", round, s, n, e, took)
				}
			}
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	var table [litSize]entry
	for _, c := range []struct {
		name    string
		lengths []uint8
		ok      bool
	}{
		{"none", []uint8{0, 0}, true},
		{"one of one bit", []uint8{0, 1}, true},
		{"one of two bits", []uint8{0, 2}, false},
		{"two", []uint8{1, 1}, true},
		{"three of one bit", []uint8{1, 1, 1}, false},
		{"one missing", []uint8{1, 2}, false},
		{"complete", []uint8{1, 2, 2}, true},
		{"as deep as may be", []uint8{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15}, true},
		{"one missing at the bottom", []uint8{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, false},
		{"one too many at the bottom", []uint8{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15, 15}, false},
		{"even", slices.Repeat([]uint8{8}, 256), true},
		{"uneven", slices.Repeat([]uint8{8}, 257), false},
	} {
		if ok := build(table[:], litBits, c.lengths, litSymbols[:]); ok != c.ok {
			t.Errorf("%s: %t", c.name, ok)
		}
	}
}

// TestBuildRoom: no code needs more entries than zlib's enough.c says; one that did would be out of range here.
func TestBuildRoom(t *testing.T) {
	for _, alphabet := range []struct{ symbols, bits, most int }{{288, litBits, 2342}, {32, distBits, 594}} {
		g := generator{r: rand.New(rand.NewPCG(5, 5))}
		table := make([]entry, alphabet.most)
		for range 3000 {
			used := make([]bool, alphabet.symbols)
			for i := range used {
				used[i] = g.r.IntN(30) > 0
			}
			if !build(table, alphabet.bits, g.shape(used), slices.Repeat([]entry{literal}, alphabet.symbols)) {
				t.Fatal("no code")
			}
		}
	}
}
