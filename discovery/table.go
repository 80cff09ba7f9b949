package discovery

import (
	"bytes"
	"crypto/rand"
	"math/bits"
	"slices"
	"time"

	"github.com/pantala/pantala/peerwire"
)

// nodeID names a node of the DHT, and lies in one space with the keys.
type nodeID [20]byte

func randomID() (id nodeID) {
	rand.Read(id[:])
	return id
}

// nearer reports whether a is closer to t than b: the distance is the exclusive or, read as a number.
func nearer(t, a, b nodeID) bool {
	for i := range t {
		if x, y := a[i]^t[i], b[i]^t[i]; x != y {
			return x < y
		}
	}
	return false
}

// prefix is how many leading bits two ids have in common.
func prefix(a, b nodeID) int {
	for i := range a {
		if x := a[i] ^ b[i]; x != 0 {
			return i*8 + bits.LeadingZeros8(x)
		}
	}
	return len(a) * 8
}

const (
	// bucketSize is K of BEP 5.
	bucketSize = 8
	// freshFor is how long a node counts as good after it has answered (BEP 5).
	freshFor = 15 * time.Minute
	// maxMisses is after how many queries without an answer a node is bad.
	maxMisses = 2
)

// table are the nodes that are known, in buckets of 8 by how many bits they share with us: the bucket of BEP 5
// that covers our own id, split as far as it goes. It holds at most 1 280 nodes of 80 bytes, of which a network of
// a million fills about 130. Only nodes that have answered enter, so nobody can fill it with addresses of others.
// It is a pure state machine and not safe for concurrent use.
type table struct {
	self    nodeID
	buckets [160][]known
}

// known is one node of the table.
type known struct {
	contact
	heard  time.Time // it answered
	misses int       // queries without an answer since then
}

func (t *table) bucket(id nodeID) *[]known { return &t.buckets[min(prefix(t.self, id), 159)] }

// wants reports whether a node would find a place, were it to answer.
func (t *table) wants(c contact, at time.Time) bool {
	if c.id == t.self {
		return false
	}
	b := *t.bucket(c.id)
	if slices.ContainsFunc(b, func(k known) bool { return k.id == c.id || k.addr == c.addr }) {
		return false
	}
	return len(b) < bucketSize || slices.ContainsFunc(b, known.bad)
}

func (k known) bad() bool { return k.misses >= maxMisses }

// answered notes that a node has answered, and takes it in when there is place. A bucket takes one node of an
// address of the internet, so that one host cannot fill it with ids; on one machine, or in one site, many
// addresses are the same host in tests and behind translators.
func (t *table) answered(c contact, at time.Time) {
	if c.id == t.self {
		return
	}
	b := t.bucket(c.id)
	for i := range *b {
		k := &(*b)[i]
		switch {
		case k.id == c.id && k.addr == c.addr:
			k.heard, k.misses = at, 0
			return
		case k.id == c.id || k.addr == c.addr:
			if !k.bad() {
				return // somebody else's id, or a node that has changed its own: who was there first stays
			}
			*k = known{c, at, 0}
			return
		case k.addr.Addr() == c.addr.Addr() && peerwire.Scope(c.addr.Addr()) == 0:
			return
		}
	}
	if len(*b) < bucketSize {
		*b = append(*b, known{c, at, 0})
		return
	}
	if i := slices.IndexFunc(*b, known.bad); i >= 0 {
		(*b)[i] = known{c, at, 0}
	}
}

// missed notes that a node has not answered. It stays, as a bad one, until another wants its place or it has
// missed twice as many: a network that is down for a while must not empty the table.
func (t *table) missed(c contact) {
	b := t.bucket(c.id)
	for i := range *b {
		if k := &(*b)[i]; k.contact == c {
			if k.misses++; k.misses >= 2*maxMisses {
				*b = slices.Delete(*b, i, i+1)
			}
			return
		}
	}
}

// nearest are up to n nodes that are not bad, nearest first.
func (t *table) nearest(target nodeID, n int) (all []contact) {
	for _, b := range t.buckets {
		for _, k := range b {
			if !k.bad() {
				all = append(all, k.contact)
			}
		}
	}
	slices.SortFunc(all, func(a, b contact) int {
		switch {
		case nearer(target, a.id, b.id):
			return -1
		case nearer(target, b.id, a.id):
			return 1
		}
		return bytes.Compare(a.id[:], b.id[:])
	})
	return all[:min(n, len(all))]
}

// stale are the nodes that are to be asked whether they are still there.
func (t *table) stale(at time.Time) (all []contact) {
	for _, b := range t.buckets {
		for _, k := range b {
			if at.Sub(k.heard) > freshFor || k.misses > 0 {
				all = append(all, k.contact)
			}
		}
	}
	return all
}

// count is how many nodes are known that are not bad.
func (t *table) count() (n int) {
	for _, b := range t.buckets {
		for _, k := range b {
			if !k.bad() {
				n++
			}
		}
	}
	return n
}
