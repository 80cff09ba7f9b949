package origin

import (
	"context"
	"fmt"
	"sync"

	"github.com/pantala/pantala/blob"
)

// Client opens objects and owns the connections of all of them: one per node.
type Client struct {
	def     Options
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	watches *watches
	calls   sync.WaitGroup // Open, Fetch and Stream calls under way

	mu      sync.Mutex
	closed  bool                   // guarded by mu
	byTLS   map[string]*transports // by Options.CACert and TLS; guarded by mu
	healths map[string]*health     // by scheme and host, for what shares them; guarded by mu
}

// NewClient returns a Client whose objects take o where Open is given nothing else. It reads o.CACert now.
func NewClient(o Options) (*Client, error) {
	c := &Client{def: o.over(builtin()), byTLS: map[string]*transports{}, healths: map[string]*health{}, watches: newWatches()}
	if err := c.def.check(); err != nil {
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if _, err := c.transports(c.def.CACert, TLS{}); err != nil {
		return nil, err
	}
	return c, nil
}

// Close ends all calls under way with ErrClosed, waits for them and closes all connections. Objects can be
// asked for what they know afterwards, but not for bytes.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.watches.close()
	c.calls.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.byTLS {
		t.idle()
	}
}

// enter announces a call, which ends with c.calls.Done.
func (c *Client) enter() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return fmt.Errorf("origin: %w: this node is stopping", blob.ErrClosed)
	}
	c.calls.Add(1)
	return nil
}

// transports are those that trust the PEM file cacert and what conf says.
func (c *Client) transports(cacert string, conf TLS) (*transports, error) {
	key := cacert + "\x00" + conf.key()
	c.mu.Lock()
	t := c.byTLS[key]
	c.mu.Unlock()
	if t != nil {
		return t, nil
	}
	t, err := newTransports(cacert, conf)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if won := c.byTLS[key]; won != nil {
		return won, nil
	}
	c.byTLS[key] = t
	return t, nil
}

// Supported reports whether Open knows what to do with a URL of this form.
func Supported(rawURL string) bool {
	_, err := parseURL(rawURL)
	return err == nil
}

// Open asks the origin once for the first bytes of the object at rawURL ("http", "https" or "file"), and
// learns all about it from the answer. It retries like [Object.Fetch] does. The object needs no closing.
func (c *Client) Open(ctx context.Context, rawURL string, o Options) (*Object, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	o = o.over(c.def)
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.calls.Done()
	if u.Scheme == "file" {
		return openLocal(c, u, o)
	}
	return openWeb(ctx, c, u, o)
}
