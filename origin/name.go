package origin

import (
	"mime"
	"net/url"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxName is NAME_MAX of Linux, in bytes.
	maxName = 255
	// noName is the name of an object whose URL ends in a slash.
	noName = "blob"
)

// nameFor is the file name of the object at u. The last element of the path wins when it looks like a file
// name, so that a mount's path can be told from its URL; "/download?id=7" is better called what the server
// calls it in Content-Disposition.
func nameFor(u *url.URL, disposition string) string {
	last := sanitise(path.Base(u.Path))
	if strings.Contains(last, ".") {
		return last
	}
	if n := ParseDisposition(disposition); n != "" {
		return n
	}
	if last != "" {
		return last
	}
	return noName
}

// ParseDisposition is the file name in a Content-Disposition header (RFC 6266), made safe: a single path
// element of at most 255 bytes, valid UTF-8, without control characters; "" when there is none.
func ParseDisposition(s string) string {
	_, params, err := mime.ParseMediaType(s)
	if err != nil {
		return ""
	}
	return sanitise(params["filename"])
}

// sanitise makes a file name of what a stranger sent; "" when nothing is left of it.
func sanitise(s string) string {
	s = strings.ToValidUTF8(s, "_")
	if i := strings.LastIndexAny(s, `/\`); i >= 0 {
		s = s[i+1:]
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	for len(s) > maxName {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	if s = strings.TrimSpace(s); s == "." || s == ".." {
		return ""
	}
	return s
}
