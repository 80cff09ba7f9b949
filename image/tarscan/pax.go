package tarscan

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
)

// extended is what extension headers say of the entry that follows them.
type extended struct {
	any                bool
	longName, longLink string            // of GNU
	records            map[string]string // of PAX
	sparse             []string          // offsets and lengths of sparse format 0.0, which repeats its keys
	last               string            // name of the last entry, for errors about its content
}

func (x *extended) empty() bool { return !x.any }

const (
	schily     = "SCHILY.xattr."
	libarchive = "LIBARCHIVE.xattr."
)

var errRecord = errors.New("a PAX record is malformed")

// extension takes the contents of an extension header.
func (s *Scanner) extension() error {
	s.state, s.left, s.pad = inContent, 0, -int64(len(s.meta))&(BlockSize-1)
	s.next()
	x := &s.ext
	x.any = true
	switch s.kind {
	case 'L':
		x.longName = cString(s.meta)
	case 'K':
		x.longLink = cString(s.meta)
	case 'x', 'g':
		records, sparse, err := parsePAX(string(s.meta))
		if err != nil {
			return s.corrupt("%v", err)
		}
		x.records, x.sparse = records, sparse
		if s.kind == 'g' {
			// What is global is checked and dropped, along with what came before: see the package.
			if _, err := x.apply(&index.Entry{}, 0); err != nil {
				return s.corrupt("%v", err)
			}
			s.ext, s.spent = extended{last: x.last}, 0
		}
	default:
		return s.fail(blob.ErrInvalid, "BUG: an extension of type %q", s.kind)
	}
	return nil
}

// parsePAX reads records of the form "length key=value\n", where length counts all of it (POSIX.1-2017, pax, "pax
// Extended Header"). Of several with one key the last counts.
func parsePAX(text string) (records map[string]string, sparse []string, err error) {
	records = make(map[string]string)
	for text != "" {
		digits, _, ok := strings.Cut(text, " ")
		n, perr := strconv.Atoi(digits)
		if !ok || perr != nil || n < 5 || n > len(text) || n < len(digits)+2 || text[n-1] != '\n' {
			return nil, nil, errRecord
		}
		key, value, ok := strings.Cut(text[len(digits)+1:n-1], "=")
		text = text[n:]
		if !ok || key == "" {
			return nil, nil, errRecord
		}
		checked := key
		switch key {
		case "path", "linkpath", "uname", "gname":
			checked = value
		case "GNU.sparse.offset", "GNU.sparse.numbytes":
			if (len(sparse)%2 == 0) != (key == "GNU.sparse.offset") || strings.Contains(value, ",") || strings.Contains(key, "\x00") {
				return nil, nil, errRecord
			}
			sparse = append(sparse, value)
			continue
		}
		if strings.IndexByte(checked, 0) >= 0 {
			return nil, nil, errRecord
		}
		records[key] = value
	}
	return records, sparse, nil
}

// apply overrides what the header says of e by what the PAX records say, and returns the size of its content in the
// archive.
func (x *extended) apply(e *index.Entry, size int64) (int64, error) {
	for key, value := range x.records {
		if strings.HasPrefix(key, schily) || strings.HasPrefix(key, libarchive) {
			x.xattr(e, key, value)
			continue
		}
		if value == "" {
			continue
		}
		var err error
		var id int64
		switch key {
		case "path":
			e.Name = value
		case "linkpath":
			e.Link = value
		case "uid":
			id, err = strconv.ParseInt(value, 10, 64)
			e.UID = owner(id)
		case "gid":
			id, err = strconv.ParseInt(value, 10, 64)
			e.GID = owner(id)
		case "size":
			size, err = strconv.ParseInt(value, 10, 64)
		case "mtime":
			e.Sec, e.Nsec, err = paxTime(value)
		case "atime", "ctime":
			_, _, err = paxTime(value)
		}
		if err != nil {
			return 0, fmt.Errorf("%w: %q is no %s", errRecord, value, key)
		}
	}
	// Of several with one name the smaller value is kept: a map has no order, and an index must be the same every time.
	slices.SortFunc(e.Xattrs, func(a, b index.Xattr) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Value, b.Value))
	})
	e.Xattrs = slices.CompactFunc(e.Xattrs, func(a, b index.Xattr) bool { return a.Name == b.Name })
	return size, nil
}

// xattr adds an extended attribute. It may stand in two dialects, of which libarchive writes both: what SCHILY's says
// counts, since runtimes read that one only.
func (x *extended) xattr(e *index.Entry, key, value string) {
	name, plain := strings.CutPrefix(key, schily)
	if !plain {
		var err error
		if name, err = url.PathUnescape(key[len(libarchive):]); err != nil {
			return
		}
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
		if _, both := x.records[schily+name]; err != nil || both {
			return
		}
		value = string(raw)
	}
	if name != "" && strings.IndexByte(name, 0) < 0 {
		e.Xattrs = append(e.Xattrs, index.Xattr{Name: name, Value: value})
	}
}

// paxTime reads seconds since 1970 with any number of decimals, of which nine count, rounded towards zero.
func paxTime(text string) (sec int64, nsec uint32, err error) {
	whole, part, _ := strings.Cut(text, ".")
	if sec, err = strconv.ParseInt(whole, 10, 64); err != nil {
		return 0, 0, err
	}
	n, unit := int64(0), int64(100_000_000)
	for i := range len(part) {
		if part[i] < '0' || part[i] > '9' {
			return 0, 0, errRecord
		}
		n += int64(part[i]-'0') * unit
		unit /= 10
	}
	if n > 0 && whole[0] == '-' {
		sec, n = sec-1, 1_000_000_000-n
	}
	return sec, uint32(n), nil
}
