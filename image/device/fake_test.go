package device

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/image/index"
)

// layer is a layer whose decoded bytes are known. Spans of codec Deflate are "encoded" by a fake codec: each byte of
// the stored span is the decoded one xor a byte of the window, twice over, so that stored and decoded differ in length.
type layer struct {
	decoded, stored []byte
	file            []byte // the index
	index           *index.Index
}

func (l *layer) encode(s *index.Span, key byte) []byte {
	part := l.decoded[s.Device : s.Device+s.Length]
	if s.Codec == index.Stored {
		return part
	}
	out := make([]byte, 0, 2*len(part))
	for _, b := range part {
		out = append(out, b^key, b)
	}
	return out
}

// fakeCodec undoes encode and finds damage in the second byte of each pair.
func fakeCodec(dst, src []byte, _ uint8, window []byte) error {
	if len(src) != 2*len(dst) || len(window) != 1 {
		return fmt.Errorf("%w: lengths", blob.ErrCorrupt)
	}
	for i := range dst {
		dst[i] = src[2*i] ^ window[0]
	}
	return nil
}

func fakeDecoders() *[4]codec.Span {
	return &[4]codec.Span{index.Deflate: fakeCodec, index.Zstd: func([]byte, []byte, uint8, []byte) error { panic("of the test") }}
}

// newLayer makes a layer of spans of the given lengths; every second one is stored.
func newLayer(seed byte, lengths ...int) *layer {
	size := 0
	for _, n := range lengths {
		size += n
	}
	l := &layer{decoded: make([]byte, size)}
	rand.NewChaCha8([32]byte{seed}).Read(l.decoded)
	var spans []index.Span
	var windows [][]byte
	at := int64(0)
	for i, n := range lengths {
		s := index.Span{Device: at, Length: int64(n), Stored: int64(len(l.stored))}
		key := byte(i*7 + 1)
		var window []byte
		if i%2 == 1 {
			s.Codec, window = index.Deflate, []byte{key}
		}
		s.Digest = index.Root(l.decoded[at : at+int64(n)])
		e := l.encode(&s, key)
		s.StoredLength = int64(len(e))
		l.stored = append(l.stored, e...)
		spans, windows = append(spans, s), append(windows, window)
		at += int64(n)
	}
	var file bytes.Buffer
	f := index.Facts{Format: "tar", Layer: blob.Hash{seed}, Stored: int64(len(l.stored)), Size: int64(size)}
	if _, err := index.Encode(&file, f, new(index.Entries), spans, windows); err != nil {
		panic(err)
	}
	l.file = file.Bytes()
	var err error
	if l.index, err = index.Open(context.Background(), &memory{bytes: l.file}); err != nil {
		panic(err)
	}
	return l
}

// even is n times the same length.
func even(n, length int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = length
	}
	return out
}

// memory is a [blob.ReaderAt] over bytes that may misbehave.
type memory struct {
	bytes  []byte
	before func(ctx context.Context, off int64, n int) error // may block or fail; nil: none
	spoil  func() bool                                       // whether to damage an answer; nil: never

	mu      sync.Mutex
	asked   map[int64]int // by offset; guarded by mu
	order   []int64
	classes []blob.Class
	under   atomic.Int64 // bytes of reads under way
	most    atomic.Int64
}

func (m *memory) Size() int64 { return int64(len(m.bytes)) }

func (m *memory) ReadAt(ctx context.Context, p []byte, off int64) error {
	m.mu.Lock()
	if m.asked == nil {
		m.asked = map[int64]int{}
	}
	m.asked[off]++
	m.order = append(m.order, off)
	m.classes = append(m.classes, blob.ClassOf(ctx))
	m.mu.Unlock()
	u := m.under.Add(int64(len(p)))
	defer m.under.Add(-int64(len(p)))
	for o := m.most.Load(); u > o && !m.most.CompareAndSwap(o, u); o = m.most.Load() {
	}
	if m.before != nil {
		if err := m.before(ctx, off, len(p)); err != nil {
			return err
		}
	}
	copy(p, m.bytes[off:])
	if m.spoil != nil && m.spoil() {
		p[rand.IntN((len(p)+1)/2)*2] ^= 0x55 // the fake codec does not look at the others
	}
	return ctx.Err()
}

func (m *memory) reads() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.order)
}

// open opens a device over l; change may alter its configuration.
func (l *layer) open(t testing.TB, stored blob.ReaderAt, change func(*Config)) *Device {
	t.Helper()
	d, err := l.tryOpen(filepath.Join(t.TempDir(), "layer"), stored, change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func (l *layer) tryOpen(path string, stored blob.ReaderAt, change func(*Config)) (*Device, error) {
	c := Config{Index: l.index, Windows: &memory{bytes: l.file}, Stored: stored, Path: path, Pool: NewPool(PoolOptions{})}
	if change != nil {
		change(&c)
	}
	d, err := Open(c)
	if err == nil {
		d.decoders = fakeDecoders()
	}
	return d, err
}

// check reads n bytes at off and compares.
func (l *layer) check(t testing.TB, d *Device, off int64, n int) {
	t.Helper()
	p := make([]byte, n)
	if err := d.ReadAt(t.Context(), p, off); err != nil {
		t.Fatalf("%d bytes at %d: %v", n, off, err)
	}
	if !bytes.Equal(p, l.decoded[off:off+int64(n)]) {
		t.Fatalf("%d bytes at %d are wrong", n, off)
	}
}

// eventually waits for a condition; the bound is generous because the machine may be busy.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// waiter is a blob.Waiter that remembers.
type waiter struct {
	ready chan error
	hook  func(error)
}

func newWaiter() *waiter { return &waiter{ready: make(chan error, 2)} }

func (w *waiter) Ready(err error) {
	if w.hook != nil {
		w.hook(err)
	}
	w.ready <- err
}

// wait is what Ready was called with.
func (w *waiter) wait(t testing.TB) error {
	t.Helper()
	select {
	case err := <-w.ready:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("Ready was not called")
		return nil
	}
}

func testLog(w *bytes.Buffer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func openFile(t testing.TB, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// errNone is what a source says that has nothing.
var errNone = fmt.Errorf("%w: there is no source", blob.ErrUnavailable)
