package tracker

import (
	"cmp"
	linked "container/list"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
)

// What a tracker keeps about images: which files nodes say are the indexes of layers, and the last profiles of each
// image. Both are bounded in bytes, and the ones that nobody has spoken of for longest go first. What somebody claims
// lives as long as it is repeated, for nobody serves the index of a node that is gone.

const (
	claimKept = 30 * time.Minute // since it was last repeated: nodes do so every five minutes
	// profileKept is how long an image is remembered that nobody starts.
	profileKept = 30 * 24 * time.Hour
	maxVouches  = 32       // about one layer
	maxOfHost   = 4        // of one host, that stand behind the same claim: several behind one address, or on one machine
	maxProfiles = 16       // of one image: as many as image/profile merges
	layerBudget = 64 << 20 // bytes: 100 000 layers that five hosts have
	imageBudget = 64 << 20 // bytes: 1000 images of 16 profiles of 4 KiB

	layerCost  = 300 // of a layer without claims: record, map and list
	claimCost  = 96
	vouchCost  = 64
	imageCost  = 400
	reportCost = 64
)

// hostID is one host to which claims and profiles are attributed: an address of IPv4, or the network of one of IPv6.
type hostID [16]byte

func hostOf(a netip.Addr) hostID {
	h := hostID(a.As16())
	if !a.Unmap().Is4() {
		clear(h[8:]) // whoever has one address of IPv6 has 2^64 of them
	}
	return h
}

// shelf is what a tracker keeps. It starts nothing and is told the time. Safe for concurrent use.
type shelf struct {
	mu     sync.Mutex // guards everything below; innermost, held for microseconds for each record, never over I/O
	layers rack[*layerRecord]
	images rack[*imageRecord]
}

func newShelf() *shelf {
	return &shelf{layers: newRack[*layerRecord](layerBudget, claimKept), images: newRack[*imageRecord](imageBudget, profileKept)}
}

// layerRecord is what hosts say about the index of one layer.
type layerRecord struct {
	claims  []IndexClaim // distinct files, the oldest first; at most maxClaims
	vouches []vouch      // each host stands behind one claim at most, with maxOfHost of its nodes
}

// vouch is the word of one node of a host.
type vouch struct {
	host      hostID
	peer      planPeer
	claim     uint8 // index in claims
	trust     blob.Trust
	since, at int64 // when it was said first, and last; Unix seconds
}

// knows reports whether the host does not only believe what it says.
func (v *vouch) knows() bool { return v.trust > blob.Claimed }

// before reports whether a word makes room before another one does.
func (v *vouch) before(o *vouch) bool {
	if v.knows() != o.knows() {
		return o.knows()
	}
	return v.at < o.at
}

func (r *layerRecord) cost() int {
	return layerCost + len(r.claims)*claimCost + len(r.vouches)*vouchCost
}

// vouch takes in the word of a node; false: there is no room for it.
func (r *layerRecord) vouch(c IndexClaim, v vouch) bool {
	i := slices.IndexFunc(r.claims, func(o IndexClaim) bool { return o.same(&c) })
	oldest, nodes := -1, 0 // of the host's words about this claim
	for k := len(r.vouches) - 1; k >= 0; k-- {
		switch o := &r.vouches[k]; {
		case o.host != v.host:
		case int(o.claim) != i:
			if o.at > v.at {
				return true // it has been overtaken
			}
		case o.peer.addr.Port() == v.peer.addr.Port():
			if o.at <= v.at { // else it has been overtaken
				o.at, o.peer = v.at, v.peer
				o.since = min(o.since, v.since)
			}
			return true
		default:
			if nodes++; oldest < 0 || o.at <= r.vouches[oldest].at {
				oldest = k
			}
		}
	}
	if nodes > 0 { // so the host has said nothing else
		if nodes == maxOfHost {
			r.drop(oldest)
		}
	} else if r.dropHost(v.host) {
		i = slices.IndexFunc(r.claims, func(o IndexClaim) bool { return o.same(&c) }) // the other one may be gone
	}
	if i < 0 {
		// A claim that others stand behind is not pushed out by new ones: they would have to come first.
		if len(r.claims) == maxClaims || len(r.vouches) == maxVouches {
			return false
		}
		i, r.claims = len(r.claims), append(r.claims, IndexClaim{Root: c.Root, Digest: c.Digest, Size: c.Size})
	}
	v.claim, v.trust = uint8(i), c.Trust
	if len(r.vouches) == maxVouches {
		oldest := -1 // of those that say the same; rather one that only believes it
		for k := range r.vouches {
			if o := &r.vouches[k]; int(o.claim) == i && (oldest < 0 || o.before(&r.vouches[oldest])) {
				oldest = k
			}
		}
		if oldest < 0 || !v.knows() && r.vouches[oldest].knows() {
			return false
		}
		r.vouches[oldest] = v
		return true
	}
	r.vouches = append(r.vouches, v)
	return true
}

// dropHost takes back all that a host has said, and reports whether there was something.
func (r *layerRecord) dropHost(host hostID) (any bool) {
	for k := len(r.vouches) - 1; k >= 0; k-- {
		if r.vouches[k].host == host {
			r.drop(k)
			any = true
		}
	}
	return any
}

// drop takes back the word of a node.
func (r *layerRecord) drop(k int) {
	claim := r.vouches[k].claim
	r.vouches = slices.Delete(r.vouches, k, k+1)
	if slices.ContainsFunc(r.vouches, func(o vouch) bool { return o.claim == claim }) {
		return
	}
	r.claims = slices.Delete(r.claims, int(claim), int(claim)+1)
	for i := range r.vouches {
		if r.vouches[i].claim > claim {
			r.vouches[i].claim--
		}
	}
}

// expire takes back what was not repeated since a time.
func (r *layerRecord) expire(before int64) {
	for k := len(r.vouches) - 1; k >= 0; k-- {
		if r.vouches[k].at < before {
			r.drop(k)
		}
	}
}

// list is what a node is told: the claim that most hosts have found out themselves first, and of equals the oldest.
func (r *layerRecord) list(layer blob.Hash, asks hostID, port uint16) []layerClaim {
	all := make([]layerClaim, len(r.claims))
	since := make([]int64, len(r.claims))
	order := make([]int, len(r.claims))
	for i, c := range r.claims {
		order[i], all[i] = i, layerClaim{layer: layer, IndexClaim: c}
	}
	counted := make(map[hostID]bool, len(r.vouches))
	newest := slices.Clone(r.vouches)
	slices.SortFunc(newest, func(a, b vouch) int {
		return cmp.Or(cmp.Compare(b.at, a.at), slices.Compare(a.host[:], b.host[:]), a.peer.addr.Compare(b.peer.addr))
	})
	for _, v := range newest {
		c := &all[v.claim]
		if v.knows() && !counted[v.host] { // who only believes it adds nothing: else a lie that is believed would win
			counted[v.host] = true
			c.Vouchers++
		}
		if since[v.claim] == 0 || v.since < since[v.claim] {
			since[v.claim], c.Trust = v.since, v.trust
		}
		if v.peer.addr.Port() != 0 && len(c.peers) < maxClaimPeers && !(v.host == asks && v.peer.addr.Port() == port) {
			c.peers = append(c.peers, v.peer)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(all[b].Vouchers, all[a].Vouchers), cmp.Compare(since[a], since[b]), slices.Compare(all[a].Root[:], all[b].Root[:]))
	})
	sorted := make([]layerClaim, len(all))
	for i, k := range order {
		sorted[i] = all[k]
	}
	return sorted
}

// imageRecord is the last profiles of one image.
type imageRecord struct {
	reports []report // the oldest first; of each host one at most
	bytes   int
	changes int    // of reports, so far
	merged  []byte // nil: has to be made
}

type report struct {
	host    hostID
	at      int64 // Unix seconds
	profile []byte
}

func (r *imageRecord) cost() int {
	return imageCost + len(r.reports)*reportCost + r.bytes + len(r.merged)
}

// put takes in the profile of a host; the oldest one makes room.
func (r *imageRecord) put(one report) {
	if own := slices.IndexFunc(r.reports, func(o report) bool { return o.host == one.host }); own >= 0 {
		if r.reports[own].at > one.at || slices.Equal(r.reports[own].profile, one.profile) {
			return
		}
		r.remove(own)
	}
	at, _ := slices.BinarySearchFunc(r.reports, one.at+1, func(o report, at int64) int { return cmp.Compare(o.at, at) })
	r.reports = slices.Insert(r.reports, at, one)
	r.bytes += len(one.profile)
	r.changes++
	r.merged = nil
	if len(r.reports) > maxProfiles {
		r.remove(0)
	}
}

func (r *imageRecord) remove(k int) {
	r.bytes -= len(r.reports[k].profile)
	r.reports = slices.Delete(r.reports, k, k+1)
}

// vouch takes in what a host says about a layer; false: there is no room for it.
func (s *shelf) vouch(now time.Time, layer blob.Hash, c IndexClaim, v vouch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.at = min(v.at, now.Unix()) // a tracker whose clock is ahead must not keep a claim alive
	v.since = min(v.since, v.at)
	if v.at < now.Add(-claimKept).Unix() {
		return false
	}
	r, ok := s.layers.get(layer)
	if !ok {
		r = new(layerRecord)
	}
	r.expire(now.Add(-claimKept).Unix())
	took := r.vouch(c, v)
	s.layers.put(layer, r, r.cost(), now)
	return took
}

// anyPort is for all nodes of a host.
const anyPort = -1

// drop takes back what the node at a port of a host said about a layer. When another one of the host says it too, that
// one's word stays, and drop is false.
func (s *shelf) drop(layer blob.Hash, host hostID, port int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.layers.get(layer)
	if !ok {
		return true
	}
	if port == anyPort {
		r.dropHost(host)
	} else if own := slices.IndexFunc(r.vouches, func(o vouch) bool { return o.host == host && int(o.peer.addr.Port()) == port }); own >= 0 {
		r.drop(own)
	}
	left := slices.ContainsFunc(r.vouches, func(o vouch) bool { return o.host == host })
	if len(r.vouches) == 0 {
		s.layers.remove(layer)
		return true
	}
	s.layers.resize(layer, r.cost())
	return !left
}

// claims is what a node is told about layers. It is the node at port of host asks, which is not told of itself.
func (s *shelf) claims(now time.Time, layers []blob.Hash, asks hostID, port uint16) (all []layerClaim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, layer := range layers {
		if r, ok := s.layers.get(layer); ok {
			r.expire(now.Add(-claimKept).Unix())
			all = append(all, r.list(layer, asks, port)...)
		}
	}
	return all
}

// report takes in a profile, which the shelf keeps.
func (s *shelf) report(now time.Time, image blob.Hash, one report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one.at = min(one.at, now.Unix())
	r, ok := s.images.get(image)
	if !ok {
		r = new(imageRecord)
	}
	r.put(one)
	s.images.put(image, r, r.cost(), now)
}

// profile is the merged profile of an image; nil: there is none. merge is called without a lock.
func (s *shelf) profile(now time.Time, image blob.Hash, merge func([][]byte) []byte) []byte {
	s.mu.Lock()
	r, ok := s.images.get(image)
	if !ok || r.merged != nil {
		defer s.mu.Unlock()
		if !ok {
			return nil
		}
		s.images.put(image, r, r.cost(), now)
		return r.merged
	}
	all := make([][]byte, len(r.reports))
	for i := range all {
		all[i] = r.reports[i].profile
	}
	changes := r.changes
	s.mu.Unlock()
	merged := merge(all)
	if len(merged) > maxProfile {
		merged = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Reports that came meanwhile are in the next one.
	if again, ok := s.images.get(image); ok && again == r && len(merged) > 0 {
		if r.changes == changes {
			r.merged = merged
		}
		s.images.put(image, r, r.cost(), now)
	}
	return merged
}

// sweep forgets what has expired.
func (s *shelf) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers.sweep(now)
	s.images.sweep(now)
}

// shelfStats is what /stats says about records.
type shelfStats struct {
	Layers int   `json:"layers"`
	Images int   `json:"images"`
	Bytes  int64 `json:"bytes"`
}

func (s *shelf) stats() shelfStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return shelfStats{len(s.layers.all), len(s.images.all), int64(s.layers.bytes + s.images.bytes)}
}

// rack keeps values under digests, as long as their bytes fit: those that were not put for longest go first. It has no
// lock of its own.
type rack[V any] struct {
	budget, bytes int
	keep          time.Duration
	all           map[blob.Hash]*linked.Element
	order         *linked.List // of *slot[V], the last put first
}

type slot[V any] struct {
	key   blob.Hash
	value V
	cost  int
	put   time.Time
}

func newRack[V any](budget int, keep time.Duration) rack[V] {
	return rack[V]{budget: budget, keep: keep, all: map[blob.Hash]*linked.Element{}, order: linked.New()}
}

func (r *rack[V]) get(key blob.Hash) (v V, ok bool) {
	if e := r.all[key]; e != nil {
		return e.Value.(*slot[V]).value, true
	}
	return v, false
}

// put keeps a value, and makes room for it.
func (r *rack[V]) put(key blob.Hash, value V, cost int, now time.Time) {
	e := r.all[key]
	if e == nil {
		e = r.order.PushFront(&slot[V]{key: key})
		r.all[key] = e
	}
	r.order.MoveToFront(e)
	s := e.Value.(*slot[V])
	s.value, s.put = value, now
	r.resize(key, cost)
	for r.bytes > r.budget && r.order.Len() > 1 {
		r.remove(r.order.Back().Value.(*slot[V]).key)
	}
}

// resize notes what a value costs now.
func (r *rack[V]) resize(key blob.Hash, cost int) {
	s := r.all[key].Value.(*slot[V])
	r.bytes += cost - s.cost
	s.cost = cost
}

func (r *rack[V]) remove(key blob.Hash) {
	e := r.all[key]
	r.bytes -= e.Value.(*slot[V]).cost
	delete(r.all, key)
	r.order.Remove(e)
}

// sweep removes what was not put for long.
func (r *rack[V]) sweep(now time.Time) {
	for e := r.order.Back(); e != nil && now.Sub(e.Value.(*slot[V]).put) > r.keep; e = r.order.Back() {
		r.remove(e.Value.(*slot[V]).key)
	}
}
