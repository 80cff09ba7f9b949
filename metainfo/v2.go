package metainfo

import (
	"fmt"

	"github.com/pantala/pantala/bencode"
	"github.com/pantala/pantala/blob"
)

// parseTree reads the "file tree" of BEP 52. Each file that has bytes begins at the next piece boundary.
func (i *Info) parseTree(d dict) error {
	raw, ok := d["file tree"]
	if !ok {
		return fmt.Errorf("%w: \"meta version\" is 2, but there is no \"file tree\"", blob.ErrInvalid)
	}
	if err := i.walk(raw, nil); err != nil {
		return fmt.Errorf("\"file tree\": %w", err)
	}
	if len(i.Files) == 0 {
		return fmt.Errorf("%w: \"file tree\" has no files", blob.ErrInvalid)
	}
	// A tree of one file that is called like the torrent is that file, not a directory with it.
	i.Single = len(i.Files) == 1 && len(i.Files[0].Path) == 1 && i.Files[0].Path[0] == i.Name
	return nil
}

// walk reads a directory. Its names must be sorted, as bencoding wants it: that there is no name twice follows.
func (i *Info) walk(raw []byte, path []string) error {
	if len(path) == MaxDepth {
		return fmt.Errorf("%w: deeper than %d directories", blob.ErrInvalid, MaxDepth)
	}
	last, any := "", false
	return bencode.EachPair(raw, nesting, func(name string, raw []byte) error {
		if any && name <= last {
			return fmt.Errorf("%w: %.64q comes after %.64q: names must be sorted and different", blob.ErrInvalid, name, last)
		}
		last, any = name, true
		if name == "" { // below a directory that is no file: see file
			return fmt.Errorf("%w: %q is both a file and a directory", blob.ErrInvalid, path)
		}
		safe, err := safeName(name)
		if err != nil {
			return err
		}
		if err := i.count(); err != nil {
			return err
		}
		at := append(path[:len(path):len(path)], safe)
		if leaf, ok := leafOf(raw); ok {
			return i.leaf(leaf, at)
		}
		return i.walk(raw, at)
	})
}

// leafOf is the description of a file: the value of the empty name, which is alone in its dictionary.
func leafOf(raw []byte) (leaf []byte, ok bool) {
	if len(raw) < 2 || raw[0] != 'd' {
		return nil, false
	}
	name, rest, err := bencode.CutString(raw[1:])
	if err != nil || len(name) != 0 {
		return nil, false
	}
	leaf, rest, err = bencode.Cut(rest, nesting)
	return leaf, err == nil && len(rest) == 1
}

// leaf reads the description of a file.
func (i *Info) leaf(raw []byte, path []string) error {
	d, err := parseDict(raw, nesting)
	if err != nil {
		return err
	}
	path, err = safePath(path)
	if err != nil {
		return err
	}
	f := File{Path: path}
	if f.Length, err = d.number("length", blob.MaxSize); err != nil {
		return fmt.Errorf("%q: %w", f.String(), err)
	}
	a, err := attributesOf(d)
	if err != nil {
		return fmt.Errorf("%q: %w", f.String(), err)
	}
	if a.pad {
		return fmt.Errorf("%w: %q is a pad file, which a v2 tree does not have", blob.ErrInvalid, f.String())
	}
	f.Executable, f.Symlink = a.executable, a.symlink
	root, err := d.text("pieces root")
	switch {
	case err != nil:
		return err
	case f.Length == 0 && root != "":
		return fmt.Errorf("%w: %q is empty and has a \"pieces root\"", blob.ErrInvalid, f.String())
	case f.Length > 0 && f.Symlink != nil:
		return fmt.Errorf("%w: the symbolic link %q has %d bytes", blob.ErrInvalid, f.String(), f.Length)
	case f.Length > 0 && len(root) != len(f.Root):
		return fmt.Errorf("%w: %q has a \"pieces root\" of %d bytes, not 32", blob.ErrInvalid, f.String(), len(root))
	}
	copy(f.Root[:], root)
	if rest := i.Length % i.PieceLength; rest != 0 && f.Length > 0 {
		if _, err := i.grow(i.PieceLength - rest); err != nil {
			return err
		}
	}
	if f.Offset, err = i.grow(f.Length); err != nil {
		return err
	}
	return i.add(f)
}
