package metainfo

import (
	"fmt"
	"slices"

	"github.com/pantala/pantala/bencode"
	"github.com/pantala/pantala/blob"
)

// parseV1 reads "pieces" and the files of BEP 3. Those of a hybrid must be the files of its tree, each from a
// piece boundary on (BEP 52, "upgrade path").
func (i *Info) parseV1(d dict) error {
	pieces, err := bencode.String(d["pieces"])
	if err != nil {
		return fmt.Errorf("\"pieces\": %w", err)
	}
	if len(pieces)%20 != 0 {
		return fmt.Errorf("%w: \"pieces\" has %d bytes, which is no multiple of 20", blob.ErrInvalid, len(pieces))
	}
	list := Info{PieceLength: i.PieceLength, Name: i.Name} // as v1 sees it
	single, many := d["length"] != nil, d["files"] != nil
	switch {
	case single && many:
		return fmt.Errorf("%w: both \"length\" and \"files\": it is either one file or a list", blob.ErrInvalid)
	case !single && !many:
		return fmt.Errorf("%w: neither \"length\" nor \"files\"", blob.ErrInvalid)
	case single:
		err = list.parseOne(d)
	default:
		err = list.parseList(d["files"])
	}
	if err != nil {
		return err
	}
	want := (list.Length + i.PieceLength - 1) / i.PieceLength
	if got := int64(len(pieces) / 20); got != want {
		return fmt.Errorf("%w: %d piece hashes for %d bytes, which are %d pieces of %d", blob.ErrInvalid, got, list.Length, want, i.PieceLength)
	}
	i.Pieces = make([][20]byte, want)
	for p := range i.Pieces {
		copy(i.Pieces[p][:], pieces[20*p:])
	}
	if i.V1Length = list.Length; !i.HasV2 {
		i.Files, i.Length, i.Single = list.Files, list.Length, list.Single
		return nil
	}
	return i.sameFiles(&list)
}

// parseOne reads the file of a torrent that has one.
func (i *Info) parseOne(d dict) error {
	n, err := d.number("length", blob.MaxSize)
	if err != nil {
		return err
	}
	a, err := attributesOf(d)
	if err != nil {
		return err
	}
	i.Single, i.Length = true, n
	i.Files = []File{{Path: []string{i.Name}, Length: n, Executable: a.executable}}
	return nil
}

// parseList reads the "files" of BEP 3. Pads move the piece space and are dropped.
func (i *Info) parseList(raw []byte) error {
	d := dict{}
	return bencode.EachItem(raw, nesting, func(raw []byte) error {
		err := i.count()
		if err == nil {
			err = d.read(raw, nesting)
		}
		if err != nil {
			return fmt.Errorf("\"files\": %w", err)
		}
		key := "path"
		if d["path.utf-8"] != nil {
			key = "path.utf-8"
		}
		n, err := d.number("length", blob.MaxSize)
		if err != nil {
			return fmt.Errorf("\"files\": %w", err)
		}
		a, err := attributesOf(d)
		if err != nil {
			return fmt.Errorf("\"files\": %w", err)
		}
		at, err := i.grow(n)
		if err != nil || a.pad {
			return err
		}
		names, err := pathOf(d[key])
		if err == nil {
			names, err = safePath(names)
		}
		if err != nil {
			return fmt.Errorf("\"files\": %q: %w", key, err)
		}
		if a.symlink != nil && n != 0 {
			return fmt.Errorf("%w: the symbolic link %q has %d bytes", blob.ErrInvalid, names[len(names)-1], n)
		}
		return i.add(File{Path: names, Length: n, Offset: at, Executable: a.executable, Symlink: a.symlink})
	})
}

// sameFiles checks that the v1 list of a hybrid describes what its tree does.
func (i *Info) sameFiles(list *Info) error {
	if len(list.Files) != len(i.Files) || list.Single != i.Single {
		return fmt.Errorf("%w: a hybrid whose v1 part has %d files and whose v2 part %d", blob.ErrInvalid, len(list.Files), len(i.Files))
	}
	for f := range i.Files {
		a, b := &list.Files[f], &i.Files[f]
		if !slices.Equal(a.Path, b.Path) || a.Length != b.Length {
			return fmt.Errorf("%w: a hybrid whose v1 part has %q of %d bytes where its v2 part has %q of %d", blob.ErrInvalid, a.String(), a.Length, b.String(), b.Length)
		}
		if a.Length > 0 && a.Offset != b.Offset {
			return fmt.Errorf("%w: a hybrid whose v1 part has %q at %d where its v2 part has it at %d: pad files are missing", blob.ErrInvalid, a.String(), a.Offset, b.Offset)
		}
	}
	if list.Length < i.Length || list.Length >= i.Length+i.PieceLength {
		return fmt.Errorf("%w: a hybrid whose v1 part has %d bytes and whose v2 part %d", blob.ErrInvalid, list.Length, i.Length)
	}
	return nil
}
