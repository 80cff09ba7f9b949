package erofs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/image/build"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/rafs"
	"github.com/pantala/pantala/image/rafs/rafstest"
	"github.com/pantala/pantala/image/tree"
)

// nydusFiles are a tree with everything that an image may hold, spread over two blobs.
func nydusFiles() []rafstest.File {
	noise := make([]byte, 300_000)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(noise)
	text := []byte(strings.Repeat("what compresses well, ", 40_000))
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	files := []rafstest.File{
		{Name: "", Mode: 0o040755, Sec: 1_600_000_000, Nsec: 7},
		{Name: "bin", Mode: 0o040755, Sec: 1_500_000_000},
		{Name: "bin/noise", Mode: 0o100755, Data: noise, Sec: 1, Nsec: 999_999_999},
		{Name: "bin/set", Mode: 0o104755, Data: noise[:5000], UID: 0, GID: 50, Sec: 2, Xattrs: []string{"security.capability", capability}},
		{Name: "bin/text", Mode: 0o100644, Data: text, UID: 3_000_000_000, GID: 70_000, Blob: 1, Sec: 3},
		{Name: "dev", Mode: 0o040755},
		{Name: "dev/block", Mode: 0o060660, Major: 8, Minor: 300, GID: 6},
		{Name: "dev/char", Mode: 0o020666, Major: 1, Minor: 3},
		{Name: "dev/fifo", Mode: 0o010600},
		{Name: "dev/socket", Mode: 0o140777},
		{Name: "empty", Mode: 0o100400, Sec: -5},
		{Name: "hard", Hard: "bin/noise"},
		{Name: "large", Mode: 0o041777},
		{Name: "link", Mode: 0o120777, Target: "bin/../bin/noise", Sec: 9},
		{Name: "long link", Mode: 0o120777, Target: strings.Repeat("far/", 900) + "away"},
		{Name: "same", Mode: 0o100600, Data: noise, Sec: 4, Xattrs: []string{"user.a", "1", "user.empty", ""}},
		{Name: "with", Mode: 0o040700, Xattrs: []string{"user.dir", strings.Repeat("v", 3000), "trusted.x", "y"}},
		{Name: "with/\xff\x01", Mode: 0o100644, Data: []byte("a name that is no UTF-8"), Blob: 1},
	}
	for i := range 300 { // a directory of several blocks
		files = append(files, rafstest.File{Name: fmt.Sprintf("large/a rather long name of a small file, number %03d", i), Mode: 0o100644, Data: []byte(fmt.Sprint("small file ", i%250)), Sec: int64(i), Blob: i % 2})
	}
	return files
}

// unpackFiles makes a directory of files.
func unpackFiles(t testing.TB, files []rafstest.File) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	must := func(err error, f rafstest.File) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
	}
	for _, f := range files {
		name := filepath.Join(root, f.Name)
		perm := os.FileMode(f.Mode & 0o777)
		if f.Hard != "" {
			must(os.Link(filepath.Join(root, f.Hard), name), f)
			continue
		}
		switch f.Mode & tree.TypeMask {
		case tree.Directory:
			must(os.Mkdir(name, 0o700), f)
		case tree.Symlink:
			must(os.Symlink(f.Target, name), f)
		case tree.File:
			must(os.WriteFile(name, f.Data, perm), f)
		default:
			must(unix.Mknod(name, f.Mode&tree.TypeMask|uint32(perm), int(unix.Mkdev(f.Major, f.Minor))), f)
		}
		must(os.Lchown(name, int(f.UID), int(f.GID)), f)
		for pair := range slices.Chunk(f.Xattrs, 2) {
			must(unix.Lsetxattr(name, pair[0], []byte(pair[1]), 0), f)
		}
		if f.Mode&tree.TypeMask != tree.Symlink {
			must(unix.Chmod(name, f.Mode&0o7777), f)
		}
	}
	for _, f := range slices.Backward(files) {
		if f.Hard == "" {
			at := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: f.Sec, Nsec: int64(f.Nsec)}}
			must(unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(root, f.Name), at, unix.AT_SYMLINK_NOFOLLOW), f)
		}
	}
	return root
}

// memory is a blob.ReaderAt.
type memory []byte

func (m memory) Size() int64 { return int64(len(m)) }

func (m memory) ReadAt(_ context.Context, p []byte, off int64) error {
	if off < 0 || off > int64(len(m)) || copy(p, m[off:]) < len(p) {
		return errors.New("beyond the end")
	}
	return nil
}

// nydusParse reads an image that was written; its blobs are listed the other way round, as a manifest may have them.
func nydusParse(i rafstest.Image) (*rafs.Image, []byte, error) {
	var blobs []rafs.Blob
	var all []byte
	written := slices.Clone(i.Blobs)
	slices.Reverse(written)
	for _, b := range written {
		blobs = append(blobs, rafs.Blob{Digest: sha256.Sum256(b), Size: int64(len(b))})
		all = append(all, b...)
	}
	m, err := rafs.Parse(i.Boot, blobs, Entries, func(p []byte, n int, at int64) error {
		return memory(written[n]).ReadAt(context.Background(), p, at)
	})
	return m, all, err
}

// decoded are the bytes of the address space.
func decodedSpans(t testing.TB, m *rafs.Image, stored []byte) []byte {
	t.Helper()
	x := &index.Index{Facts: m.Facts, Spans: m.Spans}
	if _, err := build.CheckSpans(t.Context(), x, memory(stored), memory(nil), nil); err != nil {
		t.Fatal(err)
	}
	out := make([]byte, m.Facts.Size)
	for _, s := range m.Spans {
		dst, src := make([]byte, s.Skip+s.Decoded()), stored[s.Stored:s.Stored+s.StoredLength]
		if decode := build.Decoder(s.Codec); decode == nil {
			copy(dst, src)
		} else if err := decode(dst, src, s.Bit, nil); err != nil {
			t.Fatal(err)
		}
		copy(out[s.Device:], dst[s.Skip:])
	}
	return out
}

// variants are ways to write the same tree.
var variants = map[string]rafstest.Options{
	"lz4 blake3":            {Compressor: rafstest.LZ4},
	"lz4 sha256 small":      {Compressor: rafstest.LZ4, SHA256: true, Chunk: 4096, Prefetch: true},
	"zstd blake3 prefetch":  {Compressor: rafstest.Zstd, Chunk: 64 << 10, Prefetch: true},
	"zstd sha256 batch":     {Compressor: rafstest.Zstd, SHA256: true, Batch: 64 << 10},
	"lz4 batch":             {Compressor: rafstest.LZ4, Batch: 512},
	"gzip":                  {Compressor: rafstest.Gzip, Chunk: 128 << 10},
	"none":                  {SHA256: true},
	"none batch":            {Batch: 32 << 10},
	"zstd blake3 two blobs": {Compressor: rafstest.Zstd, Blobs: 2},
	"lz4 batch two blobs":   {Compressor: rafstest.LZ4, Blobs: 2, Batch: 128 << 10},
}

// TestNydus: the tree of a Nydus image, as we mount it, is the one that it was made of, and the one that the kernel sees
// when it mounts the bootstrap itself.
func TestNydus(t *testing.T) {
	needErofs(t)
	want := lookAt(t, unpackFiles(t, nydusFiles()), 0)
	for name, o := range variants {
		t.Run(name, func(t *testing.T) {
			files := nydusFiles()
			for i := range files {
				if o.Blobs < 2 {
					files[i].Blob = 0
				}
			}
			img := rafstest.Write(files, o)
			meta, devices := store(t, img.Boot, img.Decoded)
			for _, d := range differences(want, lookAt(t, mountTree(t, meta, devices), 0)) {
				t.Errorf("bootstrap, mounted by the kernel: %s", d)
			}
			m, stored, err := nydusParse(img)
			if err != nil {
				t.Fatal(err)
			}
			merged, err := tree.Merge([]tree.Layer{{Name: "nydus", Size: m.Facts.Size, Entries: func(yield func(index.Entry, error) bool) {
				for _, e := range m.Entries {
					if !yield(e, nil) {
						return
					}
				}
			}}})
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if _, err := Write(&out, merged, Options{}); err != nil {
				t.Fatal(err)
			}
			meta, devices = store(t, out.Bytes(), [][]byte{decodedSpans(t, m, stored)})
			for _, d := range differences(want, lookAt(t, mountTree(t, meta, devices), 0)) {
				t.Error(d)
			}
		})
	}
}

// TestNydusRefused: what is not read is refused with a reason, and what lies with a class.
func TestNydusRefused(t *testing.T) {
	le := func(b []byte, at int, v uint32) {
		b[at], b[at+1], b[at+2], b[at+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
	}
	change := func(part string, f func(b []byte)) rafstest.Options {
		return rafstest.Options{Compressor: rafstest.LZ4, Change: func(p string, b []byte) {
			if p == part {
				f(b)
			}
		}}
	}
	for _, c := range []struct {
		name  string
		o     rafstest.Options
		class error
		says  string
	}{
		{"version 5", change("boot", func(b []byte) { copy(b, "SFAR\x00\x05\x00\x00") }), rafs.ErrUnsupported, "version 5"},
		{"encrypted", change("boot", func(b []byte) { b[1152+3] |= 2 }), rafs.ErrUnsupported, "encrypted"},
		{"an encrypted blob", change("blob", func(b []byte) { b[216] = 1 }), rafs.ErrUnsupported, "encrypted"},
		{"an encrypted chunk", change("chunks", func(b []byte) { b[36] |= 4 }), rafs.ErrUnsupported, "encrypted"},
		{"tarfs", change("boot", func(b []byte) { b[1153] |= 2 }), rafs.ErrUnsupported, "refer to layers"},
		{"zran", change("blob", func(b []byte) { b[84] |= 8 }), rafs.ErrUnsupported, "refer to layers"},
		{"a feature", change("blob", func(b []byte) { b[86] |= 8 }), rafs.ErrUnsupported, "features 0x80000"},
		{"a compressor", change("blob", func(b []byte) { b[76] = 9 }), rafs.ErrUnsupported, "compressor 9"},
		{"no digest", change("boot", func(b []byte) { b[1152] &^= 4 }), rafs.ErrUnsupported, "digest"},
		{"another blob", change("boot", func(b []byte) { copy(b[4096:], strings.Repeat("ab", 32)); copy(b[1408:], strings.Repeat("ab", 32)) }), rafs.ErrUnsupported, "does not list"},
		{"a device of another name", change("boot", func(b []byte) { copy(b[1408:], strings.Repeat("ab", 32)) }), blob.ErrCorrupt, "device 0"},
		{"no EROFS", change("boot", func(b []byte) { b[1024] = 0 }), blob.ErrCorrupt, "magic"},
		{"plain EROFS", change("boot", func(b []byte) { b[1024+11] = 0 }), blob.ErrCorrupt, "no bootstrap"},
		{"a table outside", change("boot", func(b []byte) { le(b, 1152+24, 1<<30) }), blob.ErrCorrupt, "table of chunks"},
		{"a chunk of another blob", change("chunks", func(b []byte) { b[32] = 7 }), blob.ErrCorrupt, "blob 7"},
		{"a chunk outside of its blob", change("chunks", func(b []byte) { le(b, 48, 1<<30) }), blob.ErrCorrupt, "stored in"},
		{"a chunk of no bytes", change("chunks", func(b []byte) { le(b, 44, 0) }), blob.ErrCorrupt, "0 bytes"},
		{"chunks that overlap", change("chunks", func(b []byte) { copy(b[56:64], b[80+56:80+64]) }), blob.ErrCorrupt, "share byte"},
		{"a chunk that is missing", change("chunks", func(b []byte) { le(b, 56, 1<<30) }), blob.ErrCorrupt, "where no chunk begins"},
		{"infos that lie", rafstest.Options{Batch: 4096, Change: func(p string, b []byte) {
			if p == "infos" {
				b[4]++ // the length of chunk 0
			}
		}}, blob.ErrCorrupt, "differ"},
		{"a directory in itself", change("boot", func(b []byte) {
			root := 8192 // its inode is the first, and its entries stand behind it
			for at := root + 64; ; at += 12 {
				if b[at+10] == 2 && !bytes.Equal(b[at:at+8], make([]byte, 8)) { // a directory that is not the top
					clear(b[at : at+8])
					return
				}
			}
		}), blob.ErrCorrupt, "two places"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := slices.DeleteFunc(nydusFiles(), func(f rafstest.File) bool { return strings.HasPrefix(f.Name, "large/") })
			for i := range files {
				files[i].Blob = 0
			}
			_, _, err := nydusParse(rafstest.Write(files, c.o))
			if !errors.Is(err, c.class) || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

// FuzzBootstrap: no bootstrap makes its reader panic, loop, or take much memory, and what it accepts can be an index.
func FuzzBootstrap(f *testing.F) {
	files := slices.DeleteFunc(nydusFiles(), func(f rafstest.File) bool { return strings.HasPrefix(f.Name, "large/") || len(f.Data) > 100_000 })
	for i := range files {
		files[i].Blob = 0
	}
	files = slices.DeleteFunc(files, func(f rafstest.File) bool { return f.Hard != "" })
	var blobs [][]byte
	for _, o := range []rafstest.Options{{Compressor: rafstest.LZ4}, {Compressor: rafstest.Zstd, Batch: 4096, SHA256: true}} {
		i := rafstest.Write(files, o)
		blobs = append(blobs, i.Blobs[0])
		f.Add(i.Boot)
	}
	f.Fuzz(func(t *testing.T, boot []byte) {
		var list []rafs.Blob
		for _, b := range blobs {
			list = append(list, rafs.Blob{Digest: sha256.Sum256(b), Size: int64(len(b))})
		}
		m, err := rafs.Parse(boot, list, Entries, func(p []byte, n int, at int64) error {
			return memory(blobs[n]).ReadAt(context.Background(), p, at)
		})
		if err != nil {
			if !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrInvalid) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		var entries index.Entries
		for _, e := range m.Entries {
			if err := entries.Add(e); err != nil {
				return
			}
		}
		var out bytes.Buffer
		if _, err := index.Encode(&out, m.Facts, &entries, m.Spans, nil); err != nil {
			t.Fatal(err)
		}
		x, err := index.Open(t.Context(), memory(out.Bytes()))
		if err != nil {
			t.Fatalf("what was accepted is no index: %v", err)
		}
		for _, err := range x.Entries() {
			if err != nil {
				t.Fatalf("what was accepted has entries that are none: %v", err)
			}
		}
	})
}
