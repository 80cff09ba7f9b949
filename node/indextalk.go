package node

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/tracker"
)

// indexTalk is what the peers of a blob say to each other about its index, if it is the layer of an image: what others
// learn through a tracker, where there is one. Blobs that are named by a digest have it. Safe for concurrent use.
type indexTalk struct {
	mu     sync.Mutex // guards what follows; innermost
	mine   []peerwire.IndexClaim
	asking bool
	heard  []heardIndex  // at most maxHeardIndexes
	news   chan struct{} // closed when heard changes; nil: nobody waits
}

// maxHeardIndexes is how many different claims are kept, as trackers do: the first ones.
const maxHeardIndexes = 4

// maxHeardHosts is how many hosts that say the same are counted.
const maxHeardHosts = 32

// heardIndex is a claim and who says so.
type heardIndex struct {
	peerwire.IndexClaim
	peers []netip.AddrPort // one for each host
	knows int              // of them, that do not only believe it
}

// join makes the talk part of a swarm.
func (x *indexTalk) join(c *swarm.Config) {
	c.Index = func() []peerwire.IndexClaim {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.mine
	}
	c.OnIndex = x.hear
}

// asks reports whether peers are asked.
func (x *indexTalk) asks() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.asking
}

// hear takes in what a peer says.
func (x *indexTalk) hear(peer netip.AddrPort, claims []peerwire.IndexClaim) {
	if !peer.IsValid() {
		return // nobody can be asked for the file
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range claims {
		at := slices.IndexFunc(x.heard, func(o heardIndex) bool {
			return o.Root == c.Root && o.Digest == c.Digest && o.Size == c.Size
		})
		if at < 0 {
			if len(x.heard) == maxHeardIndexes {
				continue
			}
			at, x.heard = len(x.heard), append(x.heard, heardIndex{IndexClaim: c})
		}
		h := &x.heard[at]
		if len(h.peers) < maxHeardHosts && !slices.ContainsFunc(h.peers, func(o netip.AddrPort) bool { return o.Addr() == peer.Addr() }) {
			h.peers = append(h.peers, peer)
			if c.Trust > blob.Claimed {
				h.knows++
			}
		}
	}
	if x.news != nil && len(x.heard) > 0 {
		close(x.news)
		x.news = nil
	}
}

// list is what was heard so far, the claim that most hosts vouch for first, and a channel that is closed when there is more.
func (x *indexTalk) list() (all []tracker.IndexClaim, more <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, h := range x.heard {
		all = append(all, tracker.IndexClaim{
			Root: h.Root, Digest: h.Digest, Size: h.Size, Trust: h.Trust, Vouchers: h.knows, Peers: slices.Clone(h.peers[:min(len(h.peers), 4)]),
		})
	}
	slices.SortStableFunc(all, func(a, b tracker.IndexClaim) int { return cmp.Compare(b.Vouchers, a.Vouchers) })
	if x.news == nil {
		x.news = make(chan struct{})
	}
	return all, x.news
}

// askIndex asks the peers of a layer which index it has, and those that come later, too. It returns as soon as one has
// said something; nothing: none has until ctx ended. What they say is Claimed at best.
func (l *live) askIndex(ctx context.Context) []tracker.IndexClaim {
	l.index.mu.Lock()
	l.index.asking = true
	l.index.mu.Unlock()
	for _, j := range l.joined() {
		j.torrent.AskIndex()
	}
	for {
		all, more := l.index.list()
		if len(all) > 0 {
			return all
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

// vouchIndex says to the peers of a layer that this is its index, and asks them no more.
func (l *live) vouchIndex(root, digest blob.Hash, size int64, trust blob.Trust) {
	c := peerwire.IndexClaim{Root: root, Digest: digest, Size: size, Trust: trust}
	if c.Check() != nil {
		return // there is no file that others could have
	}
	l.index.mu.Lock()
	l.index.mine = []peerwire.IndexClaim{c}
	l.index.asking = false
	l.index.mu.Unlock()
	for _, j := range l.joined() {
		j.torrent.TellIndex()
	}
}
