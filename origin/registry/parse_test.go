package registry

import (
	"errors"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
)

// TestRank: what runs on what, in containerd's order.
func TestRank(t *testing.T) {
	at := func(s string) Platform {
		p, err := ParsePlatform("linux/" + s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for machine, order := range map[string][]string{
		"amd64":      {"amd64", "386"},
		"amd64/v3":   {"amd64/v3", "amd64/v2", "amd64", "386"},
		"arm64":      {"arm64", "arm/v8", "arm/v7", "arm/v6", "arm/v5"},
		"arm64/v8.2": {"arm64/v8.2", "arm64/v8.1", "arm64", "arm/v8", "arm/v7"},
		"arm64/v9":   {"arm64/v9", "arm64/v8.5", "arm64/v8.4", "arm64", "arm/v8"},
		"arm64/v9.1": {"arm64/v9.1", "arm64/v9", "arm64/v8.6", "arm64/v8.5"},
		"arm":        {"arm/v7", "arm/v6", "arm/v5"},
		"arm/v6":     {"arm/v6", "arm/v5"},
		"s390x":      {"s390x"},
	} {
		last := -1
		for _, q := range order {
			rank := at(machine).rank(at(q))
			if rank <= last {
				t.Errorf("%s on %s: rank %d after %d", q, machine, rank, last)
			}
			last = rank
		}
	}
	for machine, others := range map[string][]string{
		"amd64": {"arm64", "amd64/v2", "s390x", "arm"}, "arm64": {"amd64", "arm64/v8.1", "arm64/v9", "386"}, "arm": {"arm64", "arm/v8"},
		"arm/v6": {"arm/v7"}, "386": {"amd64"}, "arm64/v9": {"arm64/v8.6", "arm64/v9.1"}, "amd64/v9999": {"amd64/vx"}, "ppc64le": {"ppc64le/power9"},
	} {
		for _, q := range others {
			if rank := at(machine).rank(at(q)); rank >= 0 {
				t.Errorf("%s on %s: rank %d", q, machine, rank)
			}
		}
	}
	if (Platform{OS: "linux", Arch: "amd64"}).rank(Platform{OS: "windows", Arch: "amd64"}) >= 0 {
		t.Error("windows on linux")
	}
}

// TestChallenges: headers as they are seen.
func TestChallenges(t *testing.T) {
	for in, want := range map[string]challenge{
		`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull"`: {"bearer", "https://auth.docker.io/token", "registry.docker.io", "repository:a/b:pull"},
		`bearer  realm = "https://x/t" , service=reg`:                                                          {"bearer", "https://x/t", "reg", ""},
		`Basic realm="Registry Realm"`:                                                                         {"basic", "Registry Realm", "", ""},
		`BASIC`:                                                                                                {"basic", "", "", ""},
		`Negotiate abc==, Basic realm="x", Bearer realm="https://x/t"`:                                         {"bearer", "https://x/t", "", ""},
		`Basic realm="a\"b", error="x"`:                                                                        {"basic", `a"b`, "", ""},
		`Bearer realm="https://x/t",scope="repository:a:pull,push",error="invalid_token"`:                      {"bearer", "https://x/t", "", "repository:a:pull,push"},
		`Bearer realm="https://x/t`:                                                                            {"bearer", "https://x/t", "", ""},
	} {
		if c, ok := parseChallenges([]string{in}); !ok || c != want {
			t.Errorf("%s: %+v, %v", in, c, ok)
		}
	}
	for _, in := range []string{"", "Digest realm=x", "Bearer", `Bearer service="x"`, ",,,", "\x00", `"`} {
		if c, ok := parseChallenges([]string{in}); ok {
			t.Errorf("%s: %+v", in, c)
		}
	}
	if c, ok := parseChallenges([]string{"Basic realm=a", `Bearer realm="https://b"`}); !ok || c.scheme != "bearer" {
		t.Error(c)
	}
}

// TestParseToken: answers of token servers.
func TestParseToken(t *testing.T) {
	now := time.Now()
	for in, want := range map[string]time.Duration{
		`{"token":"x"}`:                                      54 * time.Second,
		`{"access_token":"x","expires_in":300}`:              270 * time.Second,
		`{"token":"x","access_token":"y","expires_in":3600}`: 3570 * time.Second,
		`{"token":"x","expires_in":0}`:                       54 * time.Second,
		`{"token":"x","expires_in":-5}`:                      54 * time.Second,
		`{"token":"x","expires_in":1e300}`:                   maxTokenLife - 30*time.Second,
		`{"token":"x","expires_in":10.5}`:                    9450 * time.Millisecond,
	} {
		g, err := parseToken([]byte(in), now)
		if err != nil || g.header != "Bearer x" || g.until.Sub(now) != want {
			t.Errorf("%s: %+v, %v, %v", in, g.header, g.until.Sub(now), err)
		}
	}
	for _, in := range []string{"", "[]", "{}", `{"token":5}`, `{"token":"a\nb"}`, `{"token":""}`} {
		if _, err := parseToken([]byte(in), now); err == nil {
			t.Errorf("%s: accepted", in)
		}
	}
}

// TestParseHosts: the order of the file is that of the attempts, and all settings arrive.
func TestParseHosts(t *testing.T) {
	own := ownServer("registry.example", nil)
	servers, err := parseHosts([]byte(`
server = "https://upstream.example"
ca = "up.pem"

[host."https://z.example/sub"]
  capabilities = ["Pull"]
  skip_verify = true
[host."http://a.example:5000"]
  override_path = true
  dial_timeout = "3s"
  client = [["c.pem", "/k.pem"], ["d.pem", "e.pem"]]
  [host."http://a.example:5000".header]
    X-One = "1"
[host."m.example"]
`), "/dir", own)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range servers {
		got = append(got, s.base.String())
	}
	if want := []string{"https://z.example/sub/v2", "http://a.example:5000", "https://m.example/v2", "https://upstream.example/v2"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if s := servers[0]; s.can != pull || !s.tls.SkipVerify || !s.mirror || s.account != "z.example" {
		t.Errorf("%+v", s)
	}
	if s := servers[1]; s.can != anything || s.tls.DialTimeout != 3*time.Second || !reflect.DeepEqual(s.tls.Clients, [][2]string{{"/dir/c.pem", "/k.pem"}, {"/dir/d.pem", "/dir/e.pem"}}) || s.header.Get("X-One") != "1" {
		t.Errorf("%+v", s)
	}
	if s := servers[3]; !reflect.DeepEqual(s.tls.CACerts, []string{"/dir/up.pem"}) || !s.mirror {
		t.Errorf("%+v", s)
	}
	// Docker Hub by any of its names is Docker Hub: with its credentials, and without "ns".
	servers, err = parseHosts([]byte(`server = "https://registry-1.docker.io"`), "/dir", ownServer(hub, nil))
	if err != nil || servers[0].account != hub || servers[0].mirror || servers[0].url(hub, "a", "manifests", "v1").String() != "https://registry-1.docker.io/v2/a/manifests/v1" {
		t.Errorf("%+v, %v", servers[0], err)
	}
	if servers, err = parseHosts(nil, "/dir", ownServer("localhost:5000", nil)); err != nil || len(servers) != 1 || servers[0].base.String() != "http://localhost:5000/v2" {
		t.Errorf("%+v, %v", servers, err)
	}
	var many strings.Builder
	for i := range 40 {
		many.WriteString("[host.\"http://h" + strings.Repeat("x", i) + "\"]\n")
	}
	if _, err := parseHosts([]byte(many.String()), "/dir", own); err == nil {
		t.Error("40 hosts were accepted")
	}
}

// TestIsPlain: who is spoken to without TLS.
func TestIsPlain(t *testing.T) {
	list := []string{"plain.example", "port.example:5000", "10.0.0.0/8", "192.168.1.7", "[fd00::1]:5000"}
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1": true, "127.9.9.9:5000": true, "[::1]": true, "[::1]:5000": true,
		"plain.example": true, "plain.example:5000": true, "PLAIN.example": true, "port.example:5000": true, "port.example": false, "port.example:5001": false,
		"10.1.2.3:5000": true, "11.1.2.3": false, "192.168.1.7:80": true, "192.168.1.8": false, "[fd00::1]:5000": true, "[fd00::1]": false, "localhost.example": false, "x.plain.example": false,
	} {
		if got := isPlain(host, list); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
}

// TestDenialHold: a refusal of the token server answers for it for a while; a stopped keyring lets no request out, so
// that one that was made would be seen.
func TestDenialHold(t *testing.T) {
	k := newKeyring(nil, nil)
	k.close()
	l := k.login(ownServer("registry.example", nil), "a", "pull")
	denied := errors.New("denied")
	for ago, want := range map[time.Duration]error{-time.Hour: denied, time.Hour: blob.ErrClosed} {
		l.denied, l.deniedAt = denied, time.Now().Add(-ago)
		if _, err := l.renew(t.Context(), &challenge{}, ""); !errors.Is(err, want) {
			t.Errorf("%v ago: %v, want %v", ago, err, want)
		}
	}
}

// TestNextPage: Link headers.
func TestNextPage(t *testing.T) {
	for in, want := range map[string]string{
		`</v2/a/referrers/x?n=2>; rel="next"`: "/v2/a/referrers/x?n=2", `<a>; rel=prev, <b>; rel=next`: "b", `<a>`: "", "": "", `rel="next"`: "", `<a>;title="x";REL="next"`: "a",
	} {
		if got := nextPage(in); got != want {
			t.Errorf("%s: %q", in, got)
		}
	}
}

// FuzzManifest: no text makes parsing a manifest, choosing a platform, or joining layers fail in another way than
// with an error of a class.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha256:00","size":1},"layers":[{"size":5}]}`), []byte(`{"rootfs":{"diff_ids":["sha256:00"]}}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"platform":{"os":"linux","architecture":"arm","variant":"v7"}}]}`), []byte(`{}`))
	f.Add([]byte(`{"schemaVersion":1}`), []byte(`null`))
	f.Fuzz(func(t *testing.T, text, config []byte) {
		m, err := parseManifest(text)
		if err != nil {
			if !errors.Is(err, blob.ErrInvalid) {
				t.Errorf("%v", err)
			}
			return
		}
		if m.isIndex {
			p := Platform{OS: "linux", Arch: "arm64"}
			named, nameless := m.candidates(p)
			if len(named)+len(nameless) > len(m.Manifests) {
				t.Error("more candidates than manifests")
			}
			if s := m.platforms(); len(s) > 20*700 {
				t.Errorf("%d bytes of platforms", len(s))
			}
			return
		}
		if err := m.isImage(); err != nil && !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%v", err)
		}
		layers, _, err := m.layers(config)
		if err != nil && !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%v", err)
		}
		if err == nil && len(layers) > MaxLayers {
			t.Errorf("%d layers", len(layers))
		}
		for _, l := range layers {
			if l.Size < 0 || l.Size > blob.MaxSize {
				t.Errorf("%+v", l)
			}
		}
	})
}

// FuzzHosts: what is accepted of a hosts.toml can be asked.
func FuzzHosts(f *testing.F) {
	f.Add([]byte("server = \"https://x\"\n[host.\"http://y\"]\ncapabilities = [\"pull\"]\nca = [\"a\"]\nclient = [[\"a\",\"b\"]]\n[host.\"http://y\".header]\na = \"b\""))
	f.Add([]byte("host = {\"http://y\" = {skip_verify = true}}"))
	f.Add([]byte("host.\"a\".ca = \"b\""))
	f.Fuzz(func(t *testing.T, text []byte) {
		servers, err := parseHosts(text, "/dir", ownServer("registry.example", nil))
		if err != nil {
			return
		}
		if len(servers) == 0 || len(servers) > maxServers {
			t.Fatalf("%d servers", len(servers))
		}
		for _, s := range servers {
			u := s.url("registry.example", "a", "manifests", "v1")
			if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || !strings.HasSuffix(u.Path, "/a/manifests/v1") || !strings.HasPrefix(u.Path, "/") {
				t.Errorf("%v", u)
			}
			if _, err := url.Parse(u.String()); err != nil {
				t.Error(err)
			}
		}
	})
}

// FuzzAuth: challenges and tokens end up as headers that can be sent.
func FuzzAuth(f *testing.F) {
	f.Add(`Bearer realm="https://x/t",service="y",scope="z"`, []byte(`{"token":"x","expires_in":5}`))
	f.Add(`Negotiate a==, Basic realm=x`, []byte(`{}`))
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		if c, ok := parseChallenges([]string{header}); ok && (c.scheme != "bearer" && c.scheme != "basic" || c.scheme == "bearer" && c.realm == "") {
			t.Errorf("%+v", c)
		}
		now := time.Now()
		g, err := parseToken(body, now)
		if err != nil {
			return
		}
		if strings.ContainsAny(g.header, "\r\n\x00") || g.until.Before(now) || g.until.Sub(now) > maxTokenLife {
			t.Errorf("%+v", g)
		}
	})
}
