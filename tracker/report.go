package tracker

import (
	"time"

	"github.com/pantala/pantala/blob"
)

// request is an empty request with the next sequence number.
func (s *Session) request(wait time.Duration) *planRequest {
	s.seq++
	return &planRequest{
		key: s.o.Key, peer: s.o.PeerID, port: uint16(s.o.Port), ip: s.o.IP, geometry: s.o.Geometry,
		epoch: s.epoch, seq: s.seq, gen: s.gen, log: s.agreed, tree: s.tree, wait: wait,
	}
}

// introduce makes the backlog a full report: everything that is here, in as many requests as it takes.
func (s *Session) introduce() {
	s.mu.Lock()
	s.out.live, s.out.complete = true, nil
	s.mu.Unlock()
	// From here on completed collects; a piece that is in both is reported twice, which does no harm. What the
	// tracker has sent before may have been lost on the way: it tells everything again.
	s.gen, s.agreed, s.tree = 0, 0, 0
	q := s.request(0)
	q.full = true
	s.backlog = []*planRequest{q}
	have := bitmap(s.o.Store.Pieces())
	for from := uint32(0); from < s.pieces; {
		q.have, from = have.runs(from, s.pieces, maxHave)
		if from < s.pieces {
			q = s.request(0)
			s.backlog = append(s.backlog, q)
		}
	}
	for i, root := range s.o.Store.Roots(blob.Claimed) {
		// A claimed root of a complete piece is one that its bytes have been verified against: told again, a
		// tracker that was restarted knows it though the node that computed it has left.
		if i >= s.pieces || root.IsZero() || !s.o.Store.PieceComplete(i) {
			continue
		}
		if len(q.roots) == maxRoots {
			q = s.request(0)
			s.backlog = append(s.backlog, q)
		}
		q.roots = append(q.roots, pieceRoot{i, root})
	}
}

// lastSent is when the last report of each kind left.
type lastSent struct {
	any, wish, urgent time.Time
}

// due returns the next report when it is time for it, else when that will be.
func (s *Session) due(now time.Time, last *lastSent) (*planRequest, time.Time) {
	q, pieces, when := s.collect(now, last)
	if q != nil {
		s.fill(q, pieces)
	}
	return q, when
}

// collect is due without the roots: it returns the pieces that the report is to carry.
func (s *Session) collect(now time.Time, last *lastSent) (q *planRequest, pieces []uint32, when time.Time) {
	v := s.view.Load()
	reportGap, wishDelay := time.Duration(reportGap), time.Duration(wishDelay)
	if len(v.mine) == 0 { // who reads for others is waited for
		reportGap, wishDelay = max(reportGap, v.pace), max(wishDelay, v.pace)
	}
	spent := s.exhausted(v)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.out
	when = now.Add(time.Hour)
	sooner := func(t time.Time) {
		if t.Before(when) {
			when = t
		}
	}
	switch {
	case len(s.backlog) > 0:
		when = now
	case now.Before(b.answer):
		return nil, nil, b.answer // every report carries the wish, and the next must carry the right one
	case !b.answer.IsZero():
		when = now
	case b.hurry:
		sooner(last.urgent.Add(urgentGap))
	}
	if len(b.blame) > 0 {
		sooner(last.urgent.Add(urgentGap))
	}
	if b.changed {
		sooner(last.wish.Add(wishDelay))
	}
	if len(b.complete) > 0 || len(s.retell) > 0 {
		if spent && !b.idle() && (len(v.mine) > 0 || !s.planned) {
			sooner(now) // no lease is left to work on, and none comes by itself
		} else {
			sooner(last.any.Add(reportGap))
		}
	}
	if v.ttl > 0 && (len(v.mine) > 0 || !b.idle()) {
		sooner(last.any.Add(v.ttl / 2)) // finds out in time when the tracker hangs
	}
	if when.After(now) {
		return nil, nil, when
	}
	if len(s.backlog) > 0 {
		q, s.backlog = s.backlog[0], s.backlog[1:]
		q.epoch, q.gen, q.log, q.tree = s.epoch, s.gen, s.agreed, s.tree
	} else {
		q = s.request(0)
	}
	q.want, q.wish = true, wish{clip(b.reading, s.pieces), clip(b.urgent, s.pieces), clip(b.ahead, s.pieces)}
	q.about, q.blame = b.about, b.blame
	if s.o.Read != nil {
		q.read = s.o.Read()
	}
	if len(b.blame) > 0 {
		last.urgent = now
	}
	b.blame = nil
	last.any = now
	if b.changed {
		last.wish = now
	}
	if b.hurry {
		last.urgent = now
	}
	b.hurry, b.changed, b.answer = false, false, time.Time{}
	n := min(len(b.complete), maxHave-len(q.have), maxRoots-len(q.roots))
	pieces, b.complete = b.complete[:n:n], b.complete[n:]
	return q, pieces, now
}

// fill puts pieces and their roots into q, and what is to be told again.
func (s *Session) fill(q *planRequest, pieces []uint32) {
	for _, i := range pieces {
		if i >= s.pieces {
			continue
		}
		if k := len(q.have) - 1; k >= 0 && q.have[k].End() == i {
			q.have[k].Count++
		} else {
			q.have = append(q.have, blob.Run{First: i, Count: 1})
		}
		if root, t := s.o.Store.Root(i); t >= blob.Direct {
			q.roots = append(q.roots, pieceRoot{i, root})
		}
	}
	n := min(len(s.retell), maxRoots-len(q.roots))
	for _, i := range s.retell[:n] {
		if root, t := s.o.Store.Root(i); t >= blob.Claimed {
			q.roots = append(q.roots, pieceRoot{i, root})
		}
	}
	s.retell = s.retell[n:]
}

// exhausted reports whether at most one of the leased pieces is not complete yet.
func (s *Session) exhausted(v *view) bool {
	left := 0
	for _, r := range v.mine {
		for i := r.First; i < r.End() && left < 2; i++ {
			if !s.o.Store.PieceComplete(i) {
				left++
			}
		}
	}
	return left < 2
}

// clip returns the parts of runs that lie below n.
func clip(runs []blob.Run, n uint32) []blob.Run {
	out := make([]blob.Run, 0, len(runs))
	for _, r := range runs {
		if r.Count > 0 && r.First < n {
			out = append(out, blob.Run{First: r.First, Count: min(r.Count, n-r.First)})
		}
	}
	return out
}
