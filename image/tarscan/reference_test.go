package tarscan

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/pantala/pantala/image/index"
)

// seen is an entry with its content in the place of its extents, so that two readers can be compared.
type seen struct {
	index.Entry
	Content string // hash; empty for what is too long to be read here
}

// readable bounds the logical length of files whose content is compared, in bytes.
const readable = 8 << 20

// ours scans an archive in chunks of step bytes.
func ours(data []byte, step int) (all []seen, err error) {
	s := New(func(e index.Entry) error {
		all = append(all, seen{Entry: e})
		return nil
	})
	for at := 0; at < len(data); at += step {
		p := slices.Clone(data[at:min(at+step, len(data))])
		if _, err := s.Write(p); err != nil {
			return all, err
		}
		clear(p) // nothing is kept
	}
	if err := s.End(); err != nil {
		return all, err
	}
	if s.Offset() != int64(len(data)) {
		return all, fmt.Errorf("%d of %d bytes", s.Offset(), len(data))
	}
	for i := range all {
		if e := &all[i]; e.Type == '0' && e.Size <= readable {
			content := make([]byte, e.Size)
			for _, x := range e.Extents {
				copy(content[x.File:x.File+x.Length], data[x.Device:])
			}
			e.Content = fmt.Sprintf("%x", sha256.Sum256(content))
		}
		all[i].Extents = nil
	}
	return all, nil
}

// reference reads an archive with the standard library. What we do on purpose otherwise is done here, too.
func reference(data []byte) (all []seen, err error) {
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		e := seen{Entry: index.Entry{
			Name: h.Name, Type: h.Typeflag, Mode: uint32(h.Mode) & 07777, UID: owner(int64(h.Uid)), GID: owner(int64(h.Gid)),
			Sec: h.ModTime.Unix(), Nsec: uint32(h.ModTime.Nanosecond()),
		}}
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, schily); ok && name != "" {
				e.Xattrs = append(e.Xattrs, index.Xattr{Name: name, Value: v})
			}
		}
		slices.SortFunc(e.Xattrs, func(a, b index.Xattr) int { return cmp.Compare(a.Name, b.Name) })
		switch h.Typeflag {
		case tar.TypeXGlobalHeader, 'V':
			continue
		case '7', tar.TypeGNUSparse:
			e.Type = '0'
		case 'D':
			e.Type = '5'
		}
		switch e.Type {
		case '0', 's':
			e.Size = h.Size
		case '1', '2':
			e.Link = h.Linkname
		case '3', '4':
			e.Major, e.Minor = uint32(h.Devmajor), uint32(h.Devminor)
		}
		if e.Type == '0' && e.Size <= readable {
			sum := sha256.New()
			if _, err := io.Copy(sum, r); err != nil {
				return all, err
			}
			e.Content = fmt.Sprintf("%x", sum.Sum(nil))
		}
		all = append(all, e)
	}
}

// withoutLibarchive drops attributes that only we read.
func withoutLibarchive(data []byte, all []seen) []seen {
	if !bytes.Contains(data, []byte(libarchive)) {
		return all
	}
	all = slices.Clone(all)
	for i := range all {
		all[i].Xattrs = nil
	}
	return all
}

// same compares both readers of an archive that both accept.
func same(t *testing.T, data []byte, step int) (accepted bool) {
	t.Helper()
	got, err := ours(data, step)
	want, err2 := reference(data)
	if err != nil || err2 != nil {
		return false
	}
	got, want = withoutLibarchive(data, got), withoutLibarchive(data, want)
	if len(got) != len(want) {
		t.Fatalf("%d entries, not %d", len(got), len(want))
	}
	for i := range got {
		if len(got[i].Xattrs) == 0 {
			got[i].Xattrs = nil
		}
		if len(want[i].Xattrs) == 0 {
			want[i].Xattrs = nil
		}
		if a, b := fmt.Sprintf("%#v", got[i]), fmt.Sprintf("%#v", want[i]); a != b {
			t.Fatalf("entry %d:\n%s\nnot\n%s", i, a, b)
		}
	}
	return true
}
