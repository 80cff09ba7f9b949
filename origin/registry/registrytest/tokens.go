package registrytest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// Asked is one request for a token.
type Asked struct {
	Method, User, Account, Service, Grant string
	Scopes                                []string
}

// Tokens is a token server as the distribution project specifies it: tokens are JWTs that docker-registry accepts.
type Tokens struct {
	*httptest.Server
	tb   testing.TB
	key  *rsa.PrivateKey
	cert []byte

	mu       sync.Mutex // guards all below
	life     time.Duration
	says     time.Duration
	private  bool
	identity string
	status   int
	asked    []Asked
	gate     chan struct{}
	number   int
}

// NewTokens starts a token server that gives everybody a token of a minute.
func NewTokens(tb testing.TB) *Tokens {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tokens"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	cert, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	t := &Tokens{tb: tb, key: key, cert: cert, life: time.Minute, says: time.Minute}
	t.Server = httptest.NewServer(http.HandlerFunc(t.serve))
	tb.Cleanup(t.Close)
	return t
}

// CertPEM is the certificate whose key signs the tokens.
func (t *Tokens) CertPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: t.cert}))
}

// Private makes it give tokens only to User with Password, and to who has the identity token.
func (t *Tokens) Private(identity string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.private, t.identity = true, identity
}

// Life sets how long tokens are good, and how long the server says they are (0: it does not say).
func (t *Tokens) Life(is, says time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.life, t.says = is, says
}

// Fail makes it answer with a status, 0: no more.
func (t *Tokens) Fail(status int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status = status
}

// Hold makes requests wait until the returned function is called.
func (t *Tokens) Hold() (release func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	gate := make(chan struct{})
	t.gate = gate
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		close(gate)
		t.gate = nil
	}
}

// Asked are the requests so far.
func (t *Tokens) Asked() []Asked {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Asked(nil), t.asked...)
}

func (t *Tokens) serve(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	r.ParseForm()
	a := Asked{Method: r.Method, User: user, Account: r.Form.Get("account"), Service: r.Form.Get("service"), Grant: r.Form.Get("grant_type"), Scopes: r.Form["scope"]}
	t.mu.Lock()
	t.asked = append(t.asked, a)
	status, gate, life, says, private, identity := t.status, t.gate, t.life, t.says, t.private, t.identity
	t.number++
	number := t.number
	t.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-r.Context().Done():
			return
		}
	}
	if status != 0 {
		w.WriteHeader(status)
		return
	}
	known := user == User && password == Password || identity != "" && r.Form.Get("refresh_token") == identity
	if private && !known {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	type access struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	var all []access
	for _, scopes := range a.Scopes {
		for _, s := range strings.Fields(scopes) {
			if p := strings.Split(s, ":"); len(p) == 3 {
				all = append(all, access{p[0], p[1], strings.Split(p[2], ",")})
			}
		}
	}
	now := time.Now()
	answer := map[string]any{"token": t.sign(map[string]any{
		"iss": "test", "sub": user, "aud": "test", "iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(),
		"exp": now.Add(life).Unix(), "jti": number, "access": all,
	})}
	if says > 0 {
		answer["expires_in"] = int(says.Seconds())
	}
	json.NewEncoder(w).Encode(answer)
}

// sign is a JWT (RFC 7519) by RS256, with the certificate in it.
func (t *Tokens) sign(claims map[string]any) string {
	b64 := base64.RawURLEncoding
	part := func(v any) string {
		p, err := json.Marshal(v)
		if err != nil {
			t.tb.Error(err)
		}
		return b64.EncodeToString(p)
	}
	claims["jti"] = b64.EncodeToString([]byte{byte(claims["jti"].(int)), byte(claims["jti"].(int) >> 8)})
	text := part(map[string]any{"typ": "JWT", "alg": "RS256", "x5c": []string{base64.StdEncoding.EncodeToString(t.cert)}}) + "." + part(claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, t.key, crypto.SHA256, sum[:])
	if err != nil {
		t.tb.Error(err)
	}
	return text + "." + b64.EncodeToString(sig)
}

// Challenge is the WWW-Authenticate that sends clients here.
func (t *Tokens) Challenge(scope string) string {
	c := `Bearer realm="` + t.URL + `/token",service="test"`
	if scope != "" {
		c += `,scope="` + scope + `"`
	}
	return c
}

// Good reports whether a header Authorization has a token of this server that has not expired, and its number.
func (t *Tokens) Good(header string) (number string, ok bool) {
	parts := strings.Split(strings.TrimPrefix(header, "Bearer "), ".")
	if len(parts) != 3 {
		return "", false
	}
	p, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Exp int64  `json:"exp"`
		ID  string `json:"jti"`
	}
	if err != nil || json.Unmarshal(p, &claims) != nil {
		return "", false
	}
	return claims.ID, time.Now().Unix() < claims.Exp
}
