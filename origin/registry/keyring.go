package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin"
)

// denialHold is how long a refusal of the token server answers for it, so that many readers who are denied do
// not become a storm of logins, and a login made meanwhile is seen by the next try of a human.
const denialHold = 2 * time.Second

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
	trouble  error     // why there may be none
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
		l.header, l.until = got.header, got.until
	case errors.Is(err, blob.ErrDenied):
		l.denied, l.deniedAt = err, time.Now()
		l.header = ""
	}
	l.mu.Unlock()
	close(f.done)
}

// credentials says where the credentials came from that are in use, "" when there are none, and why that may be so.
func (l *login) credentials() (from string, trouble error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.from, l.trouble
}

// advice is what to do about a refusal: why is what it means when there are no credentials.
func (l *login) advice(why string) string {
	from, trouble := l.credentials()
	switch {
	case trouble != nil:
		return "its credentials cannot be read: " + trouble.Error()
	case from == "":
		return why + ": docker login " + l.s.account
	}
	return "the credentials in " + from + " do not allow this, or there is no such repository: docker login " + l.s.account
}
