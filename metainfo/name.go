package metainfo

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/pantala/pantala/blob"
)

// maxName is the longest file name of Linux file systems in bytes (NAME_MAX, limits.h).
const maxName = 255

// safeName makes one name of a path what can be shown and looked up. A name that would leave its directory, or
// lead to another one, is refused; control characters and what is not UTF-8 become "_", and a name that is too long
// for Linux is cut before its extension.
func safeName(s string) (string, error) {
	switch {
	case s == "":
		return "", fmt.Errorf("%w: a name in a path is empty", blob.ErrInvalid)
	case s == "." || s == "..":
		return "", fmt.Errorf("%w: the name %q would lead out of the torrent's directory", blob.ErrInvalid, s)
	case strings.ContainsAny(s, "/\x00"):
		return "", fmt.Errorf("%w: the name %.64q has a slash or a NUL in it", blob.ErrInvalid, s)
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return '_'
		}
		return r
	}, s)
	if len(s) > maxName {
		ext := path.Ext(s)
		if len(ext) > 16 {
			ext = ""
		}
		s = strings.ToValidUTF8(s[:maxName-len(ext)], "") + ext
	}
	return s, nil
}

// safePath is safeName for each name of a path.
func safePath(names []string) ([]string, error) {
	if len(names) == 0 {
		return nil, fmt.Errorf("%w: a path without names", blob.ErrInvalid)
	}
	if len(names) > MaxDepth {
		return nil, fmt.Errorf("%w: a path of %d names: at most %d are allowed", blob.ErrInvalid, len(names), MaxDepth)
	}
	long := 0
	safe := make([]string, len(names))
	for i, s := range names {
		var err error
		if safe[i], err = safeName(s); err != nil {
			return nil, err
		}
		long += len(safe[i]) + 1
	}
	if long > MaxPath {
		return nil, fmt.Errorf("%w: a path of %d bytes: at most %d are allowed", blob.ErrInvalid, long, MaxPath)
	}
	return safe, nil
}

// checkTree refuses two files of one path, and a file where another one's path has a directory. What links lead to
// must be in the torrent.
func (i *Info) checkTree() error {
	const file, dir = 1, 2
	seen := make(map[string]byte, len(i.Files))
	for f := range i.Files {
		p := i.Files[f].Path
		for n := 1; n < len(p); n++ {
			at := strings.Join(p[:n], "/")
			if seen[at] == file {
				return fmt.Errorf("%w: %q is both a file and a directory", blob.ErrInvalid, at)
			}
			seen[at] = dir
		}
		switch at := strings.Join(p, "/"); seen[at] {
		case file:
			return fmt.Errorf("%w: %q is there twice", blob.ErrInvalid, at)
		case dir:
			return fmt.Errorf("%w: %q is both a file and a directory", blob.ErrInvalid, at)
		default:
			seen[at] = file
		}
	}
	for f := range i.Files {
		if to := i.Files[f].Symlink; to != nil && seen[strings.Join(to, "/")] == 0 {
			return fmt.Errorf("%w: the symbolic link %q leads to %q, which is not in the torrent", blob.ErrInvalid, i.Files[f].String(), strings.Join(to, "/"))
		}
	}
	return nil
}
