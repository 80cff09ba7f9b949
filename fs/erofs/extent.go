package erofs

import (
	"encoding/binary"
)

// Hole is the Device of an Extent that reads as zeros.
const Hole = -1

// Extent says where a stretch of a file is.
type Extent struct {
	File   int64 // offset in the file
	Length int64
	Device int   // number of the layer, from 1; 0: the image itself; Hole: nowhere
	Offset int64 // in that device
}

// Extent is the longest known stretch of a file that begins at off, which is inside the file.
func (m *Image) Extent(i *Inode, off int64) (Extent, error) {
	x, err := m.extent(i, off)
	if err != nil || i.layout != layoutChunks {
		return x, err
	}
	// Chunks of a sparse file are small: those that follow each other are told at once, some at a time.
	for range maxJoined {
		end := x.File + x.Length
		if end >= i.Size {
			break
		}
		next, err := m.extent(i, end)
		if err != nil {
			return x, err
		}
		if next.Device != x.Device || x.Device != Hole && next.Offset != x.Offset+x.Length {
			break
		}
		x.Length += next.Length
	}
	return x, nil
}

// maxJoined bounds how many chunks one call of Extent looks at.
const maxJoined = 1024

// extent is the stretch of one chunk, or of a file in one piece.
func (m *Image) extent(i *Inode, off int64) (Extent, error) {
	x := Extent{File: off, Length: i.Size - off}
	if off < 0 || off >= i.Size {
		return x, m.bad(i.Nid, "was asked for what lies outside of it")
	}
	if i.layout == layoutChunks {
		return m.chunk(i, x)
	}
	block := int64(1) << m.shift
	if i.layout == layoutInline {
		if whole := (i.Size - 1) &^ (block - 1); off >= whole {
			x.Offset = i.tail + off - whole
			return x, nil
		} else {
			x.Length = whole - off
		}
	}
	return m.place(i, x, int64(i.union)<<m.shift+off)
}

// chunk looks the address of a chunk up.
func (m *Image) chunk(i *Inode, x Extent) (Extent, error) {
	bits := m.shift + uint(i.union&chunkBits)
	number := x.File >> bits
	x.Length = min(x.Length, (number+1)<<bits-x.File)
	unit := int64(4)
	if i.union&chunkIndexes != 0 {
		unit = 8
	}
	at := (i.tail + unit - 1) &^ (unit - 1)
	if number > (m.size-at)/unit {
		return x, m.bad(i.Nid, "has chunks outside the image")
	}
	var b [8]byte
	if err := m.read(b[:unit], at+unit*number); err != nil {
		return x, err
	}
	inside := x.File - number<<bits
	addr, device := binary.LittleEndian.Uint32(b[:]), 0
	if unit == 8 {
		addr = binary.LittleEndian.Uint32(b[4:])
		device = int(uint32(binary.LittleEndian.Uint16(b[2:])) & m.mask)
	}
	switch {
	case addr == nullBlock:
		x.Device = Hole
		return x, nil
	case device == 0:
		return m.place(i, x, int64(addr)<<m.shift+inside)
	case device > len(m.devices):
		return x, m.bad(i.Nid, "lies in a device that does not exist")
	}
	x.Device, x.Offset = device, int64(addr)<<m.shift+inside
	return x, nil
}

// place finds the device that an address of the common address space belongs to.
func (m *Image) place(i *Inode, x Extent, at int64) (Extent, error) {
	for n := range m.devices {
		d := &m.devices[n]
		if d.Start == 0 || at < d.Start || at >= d.Start+d.Length {
			continue
		}
		if x.Length > d.Start+d.Length-at {
			return x, m.bad(i.Nid, "reaches beyond its device")
		}
		x.Device, x.Offset = n+1, at-d.Start
		return x, nil
	}
	x.Offset = at
	return x, nil
}
