package tracker

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
)

// shardCount is among how many locks the swarms are divided: with 64, eight cores that announce all the time find
// one taken once in ten tries.
const shardCount = 64

// crowdChunk is how many crowds are allocated at once, in place of one by one: 5.5 KiB.
const crowdChunk = 64

// defaultMaxPeers is how many plain peers are kept when nobody says: in the worst case, swarms of two, they are
// 370 MiB.
const defaultMaxPeers = 2 << 20

// tickLength is the unit in which is kept when a peer was seen: uint32 lasts for 13 years.
const tickLength = 100 * time.Millisecond

// plainStore keeps the peers that do not plan, of all swarms. It is safe for concurrent use.
type plainStore struct {
	began    time.Time
	keep     time.Duration // how long a peer is kept after its last announce
	maxPeers int64
	peers    atomic.Int64 // of all swarms
	shards   [shardCount]shard

	// Owned by the janitor, which calls sweep.
	swept time.Time
	debt  float64 // shards that should have been swept by now
	next  int
}

// shard is the swarms whose hash falls to it.
type shard struct {
	mu     sync.Mutex           // guards everything below; innermost, held for microseconds, never over I/O
	index  []uint32             // open addressing: number of the crowd + 1
	chunks []*[crowdChunk]crowd // crowds by number
	made   uint32               // numbers given out so far; some are in free
	free   []uint32
	n      int // crowds in use
}

func newPlainStore(began time.Time, keep time.Duration, maxPeers int) *plainStore {
	return &plainStore{began: began, keep: keep, maxPeers: int64(maxPeers), swept: began}
}

func (p *plainStore) tick(now time.Time) uint32 { return uint32(max(0, now.Sub(p.began)/tickLength)) }

func (p *plainStore) shard(k *key) (*shard, uint64) {
	h := hashOf((*[20]byte)(k))
	return &p.shards[h>>58], h // 6 bits of the top; the index uses those of the bottom
}

func (s *shard) at(number uint32) *crowd { return &s.chunks[number/crowdChunk][number%crowdChunk] }

// find returns the crowd of a swarm and its place in the index; nil when there is none.
func (s *shard) find(k *key, h uint64) (c *crowd, slot uint64) {
	if len(s.index) == 0 {
		return nil, 0
	}
	mask := uint64(len(s.index) - 1)
	for slot := h & mask; s.index[slot] != 0; slot = (slot + 1) & mask {
		if c := s.at(s.index[slot] - 1); c.key == *k {
			return c, slot
		}
	}
	return nil, 0
}

// add makes the crowd of a swarm that has none.
func (s *shard) add(k *key, h uint64) *crowd {
	if 4*(s.n+1) > 3*len(s.index) {
		s.resize(max(64, 2*len(s.index)))
	}
	number := s.made
	if last := len(s.free) - 1; last >= 0 {
		number, s.free = s.free[last], s.free[:last]
	} else {
		if s.made++; int(number/crowdChunk) == len(s.chunks) {
			s.chunks = append(s.chunks, new([crowdChunk]crowd))
		}
	}
	s.n++
	c := s.at(number)
	*c = crowd{key: *k}
	s.enter(h, number)
	return c
}

func (s *shard) enter(h uint64, number uint32) {
	mask := uint64(len(s.index) - 1)
	slot := h & mask
	for s.index[slot] != 0 {
		slot = (slot + 1) & mask
	}
	s.index[slot] = number + 1
}

// resize makes the index new.
func (s *shard) resize(size int) {
	old := s.index
	s.index = make([]uint32, size)
	for _, e := range old {
		if e != 0 {
			s.enter(hashOf((*[20]byte)(&s.at(e-1).key)), e-1)
		}
	}
}

// remove forgets the crowd in a slot of the index.
func (s *shard) remove(hole uint64) {
	number := s.index[hole] - 1
	mask := uint64(len(s.index) - 1)
	for slot := (hole + 1) & mask; s.index[slot] != 0; slot = (slot + 1) & mask {
		home := hashOf((*[20]byte)(&s.at(s.index[slot]-1).key)) & mask
		if (slot-home)&mask >= (slot-hole)&mask {
			s.index[hole] = s.index[slot]
			hole = slot
		}
	}
	s.index[hole] = 0
	*s.at(number) = crowd{}
	s.n--
	if s.n == 0 { // a wave has passed: start over small
		s.index, s.chunks, s.free, s.made = nil, nil, nil, 0
		return
	}
	s.free = append(s.free, number)
	if len(s.index) > 64 && s.n < len(s.index)/8 {
		s.resize(len(s.index) / 2)
	}
}

// tidy forgets a crowd without peers, and reports whether it was one.
func (s *shard) tidy(c *crowd, slot uint64) bool {
	complete, incomplete := c.count()
	if complete+incomplete > 0 {
		return false
	}
	s.remove(slot)
	return true
}

// errNoRoom says that the bound of the operator was reached.
func (p *plainStore) errNoRoom() error {
	return fmt.Errorf("%w: the tracker keeps %d peers and no more: use another tracker, or give this one a higher --max-peers", blob.ErrUnavailable, p.maxPeers)
}

// announce applies what a plain peer says and adds to f the counts of its swarm and up to limit others. fresh
// reports that a peer, or an address of one, was not known before.
func (p *plainStore) announce(now time.Time, r *announceRequest, addr netip.AddrPort, f *found, limit int, which families) (fresh bool, err error) {
	sh, h := p.shard(&r.key)
	ip := addr.Addr().As16()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c, slot := sh.find(&r.key, h)
	if r.event == stopped {
		if c != nil {
			p.peers.Add(int64(-c.drop(&r.peer, ip, r.secret)))
			f.complete, f.incomplete = c.count()
			sh.tidy(c, slot)
		}
		return false, nil
	}
	// Swarms are bounded by the same number: each begins with a peer. An address of a peer that is known is
	// refused with the rest; that it has two is rare, and so is a full tracker.
	if p.peers.Load() >= p.maxPeers && (c == nil || !c.knows(&r.peer)) {
		return false, p.errNoRoom()
	}
	if c == nil {
		c = sh.add(&r.key, h)
	}
	seed := -1
	if r.left >= 0 {
		seed = int(b2u(r.left == 0))
	}
	fresh, count, err := c.put(&spot{id: r.peer, secret: r.secret, seen: p.tick(now), ip: ip, port: addr.Port()}, seed)
	p.peers.Add(int64(count))
	if err != nil {
		return false, err
	}
	if r.event == completed && c.ended < 1<<32-1 {
		c.ended++
	}
	f.complete, f.incomplete = c.count()
	if limit > 0 {
		// aria2, when a magnet link is all that it has, says at first that nothing is left.
		c.sample(f, &r.peer, limit, which, r.event != started && c.isSeed(&r.peer))
	}
	return fresh, nil
}

// forget removes a peer that has begun to plan.
func (p *plainStore) forget(k *key, id *peerID) {
	sh, h := p.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c, slot := sh.find(k, h)
	if c == nil {
		return
	}
	if c.alone && c.lone.id == *id {
		p.peers.Add(int64(-c.drop(id, c.lone.ip, c.lone.secret)))
	} else if c.many != nil {
		for _, six := range [...]bool{false, true} {
			mine, _ := c.many.family(six)
			if pos, ok := mine.find(id); ok {
				p.peers.Add(int64(-c.many.remove(six, pos)))
			}
		}
	}
	sh.tidy(c, slot)
}

// knows reports whether a peer is in the crowd.
func (c *crowd) knows(id *peerID) bool {
	if c.many == nil {
		return c.alone && c.lone.id == *id
	}
	_, ok := c.many.four.find(id)
	if !ok && c.many.six.n > 0 {
		_, ok = c.many.six.find(id)
	}
	return ok
}

// isSeed reports whether a peer of the crowd has everything.
func (c *crowd) isSeed(id *peerID) bool {
	if c.many == nil {
		return c.alone && c.seed && c.lone.id == *id
	}
	if c.many.four.seeds+c.many.six.seeds == 0 {
		return false
	}
	pos, ok := c.many.four.find(id)
	if ok {
		return pos < c.many.four.seeds
	}
	pos, ok = c.many.six.find(id)
	return ok && pos < c.many.six.seeds
}

// scrape returns the counts of a swarm; ok is false when it is not known.
func (p *plainStore) scrape(k *key) (complete, incomplete, ended int64, ok bool) {
	sh, h := p.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c, _ := sh.find(k, h)
	if c == nil {
		return 0, 0, 0, false
	}
	complete, incomplete = c.count()
	return complete, incomplete, int64(c.ended), true
}

// sample returns up to limit peers of a swarm, for nodes that plan: seeds first, as many as there are.
func (p *plainStore) sample(k *key, limit int) (list []stranger) {
	sh, h := p.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c, _ := sh.find(k, h)
	if c == nil {
		return nil
	}
	f := found{named: true}
	if m := c.open(); m.four.seeds+m.six.seeds > 0 {
		for _, t := range [...]*table{&m.four, &m.six} {
			t.sample(&f, &peerID{}, limit-len(f.list), 0, t.seeds, t == &m.six)
		}
	}
	seeds := len(f.list)
	c.sample(&f, &peerID{}, limit-seeds, anyFamily, true)
	for i, p := range f.list {
		list = append(list, stranger{planPeer: p, seed: i < seeds})
	}
	return list
}

// each calls do for every swarm, a shard at a time. do must not call the store.
func (p *plainStore) each(do func(c *crowd)) {
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
		for _, e := range sh.index {
			if e != 0 {
				do(sh.at(e - 1))
			}
		}
		sh.mu.Unlock()
	}
}

// sweepBudget is how many addresses are looked at with a shard locked: 50 µs.
const sweepBudget = 4096

// sweep forgets peers that have not announced for keep, and swarms without any. Called often, it goes through
// everything once in keep/8, so a peer is kept for at most 1.125 × keep.
func (p *plainStore) sweep(now time.Time) {
	p.debt += float64(shardCount) * float64(now.Sub(p.swept)) / float64(p.keep/8)
	p.swept = now
	if p.debt > shardCount {
		p.debt = shardCount
	}
	old := now.Add(-p.keep)
	for ; p.debt >= 1; p.debt-- {
		if old.After(p.began) {
			p.sweepShard(&p.shards[p.next], p.tick(old))
		}
		p.next = (p.next + 1) % shardCount
	}
}

func (p *plainStore) sweepShard(sh *shard, limit uint32) {
	var slot uint64
	var from uint32
	for {
		sh.mu.Lock()
		for budget := sweepBudget; budget > 0; {
			if slot >= uint64(len(sh.index)) { // also when it has shrunk meanwhile: the rest is for the next round
				sh.mu.Unlock()
				return
			}
			budget--
			e := sh.index[slot]
			if e == 0 {
				slot++
				continue
			}
			c := sh.at(e - 1)
			next, done, gone := c.expire(from, limit, budget)
			p.peers.Add(int64(-gone))
			if !done {
				from = next
				break
			}
			// An upper bound of what was looked at; a lone peer is one.
			if from = 0; c.many != nil {
				budget -= int(c.many.four.n + c.many.six.n)
			}
			if !sh.tidy(c, slot) { // else another may have come into this slot: look again
				slot++
			}
		}
		sh.mu.Unlock()
	}
}
