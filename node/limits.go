package node

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fetch"
	"github.com/pantala/pantala/pace"
)

// limits are the rates of the whole node, of each class, and of its tenants. All buckets are of one group, so that a transfer asks
// all of them at once. The rates can change while transfers wait for them.
type limits struct {
	group pace.Group
	host  rates
	class [blob.Background + 1]rates

	mu      sync.Mutex // guards what follows
	tenants map[string]rates
}

// rates are the buckets of one name.
type rates struct{ upload, download, origin *pace.Bucket }

// maxTenants bounds the names that are remembered; a bucket is 50 bytes.
const maxTenants = 1024

func newLimits(c config.Config) *limits {
	l := &limits{tenants: map[string]rates{}}
	l.host = l.rates(config.Rates{Upload: c.UploadLimit, Download: c.DownloadLimit, Origin: c.OriginLimit})
	for class := range l.class {
		c, r := blob.Class(class), c.Classes[blob.Class(class).String()]
		l.class[class] = rates{l.group.ClassBucket(c, r.Upload), l.group.ClassBucket(c, r.Download), l.group.ClassBucket(c, r.Origin)}
	}
	for name, r := range c.Tenants {
		l.tenants[name] = l.rates(r)
	}
	return l
}

func (l *limits) rates(r config.Rates) rates {
	return rates{l.group.Bucket(r.Upload), l.group.Bucket(r.Download), l.group.Bucket(r.Origin)}
}

// tenantName is what a tenant may be called: it stands in file names of others' tools, and in commands.
var tenantName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// tenant are the buckets of a name. One that nobody has configured has no limits until it is given some.
func (l *limits) tenant(name string) (rates, error) {
	if !tenantName.MatchString(name) {
		return rates{}, fmt.Errorf("%w tenant %q: 1 to 64 letters, digits, dots, dashes and underscores", blob.ErrInvalid, name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.tenants[name]
	if !ok {
		if len(l.tenants) >= maxTenants {
			return rates{}, fmt.Errorf("%w tenant %q: the daemon knows %d already: use one of them, or restart it", blob.ErrInvalid, name, maxTenants)
		}
		r = l.rates(config.Rates{})
		l.tenants[name] = r
	}
	return r, nil
}

// check says early whether a tenant can be had.
func (l *limits) check(tenant string) error {
	if tenant == "" {
		return nil
	}
	_, err := l.tenant(tenant)
	return err
}

// of are the limits of one blob: its own rate in each direction, its tenant's, those of classes, and the node's.
func (l *limits) of(tenant string, rate int64) (upload pace.Path, down fetch.Limits, err error) {
	var t rates
	if tenant != "" {
		if t, err = l.tenant(tenant); err != nil {
			return nil, down, err
		}
	}
	var ownUp, ownDown *pace.Bucket
	if rate > 0 {
		ownUp, ownDown = l.group.Bucket(rate), l.group.Bucket(rate)
	}
	upload = pace.Path{ownUp, t.upload, l.host.upload}
	down = fetch.Limits{Download: pace.Path{ownDown, t.download, l.host.download}, Origin: pace.Path{t.origin, l.host.origin}}
	for _, r := range l.class {
		upload, down.Download, down.Origin = append(upload, r.upload), append(down.Download, r.download), append(down.Origin, r.origin)
	}
	return upload, down, nil
}

// Limits implements control.Node.
func (n *Node) Limits(_ context.Context, r control.LimitsRequest) (control.Limits, error) {
	target := n.limits.host
	switch {
	case r.Tenant != "" && r.Class != "":
		return control.Limits{}, fmt.Errorf("%w limits: of a tenant or of a class, not of both at once", blob.ErrInvalid)
	case r.Class != "":
		c, err := blob.ParseClass(r.Class)
		if err != nil {
			return control.Limits{}, err
		}
		target = n.limits.class[c]
	case r.Tenant != "":
		var err error
		if target, err = n.limits.tenant(r.Tenant); err != nil {
			return control.Limits{}, err
		}
	}
	for _, s := range []struct {
		bucket *pace.Bucket
		rate   *int64
	}{{target.upload, r.Upload}, {target.download, r.Download}, {target.origin, r.Origin}} {
		if s.rate != nil && *s.rate < 0 {
			return control.Limits{}, fmt.Errorf("%w limit of %d bytes per second: write 0 for none", blob.ErrInvalid, *s.rate)
		}
		if s.rate != nil {
			s.bucket.SetRate(*s.rate)
		}
	}
	all := control.Limits{Rates: n.limits.host.now(), Tenants: map[string]control.Rates{}, Classes: map[string]control.Rates{}}
	for c, r := range n.limits.class {
		if now := r.now(); now != (control.Rates{}) {
			all.Classes[blob.Class(c).String()] = now
		}
	}
	n.limits.mu.Lock()
	defer n.limits.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(n.limits.tenants)) {
		all.Tenants[name] = n.limits.tenants[name].now()
	}
	return all, nil
}

func (r rates) now() control.Rates {
	return control.Rates{Upload: r.upload.Rate(), Download: r.download.Rate(), Origin: r.origin.Rate()}
}
