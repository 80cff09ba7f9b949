package tarscan

import (
	"archive/tar"
	"bytes"
	"compress/bzip2"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/index"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// corpus is the test data of the standard library's archive/tar.
func corpus(t testing.TB) map[string][]byte {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "src/archive/tar/testdata")
	names, _ := filepath.Glob(filepath.Join(dir, "*.tar*"))
	if len(names) < 40 {
		t.Fatalf("%d archives in %s", len(names), dir)
	}
	all := make(map[string][]byte)
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		var r io.Reader = f
		switch filepath.Ext(name) {
		case ".base64":
			r = base64.NewDecoder(base64.StdEncoding, f)
		case ".bz2":
			r = bzip2.NewReader(f)
		}
		data, err := io.ReadAll(r)
		f.Close()
		if err != nil {
			t.Fatal(name, err)
		}
		all[filepath.Base(name)] = data
	}
	return all
}

// TestCorpus: archives of many writers mean what the standard library says, and what it refuses is refused, with the
// right class.
func TestCorpus(t *testing.T) {
	for name, data := range corpus(t) {
		_, theirs := reference(data)
		for _, step := range []int{len(data) + 1, 1, 511, 513, 4096} {
			if len(data) > 64<<10 && step < 4096 {
				continue
			}
			_, err := ours(data, step)
			if (err != nil) != (theirs != nil) {
				t.Errorf("%s in steps of %d: %v; the standard library: %v", name, step, err, theirs)
			}
			if err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) {
				t.Errorf("%s: class of %v", name, err)
			}
			t.Run(name, func(t *testing.T) { same(t, data, step) })
		}
	}
}

// TestGenerated: every format that the standard library writes, with everything that an entry may have.
func TestGenerated(t *testing.T) {
	long := strings.Repeat("long/", 60) + "name"
	when := time.Unix(1700000000, 123456789)
	for format, headers := range map[tar.Format][]tar.Header{
		tar.FormatUSTAR: {
			{Name: strings.Repeat("p", 90) + "/" + strings.Repeat("n", 90), Mode: 0644, Size: 1000, ModTime: time.Unix(1, 0)},
			{Name: "dir/", Typeflag: tar.TypeDir, Mode: 01777, Uid: 1 << 20},
			{Name: "dev", Typeflag: tar.TypeBlock, Devmajor: 259, Devminor: 3},
			{Name: "tty", Typeflag: tar.TypeChar, Devmajor: 5},
			{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0600},
			{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "../x", Mode: 0777},
			{Name: "hard", Typeflag: tar.TypeLink, Linkname: "dir/x"},
			{Name: "suid", Mode: 06755, Size: 512},
			{Name: "empty"},
		},
		tar.FormatPAX: {
			{Name: long, Mode: 0644, Size: 100 << 10, ModTime: when},
			{Name: "früh\xc3\xa9", Linkname: long, Typeflag: tar.TypeSymlink, ModTime: time.Unix(-5, 250)},
			{Name: "ids", Uid: math.MaxInt32 + 7, Gid: math.MaxUint32, Size: 1},
			{Name: "x", Size: 10, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02", "SCHILY.xattr.user.a=": "", "SCHILY.xattr.user.z": "\n1 =", "comment": "no"}},
		},
		tar.FormatGNU: {
			{Name: long, Mode: 0644, Size: 5, ModTime: time.Unix(-1, 0)},
			{Name: "\xff\xfe", Linkname: long + "\xff", Typeflag: tar.TypeLink},
			{Name: "ids", Uid: 1 << 31, Gid: 1 << 40, Size: 600, AccessTime: when},
		},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			h.Format = format
			for k := range h.PAXRecords {
				if strings.HasSuffix(k, "=") {
					delete(h.PAXRecords, k) // a key has none
				}
			}
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(format, h.Name, err)
			}
			fmt.Fprint(w, strings.Repeat("7", int(h.Size)))
		}
		w.Close()
		for _, step := range []int{b.Len(), 100, 512, 10000} {
			if !same(t, b.Bytes(), step) {
				_, err := ours(b.Bytes(), step)
				t.Errorf("%v: %v", format, err)
			}
		}
		got, _ := ours(b.Bytes(), b.Len())
		if len(got) != len(headers) {
			t.Errorf("%v: %d entries of %d", format, len(got), len(headers))
		}
		// A missing end is tolerated at every place where a header could stand, and nowhere else.
		data := bytes.TrimRight(b.Bytes(), "\x00")
		for cut := 0; cut < len(data); cut += 512 {
			_, err := ours(data[:cut], cut+1)
			_, theirs := reference(data[:cut])
			if (err != nil) != (theirs != nil) {
				t.Errorf("%v cut at %d: %v; the standard library: %v", format, cut, err, theirs)
			}
			if err != nil && (!errors.Is(err, blob.ErrCorrupt) || !strings.Contains(err.Error(), fmt.Sprintf("offset %d", cut))) {
				t.Errorf("%v cut at %d: %v", format, cut, err)
			}
		}
	}
}

// need skips a test without a program; where CI=true, it fails.
func need(t *testing.T, program, install string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v: %s", err, install)
		}
		t.Skipf("%v: %s", err, install)
	}
}

// TestPrograms: archives of one tree made by the tars of this machine.
func TestPrograms(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("long-name/", 12)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, long), 0750))
	must(os.WriteFile(filepath.Join(dir, long, "f\xff\xfe"), []byte("seven"), 0640))
	must(os.Symlink(long, filepath.Join(dir, "sym")))
	must(os.WriteFile(filepath.Join(dir, "a"), bytes.Repeat([]byte("a"), 700), 0604))
	must(os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")))
	must(os.Chtimes(filepath.Join(dir, "a"), time.Time{}, time.Unix(1600000000, 987654321)))
	// Sparse, with more stretches than the header of the old format has room for, the last of an odd length.
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(err)
	for i := range int64(60) {
		_, err := f.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 4096), i*65536)
		must(err)
	}
	_, err = f.WriteAt([]byte("end"), 60*65536)
	must(err)
	must(f.Truncate(5 << 20))
	f.Close()
	must(os.WriteFile(filepath.Join(dir, "hole"), nil, 0600))
	must(os.Truncate(filepath.Join(dir, "hole"), 1<<20))

	for _, c := range []string{
		"tar --format=v7", "tar --format=ustar", "tar --format=oldgnu", "tar --format=gnu", "tar --format=posix",
		"tar --format=gnu --sparse", "tar --format=oldgnu --sparse",
		"tar --format=posix --sparse --sparse-version=0.0", "tar --format=posix --sparse --sparse-version=0.1", "tar --format=posix --sparse --sparse-version=1.0",
		"bsdtar --format=ustar", "bsdtar --format=pax", "bsdtar --format=gnutar", "bsdtar --format=v7",
	} {
		t.Run(c, func(t *testing.T) {
			args := strings.Fields(c)
			need(t, args[0], "apt-get install tar libarchive-tools")
			cmd := exec.Command(args[0], append(args[1:], "-cf", "-", "-C", dir, ".")...)
			var b, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &b, &stderr
			if err := cmd.Run(); err != nil && !strings.Contains(c, "v7") && !strings.Contains(c, "ustar") {
				t.Fatal(err, stderr.String()) // those formats cannot say all of it
			}
			for _, step := range []int{b.Len(), 1000} {
				if !same(t, b.Bytes(), step) {
					_, err := ours(b.Bytes(), step)
					_, err2 := reference(b.Bytes())
					t.Fatal(err, err2)
				}
			}
			got, _ := ours(b.Bytes(), b.Len())
			var names []string
			extents, size := 0, int64(0)
			Scan(&b, func(e index.Entry) error {
				if names = append(names, e.Name); strings.HasSuffix(e.Name, "sparse") {
					extents, size = len(e.Extents), e.Size
				}
				return nil
			})
			if len(names) != len(got) || len(names) < 14 {
				t.Errorf("%d entries: %q", len(names), names)
			}
			sparse := strings.Contains(c, "--sparse") || strings.Contains(c, "bsdtar --format=pax")
			if size != 5<<20 || (extents >= 60) != sparse {
				t.Errorf("the sparse file of %d bytes has %d extents", size, extents)
			}
		})
	}
}

// TestLibarchive: attributes that stand in libarchive's form only are read, and SCHILY's prevail.
func TestLibarchive(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: "f", PAXRecords: map[string]string{
		"LIBARCHIVE.xattr.user.one%3d%25": base64.StdEncoding.EncodeToString([]byte("1\x00")),
		"LIBARCHIVE.xattr.user.two":       base64.RawStdEncoding.EncodeToString([]byte("not this")),
		"SCHILY.xattr.user.two":           "2",
		"LIBARCHIVE.xattr.user.bad":       "???",
		"LIBARCHIVE.xattr.user.thr%65e":   "Mw",
		"LIBARCHIVE.xattr.user.three":     "Mw",
	}})
	w.Close()
	for range 20 {
		got, err := ours(b.Bytes(), 512)
		if err != nil || fmt.Sprintf("%q", got[0].Xattrs) != `[{"user.one=%" "1\x00"} {"user.three" "3"} {"user.two" "2"}]` {
			t.Fatalf("%v %#v", err, got)
		}
	}
}

// block is a header with a right checksum.
func block(name string, kind byte, size string, change func(b []byte)) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:], size+"\x00")
	copy(b[136:], "00000000000\x00")
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	if change != nil {
		change(b)
	}
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func padded(s string) []byte {
	return append([]byte(s), make([]byte, -len(s)&511)...)
}

func record(k, v string) string {
	s := k + "=" + v + "\n"
	n := len(s) + 2
	for len(fmt.Sprint(n))+1+len(s) != n {
		n++
	}
	return fmt.Sprintf("%d %s", n, s)
}

// TestHostile: what no honest writer makes fails with its class and says where, and costs no more than its length.
func TestHostile(t *testing.T) {
	pax := func(records ...string) []byte {
		s := strings.Join(records, "")
		return append(block("x", 'x', fmt.Sprintf("%011o", len(s)), nil), padded(s)...)
	}
	gnu := func(b []byte) { copy(b[257:], "ustar  \x00") }
	sparse := func(major, minor string, more ...string) []byte {
		return pax(append([]string{record("GNU.sparse.major", major), record("GNU.sparse.minor", minor), record("GNU.sparse.realsize", "1000")}, more...)...)
	}
	file := block("f", '0', "00000001000", nil)
	for name, c := range map[string]struct {
		parts [][]byte
		class error
		text  string
	}{
		"text":              {[][]byte{padded("hello, this is no archive")}, blob.ErrCorrupt, "layers are tar archives"},
		"bad sum":           {[][]byte{file, padded(strings.Repeat("x", 512)), padded("what")}, blob.ErrCorrupt, "offset 1024"},
		"truncated":         {[][]byte{file, padded("x")[:100]}, blob.ErrCorrupt, `entry "f" at offset 0: the archive ends at offset 612, 412 bytes before`},
		"truncated header":  {[][]byte{file[:100]}, blob.ErrCorrupt, "offset 100"},
		"truncated records": {[][]byte{pax(record("path", "y"))[:515]}, blob.ErrCorrupt, "extended header"},
		"after zeros":       {[][]byte{make([]byte, 512), file}, blob.ErrCorrupt, "follows a block of zeros"},
		"negative size":     {[][]byte{block("f", '0', "", func(b []byte) { copy(b[124:], bytes.Repeat([]byte{0xff}, 12)) })}, blob.ErrCorrupt, "-1 bytes"},
		"huge size":         {[][]byte{block("f", '0', "", func(b []byte) { copy(b[124:], "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff") })}, blob.ErrCorrupt, "bytes"},
		"too many bits":     {[][]byte{block("f", '0', "", func(b []byte) { copy(b[124:], "\x80\x01\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff") })}, blob.ErrCorrupt, "malformed"},
		"octal":             {[][]byte{block("f", '0', "00000000009", nil)}, blob.ErrCorrupt, "malformed"},
		"type":              {[][]byte{block("f", 'Z', "00000000000", nil)}, blob.ErrInvalid, `'Z'`},
		"long records":      {[][]byte{block("x", 'x', "77777777777", nil)}, blob.ErrInvalid, "extended header"},
		"negative records":  {[][]byte{block("x", 'x', "", func(b []byte) { copy(b[124:], bytes.Repeat([]byte{0xff}, 12)) })}, blob.ErrInvalid, "extended header"},
		"records in sum":    {[][]byte{pax(record("a", strings.Repeat("x", 600<<10))), pax(record("a", strings.Repeat("x", 600<<10)))}, blob.ErrInvalid, "1048576"},
		"no record":         {[][]byte{pax("7 a=b\n"), file}, blob.ErrCorrupt, "PAX"},
		"no key":            {[][]byte{pax("5 =b\n"), file}, blob.ErrCorrupt, "PAX"},
		"NUL in path":       {[][]byte{pax(record("path", "a\x00b")), file}, blob.ErrCorrupt, "PAX"},
		"record's length":   {[][]byte{pax("99999999999999999999 a=b\n"), file}, blob.ErrCorrupt, "PAX"},
		"uid":               {[][]byte{pax(record("uid", "root")), file}, blob.ErrCorrupt, `"root" is no uid`},
		"time":              {[][]byte{pax(record("mtime", "1.x")), file}, blob.ErrCorrupt, "mtime"},
		"PAX size":          {[][]byte{pax(record("size", "-5")), file}, blob.ErrCorrupt, "-5 bytes"},
		"global":            {[][]byte{block("g", 'g', "00000000005", nil), padded("xxxxx")}, blob.ErrCorrupt, "PAX"},
		"old map of ustar":  {[][]byte{block("f", 'S', "00000000000", nil)}, blob.ErrCorrupt, "GNU"},
		"old map overlaps": {[][]byte{block("f", 'S', "00000001000", func(b []byte) {
			gnu(b)
			copy(b[386:], "00000001000\x0000000001000\x0000000000000\x0000000001000\x00")
			copy(b[483:], "00000004000")
		})}, blob.ErrCorrupt, "sparse"},
		"old map too long":   {append([][]byte{block("f", 'S', "00000000000", func(b []byte) { gnu(b); b[482] = 1 })}, bytes.Repeat([]byte{1}, 2<<20)), blob.ErrCorrupt, "sparse"},
		"old map endless":    {append([][]byte{block("f", 'S', "00000000000", func(b []byte) { gnu(b); b[482] = 1 })}, bytes.Repeat(append(make([]byte, 504), 1, 0, 0, 0, 0, 0, 0, 0), 3000)), blob.ErrInvalid, "longer than 1048576"},
		"map beyond":         {[][]byte{sparse("0", "1", record("GNU.sparse.numblocks", "1"), record("GNU.sparse.map", "900,512")), file}, blob.ErrCorrupt, "900"},
		"map negative":       {[][]byte{sparse("0", "1", record("GNU.sparse.numblocks", "1"), record("GNU.sparse.map", "-1,512")), file}, blob.ErrCorrupt, "sparse"},
		"map overflows":      {[][]byte{sparse("0", "1", record("GNU.sparse.numblocks", "1"), record("GNU.sparse.map", "9223372036854775807,9223372036854775807")), file}, blob.ErrCorrupt, "sparse"},
		"map is short":       {[][]byte{sparse("0", "1", record("GNU.sparse.numblocks", "1"), record("GNU.sparse.map", "0,100")), file}, blob.ErrCorrupt, "it has 100 bytes, the archive 512"},
		"map is long":        {[][]byte{sparse("0", "1", record("GNU.sparse.numblocks", "1"), record("GNU.sparse.map", "0,1000")), file}, blob.ErrCorrupt, "it has 1000 bytes, the archive 512"},
		"map's count":        {[][]byte{sparse("0", "1", record("GNU.sparse.numblocks", "4611686018427387905"), record("GNU.sparse.map", "0,512")), file}, blob.ErrCorrupt, "as many"},
		"map of text":        {[][]byte{sparse("1", "0"), file, padded("many\n")}, blob.ErrCorrupt, "sparse"},
		"map of many":        {[][]byte{sparse("1", "0"), file, padded("9223372036854775807\n")}, blob.ErrCorrupt, "longer than the content"},
		"map endless":        {append([][]byte{sparse("1", "0"), block("f", '0', "00010000000", nil)}, bytes.Repeat([]byte("1"), 2<<20)), blob.ErrInvalid, "longer than 1048576"},
		"map for a link":     {[][]byte{sparse("0", "1", record("GNU.sparse.numblocks", "0")), block("f", '1', "", nil)}, blob.ErrCorrupt, "sparse"},
		"map is cut":         {[][]byte{sparse("1", "0"), file, padded("1\n0\n0\n")[:300]}, blob.ErrCorrupt, "ends at"},
		"pairs out of order": {[][]byte{pax(record("GNU.sparse.numbytes", "1"), record("GNU.sparse.offset", "1")), file}, blob.ErrCorrupt, "PAX"},
	} {
		_, err := ours(bytes.Join(c.parts, nil), 10000)
		if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLongPath: a path of 64 KiB and more is what it is.
func TestLongPath(t *testing.T) {
	path := strings.Repeat("x", 64<<10)
	for _, f := range []tar.Format{tar.FormatPAX, tar.FormatGNU} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		w.WriteHeader(&tar.Header{Name: path, Typeflag: tar.TypeSymlink, Linkname: path + "y", Format: f})
		w.Close()
		if !same(t, b.Bytes(), 300) {
			t.Error(f)
		}
	}
}

// TestEmitFails: its error ends the scan and is the scan's.
func TestEmitFails(t *testing.T) {
	stop := errors.New("stop")
	data := bytes.Join([][]byte{block("a", '5', "", nil), block("b", '5', "", nil)}, nil)
	n := 0
	err := Scan(bytes.NewReader(data), func(index.Entry) error { n++; return stop })
	if err != stop || n != 1 {
		t.Error(n, err)
	}
}

// FuzzScan: never a panic, never an unknown class, nothing in extents that is not there; and where the standard library
// reads an archive to its end, too, both say the same.
func FuzzScan(f *testing.F) {
	for _, data := range corpus(f) {
		if len(data) < 64<<10 {
			f.Add(data, 512)
			f.Add(data, 77)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, step int) {
		data = fix(data)
		if step = max(1, step&0xfff); len(data) > 1<<20 {
			return
		}
		_, err := ours(data, step)
		if err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) {
			t.Fatalf("class of %v", err)
		}
		same(t, data, step)
	})
}

// fix makes the checksums of what looks like headers right, so that a fuzzer gets beyond them.
func fix(data []byte) []byte {
	data = bytes.Clone(data)
	for b := data; len(b) >= 512; b = b[512:] {
		if string(b[257:262]) != "ustar" {
			continue
		}
		copy(b[148:], "        ")
		sum := 0
		for _, c := range b[:512] {
			sum += int(c)
		}
		copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	}
	return data
}

// BenchmarkScan is what passing an archive by costs: files of 20 KiB.
func BenchmarkScan(b *testing.B) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	content := make([]byte, 20<<10)
	for i := range 2000 {
		w.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/lib/python3/dist-packages/module%d.py", i), Mode: 0644, Size: int64(len(content)), ModTime: time.Unix(1700000000, 0)})
		w.Write(content)
	}
	w.Close()
	b.SetBytes(int64(buf.Len()))
	for b.Loop() {
		s := New(func(index.Entry) error { return nil })
		for p := buf.Bytes(); len(p) > 0; p = p[min(len(p), 256<<10):] {
			s.Write(p[:min(len(p), 256<<10)])
		}
		if err := s.End(); err != nil {
			b.Fatal(err)
		}
	}
}
