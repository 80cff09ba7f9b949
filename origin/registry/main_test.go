package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin/origintest"
	"github.com/pantala/pantala/origin/registry"
	"github.com/pantala/pantala/origin/registry/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What fetch wants of an origin; it is above this room.
var _ interface {
	blob.Source
	Ranges() bool
	Stream(ctx context.Context, w func(p []byte) error) error
} = (*registry.Blob)(nil)

// within is a context that ends long before the test binary's own limit.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// client is one that sees nothing of this machine's configuration.
func client(t testing.TB, o registry.Options) *registry.Client {
	t.Helper()
	if o.ConfigDirs == nil {
		o.ConfigDirs = []string{t.TempDir()}
	}
	if o.CertsDir == "" {
		o.CertsDir = "none"
	}
	c, err := registry.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func parse(t testing.TB, s string) registry.Ref {
	t.Helper()
	r, err := registry.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func resolve(t testing.TB, c *registry.Client, ref string) *registry.Image {
	t.Helper()
	im, err := c.Resolve(within(t, time.Minute), parse(t, ref), amd64)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// fails resolves what must fail with a class and a text.
func fails(t testing.TB, c *registry.Client, ref string, class error, says ...string) {
	t.Helper()
	_, err := c.Resolve(within(t, time.Minute), parse(t, ref), amd64)
	checkError(t, err, class, says...)
}

// checkError checks an error's class, its words, and that it holds no secret.
func checkError(t testing.TB, err error, class error, says ...string) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("%v\nis not %v", err, class)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%v\ndoes not say %q", err, s)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, registrytest.Password) {
		t.Errorf("an error tells the password: %s", text)
	}
}

// fetchLayer reads a layer through the interface that fetch uses.
func fetchLayer(t testing.TB, b *registry.Blob, want []byte) {
	t.Helper()
	sink := origintest.NewSink(t, b.Size())
	if !b.Has(sink.All()) {
		t.Fatal("Has says no")
	}
	if err := b.Fetch(within(t, time.Minute), sink.All(), sink); err != nil {
		t.Fatal(err)
	}
	sink.Check(sink.All(), want)
}

func streamLayer(t testing.TB, b *registry.Blob, want []byte) {
	t.Helper()
	var got []byte
	if err := b.Stream(within(t, time.Minute), func(p []byte) error { got = append(got, p...); return nil }); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("Stream: %d bytes that differ", len(got))
	}
}

// push puts an image into a registry by this package.
func push(t testing.TB, c *registry.Client, ref string, im registrytest.Image) {
	t.Helper()
	r, ctx := parse(t, ref), within(t, time.Minute)
	for _, p := range append([][]byte{im.Config}, im.Layers...) {
		if h, err := c.PushBlob(ctx, r, bytes.NewReader(p), int64(len(p))); err != nil || "sha256:"+h.String() != registrytest.Digest(p) {
			t.Fatal(h, err)
		}
	}
	if _, err := c.PushManifest(ctx, r, im.Type, im.Manifest); err != nil {
		t.Fatal(err)
	}
}

var (
	amd64 = registry.Platform{OS: "linux", Arch: "amd64"}
	linux = registrytest.Platform{OS: "linux", Architecture: "amd64"}
)

// sample is an image of three layers, of which one is larger than a buffer and one is a single block.
func sample(seed uint64) registrytest.Image {
	return registrytest.MakeImage(linux, origintest.Bytes(seed, 700_001), origintest.Bytes(seed+1, 5), origintest.Bytes(seed+2, 3<<20))
}

// checkImage compares what was resolved with what was pushed, layers and all.
func checkImage(t testing.TB, c *registry.Client, im *registry.Image, want registrytest.Image) {
	t.Helper()
	if "sha256:"+im.Manifest.String() != registrytest.Digest(want.Manifest) || !bytes.Equal(im.ManifestBytes, want.Manifest) || !bytes.Equal(im.Config, want.Config) || len(im.Layers) != len(want.Layers) {
		t.Fatalf("resolved %+v", im)
	}
	for i, l := range im.Layers {
		p := want.Layers[i]
		if "sha256:"+l.Digest.String() != registrytest.Digest(p) || l.Size != int64(len(p)) || l.DiffID != l.Digest || l.MediaType == "" {
			t.Errorf("layer %d: %+v", i, l)
		}
		b := c.Layer(t.Context(), im.Ref, l)
		fetchLayer(t, b, p)
		streamLayer(t, b, p)
		if !b.Ranges() {
			t.Error("Ranges says no")
		}
	}
}
