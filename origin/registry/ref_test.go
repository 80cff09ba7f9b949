package registry_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin/registry"
)

var digest = "sha256:" + strings.Repeat("0123456789abcdef", 4)

// TestParse: references as docker writes them.
func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"ubuntu":                                     "docker.io/library/ubuntu:latest",
		"ubuntu:22.04":                               "docker.io/library/ubuntu:22.04",
		"grafana/loki":                               "docker.io/grafana/loki:latest",
		"docker.io/ubuntu":                           "docker.io/library/ubuntu:latest",
		"index.docker.io/library/ubuntu":             "docker.io/library/ubuntu:latest",
		"ubuntu@" + digest:                           "docker.io/library/ubuntu@" + digest,
		"ubuntu:v1@" + digest:                        "docker.io/library/ubuntu:v1@" + digest,
		"oci://ghcr.io/a/b/c:1":                      "ghcr.io/a/b/c:1",
		"OCI://ghcr.io/a":                            "ghcr.io/a:latest",
		"localhost/a":                                "localhost/a:latest",
		"localhost:5000/a":                           "localhost:5000/a:latest",
		"localhost:5000":                             "docker.io/library/localhost:5000", // as docker reads it
		"myregistry:5000/a:v1":                       "myregistry:5000/a:v1",
		"127.0.0.1:5000/a/b@" + digest:               "127.0.0.1:5000/a/b@" + digest,
		"[::1]:5000/a:v1":                            "[::1]:5000/a:v1",
		"[fe80::1]/a":                                "[fe80::1]/a:latest",
		"Registry.Example/a":                         "registry.example/a:latest",
		"REGISTRY/a":                                 "REGISTRY/a:latest",
		"my-company/app":                             "docker.io/my-company/app:latest",
		"quay.io/a__b/c.d-e---f:T_a.g-1":             "quay.io/a__b/c.d-e---f:T_a.g-1",
		"oci:///var/lib/image:v1":                    "/var/lib/image:v1",
		"/var/lib/image":                             "/var/lib/image:latest",
		"/var/lib/image/":                            "/var/lib/image:latest",
		"oci:///var/lib/image@" + digest:             "/var/lib/image@" + digest,
		"oci:///var/li:b/image":                      "/var/li:b/image:latest",
		"registry.example/" + strings.Repeat("a", 8): "registry.example/aaaaaaaa:latest",
	} {
		r, err := registry.Parse(in)
		if err != nil || r.String() != want {
			t.Errorf("Parse(%q) = %v, %v, want %s", in, r, err, want)
			continue
		}
		if again, err := registry.Parse(r.String()); err != nil || again != r {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", r.String(), again, err, r)
		}
	}
	for in, says := range map[string]string{
		"": "", "oci://": "", ":v1": "", "@" + digest: "", "a b": "cannot stand", "Ubuntu": "lower case", "docker.io/Ubuntu": "lower case",
		"ubuntu:": "not a tag", "ubuntu:-a": "not a tag", "ubuntu:" + strings.Repeat("a", 129): "not a tag", "ubuntu:a b": "not a tag",
		"ubuntu@sha512:" + strings.Repeat("a", 128): "only sha256", "ubuntu@sha256:abc": "SHA-256", "ubuntu@" + strings.ToUpper(digest[:72-1]): "", "ubuntu@md5:0": "only sha256",
		"ubuntu@sha256:" + strings.Repeat("A", 64): "lower case",
		"-x.example/a": "host", "a..b/c": "", "a/b/": "cannot stand", "a//b": "cannot stand", "https://registry.example/a": "",
		"registry.example:port/a": "", "registry.example:123456/a": "host", "registry.example/" + strings.Repeat("a", 250): "longer",
		"a/../b": "cannot stand", "registry.example/a@b@" + digest: "", "oci:///": "", "[::1/a": "", "user@registry.example/a": "", "a/b_/c": "", "a.b/.c": "",
	} {
		if r, err := registry.Parse(in); !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("Parse(%q) = %v, %v, want an error that says %q", in, r, err, says)
		}
	}
	r := parse(t, "ubuntu:v1")
	if at := r.At(blob.Hash{1}); at.Tag != "" || at.Digest != (blob.Hash{1}) || at.Repository() != "docker.io/library/ubuntu" {
		t.Error(at)
	}
}

// FuzzParse: what is accepted is read back as the same, and holds nothing that could leave its place in a URL or path.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"ubuntu", "a.b:5/c/d:e@" + digest, "oci:///x:y", "[::1]:5000/a", "localhost:5000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := registry.Parse(s)
		if err != nil {
			if !errors.Is(err, blob.ErrInvalid) || len(err.Error()) > 4000 {
				t.Errorf("%v", err)
			}
			return
		}
		if again, err := registry.Parse(r.String()); err != nil || again != r {
			t.Errorf("%q: %+v and %+v, %v", s, r, again, err)
		}
		if r.Local == "" && (strings.Contains(r.Name, "..") || strings.ContainsAny(r.Host+r.Name+r.Tag, "?#% \\\n\x00") || strings.Contains(r.Host, "/")) {
			t.Errorf("%q: %+v", s, r)
		}
	})
}

// TestParsePlatform: spellings of platforms.
func TestParsePlatform(t *testing.T) {
	for in, want := range map[string]string{
		"linux/amd64": "linux/amd64", "linux/x86_64": "linux/amd64", "linux/amd64/v1": "linux/amd64", "linux/amd64/v3": "linux/amd64/v3",
		"linux/arm64": "linux/arm64", "linux/aarch64": "linux/arm64", "linux/arm64/v8": "linux/arm64", "linux/arm64/8": "linux/arm64", "linux/arm64/v8.0": "linux/arm64", "linux/arm64/v8.2": "linux/arm64/v8.2",
		"linux/arm": "linux/arm/v7", "linux/armhf": "linux/arm/v7", "linux/armel": "linux/arm/v6", "linux/arm/6": "linux/arm/v6", "linux/i386": "linux/386",
		"LINUX/S390X": "linux/s390x", "windows/amd64": "windows/amd64", "riscv64": "linux/riscv64",
	} {
		if p, err := registry.ParsePlatform(in); err != nil || p.String() != want {
			t.Errorf("ParsePlatform(%q) = %v, %v, want %s", in, p, err, want)
		}
	}
	for _, in := range []string{"/", "linux/", "a/b/c/d", "linux/amd64/", "li nux/amd64", "linux//v8", strings.Repeat("a", 65)} {
		if p, err := registry.ParsePlatform(in); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("ParsePlatform(%q) = %v, %v", in, p, err)
		}
	}
	if p, err := registry.ParsePlatform(""); err != nil || p != (registry.Platform{}) || !strings.HasPrefix(p.String(), "linux/") {
		t.Error(p, err)
	}
}
