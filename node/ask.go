package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/origin"
)

// ask opens the origin of source. It is asked again for a while when it fails, but with a version of the source at
// hand (cached) not when it refuses connections: then nobody is there, the cached version serves meanwhile, and
// revive goes on asking.
func (n *Node) ask(ctx context.Context, source string, o control.Options, cached bool) (*origin.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout(o, n.cfg.Timeout))
	defer cancel()
	host := ""
	if cached && len(o.Mirrors) == 0 {
		host = directHost(source)
	}
	if host == "" {
		return n.origin.Open(ctx, source, n.originOptions(o))
	}
	open, give := context.WithCancelCause(ctx)
	knocked := make(chan struct{})
	go func() {
		defer close(knocked)
		if err := knock(open, host); err != nil {
			give(err)
		}
	}()
	object, err := n.origin.Open(open, source, n.originOptions(o))
	cause := context.Cause(open)
	give(nil)
	<-knocked
	if errors.Is(cause, blob.ErrUnavailable) && (errors.Is(err, context.Canceled) || errors.Is(err, blob.ErrUnavailable)) {
		err = cause
	}
	return object, err
}

// directHost is the HOST:PORT to which the first request for source goes; "" when it goes elsewhere: to a file, or
// to a proxy, whose health says nothing about the origin.
func directHost(source string) string {
	u, err := url.Parse(source)
	if err != nil {
		return ""
	}
	scheme := strings.ToLower(u.Scheme)
	port := map[string]string{"http": "80", "https": "443"}[scheme]
	if port == "" {
		return ""
	}
	u.Scheme = scheme
	if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err != nil || proxy != nil {
		return ""
	}
	if p := u.Port(); p != "" {
		port = p
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// knock returns an error when connections to host are refused; any other trouble is not its affair.
func knock(ctx context.Context, host string) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", host)
	if err == nil {
		c.Close()
		return nil
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: %s refuses connections", blob.ErrUnavailable, host)
	}
	return nil
}
