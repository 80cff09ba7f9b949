package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin"
)

// Options say how registries are asked. The zero value is usable.
type Options struct {
	// ConfigDirs are folders with a config.json (docker) or auth.json (podman) in them, read for credentials in this
	// order. None means where docker and podman look: DOCKER_CONFIG or ~/.docker/config.json, then REGISTRY_AUTH_FILE
	// or containers/auth.json in XDG_RUNTIME_DIR and XDG_CONFIG_HOME.
	ConfigDirs []string
	// CertsDir is a list, separated by ":", of folders with a folder for each host in them, which holds a hosts.toml
	// or certificates. "" means DefaultCertsDir, "none" none.
	CertsDir string
	// Insecure are hosts, with or without port, addresses or networks ("10.0.0.0/8") that are spoken to over plain
	// HTTP. Addresses of this machine always are, unless a hosts.toml says https. A registry may redirect to the hosts of
	// this list as it likes.
	Insecure []string
	// Header is sent to the own server of each host (not to mirrors).
	Header http.Header
	// CACert is a PEM file of certificates to trust beside those of the system.
	CACert string
	// Timeout bounds one Resolve or Referrers as a whole; 0 means 30 s.
	Timeout time.Duration
	// TTL is how long a tag is believed to have the digest that it had; 0 means 60 s, less than 0 not at all.
	TTL time.Duration
	// Dir is a folder in which tags, manifests and configurations are kept, so that an image that was resolved
	// before can be started while no server answers; "" keeps them in memory only.
	Dir string
	// Retries, Stall, UserAgent and Log are those of [origin.Options].
	Retries   int
	Stall     time.Duration
	UserAgent string
	Log       *slog.Logger
	// OnBytes is told of every n bytes of layers taken from the wire, from any goroutine.
	OnBytes func(n int)
}

const (
	defaultTTL     = time.Minute
	defaultTimeout = 30 * time.Second
)

// Client asks registries. It is safe for concurrent use. One per node.
type Client struct {
	o    Options
	c    *origin.Client
	k    *keyring
	h    *hostsCache
	m    *memory
	log  *slog.Logger
	asks origin.Options // of documents
	far  distances
}

// New returns a Client. It reads o.CACert now, and everything else when it is needed.
func New(o Options) (*Client, error) {
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.CertsDir == "" {
		o.CertsDir = DefaultCertsDir
	}
	c, err := origin.NewClient(origin.Options{CACert: o.CACert, Retries: o.Retries, Stall: o.Stall, UserAgent: o.UserAgent, Log: o.Log, OnBytes: o.OnBytes})
	if err != nil {
		return nil, err
	}
	m, err := newMemory(o.Dir)
	if err != nil {
		c.Close()
		return nil, err
	}
	h := &hostsCache{plain: o.Insecure, byHost: map[string]*hostsEntry{}}
	if o.CertsDir != "none" {
		h.roots = filepath.SplitList(o.CertsDir)
	}
	return &Client{o: o, c: c, k: newKeyring(c, o.ConfigDirs), h: h, m: m, log: o.Log, asks: origin.Options{OnBytes: func(int) {}}}, nil
}

// Close ends all calls under way with ErrClosed and closes all connections.
func (c *Client) Close() {
	c.k.close()
	c.c.Close()
}

// place is one server together with how it is asked for something of a repository.
type place struct {
	s    *server
	site origin.Site
}

// places are the servers that can do something for a repository, in their order.
func (c *Client) places(ref Ref, can capability, actions string, path ...string) ([]place, error) {
	e := c.h.of(ref.Host)
	if e.err != nil {
		return nil, e.err
	}
	return c.placesOf(e, ref, can, actions, path...)
}

func (c *Client) placesOf(e *hostsEntry, ref Ref, can capability, actions string, path ...string) (all []place, err error) {
	for _, s := range e.servers {
		if s.can&can != can {
			continue
		}
		p := place{s: s}
		p.site = origin.Site{URL: s.url(ref.Host, append([]string{ref.Name}, path...)...), Header: s.header, TLS: s.tls}
		if !s.mirror && len(c.o.Header) > 0 {
			p.site.Header = c.o.Header.Clone()
			for k, v := range s.header {
				p.site.Header[k] = v
			}
		}
		var l *login
		if p.site.Header.Get("Authorization") == "" {
			l = c.k.login(s, ref.Name, actions)
			p.site.Auth = l
		}
		p.site.Explain = explainer(s, l)
		p.site.Follow = func(to *url.URL) bool { return isListed(to.Host, c.o.Insecure) }
		all = append(all, p)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("registry %s: %w: hosts.toml names no server that may be asked for this: see its capabilities", ref.Host, blob.ErrInvalid)
	}
	return all, nil
}

func sites(all []place) []origin.Site {
	s := make([]origin.Site, len(all))
	for i := range all {
		s[i] = all[i].site
	}
	return s
}

// within runs f as a call that Options.Timeout bounds.
func (c *Client) within(ctx context.Context, f func(ctx context.Context) error) error {
	short, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	err := f(short)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: no answer within %v: check that the registry can be reached from here (%v)", blob.ErrUnavailable, c.o.Timeout, err)
	}
	return err
}

// readAll reads a body of at most n bytes.
func readAll(r io.Reader, n int64) ([]byte, error) {
	p, err := io.ReadAll(io.LimitReader(r, n+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", blob.ErrUnavailable, err)
	}
	if int64(len(p)) > n {
		return nil, fmt.Errorf("%w: longer than %d bytes", blob.ErrInvalid, n)
	}
	return p, nil
}
