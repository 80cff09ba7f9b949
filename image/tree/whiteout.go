package tree

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pantala/pantala/image/index"
)

// Whiteouts (OCI image specification, layer.md, which took them from AUFS).
const (
	whiteout   = ".wh."
	opaqueBase = ".wh..wh..opq"
)

// hide carries out the whiteout base, which stands in dir and means hidden.
func (m *merger) hide(dir, base, hidden string) error {
	if base != opaqueBase && (hidden == "" || hidden == "." || hidden == "..") {
		return errWhiteout
	}
	at, err := m.resolve(dir)
	if err != nil || at == none {
		return err
	}
	if base == opaqueBase {
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

// overlaySpaces are where overlayfs keeps its own attributes; the second when it was mounted without root (option userxattr).
var overlaySpaces = []string{"trusted.overlay.", "user.overlay."}

// overlaid tells what an entry says to overlayfs (Documentation/filesystems/overlayfs.rst): that it hides what lower
// layers have under its name, or that they have nothing in it. Attributes that say so are taken from e.
func overlaid(e *index.Entry) (hides, opaque bool, err error) {
	hides = e.Type == '3' && e.Major == 0 && e.Minor == 0
	own := func(x index.Xattr) bool {
		for _, space := range overlaySpaces {
			what, ok := strings.CutPrefix(x.Name, space)
			if !ok || strings.HasPrefix(what, "overlay.") { // escaped: of an overlay inside
				continue
			}
			switch what {
			case "opaque":
				opaque = opaque || e.Type == '5' && x.Value == "y"
			case "whiteout":
				hides = hides || e.Type == '0' && e.Size == 0
			case "redirect", "metacopy":
				err = fmt.Errorf("it is the %s of an overlay (%s), whose content is elsewhere: only layers whose files are whole are supported; make it from an overlay mounted with redirect_dir=off,metacopy=off", what, x.Name)
			}
			return true
		}
		return false
	}
	if slices.ContainsFunc(e.Xattrs, func(x index.Xattr) bool { return strings.Contains(x.Name, ".overlay.") }) {
		e.Xattrs = slices.DeleteFunc(slices.Clone(e.Xattrs), own)
	}
	return hides, opaque, err
}
