package zstdspan

import "encoding/binary"

// decoder is what a decoder of one frame knows between two blocks, and memory to work in.
type decoder struct {
	frame   frame
	reps    [3]uint32 // repeat offsets (RFC 8878 section 3.1.1.5)
	tree    huffman
	treeOf  origin // modeNone or modeDescribed
	codings [sequenceTables]coding

	// Which of the tables (the tree is the last) blocks brought themselves since the last point, and which they used
	// before they brought one.
	brought, inherited [sequenceTables + 1]bool

	// Matches reach back to floor in the output, and to what lies before: bytes that source has (Span), or, where
	// edge is above floor, bytes whose use is noted (Scan).
	floor, edge int
	source      *pages
	uses        []use

	// clip: what a block has behind the end of the output is left out (Span: a span may end inside of a block).
	clip bool

	in       [pad + maxBlock + pad]byte // a stored block, with room to load words beyond it
	literals [maxBlock + pad]byte
	weights  table
}

// use says that a match copied length bytes from place at of the output, before the edge.
type use struct{ at, length int }

// begin makes d ready for the first block of a frame (RFC 8878 section 3.1.1.5: the first repeat offsets).
func (d *decoder) begin(f frame) {
	d.frame = f
	d.reps = [3]uint32{1, 4, 8}
	d.tree.log = 0
	d.treeOf.set(modeNone, nil)
	for i := range d.codings {
		d.codings[i].table = nil
		d.codings[i].origin.set(modeNone, nil)
	}
}

// block decodes a block, whose stored bytes stand at d.in[pad:], to dst[n:limit] and returns the new n. It may write
// anything between that and limit.
func (d *decoder) block(h blockHeader, dst []byte, n, limit int) (int, error) {
	switch h.kind {
	case kindRaw:
		if n+h.size > limit && !d.clip {
			return n, damage("more bytes than expected")
		}
		return n + copy(dst[n:limit], d.in[pad:pad+h.size]), nil
	case kindRun:
		if n+h.size > limit && !d.clip {
			return n, damage("more bytes than expected")
		}
		end := min(n+h.size, limit)
		fill(dst[n:end], d.in[pad])
		return end, nil
	}
	literals, at, err := d.readLiterals(pad, pad+h.size)
	if err != nil {
		return n, err
	}
	return d.readSequences(at, pad+h.size, literals, dst, n, limit)
}

func fill(p []byte, b byte) {
	for i := range p {
		p[i] = b
	}
}

// readLiterals decodes the literals section (RFC 8878 section 3.1.1.3.1) at d.in[at:end]. Behind what it returns pad
// bytes can be read. The second result is where the section ends.
func (d *decoder) readLiterals(at, end int) ([]byte, int, error) {
	if at >= end {
		return nil, 0, damage("empty block")
	}
	head := uint64(0)
	for i := range min(5, end-at) {
		head |= uint64(d.in[at+i]) << (8 * i)
	}
	kind, format := head&3, head>>2&3
	if kind < 2 {
		size, used := int(head>>3&31), 1
		switch format {
		case 1:
			size, used = int(head>>4&0xfff), 2
		case 3:
			size, used = int(head>>4&0xfffff), 3
		}
		at += used
		if size > d.frame.block() {
			return nil, 0, damage("more literals than fit a block")
		}
		if kind == 1 {
			if at >= end {
				return nil, 0, damage("literals cut short")
			}
			fill(d.literals[:size], d.in[at])
			return d.literals[:size], at + 1, nil
		}
		if at+size > end {
			return nil, 0, damage("literals cut short")
		}
		return d.in[at : at+size], at + size, nil
	}
	bits, used := [4]int{10, 10, 14, 18}[format], [4]int{3, 3, 4, 5}[format]
	size, stored := int(head>>4)&(1<<bits-1), int(head>>4>>bits)&(1<<bits-1)
	at += used
	after := at + stored
	if size > d.frame.block() {
		return nil, 0, damage("more literals than fit a block")
	}
	if after > end {
		return nil, 0, damage("literals cut short")
	}
	if kind == 2 {
		n, err := d.tree.parse(d.in[:], at, after, &d.weights)
		if err != nil {
			return nil, 0, err
		}
		d.treeOf.set(modeDescribed, d.in[at:at+n])
		d.brought[sequenceTables] = true
		at += n
	} else {
		if d.tree.log == 0 {
			return nil, 0, damage("literals without a Huffman tree")
		}
		d.inherited[sequenceTables] = d.inherited[sequenceTables] || !d.brought[sequenceTables]
	}
	literals := d.literals[:size]
	if format == 0 {
		return literals, after, d.tree.one(literals, d.in[:], at, after)
	}
	// Four streams of equal length, the last perhaps shorter (section 3.1.1.3.1.6).
	part := (size + 3) / 4
	if after-at < 6 || 3*part > size {
		return nil, 0, damage("four streams of literals")
	}
	s1 := at + 6
	s2 := s1 + int(binary.LittleEndian.Uint16(d.in[at:]))
	s3 := s2 + int(binary.LittleEndian.Uint16(d.in[at+2:]))
	s4 := s3 + int(binary.LittleEndian.Uint16(d.in[at+4:]))
	if s4 > after {
		return nil, 0, damage("four streams of literals")
	}
	if err := d.tree.two(literals[:part], literals[part:2*part], d.in[:], s1, s2, s3); err != nil {
		return nil, 0, err
	}
	return literals, after, d.tree.two(literals[2*part:3*part], literals[3*part:], d.in[:], s3, s4, after)
}

// readSequences decodes the sequences section (RFC 8878 section 3.1.1.3.2) at d.in[at:end] and carries it out.
func (d *decoder) readSequences(at, end int, literals, dst []byte, n, limit int) (int, error) {
	if at >= end {
		return n, damage("block without sequences section")
	}
	count := int(d.in[at])
	at++
	switch {
	case count == 255:
		count = int(d.in[at]) + int(d.in[at+1])<<8 + 0x7f00
		at += 2
	case count >= 128:
		count = (count-128)<<8 + int(d.in[at])
		at++
	}
	if count == 0 {
		if at != end {
			return n, damage("bytes behind a block")
		}
		return d.tail(literals, dst, n, limit)
	}
	if at >= end {
		return n, damage("sequences cut short")
	}
	modes := d.in[at]
	at++
	if modes&3 != 0 {
		return n, damage("reserved bits of sequences")
	}
	for kind := range d.codings {
		c := &d.codings[kind]
		mode := modes >> (6 - 2*kind) & 3
		if mode == modeRepeat {
			if c.table == nil {
				return n, damage("sequences without a table")
			}
			d.inherited[kind] = d.inherited[kind] || !d.brought[kind]
			continue
		}
		used, err := c.take(kind, mode, d.in[at:end])
		if err != nil {
			return n, err
		}
		d.brought[kind] = true
		at += used
	}
	var r reverse
	if err := r.open(d.in[:], at, end); err != nil {
		return n, err
	}
	return d.carryOut(count, &r, literals, dst, n, limit)
}

// carryOut decodes count sequences and does what they say: copies literals, then a match (RFC 8878 section 3.1.1.4).
func (d *decoder) carryOut(count int, r *reverse, literals, dst []byte, n, limit int) (int, error) {
	lits, offs, mats := d.codings[literalLengths].table, d.codings[offsets].table, d.codings[matchLengths].table
	ls := r.read(lits.log)
	os := r.read(offs.log)
	ms := r.read(mats.log)
	rep0, rep1, rep2 := d.reps[0], d.reps[1], d.reps[2]
	window := uint32(min(d.frame.window, MaxWindow))
	edge := d.edge
	most := min(limit, n+d.frame.block())
	lit := 0 // how many literals are used
	for count > 0 {
		if !r.load() {
			return n, damage("sequences cut short")
		}
		l, o, m := lits.states[ls&(maxStates-1)], offs.states[os&(maxStates-1)], mats.states[ms&(maxStates-1)]
		// A word has 57 bits; an offset takes up to 31, lengths 16 each, the next states 26.
		offset := o.value() + uint32(r.read(o.extra()))
		if o.extra() > 16 && !r.load() {
			return n, damage("sequences cut short")
		}
		match := int(m.value()) + int(r.read(m.extra()))
		run := int(l.value()) + int(r.read(l.extra()))
		if offset > 3 {
			offset -= 3
			rep0, rep1, rep2 = offset, rep0, rep1
		} else {
			if run == 0 {
				offset++
			}
			switch offset {
			case 1:
				offset = rep0
			case 2:
				offset = rep1
				rep0, rep1 = offset, rep0
			case 3:
				offset = rep2
				rep0, rep1, rep2 = offset, rep0, rep1
			default:
				offset = rep0 - 1
				rep0, rep1, rep2 = offset, rep0, rep1
			}
		}
		if count--; count > 0 {
			if o.extra()+m.extra()+l.extra() > 31 && !r.load() {
				return n, damage("sequences cut short")
			}
			ls = uint64(l.next()) + r.read(l.nbits())
			ms = uint64(m.next()) + r.read(m.nbits())
			os = uint64(o.next()) + r.read(o.nbits())
		}
		// offset 0 becomes the largest number: it is refused too.
		if offset-1 >= window || run > len(literals)-lit {
			return n, damage("a sequence that reaches too far")
		}
		clipped := n+run+match > most
		if clipped {
			if !d.clip || most < len(dst) {
				return n, damage("more bytes than expected")
			}
			run = min(run, most-n)
			match = min(match, most-n-run)
		}
		if run <= 16 && n+16 <= len(dst) {
			// Behind the literals there are pad bytes, whichever buffer they are in.
			p := literals[lit : lit+16 : cap(literals)]
			binary.LittleEndian.PutUint64(dst[n:], binary.LittleEndian.Uint64(p))
			binary.LittleEndian.PutUint64(dst[n+8:], binary.LittleEndian.Uint64(p[8:]))
		} else {
			copy(dst[n:n+run], literals[lit:])
		}
		n += run
		lit += run
		if clipped && match == 0 {
			return n, nil
		}
		from := n - int(offset)
		if from < edge {
			done, err := d.before(dst, n, from, match)
			if err != nil {
				return n, err
			}
			n += done
			from += done
			if match -= done; match == 0 && !clipped {
				continue
			}
		}
		if offset >= 16 && match <= 32 && n+32 <= len(dst) {
			p, q := dst[n:n+32:n+32], dst[from:from+32]
			binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(q))
			binary.LittleEndian.PutUint64(p[8:], binary.LittleEndian.Uint64(q[8:]))
			if match > 16 {
				binary.LittleEndian.PutUint64(p[16:], binary.LittleEndian.Uint64(q[16:]))
				binary.LittleEndian.PutUint64(p[24:], binary.LittleEndian.Uint64(q[24:]))
			}
			n += match
		} else {
			// What overlaps repeats, so each copy may be as long as everything since from.
			for match > 0 {
				c := copy(dst[n:n+min(match, n-from)], dst[from:])
				n += c
				match -= c
			}
		}
		if clipped {
			return n, nil
		}
	}
	d.reps = [3]uint32{rep0, rep1, rep2}
	if r.left() != 0 {
		return n, damage("sequences that do not end where their stream does")
	}
	return d.tail(literals[lit:], dst, n, most)
}

// tail copies the literals behind the last sequence.
func (d *decoder) tail(literals, dst []byte, n, limit int) (int, error) {
	if n+len(literals) > limit && !(d.clip && limit == len(dst)) {
		return n, damage("more bytes than expected")
	}
	return n + copy(dst[n:limit], literals), nil
}

// before sees to the part of a match that begins before the edge. It returns how many bytes of it are copied: what
// comes out of source.
func (d *decoder) before(dst []byte, n, from, match int) (int, error) {
	if from >= d.floor {
		d.uses = append(d.uses, use{from, min(match, d.edge-from)})
		return 0, nil
	}
	if d.source == nil {
		return 0, damage("a match from before the start of its frame")
	}
	match = min(match, d.floor-from)
	if !d.source.read(dst[n:n+match], d.floor-from) {
		return 0, damage("a match that its window does not have")
	}
	return match, nil
}
