package imagestest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pantala/pantala/e2e/e2etest"
)

// Entry is one file of a layer: a directory when its name ends with a slash, a link when Link is set.
type Entry struct {
	Name, Body, Link string
	Mode             int64 // 0: 0755
}

// Layer is one layer as an image names it.
type Layer struct {
	Stored    []byte // as the registry has it
	MediaType string
	DiffID    digest.Digest

	Annotations map[string]string
}

// Gzip makes an ordinary layer.
func Gzip(entries ...Entry) Layer {
	plain := Tar(entries...)
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(plain)
	z.Close()
	return Layer{Stored: b.Bytes(), MediaType: ocispec.MediaTypeImageLayerGzip, DiffID: digest.FromBytes(plain)}
}

// Tar is an archive of entries, with times that are always the same.
func Tar(entries ...Entry) []byte {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.Name, Mode: e.Mode, Size: int64(len(e.Body)), Typeflag: tar.TypeReg, ModTime: time.Unix(1e9, 0)}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if e.Link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
		}
		if strings.HasSuffix(e.Name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := t.WriteHeader(h); err != nil {
			panic(err)
		}
		if _, err := t.Write([]byte(e.Body)); err != nil {
			panic(err)
		}
	}
	t.Close()
	return b.Bytes()
}

// Busybox is a layer with a shell and what a test runs.
func Busybox(t testing.TB) Layer {
	t.Helper()
	const advice = "apt-get install busybox-static"
	path := e2etest.NeedProgram(t, "busybox", advice)
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			e2etest.Need(t, "a static busybox", fmt.Errorf("%s is linked with libraries", path), advice)
		}
	}
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	entries := []Entry{{Name: "bin/"}, {Name: "etc/"}, {Name: "proc/"}, {Name: "sys/"}, {Name: "dev/"}, {Name: "tmp/", Mode: 0o1777}, {Name: "bin/busybox", Body: string(body)}}
	for _, applet := range []string{"sh", "cat", "echo", "ls", "sleep", "sha256sum", "true", "touch", "test", "find"} {
		entries = append(entries, Entry{Name: "bin/" + applet, Link: "busybox"})
	}
	return Gzip(append(entries, Entry{Name: "etc/hello", Body: "hello from layer one\n", Mode: 0o644})...)
}

// Noise is n bytes that do not get shorter, the same for the same seed, and their SHA-256.
func Noise(n int, seed uint64) (body, sum string) {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	p := make([]byte, n)
	rand.NewChaCha8(key).Read(p)
	return string(p), fmt.Sprintf("%x", sha256.Sum256(p))
}

// Image is a manifest with all that it names.
type Image struct {
	Layers   []Layer
	Config   []byte
	Manifest []byte
}

// Descriptor is what a manifest says of the layer.
func (l Layer) Descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: l.MediaType, Digest: digest.FromBytes(l.Stored), Size: int64(len(l.Stored)), Annotations: l.Annotations}
}

// New makes an image of layers, the lowest first.
func New(layers ...Layer) Image {
	config := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   ocispec.ImageConfig{Cmd: []string{"/bin/cat", "/etc/hello"}, Env: []string{"PATH=/bin"}},
		RootFS:   ocispec.RootFS{Type: "layers"},
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
		m.Layers = append(m.Layers, l.Descriptor())
	}
	i := Image{Layers: layers}
	i.Config = marshal(config)
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(i.Config), Size: int64(len(i.Config))}
	i.Manifest = marshal(m)
	return i
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
