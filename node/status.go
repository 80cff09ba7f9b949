package node

import (
	"cmp"
	"context"
	"os"
	"slices"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
)

// Status implements control.Node.
func (n *Node) Status(context.Context) (control.Status, error) {
	s := control.Status{
		PID: os.Getpid(), Version: n.opts.Version, State: n.cfg.State, Listen: n.swarm.Addr().String(), Started: n.started,
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
		out := control.Share{Source: sh.source, Name: sh.live.meta.Name, Magnet: sh.magnet, Transfer: sh.live.status()}
		if sh.digest != (blob.Hash{}) {
			out.Digest = "sha256:" + sh.digest.String()
		}
		s.Shares = append(s.Shares, out)
		n.addPeers(&s, sh.live, seen)
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
	if d := m.live.digest.Load(); d != nil {
		out.Digest = "sha256:" + d.String()
	}
	return out
}

// status says where the bytes of a blob came from.
func (l *live) status() control.Transfer {
	f := l.fetch.Stats()
	t := control.Transfer{
		ID: l.id.String(), Size: f.Size, Present: f.Present, Complete: l.store.Complete(),
		FromPeers: f.FromPeers, FromOrigin: l.opened + f.FromOrigin, Waiting: f.Waiting, Errors: f.Errors, LastError: f.LastError,
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
		if j.session != nil {
			t := j.session.Status()
			s.Trackers = append(s.Trackers, control.Tracker{URL: redact(t.URL), Blob: l.id.String(), State: t.State, Peers: t.Peers, LastError: t.LastError})
		}
	}
}
