package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/pantala/pantala/origin/registry/registrytest"
)

// archive is a layer with one file of bytes that do not get shorter, plain and compressed.
func archive(t *testing.T, name string, n int) (plain, stored []byte) {
	t.Helper()
	body := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(body)
	var b, z bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(n)}); err != nil {
		t.Fatal(err)
	}
	w.Write(body)
	w.Close()
	c := gzip.NewWriter(&z)
	c.Write(b.Bytes())
	c.Close()
	return b.Bytes(), z.Bytes()
}

// images puts an image of two layers into a registry, and one whose configuration is wrong about the second.
func images(t *testing.T) (good, broken string) {
	s := registrytest.New(t, registrytest.Script{})
	p1, z1 := archive(t, "one", 300<<10)
	p2, z2 := archive(t, "two", 700<<10)
	platform := registrytest.Platform{OS: "linux", Architecture: runtime.GOARCH}
	im := registrytest.MakeImage(platform, z1, z2)
	replace := func(im registrytest.Image, stored, plain []byte) registrytest.Image {
		old := im.Config
		im.Config = bytes.Replace(im.Config, []byte(registrytest.Digest(stored)), []byte(registrytest.Digest(plain)), 1)
		im.Manifest = bytes.Replace(im.Manifest, []byte(registrytest.Digest(old)), []byte(registrytest.Digest(im.Config)), 1)
		im.Manifest = bytes.Replace(im.Manifest, fmt.Appendf(nil, `"size": %d`, len(old)), fmt.Appendf(nil, `"size": %d`, len(im.Config)), 1)
		return im
	}
	im = replace(im, z1, p1)
	s.Put("app", "broken", im)
	s.Put("app", "good", replace(im, z2, p2))
	return s.Host() + "/app:good", s.Host() + "/app:broken"
}
