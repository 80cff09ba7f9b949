package swarm

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// lot keeps what peers of ours wait for until the store has it: runs by the block they wait for, and hash
// requests by piece. Whoever takes an entry out answers it.
type lot struct {
	waiting atomic.Int32 // entries

	mu     sync.Mutex // guards what follows
	runs   map[uint32][]*served
	hashes map[uint32][]hashWait
}

// hashWait is a hash request whose answer is not known yet.
type hashWait struct {
	p     *peer
	r     peerwire.HashRange
	until time.Time
}

// maxHashWaits bounds the parked hash requests of one peer.
const maxHashWaits = 64

func newLot() *lot {
	return &lot{runs: make(map[uint32][]*served), hashes: make(map[uint32][]hashWait)}
}

// park keeps a run until the store has its next block.
func (k *lot) park(s *served) {
	at := s.next
	k.mu.Lock()
	s.awaits = at
	k.runs[at] = append(k.runs[at], s)
	k.waiting.Add(1)
	k.mu.Unlock()
	// It may have come in between, or the run may have been dropped.
	if (s.p.t.cfg.Store.Has(blob.Run{First: at, Count: 1}) || s.p.out.over(s)) && k.leave(s) {
		s.proceedUnlessOver()
	}
}

// leave takes a run out and reports whether it was there.
func (k *lot) leave(s *served) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.runs[s.awaits]
	i := slices.Index(l, s)
	if i < 0 {
		return false
	}
	k.waiting.Add(-1)
	if len(l) == 1 {
		delete(k.runs, s.awaits)
	} else {
		k.runs[s.awaits] = slices.Delete(l, i, i+1)
	}
	return true
}

// arrived is Store.OnBlocks: it sends what waited for these blocks.
func (k *lot) arrived(r blob.Run) {
	if k.waiting.Load() == 0 {
		return
	}
	var ready []*served
	k.mu.Lock()
	for b := r.First; b < r.End(); b++ {
		if l := k.runs[b]; l != nil {
			ready = append(ready, l...)
			delete(k.runs, b)
		}
	}
	k.waiting.Add(-int32(len(ready)))
	k.mu.Unlock()
	for _, s := range ready {
		s.proceedUnlessOver()
	}
}

func (s *served) proceedUnlessOver() {
	if !s.p.out.over(s) {
		s.proceed()
	}
}

// expired takes out the runs and hash requests whose time is over.
func (k *lot) expired(at time.Time) (runs []*served, hashes []hashWait) {
	if k.waiting.Load() == 0 {
		return nil, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for b, l := range k.runs {
		l = slices.DeleteFunc(l, func(s *served) bool {
			late := at.After(s.deadline)
			if late {
				runs = append(runs, s)
			}
			return late
		})
		if k.runs[b] = l; len(l) == 0 {
			delete(k.runs, b)
		}
	}
	hashes = k.takeHashes(func(h hashWait) bool { return at.After(h.until) })
	k.waiting.Add(-int32(len(runs) + len(hashes)))
	return runs, hashes
}

// takeHashes takes out the hash requests that match. mu is held.
func (k *lot) takeHashes(match func(hashWait) bool) (taken []hashWait) {
	for piece, l := range k.hashes {
		l = slices.DeleteFunc(l, func(h hashWait) bool {
			if match(h) {
				taken = append(taken, h)
				return true
			}
			return false
		})
		if k.hashes[piece] = l; len(l) == 0 {
			delete(k.hashes, piece)
		}
	}
	return taken
}

// parkHashes keeps a hash request of a peer of ours; false: it has too many.
func (k *lot) parkHashes(piece uint32, h hashWait) bool {
	if h.p.hashWaits.Add(1) > maxHashWaits {
		h.p.hashWaits.Add(-1)
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hashes[piece] = append(k.hashes[piece], h)
	k.waiting.Add(1)
	return true
}

// leavesKnown answers the hash requests that waited for the leaves of a piece.
func (k *lot) leavesKnown(piece uint32) {
	if k.waiting.Load() == 0 {
		return
	}
	k.mu.Lock()
	hashes := k.hashes[piece]
	delete(k.hashes, piece)
	k.waiting.Add(-int32(len(hashes)))
	k.mu.Unlock()
	for _, h := range hashes {
		h.p.hashWaits.Add(-1)
		h.p.t.answerHashes(h.p, h.r)
	}
}

// forget takes out what a peer that is gone waits for.
func (k *lot) forget(p *peer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.waiting.Add(-int32(len(k.takeHashes(func(h hashWait) bool { return h.p == p }))))
}

// expire ends what was parked for too long.
func (l *loop) expire(at time.Time) {
	runs, hashes := l.t.lot.expired(at)
	for _, s := range runs {
		if s.p.out.end(s) {
			s.p.rejectRun(s.tag, peerwire.ReasonDeadline, 0)
		}
	}
	for _, h := range hashes {
		h.p.hashWaits.Add(-1)
		h.p.out.send(func(b []byte) []byte { return peerwire.AppendHashReject(b, h.r) })
	}
}

// Parked is how many runs of peers wait for blocks that this node does not have yet.
func (t *Torrent) Parked() (n int) {
	t.lot.mu.Lock()
	defer t.lot.mu.Unlock()
	for _, l := range t.lot.runs {
		n += len(l)
	}
	return n
}
