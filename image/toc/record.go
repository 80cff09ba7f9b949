package toc

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
)

// record is one object of the table. Of a file with several chunks the first is in the record of the file, each other
// one in a record of type chunk behind it. Sources: the eStargz specification, "TOCEntry"; containers/storage,
// FileMetadata.
type record struct {
	Type     string            `json:"type"`
	Name     string            `json:"name"`
	Link     string            `json:"linkName"`
	Mode     int64             `json:"mode"`
	Size     int64             `json:"size"`
	UID      int64             `json:"uid"`
	GID      int64             `json:"gid"`
	ModTime  string            `json:"modtime"`
	DevMajor int64             `json:"devMajor"`
	DevMinor int64             `json:"devMinor"`
	Xattrs   map[string]string `json:"xattrs"` // values in base 64
	Digest   string            `json:"digest"` // of a whole file

	Offset      int64  `json:"offset"`      // of the gzip member or frame in the layer
	EndOffset   int64  `json:"endOffset"`   // zstd:chunked: where the frames of the whole file end
	InnerOffset int64  `json:"innerOffset"` // eStargz: decoded bytes of that member before the chunk
	ChunkOffset int64  `json:"chunkOffset"` // of the chunk in the file
	ChunkSize   int64  `json:"chunkSize"`   // decoded; 0: to the end of the file
	ChunkDigest string `json:"chunkDigest"`
	ChunkType   string `json:"chunkType"` // zstd:chunked: "zeros" is a hole
}

// types are those of ustar.
var types = map[string]byte{"reg": '0', "hardlink": '1', "symlink": '2', "char": '3', "block": '4', "dir": '5', "fifo": '6'}

// entry makes an entry of a record; its extents are missing yet.
func (r *record) entry() (index.Entry, error) {
	e := index.Entry{Name: r.Name, Link: r.Link, Mode: uint32(r.Mode & 0o7777)}
	var ok bool
	if e.Type, ok = types[r.Type]; !ok {
		return e, r.wrong(blob.ErrInvalid, "type %q", r.Type)
	}
	// JSON has no other text than UTF-8, so whoever wrote the table put this character where a name has other bytes.
	if strings.ContainsRune(r.Name, utf8.RuneError) || strings.ContainsRune(r.Link, utf8.RuneError) {
		return e, r.wrong(blob.ErrInvalid, "a name that is not UTF-8 is not told by this format")
	}
	for _, id := range []int64{r.UID, r.GID, r.DevMajor, r.DevMinor} {
		if id < 0 || id > math.MaxUint32 {
			return e, r.wrong(blob.ErrInvalid, "an owner or a device number of %d", id)
		}
	}
	e.UID, e.GID = uint32(r.UID), uint32(r.GID)
	if e.Type == '3' || e.Type == '4' {
		e.Major, e.Minor = uint32(r.DevMajor), uint32(r.DevMinor)
	}
	if e.Type == '0' {
		if r.Size < 0 || r.Size > blob.MaxSize {
			return e, r.wrong(blob.ErrInvalid, "a file of %d bytes", r.Size)
		}
		e.Size = r.Size
	}
	var err error
	if e.Sec, e.Nsec, err = Time(r.ModTime); err != nil {
		return e, r.wrong(blob.ErrCorrupt, "modification time %q", r.ModTime)
	}
	for name, value := range r.Xattrs {
		v, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return e, r.wrong(blob.ErrCorrupt, "value of attribute %q", name)
		}
		e.Xattrs = append(e.Xattrs, index.Xattr{Name: name, Value: string(v)})
	}
	slices.SortFunc(e.Xattrs, func(a, b index.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return e, nil
}

func (r *record) wrong(class error, format string, a ...any) error {
	return fmt.Errorf("%w: table of contents: %.200q: %s", class, r.Name, fmt.Sprintf(format, a...))
}

// Time reads a time as RFC 3339 has it. Empty, and the year 1, in which a program counts that knows no time, are 1970.
func Time(s string) (sec int64, nsec uint32, err error) {
	if s == "" {
		return 0, 0, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.IsZero() {
		return 0, 0, err
	}
	return t.Unix(), uint32(t.Nanosecond()), nil
}

// Digest reads a digest as images write it (OCI image spec, descriptor: digests). Only SHA-256 is taken.
func Digest(s string) (h blob.Hash, ok bool) {
	text, found := strings.CutPrefix(s, "sha256:")
	if !found || len(text) != 2*len(h) || strings.ToLower(text) != text {
		return h, false
	}
	_, err := hex.Decode(h[:], []byte(text))
	return h, err == nil
}
