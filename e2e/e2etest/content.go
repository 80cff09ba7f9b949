package e2etest

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// File is a file with known content.
type File struct {
	Path   string
	Size   int64
	SHA256 string // 64 hexadecimal digits
}

var contents struct {
	mu   sync.Mutex
	made map[string]File
}

// Content is a file of size bytes that no compressor makes smaller, the same for the same seed. It is made
// once per test process, in the page cache afterwards, and must not be changed.
func Content(t testing.TB, size int64, seed uint64) File {
	t.Helper()
	dir := baseDir(t)
	contents.mu.Lock()
	defer contents.mu.Unlock()
	name := "content-" + itoa(int(size)) + "-" + itoa(int(seed))
	if f, ok := contents.made[name]; ok {
		return f
	}
	path := filepath.Join(dir, name)
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(out, sum), rand.NewChaCha8(key), size); err != nil {
		t.Fatalf("making %d bytes of content: %v", size, err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	f := File{path, size, hex.EncodeToString(sum.Sum(nil))}
	if contents.made == nil {
		contents.made = map[string]File{}
	}
	contents.made[name] = f
	return f
}

// Bytes reads the whole file.
func (f File) Bytes(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
