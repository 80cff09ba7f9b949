package registry_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin/origintest"
	"github.com/pantala/pantala/origin/registry"
	"github.com/pantala/pantala/origin/registry/registrytest"
)

// latest is the number of the token that the registry has been shown last.
func latest(t *testing.T, s *registrytest.Server, tokens *registrytest.Tokens) (number string) {
	t.Helper()
	for _, r := range s.Log() {
		if n, _ := tokens.Good(r.Header.Get("Authorization")); n != "" {
			number = n
		}
	}
	if number == "" {
		t.Fatal("no token was shown")
	}
	return number
}

// TestTokenExpires: many readers whose token stops being good at once, said by 401 or by 403, wait for one new token.
func TestTokenExpires(t *testing.T) {
	for name, expired := range map[string]int{"401": 0, "403": http.StatusForbidden} {
		t.Run(name, func(t *testing.T) {
			const readers = 16
			tokens := registrytest.NewTokens(t)
			want := sample(10)
			var mu sync.Mutex
			refused, all := 0, make(chan struct{})
			script := registrytest.Script{Tokens: tokens, Expired: expired}
			s := registrytest.New(t, script)
			s.Put("a/b", "v1", want)
			c := client(t, registry.Options{})
			im := resolve(t, c, s.Host()+"/a/b:v1")
			b := c.Layer(t.Context(), im.Ref, im.Layers[2])
			fetchLayer(t, b, want.Layers[2])
			before := len(tokens.Asked())
			bad := latest(t, s, tokens)
			s.Revoke(bad)
			script.Before = func(_ http.ResponseWriter, r *http.Request) bool {
				if n, _ := tokens.Good(r.Header.Get("Authorization")); n == bad {
					mu.Lock()
					defer mu.Unlock()
					if refused++; refused == readers {
						close(all)
					}
				}
				return false
			}
			s.Set(script)
			release := tokens.Hold() // so that all of them are refused before the first has a new one
			var wg sync.WaitGroup
			for i := range uint32(readers) {
				wg.Go(func() {
					sink := origintest.NewSink(t, b.Size())
					run := blob.Run{First: i * 8, Count: 8}
					if err := b.Fetch(within(t, time.Minute), run, sink); err != nil {
						t.Error(err)
						return
					}
					sink.Check(run, want.Layers[2])
				})
			}
			select {
			case <-all:
			case <-time.After(20 * time.Second):
				t.Error("not all readers were refused")
			}
			release()
			wg.Wait()
			if n := len(tokens.Asked()) - before; n != 1 {
				t.Errorf("%d requests for a token, want 1", n)
			}
		})
	}
}

// TestDenied: a token that the registry never takes is refused for what it is, and not asked for again and again.
func TestDenied(t *testing.T) {
	tokens := registrytest.NewTokens(t)
	s := registrytest.New(t, registrytest.Script{Tokens: tokens, Before: func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "" {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	}})
	s.Put("a/b", "v1", sample(11))
	c := client(t, registry.Options{})
	for range 3 {
		fails(t, c, s.Host()+"/a/b:v1", blob.ErrDenied, "docker login "+s.Host())
	}
	if n := len(tokens.Asked()); n != 1 {
		t.Errorf("%d requests for a token, want 1", n)
	}
}

// TestTokenOnce: the second repository of a server needs no refusal first, and each has a token of its own.
func TestTokenOnce(t *testing.T) {
	tokens := registrytest.NewTokens(t)
	s := registrytest.New(t, registrytest.Script{Tokens: tokens})
	for _, name := range []string{"a/one", "a/two"} {
		s.Put(name, "v1", sample(12))
	}
	c := client(t, registry.Options{})
	resolve(t, c, s.Host()+"/a/one:v1")
	resolve(t, c, s.Host()+"/a/two:v1")
	refused := 0
	for _, r := range s.Log() {
		if r.Status == http.StatusUnauthorized {
			refused++
		}
	}
	asked := tokens.Asked()
	if refused != 1 || len(asked) != 2 || asked[1].Scopes[0] != "repository:a/two:pull" {
		t.Errorf("%d refusals; asked for %+v", refused, asked)
	}
}

// TestTokenServer: a token server in trouble, and what is said about it.
func TestTokenServer(t *testing.T) {
	tokens := registrytest.NewTokens(t)
	s := registrytest.New(t, registrytest.Script{Tokens: tokens})
	s.Put("a", "v1", sample(13))
	host := s.Host()
	c := client(t, registry.Options{Retries: -1})
	tokens.Fail(http.StatusInternalServerError)
	fails(t, c, host+"/a:v1", blob.ErrUnavailable, "token server", "500")
	tokens.Fail(http.StatusTooManyRequests)
	fails(t, c, host+"/a:v1", blob.ErrUnavailable, "token server", "429")
	tokens.Fail(0)
	resolve(t, c, host+"/a:v1")

	for realm, says := range map[string]string{
		`Bearer realm="ftp://x/token"`:                 "cannot be used",
		`Bearer realm="://"`:                           "cannot be used",
		`Bearer realm="` + tokens.URL + `/token?x=%zz`: "no token",
		`Negotiate`: "docker login",
	} {
		s.Set(registrytest.Script{Before: func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("WWW-Authenticate", realm)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}})
		_, err := client(t, registry.Options{Retries: -1}).Resolve(within(t, time.Minute), parse(t, host+"/a:v1"), amd64)
		if err == nil || says != "no token" && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", realm, err)
		}
	}
}

// TestRealmDowngrade: what is known to an https registry is not told to an http token server.
func TestRealmDowngrade(t *testing.T) {
	tokens := registrytest.NewTokens(t)
	s := registrytest.NewTLS(t, registrytest.Script{Tokens: tokens})
	certs := t.TempDir()
	writeHosts(t, certs, s.Host(), `server = "https://`+s.Host()+`"`+"\nskip_verify = true\n")
	c := client(t, registry.Options{CertsDir: certs, ConfigDirs: []string{registrytest.LogIn(t, registrytest.User, registrytest.Password, s.Host())}})
	fails(t, c, s.Host()+"/a:v1", blob.ErrDenied, "does not encrypt")
	if n := len(tokens.Asked()); n != 0 {
		t.Errorf("the token server was asked %d times", n)
	}
}

// writeHosts writes a hosts.toml for a host below root.
func writeHosts(t testing.TB, root, host, text string) {
	t.Helper()
	dir := filepath.Join(root, host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestIdentityToken: what docker login of some registries leaves behind is a refresh token, which goes into the body
// of a POST.
func TestIdentityToken(t *testing.T) {
	tokens := registrytest.NewTokens(t)
	tokens.Private("refresh-me")
	s := registrytest.New(t, registrytest.Script{Tokens: tokens})
	want := sample(14)
	s.Put("a", "v1", want)
	dir := t.TempDir()
	write := func(identity string) {
		text := `{"auths": {"` + s.Host() + `": {"auth": "` + "MDAwMDAwMDA6" + `", "identitytoken": "` + identity + `"}}}`
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong-one")
	c := client(t, registry.Options{ConfigDirs: []string{dir}})
	_, err := c.Resolve(within(t, time.Minute), parse(t, s.Host()+"/a:v1"), amd64)
	checkError(t, err, blob.ErrDenied, "docker login", "config.json")
	if strings.Contains(err.Error(), "wrong-one") {
		t.Errorf("%v tells the token", err)
	}
	write("refresh-me") // a login while the daemon runs
	var im *registry.Image
	for until := time.Now().Add(20 * time.Second); ; {
		if im, err = c.Resolve(within(t, time.Minute), parse(t, s.Host()+"/a:v1"), amd64); err == nil || time.Now().After(until) {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, c, im, want)
	asked := tokens.Asked()
	if a := asked[len(asked)-1]; a.Method != http.MethodPost || a.Grant != "refresh_token" || a.User != "" {
		t.Errorf("asked %+v", a)
	}
}

// TestBrokenConfig: a configuration that cannot be read does not keep anybody from images that are for everybody, and is
// told of when an image is not.
func TestBrokenConfig(t *testing.T) {
	for name, text := range map[string]string{"docker-credential-absent": `{"credsStore": "absent"}`, "JSON": `{"auths": ` + registrytest.Password} {
		tokens := registrytest.NewTokens(t)
		s := registrytest.New(t, registrytest.Script{Tokens: tokens})
		s.Put("a", "v1", sample(16))
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		resolve(t, client(t, registry.Options{ConfigDirs: []string{dir}}), s.Host()+"/a:v1")
		tokens.Private("")
		fails(t, client(t, registry.Options{ConfigDirs: []string{dir}}), s.Host()+"/a:v1", blob.ErrDenied, "cannot be read", name)
		s.Set(registrytest.Script{Basic: "a:b"})
		fails(t, client(t, registry.Options{ConfigDirs: []string{dir}}), s.Host()+"/a:v1", blob.ErrDenied, "cannot be read", name)
	}
}

// TestTimeout: a registry that takes a request and never answers is given up.
func TestTimeout(t *testing.T) {
	s := registrytest.New(t, registrytest.Script{Before: func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	}})
	fails(t, client(t, registry.Options{Timeout: 100 * time.Millisecond}), s.Host()+"/a:v1", blob.ErrUnavailable, "no answer within 100ms")
	fails(t, client(t, registry.Options{Stall: 100 * time.Millisecond, Retries: -1}), s.Host()+"/a:v1", blob.ErrUnavailable, "nothing arrived for 100ms")
}

// TestClosing: Close ends a request for a token, and what waits for it.
func TestClosing(t *testing.T) {
	tokens := registrytest.NewTokens(t)
	s := registrytest.New(t, registrytest.Script{Tokens: tokens})
	release := tokens.Hold()
	defer release()
	c := client(t, registry.Options{})
	done := make(chan error, 1)
	go func() {
		_, err := c.Resolve(context.Background(), parse(t, s.Host()+"/a:v1"), amd64)
		done <- err
	}()
	for len(tokens.Asked()) == 0 {
		<-time.After(time.Millisecond)
	}
	c.Close()
	if err := <-done; !errors.Is(err, blob.ErrClosed) {
		t.Errorf("%v, want closed", err)
	}
}

// TestSecrets: nothing that is logged holds a password or token.
func TestSecrets(t *testing.T) {
	tokens := registrytest.NewTokens(t)
	tokens.Private("")
	s := registrytest.New(t, registrytest.Script{Tokens: tokens})
	s.Put("a", "v1", sample(15))
	var log bytes.Buffer
	var mu sync.Mutex
	c := client(t, registry.Options{
		Retries: 1, TTL: -1, ConfigDirs: []string{registrytest.LogIn(t, registrytest.User, registrytest.Password, s.Host())},
		Log: slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	resolve(t, c, s.Host()+"/a:v1")
	s.Set(registrytest.Script{Tokens: tokens, Before: func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}})
	if im := resolve(t, c, s.Host()+"/a:v1"); !im.Stale {
		t.Error("not stale")
	}
	tokens.Fail(http.StatusInternalServerError)
	fails(t, c, s.Host()+"/a:v2", blob.ErrUnavailable)
	s.Server.CloseClientConnections()
	s.Server.Close()
	fails(t, c, s.Host()+"/a:v3", blob.ErrUnavailable)
	mu.Lock()
	defer mu.Unlock()
	text := log.String()
	if text == "" {
		t.Error("nothing was logged")
	}
	for _, secret := range []string{registrytest.Password, "Bearer ", "Basic ", "YWxpY2U6"} {
		if strings.Contains(text, secret) {
			t.Errorf("the log holds %q:\n%s", secret, text)
		}
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	to *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}
