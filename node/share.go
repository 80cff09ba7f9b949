package node

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fetch"
	"github.com/pantala/pantala/fs"
	"github.com/pantala/pantala/metainfo"
)

// share is a blob that is kept open for others.
type share struct {
	live   *live
	source string // a path, or a URL without secrets
	digest blob.Hash
	magnet string
}

// Share implements control.Node.
func (n *Node) Share(ctx context.Context, r control.ShareRequest, progress func(control.Progress)) (reply control.ShareReply, err error) {
	ctx, done, err := n.begin(ctx)
	if err != nil {
		return reply, err
	}
	defer done()
	if err := n.expect(r.Expect); err != nil {
		return reply, err
	}
	if progress == nil {
		progress = func(control.Progress) {}
	}
	if r.Path != "" {
		reply, err = n.sharePath(ctx, r, progress)
	} else {
		reply, err = n.shareURL(ctx, r, progress)
	}
	if err == nil {
		reply.Warnings = append(reply.Warnings, n.reachable(n.trackersOf(r.Options, found{}))...)
	}
	return reply, err
}

// sharePath shares a local file, or the files of a directory, in place.
func (n *Node) sharePath(ctx context.Context, r control.ShareRequest, progress func(control.Progress)) (reply control.ShareReply, err error) {
	want, err := ParseDigest(r.Digest)
	if err != nil {
		return reply, err
	}
	if err := n.limits.check(r.Tenant); err != nil {
		return reply, err
	}
	path := filepath.Clean(r.Path)
	if err := notOnOurs(path); err != nil {
		return reply, err
	}
	f, err := os.Open(path)
	if err != nil {
		return reply, control.Local(fmt.Errorf("share: %w", err))
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return reply, control.Local(fmt.Errorf("share: %w", err))
	}
	switch {
	case !st.Mode().IsRegular() && !st.IsDir():
		return reply, control.Local(fmt.Errorf("share: %s is neither a file nor a directory", path))
	case st.IsDir() && want != (blob.Hash{}):
		return reply, fmt.Errorf("%w: %s is a directory, which has no digest: leave out --digest", blob.ErrInvalid, path)
	case st.IsDir() || r.Version != "" && r.Version != "v2" || r.Private || r.PieceLength != 0:
		return n.shareMade(ctx, r, path, want, progress)
	}
	g := blob.GeometryFor(st.Size())
	if err := g.Check(); err != nil {
		return reply, err
	}
	s, err := hashFile(ctx, f, g, func(done int64) {
		progress(control.Progress{What: "hashing", Done: done, Total: g.Size})
	})
	if err != nil {
		return reply, err
	}
	if want != (blob.Hash{}) && want != s.digest {
		return reply, wrongDigest(path, s.digest, want)
	}
	trackers := n.trackersOf(r.Options, found{})
	name := cmp.Or(safeName(filepath.Base(path)), "blob")
	m := NewMagnet(s.digest, g.Size, s.root(g), name, trackers)
	fd := found{id: m.ID(), geometry: g, root: m.Root, digest: s.digest, meta: blockio.Meta{Source: m.Source(), Name: name}}
	w, err := n.want(m.Source(), r.Options, fd)
	if err != nil {
		return reply, err
	}
	w.imported = func() (*blockio.Blob, error) { return n.store.Import(path, fd.id, g, fd.meta, s.leaves) }
	l, warnings, err := n.hold(ctx, fd, w)
	if err != nil {
		return reply, err
	}
	reply.Warnings = warnings
	m.Peers, m.WebSeeds = n.peerParameter(), r.WebSeeds
	n.keep(l, &share{live: l, source: path, digest: s.digest, magnet: m.String()})
	n.log.Info("sharing", "path", path, "infohash", m.V2, "size", g.Size)
	reply.ID, reply.Name, reply.Size, reply.Source = l.id.String(), name, g.Size, m.String()
	reply.Digest, reply.InfoHash, reply.Magnet = "sha256:"+s.digest.String(), m.V2.String(), m.String()
	if r.WantTorrent {
		info, err := metainfo.ParseInfo(blob.CanonicalInfo(s.digest, g.Size, m.Root))
		if err != nil {
			return reply, err
		}
		t := &metainfo.MetaInfo{Info: info, Layers: s.layers(g)}
		n.describe(t, trackers, r.WebSeeds)
		reply.Torrent = t.Append(nil)
	}
	return reply, nil
}

func wrongDigest(path string, got, want blob.Hash) error {
	return fmt.Errorf("%w: the digest of %s is sha256:%v, not sha256:%v as asked for", blob.ErrCorrupt, path, got, want)
}

// notOnOurs refuses a path on a mount of pantala: this process must never read what it serves itself. The
// path has been resolved by the command that asked.
func notOnOurs(path string) error {
	mounts, err := fs.Mounts()
	if err != nil {
		return control.Local(err)
	}
	for _, m := range mounts {
		if path == m.Dir || strings.HasPrefix(path, strings.TrimSuffix(m.Dir, "/")+"/") {
			return control.Local(fmt.Errorf("share: %s is on a pantala mount, which is shared already: share its source, %s", path, m.Source))
		}
	}
	return nil
}

// peerParameter names this node in a magnet link (x.pe, BEP 9), when it listens on one address.
func (n *Node) peerParameter() []string {
	a := n.swarm.Addr()
	if a.Addr().IsUnspecified() {
		return nil
	}
	return []string{a.String()}
}

// keep puts a share into the table; it takes over the caller's hold. The same blob shared twice stays one.
func (n *Node) keep(l *live, s *share) {
	n.mu.Lock()
	_, twice := n.shares[l.id]
	n.shares[l.id] = s
	n.mu.Unlock()
	if twice {
		n.release(l)
	}
}

// shareURL joins the swarm of a URL's object, or of a torrent, and completes it.
func (n *Node) shareURL(ctx context.Context, r control.ShareRequest, progress func(control.Progress)) (reply control.ShareReply, err error) {
	want, err := ParseDigest(r.Digest)
	if err != nil {
		return reply, err
	}
	if r.From != "" {
		return n.shareFrom(ctx, r, want)
	}
	r.Fill = fetch.FillEager.String()
	d, err := n.download(ctx, r.URL, r.Options, func(done int64) {
		progress(control.Progress{What: "downloading", Done: done, Total: -1})
	})
	if err != nil {
		return reply, err
	}
	if d.top.torrent != nil {
		return n.shareTorrent(ctx, r, d, want, progress)
	}
	l := d.live
	s := &share{live: l, source: redact(r.URL)}
	reply = control.ShareReply{ID: l.id.String(), Name: l.meta.Name, Size: l.store.Size(), Source: l.meta.Source, Warnings: d.Warnings}
	if !r.NoWait {
		if err := n.completeShare(ctx, d, s, want, progress); err != nil {
			n.release(l)
			return reply, err
		}
		reply.Digest, reply.Magnet = "sha256:"+s.digest.String(), s.magnet
		if m, err := metainfo.ParseMagnet(s.magnet); err == nil {
			reply.InfoHash = m.V2.String()
		}
	} else if want != (blob.Hash{}) {
		n.release(l)
		return reply, fmt.Errorf("%w: --digest needs all bytes: leave out --no-wait", blob.ErrInvalid)
	}
	n.keep(l, s)
	n.log.Info("sharing", "source", s.source, "blob", l.id, "size", l.store.Size())
	return reply, nil
}

// completeShare waits for all bytes, computes the digest and the root, and joins the swarm of the canonical
// torrent too, so that the magnet link leads here.
func (n *Node) completeShare(ctx context.Context, d *Download, s *share, want blob.Hash, progress func(control.Progress)) error {
	l := d.live
	tell := func(t control.Transfer) {
		progress(control.Progress{What: "downloading", Done: t.Present, Total: t.Size, FromPeers: t.FromPeers})
	}
	err := d.wait(ctx, l.digest.Load() == nil, tell, func(ctx context.Context) error {
		sum, err := hashBlob(ctx, l.store)
		if err == nil {
			n.learn(l, sum)
		}
		return err
	})
	if err != nil {
		return err
	}
	s.digest = *l.digest.Load()
	if want != (blob.Hash{}) && want != s.digest {
		return mismatch(s.source, s.digest, want)
	}
	if l.id.Kind == blob.ByInfoHash {
		s.magnet = l.meta.Source
		return nil
	}
	root, ok := n.canonize(l)
	if !ok {
		return nil // still shared, under its URL
	}
	m := NewMagnet(s.digest, l.store.Size(), root, l.meta.Name, l.trackers)
	m.Peers = n.peerParameter()
	s.magnet = m.String()
	return nil
}

// rootOf folds the "pieces root" of a complete blob from what the store knows.
func rootOf(b *blockio.Blob) (blob.Hash, bool) {
	g := b.Geometry()
	switch g.Pieces() {
	case 0:
		return blob.Hash{}, true
	case 1:
		leaves, ok := b.Leaves(0)
		return g.RootOfLeaves(leaves), ok
	}
	roots := make([]blob.Hash, g.Pieces())
	for p := range roots {
		r, t := b.Root(uint32(p))
		if t < blob.Claimed {
			return blob.Hash{}, false
		}
		roots[p] = r
	}
	return g.Root(roots), true
}

// Unshare implements control.Node.
func (n *Node) Unshare(_ context.Context, name string) error {
	n.mu.Lock()
	var s *share
	for id, have := range n.shares {
		if name == id.String() || name == have.source || name == have.magnet || redact(name) == have.source {
			s = have
			delete(n.shares, id)
			break
		}
	}
	n.mu.Unlock()
	if s == nil {
		return fmt.Errorf("%w: %s is not shared by this daemon: pantala status lists what is", blob.ErrNotFound, redact(name))
	}
	n.release(s.live)
	n.log.Info("no longer sharing", "source", s.source)
	n.rest()
	return nil
}
