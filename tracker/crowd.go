package tracker

import (
	"fmt"
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/pantala/pantala/blob"
)

// A crowd is what the tracker keeps of the peers of one swarm that do not plan: BitTorrent clients of any make.
// There may be a million of them, in one swarm or in a million, so they are kept without pointers, in 48 bytes an
// address: the garbage collector does not look at them, and a swarm of one peer costs no allocation of its own.

// spot is one address of a plain peer.
type spot struct {
	id     peerID
	secret uint32 // what the peer proves itself by when its address changes; 0: nothing
	seen   uint32 // tick of its last announce
	ip     [16]byte
	port   uint16 // 0: cannot be reached
}

// chunk is how many spots are allocated at once in a big table: 12 KiB, so that growing copies nothing.
const (
	chunk     = 256
	scanUntil = 16 // spots that are compared one by one: about what one miss of an index costs
)

// idSeed keeps strangers from choosing peer ids, or info hashes, that collide.
var idSeed = maphash.MakeSeed()

func hashOf(id *[20]byte) uint64 { return maphash.Bytes(idSeed, id[:]) }

// table holds the spots of one address family, seeds first. The zero value is empty.
//
// INVARIANT: positions 0..seeds-1 are seeds, seeds..n-1 are not; index, if there is one, has pos+1 of every
// spot within the run of non-zero entries that begins at its hash.
type table struct {
	first    []spot // positions below chunk; grown by doubling
	rest     []*[chunk]spot
	index    []uint32 // open addressing; nil while n ≤ scanUntil
	n, seeds uint32
}

func (t *table) at(pos uint32) *spot {
	if pos < chunk {
		return &t.first[pos]
	}
	return &t.rest[pos/chunk-1][pos%chunk]
}

// find returns the position of a peer.
func (t *table) find(id *peerID) (pos uint32, ok bool) {
	if t.index == nil {
		for pos := range t.n {
			if t.first[pos].id == *id {
				return pos, true
			}
		}
		return 0, false
	}
	mask := uint64(len(t.index) - 1)
	for slot := hashOf((*[20]byte)(id)) & mask; t.index[slot] != 0; slot = (slot + 1) & mask {
		if pos := t.index[slot] - 1; t.at(pos).id == *id {
			return pos, true
		}
	}
	return 0, false
}

// slot is where the index has position pos, whose peer is id.
func (t *table) slot(id *peerID, pos uint32) uint64 {
	mask := uint64(len(t.index) - 1)
	slot := hashOf((*[20]byte)(id)) & mask
	for t.index[slot] != pos+1 {
		slot = (slot + 1) & mask
	}
	return slot
}

// enter puts position pos into the index.
func (t *table) enter(id *peerID, pos uint32) {
	mask := uint64(len(t.index) - 1)
	slot := hashOf((*[20]byte)(id)) & mask
	for t.index[slot] != 0 {
		slot = (slot + 1) & mask
	}
	t.index[slot] = pos + 1
}

// rebuild makes the index for n spots, at most half full.
func (t *table) rebuild() {
	t.index = nil
	if t.n <= scanUntil {
		return
	}
	t.index = make([]uint32, 1<<bits.Len32(2*t.n-1))
	for pos := range t.n {
		t.enter(&t.at(pos).id, pos)
	}
}

// move copies the spot at from over the one at to, which is forgotten already.
func (t *table) move(from, to uint32) {
	if from == to {
		return
	}
	s := t.at(from)
	if t.index != nil {
		t.index[t.slot(&s.id, from)] = to + 1
	}
	*t.at(to) = *s
}

// insert adds a peer that is not there and returns its position.
func (t *table) insert(s *spot, seed bool) uint32 {
	pos := t.n
	switch {
	case pos < chunk && int(pos) == len(t.first):
		// Doubling by hand: append would round 2 up to the next size class, and then some.
		grown := make([]spot, min(max(2, 2*len(t.first)), chunk))
		copy(grown, t.first)
		t.first = grown
	case pos >= chunk && int(pos/chunk-1) == len(t.rest):
		t.rest = append(t.rest, new([chunk]spot))
	}
	t.n++
	if seed {
		t.move(t.seeds, pos)
		pos = t.seeds
		t.seeds++
	}
	*t.at(pos) = *s
	if t.index == nil || 4*t.n > 3*uint32(len(t.index)) {
		t.rebuild()
	} else {
		t.enter(&s.id, pos)
	}
	return pos
}

// remove forgets the peer at pos. Positions of others change.
func (t *table) remove(pos uint32) {
	if t.index != nil {
		t.leave(t.slot(&t.at(pos).id, pos))
	}
	if pos < t.seeds {
		t.seeds--
		t.move(t.seeds, pos)
		pos = t.seeds
	}
	t.n--
	t.move(t.n, pos)
	*t.at(t.n) = spot{}
	t.shrink()
}

// leave empties a slot of the index and closes the gap.
func (t *table) leave(hole uint64) {
	mask := uint64(len(t.index) - 1)
	for slot := (hole + 1) & mask; t.index[slot] != 0; slot = (slot + 1) & mask {
		home := hashOf((*[20]byte)(&t.at(t.index[slot]-1).id)) & mask
		if (slot-home)&mask >= (slot-hole)&mask {
			t.index[hole] = t.index[slot]
			hole = slot
		}
	}
	t.index[hole] = 0
}

// shrink gives back what is no longer needed: not before three quarters are empty, so that a swarm that breathes
// does not allocate.
func (t *table) shrink() {
	need := (int(t.n) + chunk - 1) / chunk // one chunk more than needed is kept …
	if t.n < chunk/2 {
		need = 0 // … but not here
	}
	if len(t.rest) > need {
		t.rest = slices.Delete(t.rest, need, len(t.rest))
	}
	if len(t.first) > 8 && int(t.n) < len(t.first)/4 {
		t.first = slices.Clip(slices.Clone(t.first[:len(t.first)/2]))
	}
	if len(t.index) > 0 && int(t.n) < len(t.index)/8 {
		t.rebuild()
	}
}

// mark makes the peer at pos a seed, or not, and returns its position from then on.
func (t *table) mark(pos uint32, seed bool) uint32 {
	if pos < t.seeds == seed {
		return pos
	}
	border := t.seeds // the first that is not a seed …
	if seed {
		t.seeds++
	} else {
		t.seeds--
		border = t.seeds // … or the last seed
	}
	if pos != border {
		a, b := t.at(pos), t.at(border)
		if t.index != nil {
			x, y := t.slot(&a.id, pos), t.slot(&b.id, border)
			t.index[x], t.index[y] = border+1, pos+1
		}
		*a, *b = *b, *a
	}
	return border
}

// crowd is one swarm: a lone peer inside, more in tables.
type crowd struct {
	key   key
	ended uint32 // members that told the end of their download (BEP 48)
	lone  spot   // when alone
	alone bool
	seed  bool    // the lone peer is one
	many  *tables // once there were two
}

// tables hold a crowd of two and more. A peer that announces over IPv4 and IPv6 is in both, and is one peer.
type tables struct {
	four, six        table
	twins, twinSeeds uint32 // that are in both, and those of them that are seeds
}

// family is the table for addresses like ip, and the other one.
func (m *tables) family(six bool) (mine, other *table) {
	if six {
		return &m.six, &m.four
	}
	return &m.four, &m.six
}

// errOtherSecret refuses to let one peer speak for another.
var errOtherSecret = fmt.Errorf("%w: this peer_id is announced from another address with another key: choose another peer_id, or wait until that one is forgotten", blob.ErrDenied)

func is6(ip *[16]byte) bool { return !netip.AddrFrom16(*ip).Is4In6() }

// same reports whether s may be told by a peer at ip that proves itself by secret.
func (s *spot) same(ip [16]byte, secret uint32) bool { return s.ip == ip || s.secret == secret }

// open makes tables of a lone peer.
func (c *crowd) open() *tables {
	if c.many == nil {
		c.many = new(tables)
		if c.alone {
			t, _ := c.many.family(is6(&c.lone.ip))
			t.insert(&c.lone, c.seed)
		}
		c.alone, c.lone = false, spot{}
	}
	return c.many
}

// put adds a peer or renews what is known of it. seed: 1 yes, 0 no, -1 not told. fresh: it, or this address of
// it, was not known; count is by how many peers the crowd has grown.
func (c *crowd) put(s *spot, seed int) (fresh bool, count int, err error) {
	if c.many == nil {
		switch {
		case !c.alone:
			c.lone, c.alone, c.seed = *s, true, seed == 1
			return true, 1, nil
		case c.lone.id == s.id && is6(&c.lone.ip) == is6(&s.ip):
			if !c.lone.same(s.ip, s.secret) {
				return false, 0, errOtherSecret
			}
			fresh = c.lone.ip != s.ip || c.lone.port != s.port
			c.lone, c.seed = *s, seed == 1 || seed < 0 && c.seed
			return fresh, 0, nil
		}
	}
	m := c.open()
	mine, other := m.family(is6(&s.ip))
	pos, ok := mine.find(&s.id)
	twin, both := uint32(0), false
	if other.n > 0 {
		twin, both = other.find(&s.id)
	}
	if ok && !mine.at(pos).same(s.ip, s.secret) {
		return false, 0, errOtherSecret
	}
	was := ok && pos < mine.seeds || !ok && both && twin < other.seeds
	is := seed == 1 || seed < 0 && was
	if ok {
		old := mine.at(pos)
		fresh = old.ip != s.ip || old.port != s.port
		*old = *s
		mine.mark(pos, is)
	} else {
		fresh = true
		mine.insert(s, is)
	}
	if !both {
		if !ok {
			count = 1
		}
		return fresh, count, nil
	}
	other.mark(twin, is)
	if !ok {
		m.twins++
		m.twinSeeds += b2u(is)
	} else {
		m.twinSeeds += b2u(is) - b2u(was)
	}
	return fresh, 0, nil
}

func b2u(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// drop removes a peer that says goodbye, and both its addresses. It returns by how many peers the crowd shrank.
func (c *crowd) drop(id *peerID, ip [16]byte, secret uint32) int {
	if c.many == nil {
		if c.alone && c.lone.id == *id && c.lone.same(ip, secret) {
			c.alone, c.lone = false, spot{}
			return 1
		}
		return 0
	}
	// Who may speak for one address may speak for both: the other one was told with the same secret.
	gone := 0
	for _, six := range [...]bool{false, true} {
		mine, _ := c.many.family(six)
		if pos, ok := mine.find(id); ok && mine.at(pos).same(ip, secret) {
			gone += c.many.remove(six, pos)
		}
	}
	return gone
}

// remove forgets one address, and returns by how many peers the crowd shrank: not at all while the peer has
// another one.
func (m *tables) remove(six bool, pos uint32) int {
	mine, other := m.family(six)
	id, seed, both := mine.at(pos).id, pos < mine.seeds, false
	if other.n > 0 {
		_, both = other.find(&id)
	}
	mine.remove(pos)
	if !both {
		return 1
	}
	m.twins--
	m.twinSeeds -= b2u(seed)
	return 0
}

// count returns how many peers have all, and how many do not.
func (c *crowd) count() (complete, incomplete int64) {
	if m := c.many; m != nil {
		complete = int64(m.four.seeds+m.six.seeds) - int64(m.twinSeeds)
		return complete, int64(m.four.n+m.six.n) - int64(m.twins) - complete
	}
	if !c.alone {
		return 0, 0
	}
	return int64(b2u(c.seed)), 1 - int64(b2u(c.seed))
}

// families say which addresses a peer is to be told.
type families uint8

const (
	only4 families = 1 << iota
	only6
	anyFamily = only4 | only6
)

// sample adds up to limit peers other than id to f. A seed, which is one for certain, has no use for other seeds.
func (c *crowd) sample(f *found, id *peerID, limit int, which families, seed bool) {
	m := c.many
	if m == nil {
		if c.alone && limit > 0 && c.lone.id != *id && !(seed && c.seed) {
			if six := is6(&c.lone.ip); six && which&only6 != 0 || !six && which&only4 != 0 {
				f.add(&c.lone, six)
			}
		}
		return
	}
	four, six := 0, 0
	if which&only4 != 0 {
		four = m.four.useful(seed)
	}
	if which&only6 != 0 {
		six = m.six.useful(seed)
	}
	sixes := 0 // of limit: as many of a hundred as there are in the crowd, rounded up
	if six > 0 {
		sixes = (limit*six + four + six - 1) / (four + six)
	}
	m.six.sample(f, id, min(sixes, limit), m.six.n-uint32(six), m.six.n, true)
	m.four.sample(f, id, min(limit-min(sixes, six), four), m.four.n-uint32(four), m.four.n, false)
}

// useful is how many peers may be told.
func (t *table) useful(seed bool) int {
	if seed {
		return int(t.n - t.seeds)
	}
	return int(t.n)
}

// sample picks up to limit peers other than id from positions from..to-1: these are cut into limit+1 parts of
// equal length, beginning anywhere, and one of each part is told (one part more because one peer may be id). So all
// have the same chance, none is told twice, and the cost does not depend on the size of the swarm.
func (t *table) sample(f *found, id *peerID, limit int, low, high uint32, six bool) {
	n := uint64(high - low)
	if n == 0 || limit <= 0 {
		return
	}
	parts := min(uint64(limit)+1, n)
	r := rand.Uint64()
	begin := r % n
	for i := uint64(0); i < parts && limit > 0; i++ {
		from, to := i*n/parts, (i+1)*n/parts
		at := from
		if to-from > 1 {
			r = r*6364136223846793005 + 1442695040888963407 // Knuth's MMIX generator: its high bits are good
			at += (r >> 33) % (to - from)
		}
		if at += begin; at >= n {
			at -= n
		}
		s := t.at(low + uint32(at))
		if s.port == 0 || s.id == *id {
			continue
		}
		f.add(s, six)
		limit--
	}
}

// expire looks at up to budget addresses from where it was left (0 at first) and forgets those last seen before
// the tick limit. It returns where to go on, whether it is through, and by how many peers the crowd shrank.
func (c *crowd) expire(from, limit uint32, budget int) (next uint32, done bool, gone int) {
	if c.many == nil {
		if c.alone && c.lone.seen < limit {
			c.alone, c.lone = false, spot{}
			return 0, true, 1
		}
		return 0, true, 0
	}
	// Positions of both tables, one behind the other. What is removed is replaced by a peer from behind, which
	// is looked at next; seeds and others may change places, and be looked at only in the next round.
	for ; budget > 0; budget-- {
		mine, six, at := &c.many.four, false, from
		if at >= mine.n {
			if at -= mine.n; at >= c.many.six.n {
				return 0, true, gone
			}
			mine, six = &c.many.six, true
		}
		if mine.at(at).seen < limit {
			gone += c.many.remove(six, at)
			continue
		}
		from++
	}
	return from, false, gone
}

// found is what an announce brings back.
type found struct {
	complete, incomplete int64
	four, six            []byte     // compact peers (BEP 23, BEP 7) …
	list                 []planPeer // … or, when named, with their ids
	named                bool
	blocked              *Blocklist // who is on it is left out
}

// reset makes f empty and keeps its memory.
func (f *found) reset(named bool) {
	*f = found{four: f.four[:0], six: f.six[:0], list: f.list[:0], named: named}
}

// peers is how many there are.
func (f *found) peers() int { return len(f.four)/6 + len(f.six)/18 + len(f.list) }

// add appends one peer that can be reached.
func (f *found) add(s *spot, six bool) {
	switch {
	case s.port == 0:
	case f.blocked != nil && (f.blocked.peer(&s.id) || f.blocked.addr(netip.AddrFrom16(s.ip))):
	case f.named:
		f.list = append(f.list, planPeer{netip.AddrPortFrom(netip.AddrFrom16(s.ip).Unmap(), s.port), s.id})
	case six:
		f.six = append(append(f.six, s.ip[:]...), byte(s.port>>8), byte(s.port))
	default:
		f.four = append(append(f.four, s.ip[12:]...), byte(s.port>>8), byte(s.port))
	}
}
