package node

import (
	"strings"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/metainfo"
)

// NewMagnet is the link to bytes by what was computed from all of them. It has what it takes to open them at once.
func NewMagnet(digest blob.Hash, size int64, root blob.Hash, name string, trackers []string) metainfo.Magnet {
	return metainfo.Magnet{
		V2: blob.InfoHash(blob.CanonicalInfo(digest, size, root)), Root: root, Digest: digest, Size: size, Name: name, Trackers: trackers,
		HasCanonical: true,
	}
}

// maxName is the longest file name of Linux file systems in bytes (NAME_MAX, limits.h).
const maxName = 255

// safeName makes one file name of what somebody else wrote; "" when nothing usable is left.
func safeName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '/' || r == '\uFFFD' {
			return '_'
		}
		return r
	}, s)
	if len(s) > maxName {
		s = strings.ToValidUTF8(s[:maxName], "")
	}
	if s == "." || s == ".." {
		return ""
	}
	return s
}
