package blockio

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// maxFreq is where the use counter of an entry stops: two bits, as in S3-FIFO.
const maxFreq = 3

// ghosts remembers the last blobs that were evicted: one that comes back has proved that it is used again.
type ghosts struct {
	ids  map[blob.ID]bool
	fifo []blob.ID
}

// maxGhosts bounds the memory of evicted ids: 1024 × 33 bytes, more blobs than most caches hold.
const maxGhosts = 1024

func (g *ghosts) add(id blob.ID) {
	if g.ids == nil {
		g.ids = map[blob.ID]bool{}
	}
	if g.ids[id] {
		return
	}
	if len(g.fifo) == maxGhosts {
		delete(g.ids, g.fifo[0])
		g.fifo = g.fifo[1:]
	}
	g.ids[id] = true
	g.fifo = append(g.fifo, id)
}

// victim picks what is evicted next, or nil: first a version of a source that a newer one has replaced, then
// by S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023) over whole blobs.
// A queue's order is the time of the last open or, for what got another round in the main queue, of that; the
// rounds are not kept over a restart.
// Store.mu is held.
func (s *Store) victim(skip map[*entry]bool) *entry {
	newest := map[string]*entry{}
	for _, e := range s.entries {
		if n := newest[e.meta.Source]; e.ready && e.meta.Source != "" && (n == nil || e.use.at.After(n.use.at)) {
			newest[e.meta.Source] = e
		}
	}
	var small, main []*entry
	var old *entry
	var smallBytes int64
	for _, e := range s.entries {
		if !e.ready || e.gone || e.blob != nil || e.meta.Pinned || e.present == 0 || skip[e] {
			continue
		}
		if n := newest[e.meta.Source]; n != nil && n != e && (old == nil || e.use.at.Before(old.use.at)) {
			old = e
		}
		if e.use.main {
			main = append(main, e)
		} else {
			small = append(small, e)
			smallBytes += e.present
		}
	}
	if old != nil {
		return old
	}
	// Ends: every round evicts, moves one from small to main for good, or takes one from a counter ≤ maxFreq.
	for len(small)+len(main) > 0 {
		// The paper's small queue is a tenth of the cache.
		if len(main) == 0 || len(small) > 0 && smallBytes >= s.used.Load()/10 {
			i := oldest(small)
			e := small[i]
			if e.use.freq == 0 {
				return e
			}
			e.use.main, e.use.freq = true, 0
			smallBytes -= e.present
			small = append(small[:i], small[i+1:]...)
			main = append(main, e)
			continue
		}
		e := main[oldest(main)]
		if e.use.freq == 0 {
			return e
		}
		e.use.freq--
		e.turn = now()
	}
	return nil
}

func oldest(list []*entry) int {
	at := 0
	for i, e := range list {
		if e.turn.Before(list[at].turn) {
			at = i
		}
	}
	return at
}

// evict removes victims until enough says so or none is left, and returns the bytes given back.
func (s *Store) evict(enough func(freed int64) bool) (freed int64, err error) {
	s.evicting.Lock()
	defer s.evicting.Unlock()
	skip := map[*entry]bool{}
	for !enough(freed) {
		s.mu.Lock()
		e := s.victim(skip)
		s.mu.Unlock()
		if e == nil {
			return freed, err
		}
		skip[e] = true
		// Whoever holds the lock is opening, pinning or removing this one: not ours to take, and waiting for
		// it here, inside a Put, could wait for ourselves.
		if !e.change.TryLock() {
			continue
		}
		s.mu.Lock()
		free := !e.gone && e.blob == nil && !e.meta.Pinned
		if free {
			s.ghosts.add(e.id)
		}
		s.mu.Unlock()
		if free {
			n, e2 := s.drop(e)
			freed += n
			if e2 != nil {
				err = e2
			}
			s.log.Info("cache: evicted", "blob", e.id, "bytes", n)
		}
		e.change.Unlock()
	}
	return freed, err
}

// reserve counts n more bytes as used, evicting others for them, or says that the quota does not allow it.
func (s *Store) reserve(n int64) error {
	if used := s.used.Add(n); s.quota <= 0 || used <= s.quota {
		return nil
	}
	// A thirty-second of the quota more than needed, so that a download into a full cache does not evict for
	// every one of its Puts.
	room := s.quota - s.quota/32
	if _, err := s.evict(func(int64) bool { return s.used.Load() <= room }); err != nil {
		s.log.Warn("cache: evicting failed", "err", err)
	}
	if s.used.Load() <= s.quota {
		return nil
	}
	s.used.Add(-n)
	return fmt.Errorf("%w: the quota of %d bytes is used up by blobs that are open or pinned: raise it or unpin some", blob.ErrNoSpace, s.quota)
}

// noRoom reports whether err is the disk's way to say that it is full.
func noRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// makeRoom evicts at least n bytes, for a disk that is full though the quota is not; false when nothing could go.
func (s *Store) makeRoom(n int64) bool {
	freed, err := s.evict(func(freed int64) bool { return freed >= n })
	if err != nil {
		s.log.Warn("cache: evicting failed", "err", err)
	}
	return freed > 0
}

// GC evicts unpinned, closed blobs until free bytes more would fit the quota (without a quota: until the disk
// has that many free) and returns the bytes it gave back.
func (s *Store) GC(free int64) (int64, error) {
	if free < 0 {
		return 0, fmt.Errorf("%w: make %d bytes free", blob.ErrInvalid, free)
	}
	if s.quota > 0 {
		return s.evict(func(int64) bool { return s.used.Load()+free <= s.quota })
	}
	return s.evict(func(int64) bool { n := s.free(); return n < 0 || n >= free })
}
