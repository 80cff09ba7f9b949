package zstdspan

// Kinds of sequence tables, in the order in which a block has them.
const (
	literalLengths = iota
	offsets
	matchLengths
	sequenceTables
)

// alphabet is what the symbols of a kind of table mean (RFC 8878 section 3.1.1.3.2.1.1).
type alphabet struct {
	maxLog uint8
	base   []uint32
	extra  []uint8
	norm   []int16 // the predefined distribution (section 3.1.1.3.2.2)
	log    uint8   // its accuracy
	table  table   // made of it
}

func (a *alphabet) meaning(symbol int) (uint32, uint8) { return a.base[symbol], a.extra[symbol] }

var alphabets = makeAlphabets()

func makeAlphabets() (all [sequenceTables]*alphabet) {
	all[literalLengths] = &alphabet{
		maxLog: 9,
		extra:  []uint8{16: 1, 17: 1, 18: 1, 19: 1, 20: 2, 21: 2, 22: 3, 23: 3, 24: 4, 25: 6, 26: 7, 27: 8, 28: 9, 29: 10, 30: 11, 31: 12, 32: 13, 33: 14, 34: 15, 35: 16},
		norm: []int16{4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1,
			-1, -1, -1, -1},
		log: 6,
	}
	all[offsets] = &alphabet{
		maxLog: 8,
		norm:   []int16{1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1},
		log:    5,
	}
	all[matchLengths] = &alphabet{
		maxLog: 9,
		extra:  []uint8{32: 1, 33: 1, 34: 1, 35: 1, 36: 2, 37: 2, 38: 3, 39: 3, 40: 4, 41: 4, 42: 5, 43: 7, 44: 8, 45: 9, 46: 10, 47: 11, 48: 12, 49: 13, 50: 14, 51: 15, 52: 16},
		norm: []int16{1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
			1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1},
		log: 6,
	}
	for i := range 32 { // an offset code is the number of bits of what it says
		all[offsets].base = append(all[offsets].base, 1<<i)
		all[offsets].extra = append(all[offsets].extra, uint8(i))
	}
	// Of lengths each code begins where the one before ends.
	for kind, at := range map[int]uint32{literalLengths: 0, matchLengths: 3} {
		a := all[kind]
		for _, extra := range a.extra {
			a.base = append(a.base, at)
			at += 1 << extra
		}
	}
	for _, a := range all {
		a.table.build(a.log, a.norm, a.meaning)
	}
	return all
}

// Modes of a table (RFC 8878 section 3.1.1.3.2.1).
const (
	modePredefined = iota
	modeSingle
	modeDescribed
	modeRepeat
	modeNone = modeRepeat // of an origin: there is no table yet
)

// origin says where a table came from, so that another decoder can make it.
type origin struct {
	mode uint8
	text []byte // modeSingle: the symbol. modeDescribed: the description
}

func (o *origin) set(mode uint8, text []byte) {
	o.mode = mode
	o.text = append(o.text[:0], text...)
}

// coding is a table of sequences as it stands between two blocks.
type coding struct {
	table  *table // own, or a predefined one; nil: none yet
	own    table
	origin origin
}

// take makes the table that mode and the bytes at b say, and returns how many of them it used.
func (c *coding) take(kind int, mode uint8, b []byte) (int, error) {
	a := alphabets[kind]
	used := 0
	switch mode {
	case modePredefined:
		c.table = &a.table
	case modeSingle:
		if len(b) == 0 || int(b[0]) >= len(a.base) {
			return 0, damage("symbol of a sequence table")
		}
		value, extra := a.meaning(int(b[0]))
		c.own.log = 0
		c.own.states[0] = makeCell(value, extra, 0, 0)
		c.table = &c.own
		used = 1
	case modeDescribed:
		var norm [64]int16
		log, symbols, n, err := counts(b, a.maxLog, norm[:len(a.base)])
		if err != nil {
			return 0, err
		}
		c.own.build(log, norm[:symbols], a.meaning)
		c.table = &c.own
		used = n
	}
	c.origin.set(mode, b[:used])
	return used, nil
}
