package metainfo

import (
	"crypto/sha1"
	"fmt"

	"github.com/pantala/pantala/bencode"
	"github.com/pantala/pantala/blob"
)

// nesting is how deep bencoding may nest: a file tree has one dictionary per name, and a few around it.
const nesting = MaxDepth + 8

// dict are the values of a dictionary, still encoded.
type dict map[string][]byte

// maxKeys bounds the keys of a dictionary other than a directory of a file tree; writers use about 30.
const maxKeys = 256

// parseDict reads a dictionary whose keys may not repeat: two readers could take different ones.
func parseDict(raw []byte, depth int) (dict, error) {
	d := dict{}
	return d, d.read(raw, depth)
}

// read is parseDict into a dictionary that is used again.
func (d dict) read(raw []byte, depth int) error {
	clear(d)
	return bencode.EachPair(raw, depth, func(k string, v []byte) error {
		if _, twice := d[k]; twice {
			return fmt.Errorf("%w: the key %.40q is there twice", blob.ErrInvalid, k)
		}
		if len(d) == maxKeys {
			return fmt.Errorf("%w: a dictionary of more than %d keys", blob.ErrInvalid, maxKeys)
		}
		d[k] = v
		return nil
	})
}

// text is a string; "" when it is absent.
func (d dict) text(key string) (string, error) {
	raw, ok := d[key]
	if !ok {
		return "", nil
	}
	s, err := bencode.String(raw)
	if err != nil {
		return "", fmt.Errorf("%q: %w", key, err)
	}
	return string(s), nil
}

// number is an integer in 0..limit; 0 when it is absent.
func (d dict) number(key string, limit int64) (int64, error) {
	raw, ok := d[key]
	if !ok {
		return 0, nil
	}
	n, err := bencode.Int(raw, limit)
	if err != nil {
		return 0, fmt.Errorf("%q: %w", key, err)
	}
	return n, nil
}

// ParseInfo reads an info dictionary, of a .torrent or from peers (BEP 9). raw is kept.
func ParseInfo(raw []byte) (*Info, error) {
	if len(raw) > MaxInfo {
		return nil, fmt.Errorf("%w info dictionary: %d bytes, at most %d are allowed", blob.ErrInvalid, len(raw), MaxInfo)
	}
	i, err := parseInfo(raw)
	if err != nil {
		return nil, fmt.Errorf("info dictionary: %w", err)
	}
	return i, nil
}

func parseInfo(raw []byte) (*Info, error) {
	d, err := parseDict(raw, nesting)
	if err != nil {
		return nil, err
	}
	i := &Info{Raw: raw}
	version, err := d.number("meta version", 1<<31)
	if err != nil {
		return nil, err
	}
	i.HasV2, i.HasV1 = version == 2, d["pieces"] != nil
	if version > 2 {
		return nil, fmt.Errorf("%w: meta version %d: versions 1 and 2 are known", blob.ErrInvalid, version)
	}
	if !i.HasV1 && !i.HasV2 {
		return nil, fmt.Errorf("%w: neither \"pieces\" (BitTorrent v1) nor \"meta version\" 2", blob.ErrInvalid)
	}
	name, err := d.text("name.utf-8")
	if err == nil && name == "" {
		name, err = d.text("name")
	}
	if err != nil {
		return nil, err
	}
	if i.Name, err = safeName(name); err != nil {
		return nil, fmt.Errorf("\"name\": %w", err)
	}
	private, err := d.number("private", 1<<31)
	if err != nil {
		return nil, err
	}
	i.Private = private == 1 // BEP 27
	if i.PieceLength, err = d.number("piece length", 1<<62); err != nil {
		return nil, err
	}
	if err := i.checkPieceLength(); err != nil {
		return nil, err
	}
	if i.HasV2 {
		if err := i.parseTree(d); err != nil {
			return nil, err
		}
		i.InfoHashV2 = blob.InfoHash(raw)
	}
	if i.HasV1 {
		if err := i.parseV1(d); err != nil {
			return nil, err
		}
		i.InfoHashV1 = sha1.Sum(raw)
	}
	i.entries = 0
	return i, i.checkTree()
}

func (i *Info) checkPieceLength() error {
	n := i.PieceLength
	switch {
	case n < 1 || n > maxPieceLength:
		return fmt.Errorf("%w: a piece length of %d bytes: 16 KiB to 1 GiB are supported", blob.ErrInvalid, n)
	case i.HasV2 && (n < blob.BlockSize || n&(n-1) != 0):
		return fmt.Errorf("%w: a piece length of %d bytes: BitTorrent v2 wants a power of two from 16 KiB on (BEP 52)", blob.ErrInvalid, n)
	case n%blob.BlockSize != 0:
		return fmt.Errorf("%w: a piece length of %d bytes: only multiples of 16 KiB are supported", blob.ErrInvalid, n)
	}
	return nil
}

// count bounds what costs memory or time without being a file: pads, and directories.
func (i *Info) count() error {
	if i.entries++; i.entries > 2*MaxFiles {
		return fmt.Errorf("%w: more than %d files, directories and pads", blob.ErrInvalid, 2*MaxFiles)
	}
	return nil
}

// add appends a file.
func (i *Info) add(f File) error {
	if len(i.Files) == MaxFiles {
		return fmt.Errorf("%w: more than %d files", blob.ErrInvalid, MaxFiles)
	}
	i.Files = append(i.Files, f)
	return nil
}

// grow moves the end of the piece space by n bytes and returns where it was.
func (i *Info) grow(n int64) (at int64, err error) {
	if n > blob.MaxSize-i.Length {
		return 0, fmt.Errorf("%w: more than %d bytes in all", blob.ErrInvalid, blob.MaxSize)
	}
	at = i.Length
	i.Length += n
	return at, nil
}

// attributes are those of BEP 47 that mean something here.
type attributes struct {
	pad, executable bool
	symlink         []string
}

// attributesOf reads "attr" and "symlink path" of a file's dictionary.
func attributesOf(d dict) (a attributes, err error) {
	attr, err := d.text("attr")
	if err != nil {
		return a, err
	}
	link := false
	for _, c := range attr {
		switch c {
		case 'p':
			a.pad = true
		case 'x':
			a.executable = true
		case 'l':
			link = true
		}
	}
	if link {
		names, err := pathOf(d["symlink path"])
		if err != nil {
			return a, fmt.Errorf("\"symlink path\": %w", err)
		}
		if a.symlink, err = safePath(names); err != nil {
			return a, fmt.Errorf("\"symlink path\": %w", err)
		}
	}
	return a, nil
}

// pathOf reads a list of names.
func pathOf(raw []byte) (names []string, err error) {
	if raw == nil {
		return nil, fmt.Errorf("%w: it is missing", blob.ErrInvalid)
	}
	err = bencode.EachItem(raw, 1, func(raw []byte) error {
		if len(names) > MaxDepth {
			return fmt.Errorf("%w: more than %d names", blob.ErrInvalid, MaxDepth)
		}
		s, err := bencode.String(raw)
		names = append(names, string(s))
		return err
	})
	return names, err
}
