package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin/origintest"
	"github.com/pantala/pantala/origin/registry"
	"github.com/pantala/pantala/origin/registry/registrytest"
)

// TestIndex: a platform is chosen from an index, of OCI and of docker, and nested ones.
func TestIndex(t *testing.T) {
	s := registrytest.New(t, registrytest.Script{})
	var (
		platforms = []registrytest.Platform{{OS: "unknown", Architecture: "unknown"}, {OS: "linux", Architecture: "arm", Variant: "v6"}, {OS: "linux", Architecture: "arm", Variant: "v5"}, {OS: "windows", Architecture: "amd64"}, {OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64", Variant: "v8"}, {OS: "linux", Architecture: "s390x"}}
		images    []registrytest.Image
		byName    = map[string]registrytest.Image{}
	)
	for i, p := range platforms {
		im := registrytest.MakeImage(p, origintest.Bytes(uint64(i), 1000))
		if i%2 == 0 {
			im = registrytest.MakeDocker(p, origintest.Bytes(uint64(i), 1000))
		}
		s.Put("a", "", im)
		images = append(images, im)
		byName[strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")] = im
	}
	index := registrytest.MakeIndex(platforms, images)
	s.PutManifest("a", "v1", registrytest.Index, index)
	docker := bytes.Replace(index, []byte(registrytest.Index), []byte(registrytest.DockerList), 1)
	s.PutManifest("a", "docker", registrytest.DockerList, docker)
	bare := bytes.Replace(index, []byte(`"mediaType": "`+registrytest.Index+`",`), nil, 1)
	s.PutManifest("a", "bare", "application/json", bare)
	outer := registrytest.JSON(map[string]any{"schemaVersion": 2, "mediaType": registrytest.Index, "manifests": []registrytest.Descriptor{registrytest.Of(registrytest.Index, index)}})
	s.PutManifest("a", "outer", registrytest.Index, outer)
	deep := outer
	for range 3 {
		deep = registrytest.JSON(map[string]any{"schemaVersion": 2, "mediaType": registrytest.Index, "manifests": []registrytest.Descriptor{registrytest.Of(registrytest.Index, deep)}})
		s.PutManifest("a", "deep", registrytest.Index, deep)
	}
	c := client(t, registry.Options{})
	for _, tag := range []string{"v1", "docker", "bare", "outer"} {
		for ask, want := range map[string]string{
			"linux/amd64": "linux/amd64", "linux/arm64": "linux/arm64/v8", "linux/arm64/v8": "linux/arm64/v8", "linux/aarch64": "linux/arm64/v8",
			"linux/arm/v7": "linux/arm/v6", "linux/arm": "linux/arm/v6", "linux/arm/v5": "linux/arm/v5", "linux/arm/v6": "linux/arm/v6",
			"windows/amd64": "windows/amd64", "linux/x86_64": "linux/amd64", "s390x": "linux/s390x", "linux/amd64/v3": "linux/amd64",
		} {
			p, err := registry.ParsePlatform(ask)
			if err != nil {
				t.Fatal(err)
			}
			im, err := c.Resolve(within(t, time.Minute), parse(t, s.Host()+"/a:"+tag), p)
			if err != nil {
				t.Errorf("%s: %v", ask, err)
				continue
			}
			if registrytest.Digest(byName[want].Manifest) != "sha256:"+im.Manifest.String() || im.Index.IsZero() {
				t.Errorf("%s for %s: not %s", tag, ask, want)
			}
		}
		p := registry.Platform{OS: "linux", Arch: "riscv64"}
		_, err := c.Resolve(within(t, time.Minute), parse(t, s.Host()+"/a:"+tag), p)
		if tag != "outer" {
			checkError(t, err, blob.ErrNotFound, "linux/riscv64", "linux/arm/v6", "--platform")
		} else if !errors.Is(err, blob.ErrNotFound) {
			t.Error(err)
		}
	}
	fails(t, c, s.Host()+"/a:deep", blob.ErrInvalid, "deep")
}

// TestNameless: an index whose entries do not say their platform: the configurations tell.
func TestNameless(t *testing.T) {
	s := registrytest.New(t, registrytest.Script{})
	arm, amd := registrytest.MakeImage(registrytest.Platform{OS: "linux", Architecture: "arm64"}, []byte("a")), registrytest.MakeImage(linux, []byte("b"))
	s.Put("a", "arm", arm)
	s.Put("a", "amd", amd)
	chart := registrytest.JSON(map[string]any{"schemaVersion": 2, "mediaType": registrytest.Manifest, "config": registrytest.Of("application/vnd.cncf.helm.config.v1+json", []byte("{}")), "layers": []any{}})
	s.PutManifest("a", "chart", registrytest.Manifest, chart)
	index := registrytest.JSON(map[string]any{"schemaVersion": 2, "manifests": []registrytest.Descriptor{registrytest.Of(registrytest.Manifest, chart), registrytest.Of(arm.Type, arm.Manifest), registrytest.Of(amd.Type, amd.Manifest)}})
	s.PutManifest("a", "v1", registrytest.Index, index)
	c := client(t, registry.Options{})
	checkImage(t, c, resolve(t, c, s.Host()+"/a:v1"), amd)

	// An image of its own that is for another platform.
	_, err := c.Resolve(within(t, time.Minute), parse(t, s.Host()+"/a:arm"), amd64)
	checkError(t, err, blob.ErrNotFound, "linux/arm64", "--platform")
	if _, err := c.Resolve(within(t, time.Minute), parse(t, s.Host()+"/a:arm"), registry.Platform{}); err != nil {
		t.Error(err)
	}
}

// TestManifests: what is refused, and how that is said.
func TestManifests(t *testing.T) {
	s := registrytest.New(t, registrytest.Script{})
	layer := []byte("layer")
	im := registrytest.MakeImage(linux, layer)
	s.Put("a", "good", im)
	config := registrytest.Of(registrytest.ImageConfig, im.Config)
	good := registrytest.Of(registrytest.LayerGzip, layer)
	type o = map[string]any
	with := func(change func(m o)) []byte {
		m := o{"schemaVersion": 2, "mediaType": registrytest.Manifest, "config": config, "layers": []any{good}}
		change(m)
		return registrytest.JSON(m)
	}
	var many []any
	for range 10_000 {
		many = append(many, good)
	}
	big := registrytest.Of(registrytest.ImageConfig, im.Config)
	big.Size = 1 << 30
	long := registrytest.Of(registrytest.LayerGzip, layer)
	long.Size = -1
	sha512 := registrytest.Of(registrytest.LayerGzip, layer)
	sha512.Digest = "sha512:" + strings.Repeat("ab", 64)
	short := registrytest.Of(registrytest.LayerGzip, layer)
	short.Digest = "sha256:ab"
	foreign := registrytest.Of("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", layer)
	foreign.URLs = []string{"http://127.0.0.1:1/x"}
	wrongSize := registrytest.Of(registrytest.ImageConfig, im.Config)
	wrongSize.Size++
	missing := registrytest.Of(registrytest.ImageConfig, []byte("not there"))
	tests := []struct {
		name  string
		text  []byte
		class error
		says  string
	}{
		{"schema 1", registrytest.JSON(o{"schemaVersion": 1, "name": "a", "fsLayers": []any{}}), blob.ErrInvalid, "schema 1"},
		{"signed schema 1", registrytest.JSON(o{"schemaVersion": 1, "mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"}), blob.ErrInvalid, "schema 1"},
		{"helm", with(func(m o) { m["config"] = registrytest.Of("application/vnd.cncf.helm.config.v1+json", im.Config) }), blob.ErrInvalid, "helm"},
		{"artefact", with(func(m o) { m["artifactType"] = "application/x.thing" }), blob.ErrInvalid, "application/x.thing"},
		{"another type", with(func(m o) { m["mediaType"] = "application/vnd.oci.artifact.manifest.v1+json" }), blob.ErrInvalid, "artifact.manifest"},
		{"both", with(func(m o) { m["manifests"] = []any{} }), blob.ErrInvalid, "at once"},
		{"type of an index", with(func(m o) { m["mediaType"] = registrytest.Index }), blob.ErrInvalid, "index"},
		{"index with the type of an image", registrytest.JSON(o{"schemaVersion": 2, "mediaType": registrytest.Manifest, "manifests": []any{}}), blob.ErrInvalid, "image"},
		{"no config", with(func(m o) { delete(m, "config") }), blob.ErrInvalid, "no configuration"},
		{"10 000 layers", with(func(m o) { m["layers"] = many }), blob.ErrInvalid, "10000 layers"},
		{"two layers, one diff ID", with(func(m o) { m["layers"] = []any{good, good} }), blob.ErrInvalid, "2 layers and the configuration 1"},
		{"large config", with(func(m o) { m["config"] = big }), blob.ErrInvalid, "1073741824"},
		{"negative size", with(func(m o) { m["layers"] = []any{long} }), blob.ErrInvalid, "layer 1 of 1"},
		{"sha512", with(func(m o) { m["layers"] = []any{sha512} }), blob.ErrInvalid, "only sha256"},
		{"short digest", with(func(m o) { m["layers"] = []any{short} }), blob.ErrInvalid, "layer 1 of 1"},
		{"foreign layer", with(func(m o) { m["layers"] = []any{foreign} }), blob.ErrDenied, "foreign"},
		{"size of the config", with(func(m o) { m["config"] = wrongSize }), blob.ErrCorrupt, "descriptor says"},
		{"missing config", with(func(m o) { m["config"] = missing }), blob.ErrNotFound, "BLOB_UNKNOWN"},
		{"not JSON", []byte("<html>"), blob.ErrInvalid, "not the JSON"},
		{"empty", nil, blob.ErrInvalid, "not the JSON"},
		{"null", []byte("null"), blob.ErrInvalid, "no configuration"},
		{"huge", bytes.Repeat([]byte(" "), 5<<20), blob.ErrInvalid, "bytes"},
		{"no platform", registrytest.JSON(o{"schemaVersion": 2, "manifests": []any{}}), blob.ErrNotFound, "it has: none"},
	}
	c := client(t, registry.Options{Retries: -1})
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s.PutManifest("a", fmt.Sprint(i), registrytest.Manifest, test.text)
			fails(t, c, fmt.Sprintf("%s/a:%d", s.Host(), i), test.class, test.says, "a:"+fmt.Sprint(i))
		})
	}
	// Neither a media type nor a size that is told twice is needed.
	for name, text := range map[string][]byte{
		"bare": with(func(m o) { delete(m, "mediaType") }),
		"data": with(func(m o) {
			d := config
			m["config"] = o{"mediaType": d.MediaType, "digest": d.Digest, "size": d.Size, "data": im.Config}
		}),
	} {
		s.PutManifest("a", name, "application/json", text)
		resolve(t, c, s.Host()+"/a:"+name)
	}
	resolve(t, c, s.Host()+"/a:good") // others are unaffected

}

// TestForeign: a layer that the registry does not distribute is not read from where its descriptor says, and the error
// says so.
func TestForeign(t *testing.T) {
	layer := []byte("elsewhere")
	elsewhere := registrytest.New(t, registrytest.Script{})
	s := registrytest.New(t, registrytest.Script{})
	im := registrytest.MakeImage(linux, layer)
	s.PutBlob(im.Config)
	for tag, kind := range map[string]string{"v1": "application/vnd.oci.image.layer.nondistributable.v1.tar", "v2": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"} {
		d := registrytest.Of(kind, layer)
		d.URLs = []string{elsewhere.URL + "/layer"}
		s.PutManifest("a", tag, registrytest.Manifest, registrytest.JSON(map[string]any{"schemaVersion": 2, "config": registrytest.Of(registrytest.ImageConfig, im.Config), "layers": []any{d}}))
		fails(t, client(t, registry.Options{}), s.Host()+"/a:"+tag, blob.ErrDenied, "foreign")
	}
	if log := elsewhere.Log(); len(log) > 0 {
		t.Errorf("its URL was asked: %v", log)
	}
}

// TestWrongBytes: a registry that gives other bytes than a digest names.
func TestWrongBytes(t *testing.T) {
	for what, of := range map[string]func(im registrytest.Image) []byte{
		"manifest":            func(im registrytest.Image) []byte { return im.Manifest },
		"image configuration": func(im registrytest.Image) []byte { return im.Config },
	} {
		s := registrytest.New(t, registrytest.Script{})
		im := sample(40)
		digest := s.Put("a", "v1", im)
		p := bytes.Clone(of(im))
		p[len(p)/2] ^= 1
		s.Replace(registrytest.Digest(of(im)), p)
		fails(t, client(t, registry.Options{Retries: -1}), s.Host()+"/a@"+digest, blob.ErrCorrupt, what)
	}
	// A tag whose manifest is not what the registry says it is.
	liar := registrytest.New(t, registrytest.Script{Before: func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Docker-Content-Digest", registrytest.Digest([]byte("another")))
		w.Write(sample(40).Manifest)
		return true
	}})
	fails(t, client(t, registry.Options{Retries: -1}), liar.Host()+"/a:v1", blob.ErrCorrupt, "Docker-Content-Digest")

	// A layer of another size than the manifest says.
	s := registrytest.New(t, registrytest.Script{})
	im := sample(41)
	s.Put("a", "v1", im)
	c := client(t, registry.Options{Retries: -1})
	got := resolve(t, c, s.Host()+"/a:v1")
	s.Replace(registrytest.Digest(im.Layers[0]), im.Layers[0][:500_000])
	b := c.Layer(t.Context(), got.Ref, got.Layers[0])
	sink := origintest.NewSink(t, b.Size())
	checkError(t, b.Fetch(within(t, time.Minute), sink.All(), sink), blob.ErrCorrupt, "500000", "700001", got.Layers[0].Digest.String())
	err := b.Stream(within(t, time.Minute), func([]byte) error { return nil })
	checkError(t, err, blob.ErrCorrupt, "500000", "700001")
}

// TestTags: a tag is believed for a while, then asked for by HEAD, and when nobody answers it is what it was, also
// after a restart; but not when the registry says that it is gone or forbidden.
func TestTags(t *testing.T) {
	one, two := sample(50), sample(60)
	for name, script := range map[string]registrytest.Script{"with digest": {}, "without": {NoDigest: true}} {
		t.Run(name, func(t *testing.T) {
			s := registrytest.New(t, script)
			ref := s.Host() + "/a:v1"
			s.Put("a", "v1", one)
			calm := client(t, registry.Options{TTL: time.Hour})
			checkImage(t, calm, resolve(t, calm, ref), one)
			n := len(s.Log())
			resolve(t, calm, ref)
			if len(s.Log()) != n {
				t.Error("a tag was asked about twice within its TTL")
			}
			dir := t.TempDir()
			keen := client(t, registry.Options{TTL: -1, Dir: dir, Retries: 1})
			resolve(t, keen, ref)
			n = len(s.Log())
			resolve(t, keen, ref)
			want := 1
			if script.NoDigest {
				want = 2
			}
			if got := len(s.Log()) - n; got != want || s.Log()[n].Method != http.MethodHead {
				t.Errorf("%d requests for a tag that is known, want %d", got, want)
			}
			s.Put("a", "v1", two)
			checkImage(t, keen, resolve(t, keen, ref), two)

			// Outage, as 503 and as nobody there.
			script := script
			script.Before = func(w http.ResponseWriter, r *http.Request) bool {
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
			s.Set(script)
			if im := resolve(t, keen, ref); !im.Stale || "sha256:"+im.Manifest.String() != registrytest.Digest(two.Manifest) {
				t.Errorf("%+v", im)
			}
			fails(t, keen, s.Host()+"/a:v2", blob.ErrUnavailable, "503")
			n = len(s.Log())
			if im := resolve(t, keen, ref); !im.Stale || len(s.Log()) != n {
				t.Error("a registry that is down was asked again at once")
			}
			keen.Close()

			// A restart, then a registry that denies, one that has forgotten, and one that is back.
			for status, class := range map[int]error{http.StatusForbidden: blob.ErrDenied, http.StatusNotFound: blob.ErrNotFound} {
				script.Before = func(w http.ResponseWriter, r *http.Request) bool {
					w.WriteHeader(status)
					return true
				}
				s.Set(script)
				fails(t, client(t, registry.Options{TTL: -1, Dir: dir}), ref, class)
			}
			script.Before = nil
			s.Set(script)
			if im := resolve(t, client(t, registry.Options{TTL: -1, Dir: dir}), ref); im.Stale {
				t.Error("stale while the registry answers")
			}
			s.Server.CloseClientConnections()
			s.Server.Close()
			again := client(t, registry.Options{TTL: -1, Dir: dir})
			if im := resolve(t, again, ref); !im.Stale || len(im.Layers) != 3 {
				t.Errorf("after a restart: %+v", im)
			}
			again.Close()

			// What is on disk is believed only if it is what its name says.
			files, err := filepath.Glob(filepath.Join(dir, "docs", "*"))
			if err != nil || len(files) == 0 {
				t.Fatal(err)
			}
			for _, f := range files {
				if err := os.WriteFile(f, []byte("{}"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			fails(t, client(t, registry.Options{TTL: -1, Dir: dir, Retries: -1}), ref, blob.ErrUnavailable)
		})
	}
}

// TestLimited: a registry that has had enough says until when.
func TestLimited(t *testing.T) {
	s := registrytest.New(t, registrytest.Script{Before: func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Retry-After", "3000")
		w.WriteHeader(http.StatusTooManyRequests)
		w.Write([]byte(`{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your\npull rate limit."}]}`))
		return true
	}})
	fails(t, client(t, registry.Options{}), s.Host()+"/a:v1", blob.ErrUnavailable, "in 50m0s", "docker login "+s.Host(), "TOOMANYREQUESTS You have reached your pull rate limit.")
}

// TestLayout: an image of an OCI layout in a folder.
func TestLayout(t *testing.T) {
	dir := t.TempDir()
	want := sample(70)
	put := func(p []byte) {
		path := filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(registrytest.Digest(p), "sha256:"))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, p, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range append([][]byte{want.Manifest, want.Config}, want.Layers...) {
		put(p)
	}
	d := registrytest.Of(want.Type, want.Manifest)
	d.Annotations = map[string]string{"org.opencontainers.image.ref.name": "v1"}
	index := func(all ...registrytest.Descriptor) {
		text, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": all})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "index.json"), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	index(d)
	c := client(t, registry.Options{})
	for _, ref := range []string{"oci://" + dir + ":v1", "oci://" + dir, "oci://" + dir + "@" + registrytest.Digest(want.Manifest)} {
		checkImage(t, c, resolve(t, c, ref), want)
	}
	other := d
	other.Annotations = map[string]string{"org.opencontainers.image.ref.name": "v2"}
	index(d, other)
	fails(t, c, "oci://"+dir, blob.ErrNotFound, "v1, v2")
	fails(t, c, "oci://"+t.TempDir()+":v1", blob.ErrNotFound, "OCI layout")
	put2 := filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(registrytest.Digest(want.Config), "sha256:"))
	if err := os.WriteFile(put2, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	fails(t, c, "oci://"+dir+":v1", blob.ErrCorrupt, "image configuration")
}

// TestDistance: how far away a registry is, is the shortest of its answers, each registry's own.
func TestDistance(t *testing.T) {
	s := registrytest.New(t, registrytest.Script{})
	im := registrytest.MakeImage(registrytest.Platform{OS: "linux", Architecture: "amd64"}, origintest.Bytes(1, 1000))
	s.Put("a", "v1", im)
	c := client(t, registry.Options{})
	ref := parse(t, s.Host()+"/a:v1")
	if d := c.Distance(ref); d != 0 {
		t.Errorf("%v before it was asked", d)
	}
	start := time.Now()
	if _, err := c.Resolve(t.Context(), ref, registry.Platform{}); err != nil {
		t.Fatal(err)
	}
	if d := c.Distance(ref); d <= 0 || d > time.Since(start) {
		t.Errorf("%v, of %v in all", d, time.Since(start))
	}
	other := ref
	other.Host = "other.example"
	if d := c.Distance(other); d != 0 {
		t.Errorf("another one: %v", d)
	}
}
