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
	"sync"
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
	// denialHold is how long a refusal of the token server answers for it, so that many readers who are denied do
	// not become a storm of logins, and a login made meanwhile is seen by the next try of a human.
	denialHold = 2 * time.Second
)

// keyring keeps the tokens of this process, one login per server and scope.
type keyring struct {
	c      *origin.Client
	dirs   []string
	ctx    context.Context // ends with close
	cancel context.CancelFunc
	flying sync.WaitGroup

	mu     sync.Mutex
	closed bool                  // guarded by mu
	logins map[loginKey]*login   // guarded by mu
	asked  map[string]*challenge // what a server asked for last, by its scheme and host; guarded by mu
}

type loginKey struct{ server, scope string }

func newKeyring(c *origin.Client, dirs []string) *keyring {
	k := &keyring{c: c, dirs: dirs, logins: map[loginKey]*login{}, asked: map[string]*challenge{}}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k
}

// close ends the requests for tokens that are under way, and waits for them.
func (k *keyring) close() {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.cancel()
	k.flying.Wait()
}

// login is the way to authorize requests to one server for one repository and what is done there ("pull", or
// "pull,push"); repository "" is for the server alone.
func (k *keyring) login(s *server, repository, actions string) *login {
	l := &login{k: k, s: s, repository: repository}
	if repository != "" {
		l.scope = "repository:" + repository + ":" + actions
	}
	key := loginKey{s.key(), l.scope}
	k.mu.Lock()
	defer k.mu.Unlock()
	if have := k.logins[key]; have != nil {
		return have
	}
	k.logins[key] = l
	return l
}

// login implements [origin.Authorizer] for one server and scope.
type login struct {
	// Constant.
	k                 *keyring
	s                 *server
	repository, scope string

	mu       sync.Mutex
	header   string    // the value of Authorization, "" for none; guarded by mu, like all below
	until    time.Time // when another is needed; zero: not for its age
	accepted bool      // the server has taken it at least once
	from     string    // where the credential came from, for texts
	asks     *challenge
	flight   *flight // the request for another header that is under way
	denied   error   // the last refusal of the token server,
	deniedAt time.Time
}

// flight is one request for a new header, which many may wait for.
type flight struct {
	done chan struct{}
	err  error // set before done is closed
}

// Authorize implements origin.Authorizer.
func (l *login) Authorize(req *http.Request) error {
	l.mu.Lock()
	header, asks := l.header, l.asks
	if !l.until.IsZero() && time.Now().After(l.until) {
		header = ""
	}
	l.mu.Unlock()
	if header == "" {
		if asks == nil {
			asks = l.k.lastAsked(l.s)
		}
		if asks == nil {
			return nil // the first contact: the server has to say what it wants
		}
		var err error
		if header, err = l.renew(req.Context(), asks, ""); err != nil {
			return err
		}
	}
	if header != "" {
		req.Header["Authorization"] = []string{header}
	}
	return nil
}

// Answered implements origin.Authorizer.
//
// 401 says that a token is missing, has expired or lacks a scope. Some registries and those in front of them say 403
// to a token that has expired. A token that this server has taken before, and refuses now, is taken for one; a token
// that it never took is refused for what it is.
func (l *login) Answered(req *http.Request, resp *http.Response) (again bool, err error) {
	used := req.Header.Get("Authorization")
	l.mu.Lock()
	if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
		if used != "" && used == l.header {
			l.accepted = true
		}
		l.mu.Unlock()
		return false, nil
	}
	header, accepted, asks := l.header, l.accepted, l.asks
	l.mu.Unlock()
	if c, ok := parseChallenges(resp.Header.Values("WWW-Authenticate")); ok {
		asks = l.k.nowAsks(l.s, c)
	}
	if header != used && header != "" {
		return true, nil // somebody else has got a new one meanwhile
	}
	if resp.StatusCode == http.StatusForbidden && used != "" && !accepted || asks == nil {
		return false, nil
	}
	header, err = l.renew(req.Context(), asks, used)
	return header != used, err
}

// lastAsked is what a server asked for at another scope, nil if nothing yet: it saves a request that will be refused.
func (k *keyring) lastAsked(s *server) *challenge {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.asked[s.key()]
	if c == nil {
		return nil
	}
	bare := *c
	bare.scope = "" // that of another repository
	return &bare
}

func (k *keyring) nowAsks(s *server, c challenge) *challenge {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked[s.key()] = &c
	return &c
}

// renew returns a header other than used, asking for it at most once at a time: who comes while a request is under
// way waits for its outcome. It returns used, or "", when there is no other.
func (l *login) renew(ctx context.Context, asks *challenge, used string) (string, error) {
	l.mu.Lock()
	if l.header != used && l.header != "" && (l.until.IsZero() || time.Now().Before(l.until)) {
		defer l.mu.Unlock()
		return l.header, nil
	}
	if l.denied != nil && time.Since(l.deniedAt) < denialHold {
		defer l.mu.Unlock()
		return "", l.denied
	}
	f := l.flight
	if f == nil {
		if !l.k.takeOff() {
			l.mu.Unlock()
			return "", fmt.Errorf("registry: %w: this node is stopping", blob.ErrClosed)
		}
		f = &flight{done: make(chan struct{})}
		l.flight = f
		go l.fly(f, *asks)
	}
	l.mu.Unlock()
	select {
	case <-f.done:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if f.err != nil {
		return "", f.err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.header, nil
}

// takeOff counts a flight that close waits for; false when there may be no more.
func (k *keyring) takeOff() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return false
	}
	k.flying.Add(1)
	return true
}

// fly gets a new header and tells all who wait for it.
func (l *login) fly(f *flight, asks challenge) {
	defer l.k.flying.Done()
	ctx, cancel := context.WithTimeout(l.k.ctx, tokenPatience)
	defer cancel()
	got, err := l.k.get(ctx, l, asks)
	if l.k.ctx.Err() != nil {
		err = fmt.Errorf("registry: %w: this node is stopping", blob.ErrClosed)
	} else if ctx.Err() != nil && err != nil {
		err = fmt.Errorf("registry %s: %w: no credentials within %v: %v", l.s.name(), blob.ErrUnavailable, tokenPatience, err)
	}
	l.mu.Lock()
	l.flight, f.err = nil, err
	switch {
	case err == nil:
		l.asks, l.denied = &asks, nil
		if got.header != l.header {
			l.accepted = false
		}
		l.header, l.until, l.from = got.header, got.until, got.from
	case errors.Is(err, blob.ErrDenied):
		l.denied, l.deniedAt = err, time.Now()
		l.header = ""
	}
	l.mu.Unlock()
	close(f.done)
}

// credentials says where the credentials came from that are in use, "" when there are none.
func (l *login) credentials() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.from
}

// grant is what authorizes requests for a while.
type grant struct {
	header string
	until  time.Time
	from   string
}

// get answers a challenge.
func (k *keyring) get(ctx context.Context, l *login, asks challenge) (grant, error) {
	cred, err := credentialFor(ctx, k.dirs, l.s.account, l.repository)
	if err != nil {
		return grant{}, err
	}
	switch {
	case cred.token != "":
		return grant{header: "Bearer " + cred.token, from: cred.from}, nil
	case asks.scheme == "basic":
		if cred.user == "" {
			return grant{}, nil
		}
		return grant{header: "Basic " + basic(cred), from: cred.from}, nil
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
		if cred.empty() {
			return "it wants a login: docker login " + l.s.account
		}
		return "it refuses the credentials in " + cred.from + ": docker login " + l.s.account
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
	g.from = cred.from
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
