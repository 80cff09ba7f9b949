package tree

// Whiteouts (OCI image specification, layer.md, which took them from AUFS).
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// hide carries out the whiteout base, which stands in dir and means hidden.
func (m *merger) hide(dir, base, hidden string) error {
	if base != opaque && (hidden == "" || hidden == "." || hidden == "..") {
		return errWhiteout
	}
	at, err := m.resolve(dir)
	if err != nil || at == none {
		return err
	}
	if base == opaque {
		m.hideBelow(at)
		return nil
	}
	if d := m.find(at, hidden); d != none && m.dirents.at(d).inode != none {
		m.hideLower(d)
	}
	return nil
}

// hideLower removes d unless this layer brought it or something below it; in that case, what it did not bring there.
func (m *merger) hideLower(d uint32) {
	switch e := m.dirents.at(d); {
	case e.layer != m.layer:
		m.unlink(d)
	case m.isDir(e.inode):
		m.hideBelow(e.inode)
	}
}

// hideBelow is hideLower for all entries of a directory, without recursion: trees may be deep.
func (m *merger) hideBelow(dir uint32) {
	todo := []uint32{dir}
	for len(todo) > 0 {
		dir, todo = todo[len(todo)-1], todo[:len(todo)-1]
		for d := uint32(m.nodes.at(dir).where); d != none; d = m.dirents.at(d).next {
			switch e := m.dirents.at(d); {
			case e.inode == none:
			case e.layer != m.layer:
				m.unlink(d)
			case m.isDir(e.inode):
				todo = append(todo, e.inode)
			}
		}
	}
}
