package erofs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/tarscan"
	"github.com/pantala/pantala/image/tree"
)

// member is an entry of an archive, written byte by byte, so that it can be as odd as anybody's.
type member struct {
	name, link   string
	flag         byte
	mode         int64
	uid, gid     int64
	sec          int64
	frac         string // decimal digits of the modification time
	major, minor int64
	body         string
	pax          []string // keyword, value, …
	gnu          bool     // long names the way of GNU
}

// octal is a number field; what does not fit is written in base 256 (GNU).
func octal(b []byte, n int64) {
	if n >= 0 && n>>(3*(len(b)-1)) == 0 {
		copy(b, fmt.Sprintf("%0*o", len(b)-1, n))
		return
	}
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = byte(n)
		n >>= 8
	}
	b[0] |= 0x80
}

func block(flag byte, name, link string, m *member, size int) []byte {
	b := make([]byte, 512)
	copy(b[:100], name)
	octal(b[100:108], m.mode)
	octal(b[108:116], m.uid)
	octal(b[116:124], m.gid)
	octal(b[124:136], int64(size))
	octal(b[136:148], m.sec)
	b[156] = flag
	copy(b[157:257], link)
	copy(b[257:], "ustar\x0000")
	if m.gnu {
		copy(b[257:], "ustar  \x00")
	}
	octal(b[329:337], m.major)
	octal(b[337:345], m.minor)
	seal(b)
	return b
}

// seal writes the checksum of a header.
func seal(b []byte) {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func pad(b []byte) []byte { return append(b, make([]byte, -len(b)&511)...) }

// record is a PAX record: its length counts itself.
func record(key, value string) string {
	n := len(key) + len(value) + 3
	for n != len(key)+len(value)+3+len(strconv.Itoa(n)) {
		n = len(key) + len(value) + 3 + len(strconv.Itoa(n))
	}
	return fmt.Sprintf("%d %s=%s\n", n, key, value)
}

func (m *member) bytes() []byte {
	var out []byte
	if m.flag == 0 {
		m.flag = tar.TypeReg
	}
	if m.mode == 0 {
		m.mode = 0o644
	}
	pax := slices.Clone(m.pax)
	name, link := m.name, m.link
	for _, long := range []struct {
		text *string
		key  string
		flag byte
	}{{&name, "path", 'L'}, {&link, "linkpath", 'K'}} {
		if len(*long.text) <= 100 {
			continue
		}
		if m.gnu {
			body := *long.text + "\x00"
			out = append(out, block(long.flag, "././@LongLink", "", &member{gnu: true}, len(body))...)
			out = pad(append(out, body...))
		} else {
			pax = append(pax, long.key, *long.text)
		}
		*long.text = (*long.text)[:100]
	}
	if m.frac != "" {
		pax = append(pax, "mtime", fmt.Sprintf("%d.%s", m.sec, m.frac))
	}
	if len(pax) > 0 {
		var body strings.Builder
		for i := 0; i < len(pax); i += 2 {
			body.WriteString(record(pax[i], pax[i+1]))
		}
		out = append(out, block('x', "PaxHeaders/x", "", &member{}, body.Len())...)
		out = pad(append(out, body.String()...))
	}
	out = append(out, block(m.flag, name, link, m, len(m.body))...)
	return pad(append(out, m.body...))
}

// archive is a layer.
func archive(members ...member) []byte {
	var out []byte
	for i := range members {
		out = append(out, members[i].bytes()...)
	}
	return append(out, make([]byte, 1024)...)
}

// entriesOf are the entries of a layer, and the error that ends them.
func entriesOf(layer []byte) iter.Seq2[index.Entry, error] {
	return func(yield func(index.Entry, error) bool) {
		stop := errors.New("stop")
		err := tarscan.Scan(bytes.NewReader(layer), func(e index.Entry) error {
			if !yield(e, nil) {
				return stop
			}
			return nil
		})
		if err != nil && err != stop {
			yield(index.Entry{}, err)
		}
	}
}

// merge makes the tree of layers.
func merge(layers ...[]byte) (*tree.Tree, error) {
	var in []tree.Layer
	for i, l := range layers {
		in = append(in, tree.Layer{Name: fmt.Sprintf("layer%d", i), Size: int64(len(l)), Entries: entriesOf(l)})
	}
	return tree.Merge(in)
}
