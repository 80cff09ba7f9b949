package node

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
	"github.com/pantala/pantala/metainfo"
)

var cacheOptions = blockio.Options{}

func sample() metainfo.Magnet {
	return NewMagnet(blob.Hash{1}, 1<<33, blob.Hash{2}, "a b&c=d.bin", []string{"http://t:1/announce", "http://u/announce?k=v&w=x"})
}

func TestMagnetRoundTrip(t *testing.T) {
	m := sample()
	m.Peers = []string{"127.0.0.1:6881", "[::1]:6881"}
	got, err := metainfo.ParseMagnet(m.String())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(m, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if strings.Contains(m.Source(), "announce") || strings.Contains(m.Source(), "6881") {
		t.Errorf("source %s", m.Source())
	}
	if m.ID() != (blob.ID{Kind: blob.ByInfoHash, Sum: m.V2}) {
		t.Errorf("id %v", m.ID())
	}
	if !strings.HasPrefix(m.String(), "magnet:?xt=urn:btmh:1220"+m.V2.String()+"&dn=") {
		t.Errorf("%s", m)
	}
}

// TestMagnetAltered: no parameter that names the bytes can be changed unnoticed.
func TestMagnetAltered(t *testing.T) {
	s := sample().String()
	for name, c := range map[string]struct {
		old, new string
		want     error
	}{
		"size":        {"xl=8589934592", "xl=8589934591", blob.ErrCorrupt},
		"digest":      {"x.pt.digest=01", "x.pt.digest=02", blob.ErrCorrupt},
		"root":        {"x.pt.root=02", "x.pt.root=03", blob.ErrCorrupt},
		"negative":    {"xl=", "xl=-", blob.ErrInvalid},
		"v1":          {"urn:btmh:1220", "urn:btih:", blob.ErrInvalid},
		"short hash":  {"urn:btmh:1220", "urn:btmh:12201", blob.ErrInvalid},
		"bad escape":  {"dn=", "dn=%zz", blob.ErrInvalid},
		"not a link":  {"magnet:", "https:", blob.ErrInvalid},
		"root no hex": {"x.pt.root=02", "x.pt.root=zz", blob.ErrInvalid},
	} {
		altered := strings.Replace(s, c.old, c.new, 1)
		if altered == s {
			t.Fatalf("%s: nothing was altered", name)
		}
		if _, err := metainfo.ParseMagnet(altered); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSafeName(t *testing.T) {
	for in, want := range map[string]string{
		"a.bin": "a.bin", "../../etc/passwd": ".._.._etc_passwd", "..": "", ".": "", "": "", "a\x00b\nc": "a_b_c", "ä": "ä",
		strings.Repeat("é", 200): strings.Repeat("é", 127),
	} {
		if got := safeName(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// TestHashFile compares the parallel hash with the plain one.
func TestHashFile(t *testing.T) {
	for _, size := range []int{0, 1, blob.BlockSize - 1, blob.BlockSize, hashChunk, hashChunk + 1, 3*hashChunk + 5*blob.BlockSize + 7} {
		p := bytes.Repeat([]byte("0123456789abcdef!"), size/17+1)[:size]
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		g := blob.GeometryFor(int64(size))
		last := int64(0)
		got, err := hashFile(t.Context(), f, g, func(n int64) { last = n })
		if err != nil || last != int64(size) {
			t.Fatalf("%d: progress %d, %v", size, last, err)
		}
		if got.digest != sha256.Sum256(p) {
			t.Errorf("%d: digest differs", size)
		}
		var leaves []blob.Hash
		for at := 0; at < size; at += blob.BlockSize {
			leaves = append(leaves, blob.Leaf(p[at:min(at+blob.BlockSize, size)]))
		}
		if len(leaves) > 0 && !cmp.Equal(leaves, got.leaves) {
			t.Errorf("%d: leaves differ", size)
		}
		if sum, err := Sum(t.Context(), f, int64(size)); err != nil || sum != got.digest {
			t.Errorf("%d: Sum: %v", size, err)
		}
		// A file that has become shorter is an error, and ends all goroutines.
		if err := os.Truncate(path, int64(size/2)); err != nil {
			t.Fatal(err)
		}
		f.Seek(0, 0)
		if _, err := hashFile(t.Context(), f, g, func(int64) {}); size > 0 && err == nil {
			t.Errorf("%d: truncated file has a digest", size)
		}
		f.Close()
	}
}

func BenchmarkHashFile(b *testing.B) {
	const size = 256 << 20
	path := filepath.Join(b.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.SetBytes(size)
	for b.Loop() {
		f.Seek(0, 0)
		if _, err := hashFile(b.Context(), f, blob.GeometryFor(size), func(int64) {}); err != nil {
			b.Fatal(err)
		}
	}
}
