package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin"
)

const (
	// tokenLife is how long a token is good when its server does not say; the least that the token specification
	// allows a server to give.
	tokenLife = 60 * time.Second
	// maxTokenLife bounds what a server says, so that sums of times stay in range.
	maxTokenLife = 30 * 24 * time.Hour
	// tokenPatience bounds one request for a token, its retries included: half of what a read waits at most.
	tokenPatience = blob.DefaultTimeout / 2
	// maxToken bounds the answer of a token server. A token has to fit into a header, which servers limit to 8 to
	// 64 KiB, and stands twice in some answers.
	maxToken = 128 << 10
)

// grant is what authorizes requests for a while.
type grant struct {
	header string
	until  time.Time
}

// get answers a challenge.
func (k *keyring) get(ctx context.Context, l *login, asks challenge) (grant, error) {
	cred, err := credentialFor(ctx, k.dirs, l.s.account, l.repository)
	if ctx.Err() != nil {
		return grant{}, ctx.Err()
	}
	// Most images are for everybody: without credentials it may still work, and if not, the trouble is told then.
	l.mu.Lock()
	l.from, l.trouble = cred.from, err
	l.mu.Unlock()
	switch {
	case cred.token != "":
		return grant{header: "Bearer " + cred.token}, nil
	case asks.scheme == "basic":
		if cred.user == "" {
			return grant{}, nil
		}
		return grant{header: "Basic " + basic(cred)}, nil
	}
	return k.token(ctx, l, asks, cred)
}

func basic(c credential) string {
	return base64.StdEncoding.EncodeToString([]byte(c.user + ":" + c.password))
}

// fixed is an Authorizer that always says the same.
type fixed string

func (f fixed) Authorize(req *http.Request) error {
	if f != "" {
		req.Header["Authorization"] = []string{string(f)}
	}
	return nil
}

func (fixed) Answered(*http.Request, *http.Response) (bool, error) { return false, nil }

// token asks a token server (distribution project, "Token Authentication Specification" and "OAuth2 Token
// Authentication").
func (k *keyring) token(ctx context.Context, l *login, asks challenge, cred credential) (grant, error) {
	fail := func(class error, format string, args ...any) error {
		return fmt.Errorf("registry %s: %w: %s", l.s.name(), class, fmt.Sprintf(format, args...))
	}
	realm, err := url.Parse(asks.realm)
	if err != nil || realm.Scheme != "https" && realm.Scheme != "http" || realm.Hostname() == "" {
		return grant{}, fail(blob.ErrInvalid, "it sends to a token server whose address cannot be used: tell its operator")
	}
	realm.User, realm.Fragment = nil, ""
	switch {
	case realm.Scheme == "http" && l.s.base.Scheme == "https":
		return grant{}, fail(blob.ErrDenied, "it sends to the token server %s, which does not encrypt what it is told: tell its operator", realm.Host)
	case !origin.MayLead(ctx, l.s.base, realm):
		return grant{}, fail(blob.ErrDenied, "it sends to the token server %s, an address of this machine: tell its operator", realm.Host)
	}
	scopes := auth.CleanScopes(append(strings.Fields(l.scope), strings.Fields(asks.scope)...))
	site := origin.Site{TLS: l.s.tls, Explain: func(resp *http.Response, err error) string {
		if resp == nil || resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusBadRequest {
			return ""
		}
		return l.advice("it wants a login")
	}}
	var body []byte
	if cred.identity != "" {
		site.URL = realm
		body, err = k.refresh(ctx, site, url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {cred.identity}, "client_id": {"pantala"},
			"service": {asks.service}, "scope": {strings.Join(scopes, " ")},
		})
	} else {
		at := *realm
		q := at.Query()
		if asks.service != "" {
			q.Set("service", asks.service)
		}
		for _, s := range scopes {
			q.Add("scope", s)
		}
		if cred.user != "" {
			q.Set("account", cred.user)
			site.Auth = fixed("Basic " + basic(cred))
		}
		at.RawQuery = q.Encode()
		site.URL = &at
		var doc origin.Document
		doc, err = k.c.Read(ctx, []origin.Site{site}, origin.Query{Limit: maxToken}, origin.Options{})
		body = doc.Body
	}
	if err != nil {
		return grant{}, fmt.Errorf("registry %s: token server: %w", l.s.name(), err)
	}
	g, err := parseToken(body, time.Now())
	if err != nil {
		return grant{}, fail(blob.ErrUnavailable, "the token server %s: %v", realm.Host, err)
	}
	return g, nil
}

// refresh asks for a token by an identity token, which goes into a body that no redirect can carry elsewhere.
func (k *keyring) refresh(ctx context.Context, site origin.Site, form url.Values) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, site.URL.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fmt.Errorf("%w: token server", blob.ErrInvalid)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := k.c.Do(req, site, origin.Options{})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, site.Fail(resp)
	}
	return readAll(resp.Body, maxToken)
}

// parseToken reads the answer of a token server.
func parseToken(body []byte, now time.Time) (grant, error) {
	var t struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	if err := json.Unmarshal(body, &t); err != nil {
		return grant{}, errors.New("its answer is not the JSON of a token")
	}
	if t.Token == "" {
		t.Token = t.AccessToken
	}
	if t.Token == "" || !httpguts.ValidHeaderFieldValue(t.Token) {
		return grant{}, errors.New("its answer holds no token")
	}
	life := tokenLife
	if t.ExpiresIn > 0 {
		life = time.Duration(min(t.ExpiresIn, maxTokenLife.Seconds()) * float64(time.Second))
	}
	// Its age counts from when it was issued, which is a little before now; a request needs time to arrive.
	return grant{header: "Bearer " + t.Token, until: now.Add(life - min(life/10, 30*time.Second))}, nil
}
