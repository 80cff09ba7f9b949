package tree

import (
	"path"
	"strings"
)

const (
	// maxLinks is how many symbolic links may be followed for one name (filepath-securejoin, which umoci and
	// containerd resolve with, has the same bound; the kernel's is 40).
	maxLinks = 255
	// maxSteps and stepsPerEntry bound the elements of paths that are looked at for a whole image, so that links to
	// links to links cannot keep us busy: real names have less than 20 elements, and 2^24 take half a second.
	maxSteps      = 1 << 24
	stepsPerEntry = 64
	// maxRest bounds, in bytes, what is left to resolve when links have been put in; stepBytes of it are as much work
	// as a step.
	maxRest   = 16 * maxPath
	stepBytes = 256
)

// clean is name relative to the top, without ".", ".." and empty elements; "" is the top itself.
func clean(name string) (string, error) {
	if len(name) > maxPath {
		return "", errPath
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", errNul
	}
	name = path.Clean(strings.TrimLeft(name, "/"))
	if name == ".." || strings.HasPrefix(name, "../") {
		name = path.Clean("/" + name)[1:]
	}
	if name == "." {
		return "", nil
	}
	return name, nil
}

// split cuts the last element off.
func split(name string) (dir, base string) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

// step is an element of a resolved path.
type step struct {
	name   string
	dirent uint32 // none: it does not exist
	inode  uint32 // none: it does not exist
}

// walk resolves dir, following symbolic links inside the tree, into m.path. Elements that do not exist are taken as
// they are, "..", too: what is missing is no symbolic link.
func (m *merger) walk(dir string) error {
	m.path = m.path[:0]
	links := 0
	for dir != "" {
		var name string
		if i := strings.IndexByte(dir, '/'); i >= 0 {
			name, dir = dir[:i], dir[i+1:]
		} else {
			name, dir = dir, ""
		}
		if m.steps++; m.steps > maxSteps && m.steps > stepsPerEntry*m.seen {
			return errLoop
		}
		switch {
		case name == "" || name == ".":
			continue
		case name == "..":
			m.path = m.path[:max(0, len(m.path)-1)]
			continue
		case len(name) > maxName:
			return errName
		case len(m.path) > maxPath/2:
			return errPath
		}
		s := step{name, none, none}
		if at := m.at(); at != none && m.isDir(at) {
			if s.dirent = m.find(at, name); s.dirent != none {
				s.inode = m.dirents.at(s.dirent).inode
			}
		}
		if s.inode == none || m.nodes.at(s.inode).mode&TypeMask != Symlink {
			m.path = append(m.path, s)
			continue
		}
		if links++; links > maxLinks {
			return errLoop
		}
		to := m.targets[m.nodes.at(s.inode).where]
		if to[0] == '/' {
			m.path = m.path[:0]
		}
		if dir = to + "/" + dir; len(dir) > maxRest {
			return errPath
		}
		m.steps += len(dir) / stepBytes
	}
	return nil
}

// at is the inode where m.path leads, or none.
func (m *merger) at() uint32 {
	if len(m.path) == 0 {
		return 0
	}
	return m.path[len(m.path)-1].inode
}

// resolve is the directory dir, or none when there is none.
func (m *merger) resolve(dir string) (uint32, error) {
	if m.lastDir != none && m.lastName == dir {
		return m.lastDir, nil
	}
	if err := m.walk(dir); err != nil {
		return none, err
	}
	if at := m.at(); at != none && m.isDir(at) {
		return at, nil
	}
	return none, nil
}

// ensure is the directory dir, made with its parents where they are missing, and noted as touched by this layer.
func (m *merger) ensure(dir string) (uint32, error) {
	if m.lastDir != none && m.lastName == dir {
		return m.lastDir, nil
	}
	if err := m.walk(dir); err != nil {
		return 0, err
	}
	at := uint32(0)
	for _, s := range m.path {
		if !m.isDir(at) {
			return 0, errNotDir
		}
		if s.inode == none {
			s.dirent = m.entry(at, s.name)
			id, err := m.create(at, Directory|0o755)
			if err != nil {
				return 0, err
			}
			m.inherit(at, id)
			m.dirents.at(s.dirent).inode = id
			s.inode = id
		}
		m.dirents.at(s.dirent).layer = m.layer
		at = s.inode
	}
	if !m.isDir(at) {
		return 0, errNotDir
	}
	m.lastName, m.lastDir = dir, at
	return at, nil
}
