package tracker

import (
	"maps"
	"slices"

	"github.com/pantala/pantala/blob"
)

// The piece roots that nodes claim. A root is accepted from the node that holds, or held,
// the lease of its piece, and from anybody, first report wins, while nobody holds one. A root from somebody
// else is kept and accepted when the lease ends without a report. Two roots for one piece mean that somebody
// lies or that the origin has changed: the piece is disputed for as long as the swarm lives, is leased to
// nobody, and everybody reads it from the origin.

// maxDisputed is how many disputed pieces a swarm bears: 1024 runs are 8 KiB in every reply. Beyond it nothing
// is believed any more.
const maxDisputed = 1024

// logEntry is one accepted claim. It counts while roots still says so.
type logEntry struct {
	piece uint32
	by    peerID
}

type accepted struct {
	root blob.Hash
	at   int // in log
}

type claims struct {
	roots    map[uint32]accepted
	pending  map[uint32]pendingRoot
	disputed map[uint32]bool
	poisoned bool
	log      []logEntry // grows by at most one entry a piece
}

type pendingRoot struct {
	root blob.Hash
	by   peerID
}

func newClaims() claims {
	return claims{roots: map[uint32]accepted{}, pending: map[uint32]pendingRoot{}, disputed: map[uint32]bool{}}
}

// claim notes that n says piece i has this root.
func (s *swarm) claim(n *node, i uint32, root blob.Hash) {
	if s.disputed[i] || s.poisoned {
		return
	}
	if known, ok := s.roots[i]; ok {
		if known.root != root {
			s.dispute(i)
		}
		return
	}
	if other, ok := s.pending[i]; ok && other.root != root {
		s.dispute(i)
		return
	}
	l := s.leases[i]
	if l == nil || l.holder == n || slices.Contains(l.former, n.member.id) {
		s.accept(i, root, n.member.id)
	} else {
		s.pending[i] = pendingRoot{root, n.member.id}
	}
}

func (s *swarm) accept(i uint32, root blob.Hash, by peerID) {
	delete(s.pending, i)
	s.roots[i] = accepted{root, len(s.log)}
	s.log = append(s.log, logEntry{i, by})
}

// promote accepts what was claimed past a lease that has ended.
func (s *swarm) promote(i uint32) {
	if c, ok := s.pending[i]; ok {
		s.accept(i, c.root, c.by)
	}
}

func (s *swarm) dispute(i uint32) {
	delete(s.roots, i)
	delete(s.pending, i)
	s.disputed[i] = true
	if s.abroad != nil && s.abroad.joined {
		s.abroad.disputes = append(s.abroad.disputes, i)
	}
	s.poisoned = len(s.disputed) > maxDisputed
	if l := s.leases[i]; l != nil {
		s.end(l)
	}
	s.refresh(i)
	for _, n := range s.nodes {
		s.tell(n, true)
	}
}

// announceClaims tells the nodes what the log holds from entry from on, except to a node that said all of it.
func (s *swarm) announceClaims(from int) {
	if from >= len(s.log) {
		return
	}
	first := s.log[from].by
	single := !slices.ContainsFunc(s.log[from:], func(e logEntry) bool { return e.by != first })
	for _, n := range s.nodes {
		if !single || n.member.id != first {
			s.tell(n, false)
		}
	}
}

// claimsSince returns the claims from entry from of the log on that others than not have made, and where to
// go on.
func (s *swarm) claimsSince(from int64, not peerID) (list []pieceRoot, next int64) {
	if s.poisoned {
		return nil, int64(len(s.log))
	}
	first := int(min(from, int64(len(s.log))))
	list = make([]pieceRoot, 0, min(len(s.log)-first, maxReplyRoot))
	for at := first; at < len(s.log); at++ {
		e := s.log[at]
		if a, ok := s.roots[e.piece]; ok && a.at == at && e.by != not {
			if len(list) == maxReplyRoot {
				return list, int64(at)
			}
			list = append(list, pieceRoot{e.piece, a.root})
		}
	}
	return list, int64(len(s.log))
}

// disputedRuns lists the disputed pieces.
func (s *swarm) disputedRuns(pieces uint32) []blob.Run {
	if s.poisoned {
		return []blob.Run{{First: 0, Count: pieces}}
	}
	if len(s.disputed) == 0 {
		return nil
	}
	return runsOf(slices.Sorted(maps.Keys(s.disputed)))
}
