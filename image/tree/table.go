package tree

import (
	"bytes"
	"hash/maphash"
)

// none is no dirent, and no inode.
const none = ^uint32(0)

// dirent is a name in a directory while layers are merged. It is never taken out of the table: a removed one has no
// inode, and is found again when the name comes back.
type dirent struct {
	name   uint32 // offset in table.names
	hash   uint32
	parent uint32 // inode
	inode  uint32 // none: there is no such entry now
	next   uint32 // of the same directory
	layer  uint16 // number, from 1, of the layer that brought it, or something below it, last
	length uint8
}

// table finds dirents by directory and name: an open-addressing hash table whose slots hold numbers of dirents, plus 1.
type table struct {
	dirents pages[dirent]
	slots   []uint32
	names   []byte
	seed    maphash.Seed // random: nobody can choose names that collide
}

func newTable() *table {
	return &table{slots: make([]uint32, 1<<10), seed: maphash.MakeSeed()}
}

func (t *table) hash(parent uint32, name string) uint32 {
	h := maphash.String(t.seed, name) ^ uint64(parent)*0x9e3779b97f4a7c15 // 2^64 / golden ratio spreads small numbers
	return uint32(h>>32) ^ uint32(h)
}

// find is the number of the dirent, or none. It may have no inode.
func (t *table) find(parent uint32, name string) uint32 {
	d, _ := t.seek(parent, name, t.hash(parent, name))
	return d
}

// seek is find, and the slot where the dirent would be put.
func (t *table) seek(parent uint32, name string, hash uint32) (d, slot uint32) {
	mask := uint32(len(t.slots) - 1)
	for slot = hash & mask; t.slots[slot] != 0; slot = (slot + 1) & mask {
		d = t.slots[slot] - 1
		e := t.dirents.at(d)
		if e.hash == hash && e.parent == parent && string(t.nameOf(e)) == name {
			return d, slot
		}
	}
	return none, slot
}

func (t *table) nameOf(e *dirent) []byte {
	return t.names[e.name : e.name+uint32(e.length)]
}

// add puts in a name that find does not find; next is the directory's chain so far.
func (t *table) add(parent uint32, name string, next uint32) uint32 {
	if int(t.dirents.n) >= len(t.slots)/2 {
		t.grow()
	}
	hash := t.hash(parent, name)
	_, slot := t.seek(parent, name, hash)
	d := t.dirents.add(dirent{
		name: uint32(len(t.names)), length: uint8(len(name)), hash: hash, parent: parent, inode: none, next: next,
	})
	t.names = append(t.names, name...)
	t.slots[slot] = d + 1
	return d
}

func (t *table) grow() {
	slots := make([]uint32, 2*len(t.slots))
	mask := uint32(len(slots) - 1)
	for d := range t.dirents.n {
		slot := t.dirents.at(d).hash & mask
		for slots[slot] != 0 {
			slot = (slot + 1) & mask
		}
		slots[slot] = d + 1
	}
	t.slots = slots
}

// compare is the order of directories: by bytes.
func (t *table) compare(a, b uint32) int {
	return bytes.Compare(t.nameOf(t.dirents.at(a)), t.nameOf(t.dirents.at(b)))
}
