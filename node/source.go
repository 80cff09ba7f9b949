package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fetch"
	"github.com/pantala/pantala/metainfo"
	"github.com/pantala/pantala/origin"
)

// found is a source that has been looked up: what is needed to open the blob.
type found struct {
	id       blob.ID
	geometry blob.Geometry
	meta     blockio.Meta
	object   *origin.Object   // nil: no origin (a magnet link), or none that answers
	revive   bool             // the origin did not answer, ask it again now and then
	root     blob.Hash        // BEP 52 root when it is known beforehand
	digest   blob.Hash        // the digest that the source itself names; zero: none
	wants    blob.Hash        // the digest that the request asks for; zero: none
	alone    bool             // nobody else can mean the same bytes: no swarm
	streamed string           // a file that holds all bytes already; removed when the blob is open
	trackers []string         // that the source names
	peers    []netip.AddrPort // that the source names
	warnings []string

	torrent *metainfo.MetaInfo       // a torrent, and not a blob: geometry, root and layers are those of its parts
	only    func(file int) bool      // which files of it are wanted; nil: all
	part    bool                     // part of a torrent: its swarm is the torrent's
	layers  []blob.Hash              // roots of the pieces that follow from root
	seed    func(*live) fetch.Origin // its web seeds, of a part or of a canonical torrent; nil: none
}

// openTimeout bounds how long a source may take to say what it is. A mount that must wait for ever (hard)
// still fails at once when it is made: it is reads that wait.
func openTimeout(o control.Options, own time.Duration) time.Duration {
	return cmp.Or(o.Timeout, own)
}

// find looks a source up. streaming is told of the bytes that had to be read already because the source does
// not say how many there are.
func (n *Node) find(ctx context.Context, source string, o control.Options, streaming func(done int64)) (found, error) {
	if err := n.limits.check(o.Tenant); err != nil {
		return found{}, err
	}
	switch {
	case metainfo.IsMagnet(source):
		return n.findMagnet(ctx, source, o)
	case IsTorrent(source):
		return n.findTorrent(ctx, source, o)
	}
	if !origin.Supported(source) {
		return found{}, unsupported(source)
	}
	wants, err := ParseDigest(o.Digest)
	if err != nil {
		return found{}, err
	}
	f, err := n.findURL(ctx, source, o, streaming)
	f.wants = wants
	return f, err
}

// findURL looks a URL up.
func (n *Node) findURL(ctx context.Context, source string, o control.Options, streaming func(done int64)) (found, error) {
	f, cached := n.findCached(source)
	object, err := n.ask(ctx, source, o, cached)
	switch {
	case err == nil:
		return n.findObject(ctx, object, streaming)
	case ctx.Err() != nil:
		return found{}, context.Cause(ctx)
	case errors.Is(err, blob.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded):
		if !cached {
			if !errors.Is(err, blob.ErrUnavailable) {
				err = fmt.Errorf("%w: %s did not answer within %v: check the URL and the network, or wait longer with --timeout", blob.ErrUnavailable, redact(source), openTimeout(o, n.cfg.Timeout))
			}
			return found{}, err
		}
		f.warnings = append(f.warnings, fmt.Sprintf("the origin does not answer (%v): using the newest cached version, %d of %d bytes of which are here", err, f.present(n), f.geometry.Size))
		return f, nil
	default:
		return found{}, err
	}
}

// present is how many bytes of it are cached.
func (f found) present(n *Node) int64 {
	info, _ := n.store.Lookup(f.id)
	return info.Present
}

// originOptions are what the origin of a request is opened with.
//
// With a tracker, the first request to the origin is for one block: every node makes it before it can hear from
// others, and 32 nodes that ask for 128 KiB each would cost the origin of 64 MiB 6 % more than one download.
func (n *Node) originOptions(o control.Options) origin.Options {
	prefix := int64(0)
	if len(n.trackersOf(o, found{})) > 0 {
		prefix = sharedPrefix
	}
	return origin.Options{
		Prefix: prefix, Header: o.Header, CACert: cmp.Or(o.CACert, n.cfg.CACert), Mirrors: o.Mirrors, Stall: stall(n.patienceOf(o)),
		Log: n.log, UserAgent: "pantala/" + n.opts.Version,
	}
}

// sharedPrefix is how many bytes of an object are asked for before others can be asked for them.
const sharedPrefix = blob.BlockSize

// stall is how long an origin may send nothing before its connection is given up: a third of what a reader waits
// for, so that there is time to ask again, and again, before the read fails. Less than a second is an ordinary
// pause, such as two lost segments (0.2 s and 0.4 s until TCP sends them again); more than 10 s is what the origin
// package takes by itself. Where readers wait for ever there is no hurry.
func stall(p patience) time.Duration {
	const least, most = time.Second, 10 * time.Second
	if p.hard {
		return most
	}
	return min(max(p.timeout/3, least), most)
}

// findObject names what an origin has opened.
func (n *Node) findObject(ctx context.Context, object *origin.Object, streaming func(int64)) (found, error) {
	f := found{object: object, alone: !object.Shareable()}
	f.meta = blockio.Meta{Source: object.URL(), Name: cmp.Or(safeName(object.Name()), "blob"), Validator: object.Validator()}
	if object.Size() < 0 {
		return n.findStream(ctx, f, streaming)
	}
	f.id, f.geometry = object.ID(), blob.GeometryFor(object.Size())
	if err := f.geometry.Check(); err != nil {
		return found{}, err
	}
	if f.alone {
		f.meta.Validator = "" // so that findCached never takes it for a version
		f.warnings = append(f.warnings, "the origin sends neither ETag nor Last-Modified: nothing can be shared with peers or kept for the next time")
	}
	return f, nil
}

// findCached finds the newest version of a source that this machine has bytes of.
func (n *Node) findCached(source string) (found, bool) {
	u, err := url.Parse(source)
	if err != nil {
		return found{}, false
	}
	for _, info := range n.store.Find(blob.CanonicalURL(u)) {
		if info.Meta.Validator != "" {
			return found{id: info.ID, geometry: info.Geometry, meta: info.Meta, revive: true}, true
		}
	}
	return found{}, false
}

// resolvePeer turns HOST:PORT into addresses.
func resolvePeer(ctx context.Context, hostport string) ([]netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, fmt.Errorf("%w peer %q: not HOST:PORT", blob.ErrInvalid, hostport)
	}
	p, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil || p == 0 {
		return nil, fmt.Errorf("%w peer %q: no such port", blob.ErrInvalid, hostport)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("%w: peer %q: %v", blob.ErrUnavailable, hostport, err)
	}
	var addrs []netip.AddrPort
	for _, ip := range ips {
		addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), uint16(p)))
	}
	return addrs, nil
}

// unsupported says what can be done about a source that nobody can open.
func unsupported(source string) error {
	const supported = "use http://, https://, file://, a magnet: link, a .torrent, or oci:// to mount an image"
	scheme, _, _ := strings.Cut(source, ":")
	switch scheme = strings.ToLower(scheme); scheme {
	case "http", "https", "file":
		return malformed(scheme, source)
	case "oci":
		if IsImage(source) {
			return fmt.Errorf("%w source %q: an image is mounted, not fetched or shared as one file: pantala mount %s DIR", blob.ErrInvalid, source, source)
		}
		return fmt.Errorf("%w source %q: an image is oci://HOST/NAME:TAG, or oci:///FOLDER:TAG for an OCI layout", blob.ErrInvalid, source)
	case "docker":
		return fmt.Errorf("%w source %q: an image is oci://HOST/NAME:TAG", blob.ErrInvalid, redact(source))
	}
	if !strings.Contains(source, "://") {
		if abs, err := filepath.Abs(source); err == nil {
			if _, err := os.Lstat(abs); err == nil {
				return fmt.Errorf("%w source %q: it is a local path: write file://%s", blob.ErrInvalid, source, abs)
			}
		}
		return fmt.Errorf("%w source %q: no scheme: %s", blob.ErrInvalid, source, supported)
	}
	return fmt.Errorf("%w source %q: unknown scheme: %s", blob.ErrInvalid, redact(source), supported)
}

// malformed says what is wrong with a URL of a known scheme.
func malformed(scheme, source string) error {
	u, err := url.Parse(source)
	shown := redact(source)
	switch {
	case err != nil: // its text may quote a password
		return fmt.Errorf("%w source %q: malformed URL: write %s://HOST[:PORT]/PATH, a %% in it as %%25, a space as %%20", blob.ErrInvalid, shown, scheme)
	case scheme != "file":
		return fmt.Errorf("%w source %q: the host is missing: write %s://HOST/PATH", blob.ErrInvalid, shown, scheme)
	case u.Host != "":
		return fmt.Errorf("%w source %q: local files have no host: write file:///PATH, with three slashes", blob.ErrInvalid, shown)
	}
	return fmt.Errorf("%w source %q: the path is not absolute: write file:///PATH", blob.ErrInvalid, shown)
}

// redact removes what must not be logged or shown from a source: a password, and query parameters that sign.
func redact(source string) string {
	u, err := url.Parse(source)
	if err != nil {
		// Nobody knows what is what: all that could be a password or a query goes.
		if i := strings.IndexAny(source, "?#"); i >= 0 {
			source = source[:i] + "?…"
		}
		if i := strings.LastIndexByte(source, '@'); i >= 0 {
			scheme, _, _ := strings.Cut(source, ":")
			source = scheme + "://…" + source[i:]
		}
		return source
	}
	if u.Host == "" {
		return source
	}
	return blob.CanonicalURL(u)
}

// patienceOf is which engine the options ask for.
func (n *Node) patienceOf(o control.Options) patience {
	return patience{cmp.Or(o.Timeout, n.cfg.Timeout), o.Hard || n.cfg.Hard}
}

// fillOf is how the options ask the blob to be completed. A seed completes what nobody says otherwise of at once.
func (n *Node) fillOf(o control.Options) (fetch.Fill, error) {
	fill := n.cfg.Fill
	if n.cfg.Role == config.Seed && n.cfg.From("fill") == "" {
		fill = fetch.FillEager.String()
	}
	return fetch.ParseFill(cmp.Or(o.Fill, fill))
}

// trackersOf are the trackers that the request, else the configuration, names, and those of the source.
func (n *Node) trackersOf(o control.Options, f found) []string {
	all := o.Trackers
	if len(all) == 0 {
		all = n.cfg.Trackers
	}
	all = slices.Clone(all)
	for _, t := range f.trackers {
		if !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	return all
}
