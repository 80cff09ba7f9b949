package node

import (
	"cmp"
	"context"
	"os"
	"slices"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/tracker"
)

// Status implements control.Node.
func (n *Node) Status(context.Context) (control.Status, error) {
	s := control.Status{
		PID: os.Getpid(), Version: n.opts.Version, State: n.cfg.State, Listen: n.swarm.Addr().String(), Zone: n.cfg.Zone, Started: n.started,
		Mounts: []control.Mount{}, Shares: []control.Share{}, Peers: []control.Peer{}, Trackers: []control.Tracker{},
	}
	n.mu.Lock()
	var mounts []*mount
	var states []string
	var failures []error
	for _, m := range n.mounts {
		if m.state != "mounting" {
			mounts, states, failures = append(mounts, m), append(states, m.state), append(failures, m.err)
		}
	}
	var shares []share
	for _, sh := range n.shares {
		shares = append(shares, *sh)
	}
	n.mu.Unlock()

	seen := map[blob.ID]bool{}
	for i, m := range mounts {
		s.Mounts = append(s.Mounts, m.status(states[i], failures[i]))
		n.addPeers(&s, m.live, seen)
	}
	for _, sh := range shares {
		out := control.Share{Source: sh.source, Name: sh.live.meta.Name, Magnet: sh.magnet, Files: sh.live.files(), Transfer: sh.live.status()}
		if sh.digest != (blob.Hash{}) {
			out.Digest = "sha256:" + sh.digest.String()
		}
		s.Shares = append(s.Shares, out)
		n.addPeers(&s, sh.live, seen)
	}
	if images := n.images.Load(); images != nil {
		images.addStatus(&s, seen)
	}
	slices.SortFunc(s.Mounts, func(a, b control.Mount) int { return cmp.Compare(a.Dir, b.Dir) })
	slices.SortFunc(s.Shares, func(a, b control.Share) int { return cmp.Compare(a.Source, b.Source) })
	slices.SortFunc(s.Peers, func(a, b control.Peer) int {
		return cmp.Or(cmp.Compare(a.Blob, b.Blob), cmp.Compare(a.Addr, b.Addr))
	})
	u := n.store.Usage()
	s.Cache = &control.Usage{Bytes: u.Bytes, Quota: u.Quota, Free: u.Free, Blobs: u.Blobs}
	return s, nil
}

// status is one line of mounts.
func (m *mount) status(state string, failure error) control.Mount {
	st := m.fs.Stats()
	out := control.Mount{
		Source: m.source, Dir: m.request.Dir, Name: m.live.meta.Name, State: state, Fill: m.live.fill.String(),
		Transfer: m.live.status(), Requests: st.Requests, Passthrough: st.PassthroughOpens,
	}
	if failure != nil {
		out.LastError = failure.Error()
		out.Errors++
	}
	out.Files = m.live.files()
	if one := m.live.only(); one == nil {
	} else if d := one.digest.Load(); d != nil {
		out.Digest = "sha256:" + d.String()
	}
	return out
}

// status says where the bytes of a blob came from.
func (l *live) status() control.Transfer {
	t := control.Transfer{ID: l.id.String(), Size: l.size(), Present: l.present(), Complete: l.complete()}
	for _, p := range l.blobs() {
		f := p.fetch.Stats()
		origin := p.opened + p.brought.Load() + f.FromOrigin
		// A piece that the swarm had to verify as a whole was stored by it before fetch could count it.
		var wire int64
		for _, j := range p.joined() {
			wire += j.torrent.Stats().Downloaded
		}
		t.FromPeers += max(f.FromPeers, min(f.Present-p.before-origin, wire))
		t.FromOrigin += origin
		t.Waiting += f.Waiting
		t.Errors += f.Errors
		t.LastError = cmp.Or(t.LastError, f.LastError)
	}
	if l.torrent != nil { // whatever its parts got from the swarms of other torrents is not its
		t.FromPeers = 0
		for _, j := range l.joined() {
			t.FromPeers += j.torrent.Stats().Downloaded
		}
	}
	for _, j := range l.joined() {
		t.Uploaded += j.torrent.Stats().Uploaded
		for _, p := range j.torrent.Peers() {
			if !p.Banned {
				t.Peers++
			}
		}
	}
	return t
}

// addPeers appends the peers and trackers of a blob, once.
func (n *Node) addPeers(s *control.Status, l *live, seen map[blob.ID]bool) {
	if seen[l.id] {
		return
	}
	seen[l.id] = true
	for _, j := range l.joined() {
		for _, p := range j.torrent.Peers() {
			s.Peers = append(s.Peers, control.Peer{
				Addr: p.Addr.String(), Client: p.Client, Blob: l.id.String(), Downloaded: p.Downloaded,
				Uploaded: p.Uploaded, Rate: p.Rate, Pieces: p.Pieces, Banned: p.Banned,
			})
		}
		for _, one := range append([]*tracker.Session{j.session}, j.others...) {
			if one == nil {
				continue
			}
			t := one.Status()
			s.Trackers = append(s.Trackers, control.Tracker{
				URL: redact(t.URL), Blob: l.id.String(), State: t.State, Peers: t.Peers, Nodes: t.Nodes, Leases: t.Leases,
				Zone: t.Zone, Alone: t.Alone, Tree: placeOf(t.Tree), LastError: t.LastError,
			})
		}
	}
}

// placeOf is a place in the relay trees for people.
func placeOf(t *tracker.Tree) *control.Tree {
	if t == nil {
		return nil
	}
	out := &control.Tree{Head: t.Head, Parents: make([][]string, len(t.Parents))}
	for k, parents := range t.Parents {
		out.Parents[k] = []string{}
		for _, addr := range parents {
			out.Parents[k] = append(out.Parents[k], addr.String())
		}
	}
	return out
}
