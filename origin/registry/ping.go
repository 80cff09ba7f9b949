package registry

import (
	"context"

	"github.com/pantala/pantala/origin"
)

// Ping asks each server of a host whether it is a registry that lets us in. It returns an error for each that is not,
// in the order in which they are asked, and nil for those that are; err says that there is nobody to ask.
func (c *Client) Ping(ctx context.Context, host string) (servers []Pinged, err error) {
	if host == "index.docker.io" || host == hubAPI {
		host = hub
	}
	e := c.h.of(host)
	if e.err != nil {
		return nil, e.err
	}
	for _, s := range e.servers {
		at := *s.base
		at.Path += "/" // "/v2/": without the slash some answer with a redirect
		l := c.k.login(s, "", "")
		site := origin.Site{URL: &at, Header: s.header, TLS: s.tls, Auth: l, Explain: explainer(s, l)}
		err := c.within(ctx, func(ctx context.Context) error {
			_, err := c.c.Read(ctx, []origin.Site{site}, origin.Query{Limit: maxManifest}, c.with(origin.Options{Retries: -1}))
			return err
		})
		from, trouble := l.credentials()
		servers = append(servers, Pinged{Server: at.String(), Err: err, Credentials: from, Trouble: trouble})
	}
	return servers, nil
}

// Pinged is one server that was asked.
type Pinged struct {
	Server      string
	Err         error  // nil: it is a registry, and lets us in
	Credentials string // which file or helper the credentials came from; "" for none
	Trouble     error  // what is wrong with the files of credentials, though it may work without
}
