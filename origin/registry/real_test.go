package registry_test

import (
	"testing"

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
