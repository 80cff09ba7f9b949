package soci

import "encoding/binary"

// A FlatBuffer (https://flatbuffers.dev/internals) is read in place: references are distances, forward from where they
// stand, and a table begins with the distance back to its vtable, which says where in the table each field is. All of
// it may lie, so each step is checked, and a buffer whose references were wrong once has bad set.
type flat struct {
	b    []byte
	bad  bool
	read int // bytes of texts and vectors
}

// spend counts what is read. Many references may lead to one text, which builders do for names they know to be equal;
// a buffer that says much more than it has is refused.
func (f *flat) spend(n int) bool {
	if f.read += n; f.read > 8*len(f.b) {
		f.bad = true
	}
	return !f.bad
}

// u32 is the number at p.
func (f *flat) u32(p int) int {
	if p < 0 || p > len(f.b)-4 {
		f.bad = true
		return 0
	}
	return int(binary.LittleEndian.Uint32(f.b[p:]))
}

func (f *flat) u16(p int) int {
	if p < 0 || p > len(f.b)-2 {
		f.bad = true
		return 0
	}
	return int(binary.LittleEndian.Uint16(f.b[p:]))
}

// follow is where the reference at p leads.
func (f *flat) follow(p int) int { return p + f.u32(p) }

// table is a table at a place of the buffer; at 0 there is none.
type table struct {
	f  *flat
	at int
}

// root is the table that a buffer is about.
func (f *flat) root() table { return table{f, f.follow(0)} }

// field is where field i of a table is; 0: it is not there.
func (t table) field(i int) int {
	if t.at <= 0 || t.f.bad {
		return 0
	}
	vtable := t.at - int(int32(t.f.u32(t.at)))
	if 4+2*i+2 > t.f.u16(vtable) {
		return 0
	}
	if d := t.f.u16(vtable + 4 + 2*i); d > 0 {
		return t.at + d
	}
	return 0
}

// long is a field of 8 bytes.
func (t table) long(i int) int64 {
	p := t.field(i)
	if p == 0 {
		return 0
	}
	low, high := t.f.u32(p), t.f.u32(p+4)
	return int64(uint64(low) | uint64(high)<<32)
}

// int is a field of 4 bytes.
func (t table) int(i int) int32 {
	if p := t.field(i); p != 0 {
		return int32(t.f.u32(p))
	}
	return 0
}

// byte is a field of 1 byte.
func (t table) byte(i int, missing byte) byte {
	p := t.field(i)
	if p == 0 {
		return missing
	}
	if p >= len(t.f.b) {
		t.f.bad = true
		return missing
	}
	return t.f.b[p]
}

// table is a field that refers to a table.
func (t table) table(i int) table {
	if p := t.field(i); p != 0 {
		return table{t.f, t.f.follow(p)}
	}
	return table{f: t.f}
}

// bytes is a field that refers to a string or a vector of bytes.
func (t table) bytes(i int) []byte {
	if p := t.field(i); p != 0 {
		return t.f.bytes(t.f.follow(p))
	}
	return nil
}

// bytes is the vector at p, elements of one byte.
func (f *flat) bytes(p int) []byte {
	n := f.u32(p)
	if f.bad || n > len(f.b)-p-4 {
		f.bad = true
		return nil
	}
	if !f.spend(n) {
		return nil
	}
	return f.b[p+4 : p+4+n]
}

// vector is a field that refers to a vector of references: where the first stands, and how many there are.
func (t table) vector(i int) (at, n int) {
	p := t.field(i)
	if p == 0 {
		return 0, 0
	}
	p = t.f.follow(p)
	n = t.f.u32(p)
	if t.f.bad || n > (len(t.f.b)-p-4)/4 {
		t.f.bad = true
		return 0, 0
	}
	if !t.f.spend(4 * n) {
		return 0, 0
	}
	return p + 4, n
}
