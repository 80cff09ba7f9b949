package registry_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin/registry"
	"github.com/pantala/pantala/origin/registry/registrytest"
)

// TestRealRegistry: push to and pull from Debian's docker-registry, open to all, with a password, and with tokens.
func TestRealRegistry(t *testing.T) {
	want := sample(1)
	t.Run("open", func(t *testing.T) {
		r := registrytest.Start(t, registrytest.Config{})
		c := client(t, registry.Options{})
		push(t, c, r.Host+"/a/b:v1", want)
		checkImage(t, c, resolve(t, c, r.Host+"/a/b:v1"), want)
		fails(t, c, r.Host+"/a/b:v2", blob.ErrNotFound, "no such tag", "MANIFEST_UNKNOWN")
		fails(t, c, r.Host+"/a/c@"+registrytest.Digest([]byte("x")), blob.ErrNotFound, "no such tag")
	})
	t.Run("password", func(t *testing.T) {
		r := registrytest.Start(t, registrytest.Config{Htpasswd: true})
		in := client(t, registry.Options{ConfigDirs: []string{registrytest.LogIn(t, registrytest.User, registrytest.Password, r.Host)}})
		push(t, in, r.Host+"/a:v1", want)
		checkImage(t, in, resolve(t, in, r.Host+"/a:v1"), want)
		out := client(t, registry.Options{})
		fails(t, out, r.Host+"/a:v1", blob.ErrDenied, "docker login "+r.Host)
		wrong := client(t, registry.Options{ConfigDirs: []string{registrytest.LogIn(t, registrytest.User, "wrong", r.Host)}})
		fails(t, wrong, r.Host+"/a:v1", blob.ErrDenied, "docker login "+r.Host, "config.json")
	})
	t.Run("tokens", func(t *testing.T) {
		tokens := registrytest.NewTokens(t)
		tokens.Private("")
		r := registrytest.Start(t, registrytest.Config{Tokens: tokens})
		in := client(t, registry.Options{ConfigDirs: []string{registrytest.LogIn(t, registrytest.User, registrytest.Password, r.Host)}})
		push(t, in, r.Host+"/team/a:v1", want)
		before := len(tokens.Asked())
		checkImage(t, in, resolve(t, in, r.Host+"/team/a:v1"), want)
		if n := len(tokens.Asked()) - before; n != 1 {
			t.Errorf("%d requests for tokens to pull, want 1", n)
		}
		if a := tokens.Asked()[before]; a.User != registrytest.User || a.Account != registrytest.User || a.Service != "test" || len(a.Scopes) != 1 || a.Scopes[0] != "repository:team/a:pull" {
			t.Errorf("asked for %+v", a)
		}
		out := client(t, registry.Options{})
		fails(t, out, r.Host+"/team/a:v1", blob.ErrDenied, "docker login "+r.Host)
	})
}

// TestPullThrough: a real pull-through cache as a mirror goes on when the registry behind it is gone.
func TestPullThrough(t *testing.T) {
	want := sample(5)
	own := registrytest.Start(t, registrytest.Config{})
	cache := registrytest.Start(t, registrytest.Config{Proxy: "http://" + own.Host})
	push(t, client(t, registry.Options{}), own.Host+"/a/b:v1", want)
	certs := t.TempDir()
	writeHosts(t, certs, strings.ReplaceAll(own.Host, ":", "_")+"_", "[host.\"http://"+cache.Host+"\"]\n")
	o := registry.Options{CertsDir: certs}
	first := client(t, o)
	checkImage(t, first, resolve(t, first, own.Host+"/a/b:v1"), want)
	// The cache keeps what it passes on a moment after it has passed it on.
	for _, p := range append([][]byte{want.Manifest, want.Config}, want.Layers...) {
		for until := time.Now().Add(20 * time.Second); !cache.Has("a/b", registrytest.Digest(p)); <-time.After(10 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("the cache does not keep %s:\n%s", registrytest.Digest(p), cache.Log())
			}
		}
	}
	own.Stop()
	second := client(t, o)
	checkImage(t, second, resolve(t, second, own.Host+"/a/b:v1"), want)
}
