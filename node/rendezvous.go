package node

import (
	"github.com/pantala/pantala/blob"
)

// Which swarms a blob of a URL is in. Without a digest there is one, of those who read the same version of the same
// URL. With --digest the node also meets everybody who wants bytes with that digest, from whatever URL: under a key
// that is made of the digest alone (blob.ID.Key), because the root of the hash tree, and so the infohash, is known to
// nobody before somebody has had all bytes. That key is provisional: piece roots are only claimed there. Once all
// bytes are here and have the digest, the blob is canonical: it is announced under the infohash that everybody
// derives from digest, size and root, where BitTorrent clients and magnet links find it, too.

// swarmKey is what a swarm is called.
type swarmKey struct {
	key   [20]byte
	name  blob.Hash // in hash requests
	root  blob.Hash // BEP 52; zero: not known
	info  []byte    // info dictionary, if key is its infohash
	plain bool      // peers only, no plan: that comes from another swarm of the blob
}

// swarmKeys are the swarms of a blob, the first of which plans.
func (f found) swarmKeys() (keys []swarmKey) {
	own := swarmKey{key: f.id.Key(), name: f.root, root: f.root}
	if own.name.IsZero() {
		own.name = f.id.Sum
	}
	if !f.digest.IsZero() && !f.root.IsZero() && f.id.Kind == blob.ByInfoHash {
		own.info = blob.CanonicalInfo(f.digest, f.geometry.Size, f.root)
	}
	if f.wants.IsZero() || f.id.Kind != blob.ByURL {
		return []swarmKey{own}
	}
	own.plain = true
	return []swarmKey{{key: blob.DigestID(f.wants).Key(), name: f.wants}, own}
}

// canonize joins the swarm of the canonical torrent, once, if all bytes are here and their digest is known. It gives
// the root that was found; false: there is none.
func (n *Node) canonize(l *live) (root blob.Hash, ok bool) {
	digest := l.digest.Load()
	if l.torrent != nil || l.id.Kind == blob.ByInfoHash || digest == nil || !l.store.Complete() {
		return root, false
	}
	if root, ok = rootOf(l.store); !ok {
		return root, false
	}
	if !l.canonical.CompareAndSwap(false, true) {
		return root, true
	}
	info := blob.CanonicalInfo(*digest, l.store.Size(), root)
	id := blob.ID{Kind: blob.ByInfoHash, Sum: blob.InfoHash(info)}
	k := swarmKey{key: id.Key(), name: root, root: root, info: info}
	if _, err := n.join(l, k, l.fetch.Wake); err != nil { // another blob of this node has the same bytes, and is there
		n.log.Info("not announced under its infohash", "blob", l.id, "infohash", id, "why", err)
		return root, true
	}
	n.log.Info("complete, and its digest is known: announced under its infohash", "blob", l.id, "infohash", id)
	return root, true
}
