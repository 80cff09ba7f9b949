// Package toctest checks what readers of tables of contents make of real layers.
//
// # Place
//
// Beside image/toc; for tests of it and of the rooms of the formats.
//
// # Goroutines
//
// None.
//
// # Locks
//
// None.
//
// # Errors
//
// Failures are reported to the test.
package toctest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/codec/inflate"
	"github.com/pantala/pantala/codec/zstdspan"
	"github.com/pantala/pantala/image/index"
)

// Layer is a stored layer in memory. It counts what is read of it.
type Layer struct {
	Bytes []byte
	Read  int64
}

var _ blob.ReaderAt = (*Layer)(nil)

// Size is that of the layer.
func (l *Layer) Size() int64 { return int64(len(l.Bytes)) }

// ReadAt reads; beyond the end it fails the way a damaged request would.
func (l *Layer) ReadAt(_ context.Context, p []byte, off int64) error {
	if off < 0 || off > l.Size() || int64(len(p)) > l.Size()-off {
		return fmt.Errorf("%w: %d bytes at %d of a layer of %d", blob.ErrInvalid, len(p), off, l.Size())
	}
	l.Read += int64(copy(p, l.Bytes[off:]))
	return nil
}

// Archive is a tar archive with all that a table of contents tells: files of every length around blocks and chunks,
// zeros, links, devices, attributes. Times are whole seconds, since eStargz knows no others.
func Archive() []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	r := rand.New(rand.NewPCG(1, 2))
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		h.ModTime = time.Unix(1700000000+int64(r.IntN(1e6)), 0)
		h.Format = tar.FormatPAX
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
		if _, err := w.Write(content); err != nil {
			panic(err)
		}
	}
	text := func(n int) []byte {
		var p []byte
		for len(p) < n {
			p = fmt.Appendf(p, "line %d of a file with %x\n", len(p), r.IntN(1<<20))
		}
		return p[:n]
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "usr/", Mode: 0o755}, nil)
	for _, n := range []int{0, 1, 511, 512, 513, 4096, 9999, 65536, 100000} {
		add(tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("usr/file%d", n), Uid: n, Gid: 1 << 20, Mode: 0o4755}, text(n))
	}
	noise := make([]byte, 3<<20+17)
	rand.NewChaCha8([32]byte{3}).Read(noise)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "usr/noise", PAXRecords: map[string]string{"SCHILY.xattr.user.b": "\x00\xff", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02"}}, noise)
	holes := slices.Concat(make([]byte, 70000), text(30000), make([]byte, 200001), text(5), make([]byte, 3000), text(777), make([]byte, 99999))
	add(tar.Header{Typeflag: tar.TypeReg, Name: "usr/holes"}, holes)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "usr/zeros"}, make([]byte, 300000))
	add(tar.Header{Typeflag: tar.TypeReg, Name: "usr/last", Mode: 0o600}, text(70001))
	add(tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "../else/where", Mode: 0o777}, nil)
	add(tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "usr/noise"}, nil)
	add(tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}, nil)
	add(tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 8, Devminor: 1}, nil)
	add(tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"}, nil)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "usr/.wh.gone"}, nil)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "long/" + strings.Repeat("n", 200)}, text(3000))
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// Space decodes all spans, each alone, verifies them and returns the address space.
func Space(t testing.TB, layer *Layer, facts index.Facts, spans []index.Span, windows [][]byte) []byte {
	t.Helper()
	decoders := map[index.Codec]codec.Span{index.Deflate: inflate.Span, index.Zstd: zstdspan.Span}
	var space []byte
	for i := range spans {
		s := &spans[i]
		if s.Device != int64(len(space)) {
			t.Fatalf("span %d at %d, not at %d", i, s.Device, len(space))
		}
		stored := make([]byte, s.StoredLength)
		if err := layer.ReadAt(context.Background(), stored, s.Stored); err != nil {
			t.Fatal(err)
		}
		decoded := make([]byte, s.Skip+s.Decoded())
		if s.Codec == index.Stored {
			copy(decoded, stored)
		} else {
			var window []byte
			if windows != nil {
				window = windows[i]
			}
			if err := decoders[s.Codec](decoded, stored, s.Bit, window); err != nil {
				t.Fatalf("span %d: %v", i, err)
			}
		}
		decoded = decoded[s.Skip:]
		if !s.Verify(stored, decoded) {
			t.Fatalf("span %d does not match its digest", i)
		}
		if len(stored) > 0 && s.Kind == index.StoredChunk {
			stored[len(stored)/2] ^= 4
		}
		if len(decoded) > 0 && s.Kind != index.StoredChunk {
			bad := bytes.Clone(decoded)
			bad[len(bad)/2] ^= 4
			if s.Verify(stored, bad) {
				t.Errorf("span %d matches whatever comes", i)
			}
		} else if len(stored) > 0 && s.Verify(stored, decoded) {
			t.Errorf("span %d matches whatever is stored", i)
		}
		space = append(append(space, decoded...), make([]byte, s.Pad)...)
	}
	if int64(len(space)) != facts.Size {
		t.Fatalf("an address space of %d bytes, not %d", len(space), facts.Size)
	}
	// An index of them can be written, and read.
	var list index.Entries
	if _, err := index.Encode(io.Discard, facts, &list, spans, windows); err != nil {
		t.Fatal(err)
	}
	return space
}

// Compare checks entries, and the content of files in the address space, against an archive.
func Compare(t testing.TB, archive []byte, entries []index.Entry, space []byte) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(archive))
	for i := 0; ; i++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			if i != len(entries) {
				t.Errorf("%d entries, not %d", len(entries), i)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if i >= len(entries) {
			t.Fatalf("only %d entries", len(entries))
		}
		e := entries[i]
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		want := index.Entry{
			Name: h.Name, Link: h.Linkname, Type: h.Typeflag, Mode: uint32(h.Mode), UID: uint32(h.Uid), GID: uint32(h.Gid),
			Size: h.Size, Sec: h.ModTime.Unix(), Nsec: uint32(h.ModTime.Nanosecond()), Major: uint32(h.Devmajor), Minor: uint32(h.Devminor),
		}
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				want.Xattrs = append(want.Xattrs, index.Xattr{Name: name, Value: v})
			}
		}
		slices.SortFunc(want.Xattrs, func(a, b index.Xattr) int { return strings.Compare(a.Name, b.Name) })
		if a, b := describe(e), describe(want); a != b {
			t.Errorf("entry %d:\n%s, not\n%s", i, a, b)
		}
		if got := file(t, e, space); !bytes.Equal(got, content) {
			t.Errorf("content of %s differs", e.Name)
		}
	}
}

func describe(e index.Entry) string {
	e.Extents = nil
	e.Name = strings.TrimSuffix(strings.TrimPrefix(e.Name, "./"), "/")
	return fmt.Sprintf("%q", []any{e})
}

// file puts the content of a file together.
func file(t testing.TB, e index.Entry, space []byte) []byte {
	content := make([]byte, e.Size)
	if e.Type != '0' {
		content = nil
	}
	at := int64(0)
	for _, x := range e.Extents {
		if x.File < at || x.Length <= 0 || x.File+x.Length > e.Size || x.Device+x.Length > int64(len(space)) || x.Device%512 != 0 || x.File%512 != 0 {
			t.Fatalf("%s: extents %v of %d bytes in a space of %d", e.Name, e.Extents, e.Size, len(space))
		}
		at = x.File + x.Length
		copy(content[x.File:], space[x.Device:x.Device+x.Length])
	}
	return content
}
