package registry_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin/registry"
	"github.com/pantala/pantala/origin/registry/registrytest"
)

// deadURL is an address of this machine where nobody listens.
func deadURL(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// TestMirrors: the first mirror is down, the second lacks the image, the third has it; the registry itself is not
// needed. What the third has wrong is read from the registry.
func TestMirrors(t *testing.T) {
	want := sample(30)
	lacking, having, own := registrytest.New(t, registrytest.Script{}), registrytest.New(t, registrytest.Script{}), registrytest.New(t, registrytest.Script{Basic: registrytest.User + ":" + registrytest.Password})
	having.Put("team/app", "v1", want)
	own.Put("team/app", "v1", want)
	certs := t.TempDir()
	writeHosts(t, certs, "registry.example", `
server = "`+own.URL+`"
[host."`+deadURL(t)+`"]
  capabilities = ["pull", "resolve"]
[host."`+lacking.URL+`"]
[host."`+having.URL+`"]
  capabilities = ["pull"]
  [host."`+having.URL+`".header]
    x-mirror = ["a", "b"]
`)
	c := client(t, registry.Options{CertsDir: certs, ConfigDirs: []string{registrytest.LogIn(t, registrytest.User, registrytest.Password, own.Host())}})
	im := resolve(t, c, "registry.example/team/app:v1")
	checkImage(t, c, im, want)
	if n := having.Count("", "/manifests/v1") + having.Count(http.MethodGet, "/manifests/v1") + having.Count(http.MethodHead, "/manifests/v1"); n != 0 {
		t.Error("a mirror that may not resolve was asked for a tag")
	}
	if own.Count(http.MethodGet, "/manifests/v1") == 0 || own.Count(http.MethodGet, "/blobs/") != 0 {
		t.Errorf("the registry: %+v", own.Log())
	}
	if len(lacking.Log()) == 0 {
		t.Error("the second mirror was not asked")
	}
	for _, r := range append(having.Log(), lacking.Log()...) {
		if r.Header.Get("Authorization") != "" {
			t.Error("credentials for the registry came to a mirror")
		}
		if r.Query != "ns=registry.example" {
			t.Errorf("a mirror was asked with %q", r.Query)
		}
	}
	for _, r := range having.Log() {
		if strings.Join(r.Header.Values("X-Mirror"), " ") != "a b" {
			t.Errorf("headers %v", r.Header)
		}
	}

	// Documents that are wrong at a mirror are had from the next one.
	having.Replace(registrytest.Digest(want.Config), []byte("{}"))
	fresh := client(t, registry.Options{CertsDir: certs, ConfigDirs: []string{registrytest.LogIn(t, registrytest.User, registrytest.Password, own.Host())}})
	resolve(t, fresh, "registry.example/team/app:v1")

	// With all of them down the error is that of the registry.
	for _, s := range []*registrytest.Server{lacking, having, own} {
		s.Server.CloseClientConnections()
		s.Server.Close()
	}
	last := client(t, registry.Options{CertsDir: certs, Retries: -1})
	fails(t, last, "registry.example/team/app:v1", blob.ErrUnavailable, own.Host(), "refused")
}

// TestMirrorDown: a tag that the registry does not have is not looked for again and again at a mirror in trouble.
func TestMirrorDown(t *testing.T) {
	own := registrytest.New(t, registrytest.Script{})
	ill := registrytest.New(t, registrytest.Script{Before: func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}})
	certs := t.TempDir()
	writeHosts(t, certs, "_default", `
server = "`+own.URL+`"
[host."`+ill.URL+`"]
`)
	c := client(t, registry.Options{CertsDir: certs})
	fails(t, c, "registry.example:5000/team/app:v1", blob.ErrNotFound, "no such tag")
	if len(own.Log()) != 1 || len(ill.Log()) != 1 {
		t.Errorf("%d and %d requests, want one each", len(own.Log()), len(ill.Log()))
	}
}

// TestMirrorIll: a mirror in trouble is not tried first for each layer anew.
func TestMirrorIll(t *testing.T) {
	const layers = 20
	own := registrytest.New(t, registrytest.Script{})
	ill := registrytest.New(t, registrytest.Script{Before: func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusBadGateway)
		return true
	}})
	certs := t.TempDir()
	writeHosts(t, certs, "registry.example", "server = \""+own.URL+"\"\n[host.\""+ill.URL+"\"]\n")
	c := client(t, registry.Options{CertsDir: certs})
	for i := range layers {
		p := []byte{byte(i)}
		own.PutBlob(p)
		h, err := blob.ParseDigest(registrytest.Digest(p))
		if err != nil {
			t.Fatal(err)
		}
		fetchLayer(t, c.Layer(t.Context(), parse(t, "registry.example/a"), registry.Layer{Digest: h, Size: 1}), p)
	}
	if n := len(ill.Log()); n == 0 || n > layers/2 {
		t.Errorf("a mirror in trouble was asked %d times for %d layers", n, layers)
	}
}

// TestHostsFolders: which folder speaks of a host.
func TestHostsFolders(t *testing.T) {
	for _, test := range []struct {
		ref     string
		folders []string // the first is the one that counts
	}{
		{"registry.example/a:v1", []string{"registry.example", "_default"}},
		{"registry.example:5000/a:v1", []string{"registry.example_5000_", "registry.example:5000", "_default"}},
		{"registry.example:5000/a:v1", []string{"registry.example:5000", "registry.example", "_default"}},
		{"a:v1", []string{"docker.io", "_default"}},
		{"registry.example:5000/a:v1", []string{"_default", "registry.example"}},
	} {
		certs := t.TempDir()
		right, wrong := registrytest.New(t, registrytest.Script{}), registrytest.New(t, registrytest.Script{})
		right.Put("a", "v1", sample(31))
		right.Put("library/a", "v1", sample(31))
		for i, f := range test.folders {
			url := wrong.URL
			if i == 0 {
				url = right.URL
			}
			writeHosts(t, certs, f, `server = "`+url+`"`)
		}
		resolve(t, client(t, registry.Options{CertsDir: filepath.Join(t.TempDir(), "none") + ":" + certs}), test.ref)
		if len(wrong.Log()) != 0 {
			t.Errorf("%s, %v: the wrong one was asked", test.ref, test.folders)
		}
	}
}

// TestHostsPath: the API below another path, with and without override_path.
func TestHostsPath(t *testing.T) {
	for path, override := range map[string]bool{"/some/v2": false, "/some": false, "/other/root": true, "": true} {
		s := registrytest.New(t, registrytest.Script{})
		s.Put("a", "v1", sample(32))
		prefix := path
		if !override && !strings.HasSuffix(path, "/v2") {
			prefix += "/v2"
		}
		s.Set(registrytest.Script{Before: func(w http.ResponseWriter, r *http.Request) bool {
			rest, ok := strings.CutPrefix(r.URL.Path, prefix+"/")
			if !ok {
				w.WriteHeader(http.StatusTeapot)
				return true
			}
			r.URL.Path = "/v2/" + rest
			return false
		}})
		certs := t.TempDir()
		text := `server = "` + s.URL + path + `"`
		if override {
			text += "\noverride_path = true\n"
		}
		writeHosts(t, certs, "registry.example", text)
		resolve(t, client(t, registry.Options{CertsDir: certs}), "registry.example/a:v1")
	}
}

// TestHostsChange: an edited hosts.toml counts without a restart, for layers that are open too.
func TestHostsChange(t *testing.T) {
	want := sample(33)
	first, second := registrytest.New(t, registrytest.Script{}), registrytest.New(t, registrytest.Script{})
	first.Put("a", "v1", want)
	second.Put("a", "v1", want)
	certs := t.TempDir()
	writeHosts(t, certs, "registry.example", `server = "`+first.URL+`"`)
	c := client(t, registry.Options{CertsDir: certs})
	im := resolve(t, c, "registry.example/a:v1")
	b := c.Layer(t.Context(), im.Ref, im.Layers[0])
	fetchLayer(t, b, want.Layers[0])
	writeHosts(t, certs, "registry.example", "# now the other one\nserver = \""+second.URL+"\"\n")
	for until := time.Now().Add(20 * time.Second); len(second.Log()) == 0; <-time.After(50 * time.Millisecond) {
		fetchLayer(t, b, want.Layers[0])
		if time.Now().After(until) {
			t.Fatal("the change was not seen")
		}
	}
}

// TestHostsBroken: a file that cannot be used says where, and nobody is asked instead.
func TestHostsBroken(t *testing.T) {
	for text, says := range map[string]string{
		"server = \"http://x\"\nserver = 1":                             "line 2",
		`server = "ftp://x"`:                                            "not an address",
		`server = "http://user:pass@x"`:                                 "not an address",
		"[host.\"http://x\"]\ncapabilities = [\"fly\"]":                 "capability",
		"[host.\"http://x\"]\nca = 5":                                   "ca",
		"[host.\"http://x\"]\nclient = [[\"a\",\"b\",\"c\"]]":           "client",
		"[host.\"http://x\"]\ndial_timeout = \"soon\"":                  "dial_timeout",
		"[host.\"http://x\".header]\n\"a b\" = \"c\"":                   "header",
		"[host.\"http://x\"]\nskip_verify = \"yes\"":                    "line 2",
		"server = \"http://127.0.0.1:1\"\n" + "capabilities=[\"push\"]": "capabilities",
	} {
		certs := t.TempDir()
		writeHosts(t, certs, "registry.example", text)
		fails(t, client(t, registry.Options{CertsDir: certs}), "registry.example/a:v1", blob.ErrInvalid, says, "hosts.toml")
	}
}

// TestTLS: whom to believe: nobody unknown, a ca of hosts.toml, of a folder as docker has it, of the options, or
// everybody; and a certificate of our own that the registry wants to see.
func TestTLS(t *testing.T) {
	s := registrytest.NewTLS(t, registrytest.Script{})
	s.Put("a", "v1", sample(34))
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	ref := s.Host() + "/a:v1"
	server := "server = \"https://" + s.Host() + "\"\n"
	write := func(file string) string {
		certs := t.TempDir()
		writeHosts(t, certs, s.Host(), "")
		path := filepath.Join(certs, s.Host(), file)
		if err := os.WriteFile(path, ca, 0o644); err != nil {
			t.Fatal(err)
		}
		return certs
	}
	certs := t.TempDir()
	writeHosts(t, certs, s.Host(), server)
	fails(t, client(t, registry.Options{CertsDir: certs}), ref, blob.ErrUnavailable, "--cacert", "hosts.toml")
	writeHosts(t, certs, s.Host(), server+"skip_verify = true")
	resolve(t, client(t, registry.Options{CertsDir: certs}), ref)
	for _, line := range []string{`ca = "my.pem"`, `ca = ["my.pem"]`} {
		certs := write("my.pem")
		writeHosts(t, certs, s.Host(), server+line)
		resolve(t, client(t, registry.Options{CertsDir: certs}), ref)
	}
	certs = write("ca.crt")
	if err := os.Remove(filepath.Join(certs, s.Host(), "hosts.toml")); err != nil {
		t.Fatal(err)
	}
	resolve(t, client(t, registry.Options{CertsDir: certs}), ref)
	file := filepath.Join(write("x.pem"), s.Host(), "x.pem")
	certs = t.TempDir()
	writeHosts(t, certs, s.Host(), server)
	resolve(t, client(t, registry.Options{CertsDir: certs, CACert: file}), ref)

	// Plain HTTP is what it is asked for when nothing says otherwise, because it is this machine.
	fails(t, client(t, registry.Options{}), ref, blob.ErrUnavailable, "https only")
	plain := registrytest.New(t, registrytest.Script{})
	certs = t.TempDir()
	writeHosts(t, certs, plain.Host(), "server = \"https://"+plain.Host()+"\"\n")
	fails(t, client(t, registry.Options{CertsDir: certs}), plain.Host()+"/a:v1", blob.ErrUnavailable, "--plain-http")
}

// TestClientCertificate: mutual TLS, with certificate and key in two files or in one, and in docker's layout.
func TestClientCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	s := registrytest.Unstarted(t, registrytest.Script{})
	s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	s.StartTLS()
	s.Put("a", "v1", sample(35))
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	files := map[string][]byte{
		"node.cert": certPEM, "node.key": keyPEM, "both.pem": append(append([]byte{}, certPEM...), keyPEM...),
		"ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}),
	}
	ref := s.Host() + "/a:v1"
	server := "server = \"https://" + s.Host() + "\"\nca = \"ca.crt\"\n"
	for text, works := range map[string]bool{
		server:                           false,
		server + `client = "both.pem"`:   true,
		server + `client = ["both.pem"]`: true,
		server + `client = [["node.cert", "node.key"]]`:  true,
		server + `client = [["node.cert", "other.key"]]`: false,
		"": true, // no hosts.toml: the files as docker lays them out
	} {
		certs := t.TempDir()
		writeHosts(t, certs, s.Host(), text)
		for name, p := range files {
			if err := os.WriteFile(filepath.Join(certs, s.Host(), name), p, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if text == "" {
			if err := os.Remove(filepath.Join(certs, s.Host(), "hosts.toml")); err != nil {
				t.Fatal(err)
			}
		}
		_, err := client(t, registry.Options{CertsDir: certs, Retries: -1}).Resolve(within(t, time.Minute), parse(t, ref), amd64)
		if works != (err == nil) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestPlainHTTP: which hosts are spoken to without TLS.
func TestPlainHTTP(t *testing.T) {
	s := registrytest.New(t, registrytest.Script{})
	s.Put("a", "v1", sample(36))
	_, port, _ := net.SplitHostPort(s.Host())
	resolve(t, client(t, registry.Options{}), "localhost:"+port+"/a:v1")
	// A second address of loopback stands for a host that is not this machine's in a list of networks: it is one, so
	// what is tested here is that nothing else is.
	for _, insecure := range [][]string{nil, {"registry.example"}, {"10.0.0.0/8"}} {
		c := client(t, registry.Options{Insecure: insecure})
		resolve(t, c, s.Host()+"/a:v1")
	}
}

// TestPing: what doctor is told of each server.
func TestPing(t *testing.T) {
	tokens := registrytest.NewTokens(t)
	tokens.Private("")
	own := registrytest.New(t, registrytest.Script{Tokens: tokens})
	certs := t.TempDir()
	dead := deadURL(t)
	writeHosts(t, certs, "registry.example", `server = "`+own.URL+`"`+"\n[host.\""+dead+"\"]\n")
	in := client(t, registry.Options{CertsDir: certs, ConfigDirs: []string{registrytest.LogIn(t, registrytest.User, registrytest.Password, own.Host())}})
	got, err := in.Ping(within(t, time.Minute), "registry.example")
	if err != nil || len(got) != 2 || got[0].Err == nil || got[0].Server != dead+"/v2/" || got[1].Err != nil || got[1].Credentials == "" {
		t.Errorf("%+v, %v", got, err)
	}
	out := client(t, registry.Options{CertsDir: certs})
	got, err = out.Ping(within(t, time.Minute), "registry.example")
	if err != nil || len(got) != 2 {
		t.Fatal(got, err)
	}
	checkError(t, got[1].Err, blob.ErrDenied, "docker login "+own.Host())
}
