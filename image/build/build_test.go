package build

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/image/index"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// file is a file in memory.
type file struct {
	mu sync.Mutex
	b  []byte
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if need := off + int64(len(p)) - int64(len(f.b)); need > 0 {
		f.b = append(f.b, make([]byte, need)...)
	}
	return copy(f.b[off:], p), nil
}

func (f *file) Size() int64 { return int64(len(f.b)) }

func (f *file) ReadAt(_ context.Context, p []byte, off int64) error {
	if off < 0 || off > f.Size() || copy(p, f.b[off:]) < len(p) {
		return fmt.Errorf("BUG: %d bytes at %d of %d", len(p), off, len(f.b))
	}
	return nil
}

// archive is a tar archive of about size bytes that compresses to a third or so.
func archive(size int) []byte {
	r := rand.New(rand.NewPCG(uint64(size), 2))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; b.Len() < size; i++ {
		n := r.IntN(1 << r.IntN(18))
		w.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/lib/part-%d/file-%d", i/10, i), Mode: 0644, Size: int64(n), ModTime: time.Unix(1700000000+int64(i%5), 0)})
		content := make([]byte, n)
		for k := range content {
			content[k] = "aaaabcdefgh \n"[r.IntN(13)] // of low entropy, and without long matches
		}
		w.Write(content)
	}
	w.Close()
	return b.Bytes()
}

// leavesOf is the other way to get at what Build makes of stored bytes.
func leavesOf(data []byte) (leaves []blob.Hash) {
	for ; len(data) > 0; data = data[min(len(data), blob.BlockSize):] {
		leaves = append(leaves, blob.Leaf(data[:min(len(data), blob.BlockSize)]))
	}
	return leaves
}

// verify holds what was built of stored, whose archive is decoded, against both.
func verify(t *testing.T, b *Built, stored, decoded []byte, out *file) {
	t.Helper()
	if !bytes.Equal(out.b, decoded) {
		t.Fatalf("%d decoded bytes written, not the %d that there are", len(out.b), len(decoded))
	}
	geo := blob.GeometryFor(int64(len(stored)))
	leaves := leavesOf(stored)
	if b.Layer != blob.Hash(sha256.Sum256(stored)) || b.DiffID != blob.Hash(sha256.Sum256(decoded)) || b.Stored != int64(len(stored)) || b.Size != int64(len(decoded)) {
		t.Fatalf("%+v", b.Facts)
	}
	if len(stored) > 0 && b.Root != geo.RootOfLeaves(leaves) || len(b.Roots) != int(geo.Pieces()) {
		t.Fatalf("root %v of %d pieces", b.Root, len(b.Roots))
	}
	for i := range b.Roots {
		r := geo.PieceBlocks(uint32(i))
		if b.Roots[i] != geo.PieceRoot(leaves[r.First:r.End()]) {
			t.Fatalf("root of piece %d", i)
		}
	}
	at := int64(0)
	for i, s := range b.Spans {
		if s.Device != at || s.Length <= 0 {
			t.Fatalf("span %d: %+v, not at %d", i, s, at)
		}
		if s.Digest != index.Root(decoded[at:at+s.Length]) {
			t.Fatalf("digest of span %d", i)
		}
		at += s.Length
	}
	if at != b.Size {
		t.Fatalf("spans of %d bytes, not %d", at, b.Size)
	}
	var f file
	var w bytes.Buffer
	if _, err := b.Encode(&w); err != nil {
		t.Fatal(err)
	}
	f.b = w.Bytes()
	x, err := index.Open(t.Context(), &f)
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(decoded))
	n := 0
	for e, err := range x.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		h, err := r.Next()
		if err != nil {
			t.Fatal(n, err)
		}
		content, _ := io.ReadAll(r)
		if e.Name != h.Name || e.Size != h.Size || e.Sec != h.ModTime.Unix() {
			t.Fatalf("%+v, not %+v", e, h)
		}
		if e.Size > 0 && !bytes.Equal(decoded[e.Extents[0].Device:][:e.Size], content) {
			t.Fatalf("content of %s", e.Name)
		}
		n++
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatalf("only %d entries: %v", n, err)
	}
}

func TestPlain(t *testing.T) {
	for _, size := range []int{0, 1, 16<<10 - 1024, 300 << 10, 2 << 20} {
		data := archive(size)
		if size == 0 {
			data = nil
		}
		for name, r := range map[string]io.Reader{
			"whole": bytes.NewReader(data), "bytes": iotest.OneByteReader(bytes.NewReader(data)), "halves": iotest.HalfReader(bytes.NewReader(data)),
		} {
			var out file
			b, err := Build(t.Context(), r, Options{Decoded: &out, Want: Want{blob.Hash(sha256.Sum256(data)), int64(len(data)), blob.Hash(sha256.Sum256(data))}})
			if err != nil {
				t.Fatal(size, name, err)
			}
			if b.Format != "tar" {
				t.Error(b.Format)
			}
			verify(t, b, data, data, &out)
		}
	}
}

// delayed is a codec whose points come late bytes after they are passed, at odd places, some of them with nothing
// between.
func delayed(late int64, seed uint64) codec.Scan {
	return func(r io.Reader, s codec.Spacing, emit func([]byte) error, mark func(codec.Point) error) error {
		rnd := rand.New(rand.NewPCG(seed, 3))
		var pending []codec.Point
		at, next := int64(0), int64(0)
		if err := mark(codec.Point{}); err != nil {
			return err
		}
		for {
			b := make([]byte, 1+rnd.IntN(int(s.Decoded)))
			n, err := io.ReadFull(r, b)
			if n > 0 {
				if err := emit(b[:n]); err != nil {
					return err
				}
			}
			at += int64(n)
			for next < at {
				for range 1 + rnd.IntN(2) {
					pending = append(pending, codec.Point{Out: next, In: next, Window: []byte(fmt.Sprint(next))})
				}
				next += rnd.Int64N(2*s.Decoded) + 1
			}
			for len(pending) > 0 && (pending[0].Out+late <= at || err != nil) {
				if err := mark(pending[0]); err != nil {
					return err
				}
				pending = pending[1:]
			}
			switch err {
			case nil:
			case io.EOF, io.ErrUnexpectedEOF:
				return mark(codec.Point{Out: at, In: at, Window: []byte("end")})
			default:
				return err
			}
		}
	}
}

// TestLatePoints: spans are hashed from their first byte, wherever that turns out to be.
func TestLatePoints(t *testing.T) {
	data := archive(4 << 20)
	for seed := range uint64(8) {
		spacing := int64(1000) << (2 * (seed % 4))
		late := int64(seed%3) << 19
		k := kind{"late", index.Deflate, delayed(late, seed), nil, codec.Spacing{Stored: spacing, Decoded: spacing}, late + spacing}
		var out file
		var scratch Scratch
		if seed%2 == 1 {
			scratch = temp(t)
		}
		b, err := newPipeline(t.Context(), k, Options{Decoded: &out, Scratch: scratch, MaxSize: 1 << 40, MaxRatio: 1000}).run(bytes.NewReader(data))
		if err != nil {
			t.Fatal(seed, err)
		}
		if len(b.Spans) < 2 {
			t.Errorf("%d spans", len(b.Spans))
		}
		for i, s := range b.Spans {
			window := make([]byte, s.Window.Length)
			if _, err := b.windows.ReadAt(window, s.Window.Offset); s.Device > 0 && (err != nil || string(window) != fmt.Sprint(s.Device)) {
				t.Fatalf("window of span %d at %d: %q, %v", i, s.Device, window, err)
			}
			if end := s.Stored + s.StoredLength; end < min(int64(len(data)), s.Device+s.Length) {
				t.Fatalf("span %d stops short: %+v", i, s)
			}
		}
		verify(t, b, data, data, &out)
	}
}

func temp(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// failing is a writer that fails after n bytes.
type failing struct{ n int64 }

var errDisk = errors.New("the disk is full")

func (f failing) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.n {
		return 0, errDisk
	}
	return len(p), nil
}

func TestErrors(t *testing.T) {
	data := archive(3 << 20)
	good := Want{blob.Hash(sha256.Sum256(data)), int64(len(data)), blob.Hash(sha256.Sum256(data))}
	bad := blob.Hash{1}
	for name, c := range map[string]struct {
		data  []byte
		o     Options
		class error
		text  string
	}{
		"digest":      {data, Options{Want: Want{Digest: bad, DiffID: good.DiffID}}, blob.ErrCorrupt, "not sha256:0100"},
		"diffID":      {data, Options{Want: Want{Digest: good.Digest, DiffID: bad}}, blob.ErrCorrupt, "diff_ids"},
		"short":       {data[:2<<20], Options{Want: good}, blob.ErrCorrupt, fmt.Sprintf("it has 2097152 bytes, not %d", len(data))},
		"long":        {append(bytes.Clone(data), 0), Options{Want: good}, blob.ErrCorrupt, fmt.Sprintf("it has %d bytes, not %d", len(data)+1, len(data))},
		"empty":       {nil, Options{Want: good}, blob.ErrCorrupt, "it has 0 bytes, not"},
		"truncated":   {data[:2<<20], Options{}, blob.ErrCorrupt, "the archive ends at offset 2097152"},
		"no archive":  {[]byte(strings.Repeat("no archive", 1000)), Options{}, blob.ErrCorrupt, "layers are tar archives"},
		"too large":   {data, Options{MaxSize: 1 << 20}, blob.ErrInvalid, "larger than 1048576 bytes when decoded (limited by max-layer-size)"},
		"disk":        {data, Options{Decoded: failing{1 << 20}}, errDisk, ""},
		"hash of gap": {append(make([]byte, 512), data...), Options{}, blob.ErrCorrupt, "block of zeros"},
	} {
		b, err := Build(t.Context(), bytes.NewReader(c.data), c.o)
		if b != nil || !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// bomb is a codec that makes 1 MiB of zeros from each byte.
func bomb(r io.Reader, _ codec.Spacing, emit func([]byte) error, mark func(codec.Point) error) error {
	if err := mark(codec.Point{}); err != nil {
		return err
	}
	zeros := make([]byte, 1<<20)
	for {
		if _, err := io.ReadFull(r, make([]byte, 1)); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := emit(zeros); err != nil {
			return err
		}
	}
}

func TestBomb(t *testing.T) {
	k := kind{"bomb", index.Deflate, bomb, nil, codec.Spacing{}, 0}
	run := func(stored int, o Options) (err error) {
		_, err = newPipeline(t.Context(), k, o).run(bytes.NewReader(make([]byte, stored)))
		return err
	}
	if err := run(64, Options{MaxSize: 1 << 40, MaxRatio: 1000}); err != nil {
		t.Error("64 MiB do no harm:", err)
	}
	err := run(1000, Options{MaxSize: 1 << 40, MaxRatio: 1000})
	if !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), "zip bomb: more than 1000 bytes for each of 1000 stored ones (limited by max-layer-ratio)") {
		t.Error(err)
	}
	if err := run(100, Options{MaxSize: 1 << 40, MaxRatio: 2 << 20}); err != nil {
		t.Error("a ratio that is allowed:", err)
	}
	// A layer that begins with zeros is judged by all of its stored bytes, when it is known how many they are.
	if err := run(100, Options{MaxSize: 1 << 40, MaxRatio: 1000, Want: Want{Size: 100}}); !errors.Is(err, blob.ErrInvalid) {
		t.Error(err)
	}
}

// endless is a stream of zeros that says when it is read.
type endless struct{ ctx context.Context }

func (e endless) Read(p []byte) (int, error) {
	if err := e.ctx.Err(); err != nil {
		return 0, err
	}
	clear(p)
	return len(p), nil
}

// TestCancel: Build ends with its context, and so do its goroutines: see TestMain.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("nobody wants it")
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	if _, err := Build(ctx, endless{t.Context()}, Options{}); err != why {
		t.Error(err)
	}
	broken := errors.New("the line is dead")
	data := archive(1 << 20)
	for _, n := range []int{0, 3, 1000, len(data) / 2, len(data)} {
		r := io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(broken))
		if _, err := Build(t.Context(), r, Options{}); err != broken {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

// TestMagic: kinds are told by their first bytes.
func TestMagic(t *testing.T) {
	for magic, want := range map[string]string{
		"": "tar", "\x1f": "tar", "\x1f\x8b": "gzip", "\x1f\x8b\x08\x00": "gzip", "\x28\xb5\x2f\xfd": "zstd",
		"\x50\x2a\x4d\x18": "zstd", "\x5f\x2a\x4d\x18": "zstd", "\x60\x2a\x4d\x18": "tar", "etc/": "tar",
	} {
		if got := kindOf([]byte(magic)).format; got != want {
			t.Errorf("%q is %s, not %s", magic, got, want)
		}
	}
}

func BenchmarkBuildPlain(b *testing.B) {
	data := archive(64 << 20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Build(b.Context(), bytes.NewReader(data), Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
