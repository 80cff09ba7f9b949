package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/metainfo"
	"github.com/pantala/pantala/origin"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/tracker"
)

// IsTorrent reports whether a source is a .torrent: a URL or path that ends so.
func IsTorrent(source string) bool {
	if metainfo.IsMagnet(source) {
		return false
	}
	u, err := url.Parse(source)
	return err == nil && strings.EqualFold(path.Ext(u.Path), ".torrent")
}

// findTorrent opens what a .torrent behind a URL describes.
func (n *Node) findTorrent(ctx context.Context, source string, o control.Options) (found, error) {
	m, err := n.readTorrent(ctx, source, o)
	var warnings []string
	if errors.Is(err, blob.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		if old, ok := n.library().from(redact(source)); ok && ctx.Err() == nil {
			warnings = append(warnings, fmt.Sprintf("%s cannot be read now (%v): using what it was last time", redact(source), err))
			m, err = old, nil
		}
	}
	if err != nil {
		return found{}, err
	}
	n.shelve(m, redact(source))
	if d := n.finders.dht; d != nil && !m.Info.Private {
		d.AddHosts(m.Nodes)
	}
	f := n.foundTorrent(m, o)
	f.warnings = append(f.warnings, warnings...)
	return f, f.check()
}

// readTorrent reads a .torrent.
func (n *Node) readTorrent(ctx context.Context, source string, o control.Options) (*metainfo.MetaInfo, error) {
	u, err := url.Parse(source)
	if err != nil || !origin.Supported(source) {
		return nil, unsupported(source)
	}
	if u.Scheme == "file" {
		f, err := os.Open(u.Path)
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s does not exist", blob.ErrNotFound, u.Path)
		}
		if err != nil {
			return nil, control.Local(fmt.Errorf("torrent file: %w", err))
		}
		defer f.Close()
		m, err := metainfo.Parse(f)
		if err != nil {
			err = fmt.Errorf("%s: %w", u.Path, err)
		}
		return m, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout(o, n.cfg.Timeout))
	defer cancel()
	raw, err := n.readSmall(ctx, source, n.originOptions(o), metainfo.MaxSize)
	if err != nil {
		return nil, err
	}
	m, err := metainfo.Parse(bytes.NewReader(raw))
	if err != nil {
		err = fmt.Errorf("%s: %w", redact(source), err)
	}
	return m, err
}

// readSmall reads an object of at most limit bytes.
func (n *Node) readSmall(ctx context.Context, source string, o origin.Options, limit int) ([]byte, error) {
	object, err := n.origin.Open(ctx, source, o)
	if err != nil {
		return nil, err
	}
	tooLong := fmt.Errorf("%w: %s is larger than %d bytes", blob.ErrInvalid, redact(source), limit)
	if object.Size() > int64(limit) {
		return nil, tooLong
	}
	var all []byte
	err = object.Stream(ctx, func(p []byte) error {
		if all = append(all, p...); len(all) > limit {
			return tooLong
		}
		return nil
	})
	return all, err
}

func (n *Node) library() library { return library{libraryDir(n.cfg.State)} }

// shelve remembers a torrent; that it cannot be remembered is no reason not to open it.
func (n *Node) shelve(m *metainfo.MetaInfo, source string) {
	if err := n.library().put(m, source); err != nil {
		n.log.Warn("the torrent is not remembered for the next time", "err", err)
	}
}

// foundTorrent names what a torrent describes.
func (n *Node) foundTorrent(m *metainfo.MetaInfo, o control.Options) found {
	if digest, ok := canonical(m.Info); ok {
		file := &m.Info.Files[0]
		link := NewMagnet(digest, file.Length, file.Root, m.Info.Name, nil)
		return found{
			id: link.ID(), geometry: m.Info.Geometry(0), root: file.Root, digest: digest, layers: m.Layers[file.Root], trackers: m.Trackers(),
			seed: n.seedOf(m, o),
			meta: blockio.Meta{Source: link.Source(), Name: m.Info.Name},
		}
	}
	return foundParts(m)
}

// foundParts is foundTorrent for what is opened in parts whatever it is called.
func foundParts(m *metainfo.MetaInfo) found {
	link := metainfo.Magnet{V1: m.Info.InfoHashV1, V2: m.Info.InfoHashV2, Name: m.Info.Name, Size: m.Info.Bytes()}
	return found{
		id: m.Info.ID(), torrent: m, trackers: m.Trackers(),
		meta: blockio.Meta{Source: link.Source(), Name: m.Info.Name},
	}
}

// check refuses what cannot be opened.
func (f found) check() error {
	if f.torrent == nil {
		return f.geometry.Check()
	}
	for _, p := range partsOf(f.torrent.Info) {
		if err := p.geometry.Check(); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// canonical reports whether an info dictionary is the one that everybody derives for bytes with a digest.
func canonical(i *metainfo.Info) (digest blob.Hash, ok bool) {
	if !i.Single || !i.HasV2 || i.HasV1 || len(i.Files) != 1 {
		return digest, false
	}
	digest, err := blob.ParseDigest(i.Name)
	return digest, err == nil && bytes.Equal(i.Raw, blob.CanonicalInfo(digest, i.Files[0].Length, i.Files[0].Root))
}

// findMagnet opens what a magnet link names. Its info dictionary is in the link (if it is one of ours), in the
// library, or at the peers.
func (n *Node) findMagnet(ctx context.Context, source string, o control.Options) (found, error) {
	m, err := metainfo.ParseMagnet(source)
	if err != nil {
		return found{}, err
	}
	var f found
	if m.HasCanonical {
		f = found{
			id: m.ID(), geometry: blob.GeometryFor(m.Size), root: m.Root, digest: m.Digest,
			meta: blockio.Meta{Source: m.Source(), Name: cmp.Or(m.Name, m.Digest.String())},
		}
		if info, err := metainfo.ParseInfo(blob.CanonicalInfo(m.Digest, m.Size, m.Root)); err == nil {
			f.seed = n.seedOf(&metainfo.MetaInfo{Info: info, WebSeeds: m.WebSeeds}, o)
		}
	} else {
		t, ok := n.library().get(m.ID())
		if !ok {
			if t, err = n.fetchTorrent(ctx, m, o); err != nil {
				return found{}, err
			}
			n.shelve(t, "")
		}
		t.WebSeeds = append(slices.Clone(m.WebSeeds), t.WebSeeds...)
		f = n.foundTorrent(t, o)
		f.only = m.Wants
	}
	for _, t := range m.Trackers {
		if !slices.Contains(f.trackers, t) {
			f.trackers = append(f.trackers, t)
		}
	}
	for _, p := range m.Peers {
		addrs, err := resolvePeer(ctx, p)
		if err != nil {
			f.warnings = append(f.warnings, err.Error())
			continue
		}
		f.peers = append(f.peers, addrs...)
	}
	return f, f.check()
}

// fetchTorrent gets what a link only has the hash of: from the URLs it names (xs), else from peers (BEP 9).
func (n *Node) fetchTorrent(ctx context.Context, m metainfo.Magnet, o control.Options) (*metainfo.MetaInfo, error) {
	var errs []error
	for _, u := range m.Sources {
		t, err := n.readTorrent(ctx, u, o)
		if err == nil && !t.Info.Is(m.V1, m.V2) {
			err = fmt.Errorf("%w: %s is another torrent than the one of the link", blob.ErrCorrupt, redact(u))
		}
		if err == nil {
			return t, nil
		}
		errs = append(errs, err)
	}
	raw, err := n.fetchInfo(ctx, m, o)
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	info, err := metainfo.ParseInfo(raw)
	if err != nil {
		return nil, fmt.Errorf("what peers gave for the magnet link: %w", err)
	}
	return &metainfo.MetaInfo{Info: info}, nil
}

// fetchInfo asks peers for the info dictionary of a link.
func (n *Node) fetchInfo(ctx context.Context, m metainfo.Magnet, o control.Options) ([]byte, error) {
	trackers := n.trackersOf(o, found{trackers: m.Trackers})
	if len(trackers) == 0 && len(m.Peers) == 0 && !n.finders.finds() {
		return nil, fmt.Errorf("%w: the magnet link names neither trackers (tr=) nor peers (x.pe=) to ask for the torrent: name one with --tracker, or use the .torrent file", blob.ErrUnavailable)
	}
	limit := openTimeout(o, n.cfg.Timeout)
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	peers := make(chan netip.AddrPort, 64)
	feed := func(addrs []netip.AddrPort) {
		for _, a := range addrs {
			select {
			case peers <- a:
			case <-bounded.Done():
			}
		}
	}
	n.log.Info("asking peers for the torrent of a magnet link", "link", m.ID(), "trackers", len(trackers), "peers", len(m.Peers))
	var asking sync.WaitGroup
	asking.Go(func() {
		for _, p := range m.Peers {
			if addrs, err := resolvePeer(bounded, p); err == nil {
				feed(addrs)
			}
		}
	})
	var sessions []*tracker.Session
	var stops []func()
	addr := n.swarm.Addr()
	want := swarm.InfoHash{V1: m.V1, V2: m.V2}
	for _, key := range keysOf(m) {
		for _, t := range trackers[:min(len(trackers), maxSessions)] {
			sessions = append(sessions, tracker.NewSession(tracker.SessionOptions{
				Trackers: []string{t}, Key: key, PeerID: n.swarm.PeerID(), Port: int(addr.Port()), IP: advertised(addr), Plain: true, Impatient: true,
				Geometry: blob.GeometryFor(1), Store: nothing{}, Log: n.log, OnPeers: feed,
			}))
		}
		stops = append(stops, n.lookFor(key, feed))
	}
	raw, err := n.swarm.FetchInfo(bounded, want, peers)
	late := bounded.Err() != nil && ctx.Err() == nil
	cancel()
	for _, stop := range stops {
		stop()
	}
	for _, s := range sessions {
		s.Close()
	}
	asking.Wait()
	switch {
	case err == nil:
		return raw, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case late:
		return nil, fmt.Errorf("%w: nobody gave the torrent of the magnet link within %v (%v): wait longer with --timeout, name another --tracker, or use the .torrent file", blob.ErrUnavailable, limit, err)
	}
	return nil, fmt.Errorf("the torrent of the magnet link: %w: name another --tracker, or use the .torrent file", err)
}

// keysOf are the infohashes of a link as peers and trackers use them.
func keysOf(m metainfo.Magnet) (keys [][20]byte) {
	if m.V2 != (blob.Hash{}) {
		keys = append(keys, [20]byte(m.V2[:20]))
	}
	if m.V1 != [20]byte{} {
		keys = append(keys, m.V1)
	}
	return keys
}

// ReadTorrent reads the .torrent at a path of this machine.
func ReadTorrent(path string) (*metainfo.MetaInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, control.Local(err)
	}
	defer f.Close()
	m, err := metainfo.Parse(io.Reader(f))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}
