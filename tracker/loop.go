package tracker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/pantala/pantala/blob"
)

// errHome says that a tracker earlier in the list answers again.
var errHome = errors.New("an earlier tracker of the list answers again")

// errClosed ends a session.
var errClosed = fmt.Errorf("%w: tracker session", blob.ErrClosed)

// run is the session's goroutine: it keeps to one tracker as long as it answers.
func (s *Session) run(ctx context.Context) {
	cancel := s.o.Store.OnPiece(s.completed)
	defer cancel()
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval, retry.Multiplier, retry.RandomizationFactor = firstRetry, lastRetry, 2, 0.5
	failed := 0 // trackers in a row
	for at := 0; ctx.Err() == nil; {
		e := s.urls[at]
		answered, err := s.live(ctx, e, at)
		if errors.Is(err, errNoPlan) {
			answered, err = s.announceOnly(ctx, e)
		}
		if answered {
			failed = 0
			retry.Reset()
		}
		switch {
		case ctx.Err() != nil:
			continue
		case errors.Is(err, errHome):
			at = 0
			continue
		}
		failed++
		s.dead(e, err)
		at = (at + 1) % len(s.urls)
		if failed >= len(s.urls) {
			s.answered()
			sleep(ctx, min(retry.NextBackOff(), lastRetry))
		}
	}
	s.show(&view{state: Dead})
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// answered lets First go.
func (s *Session) answered() {
	select {
	case <-s.first:
	default:
		close(s.first)
	}
}

// dead notes that a tracker has failed.
func (s *Session) dead(e endpoint, err error) {
	s.mu.Lock()
	s.out.live, s.out.complete = false, nil
	was := s.status.LastError
	s.status.URL, s.status.LastError = e.shown, err.Error()
	s.mu.Unlock()
	if was != err.Error() {
		s.log.Warn("tracker does not answer: going on without it", "tracker", e.shown, "err", err)
	}
	s.show(&view{state: Dead})
}

// show publishes a view and says so when it differs.
func (s *Session) show(v *view) {
	old := s.view.Swap(v)
	if s.o.OnPlan != nil && (old.state != v.state || !slices.Equal(old.mine, v.mine) || !slices.Equal(old.held, v.held)) {
		s.o.OnPlan()
	}
}

// answer is what came back on one of the two lanes.
type answer struct {
	req   *planRequest
	reply *planReply
	err   error
}

// lane exchanges one request after the other until in is closed. out has room for one answer, and there is
// never more than one request under way.
func (s *Session) lane(ctx context.Context, e endpoint, in <-chan *planRequest, out chan<- answer) {
	for q := range in {
		reply, err := s.exchange(ctx, e, q)
		out <- answer{q, reply, err}
	}
}

// live speaks with one tracker until it fails or ctx ends: a full report, then a poll that is always
// outstanding and reports beside it.
func (s *Session) live(ctx context.Context, e endpoint, at int) (answeredOnce bool, err error) {
	child, cancel := context.WithCancel(ctx)
	var lanes sync.WaitGroup
	reports, polls := make(chan *planRequest, 1), make(chan *planRequest, 1)
	reported, polled := make(chan answer, 1), make(chan answer, 1)
	home := make(chan struct{}, 1)
	lanes.Go(func() { s.lane(child, e, reports, reported) })
	lanes.Go(func() { s.lane(child, e, polls, polled) })
	if at > 0 {
		lanes.Go(func() { s.lookHome(child, home) })
	}
	defer func() {
		cancel()
		close(reports)
		close(polls)
		lanes.Wait()
		if answeredOnce && (ctx.Err() != nil || errors.Is(err, errHome)) {
			s.leave(e)
		}
	}()

	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	s.introduce()
	var reporting, polling bool
	var last lastSent
	for {
		if !reporting {
			if q, when := s.due(time.Now(), &last); q != nil {
				reports <- q
				reporting = true
			} else {
				timer.Reset(time.Until(when))
			}
		}
		if !polling && answeredOnce && len(s.backlog) == 0 {
			polls <- s.request(pollWait)
			polling = true
		}
		var a answer
		select {
		case <-ctx.Done():
			return answeredOnce, errClosed
		case <-home:
			return answeredOnce, errHome
		case <-s.kick:
			continue
		case <-timer.C:
			continue
		case a = <-reported:
			reporting = false
		case a = <-polled:
			polling = false
		}
		if a.err != nil {
			return answeredOnce, a.err
		}
		s.apply(e, a.req, a.reply)
		answeredOnce = true
		s.answered()
	}
}

// request is an empty request with the next sequence number.
func (s *Session) request(wait time.Duration) *planRequest {
	s.seq++
	return &planRequest{
		key: s.o.Key, peer: s.o.PeerID, port: uint16(s.o.Port), ip: s.o.IP, geometry: s.o.Geometry,
		epoch: s.epoch, seq: s.seq, gen: s.gen, log: s.agreed, wait: wait,
	}
}

// introduce makes the backlog a full report: everything that is here, in as many requests as it takes.
func (s *Session) introduce() {
	s.mu.Lock()
	s.out.live, s.out.complete = true, nil
	s.mu.Unlock()
	// From here on completed collects; a piece that is in both is reported twice, which does no harm.
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
	v := s.view.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.out
	when := now.Add(time.Hour)
	sooner := func(t time.Time) {
		if t.Before(when) {
			when = t
		}
	}
	switch {
	case len(s.backlog) > 0:
		when = now
	case b.hurry:
		sooner(last.urgent.Add(urgentGap))
	}
	if b.changed {
		sooner(last.wish.Add(wishDelay))
	}
	if len(b.complete) > 0 || len(s.retell) > 0 {
		if s.exhausted(v) && len(b.urgent)+len(b.ahead) > 0 {
			sooner(now) // no lease is left to work on
		} else {
			sooner(last.any.Add(reportGap))
		}
	}
	if v.ttl > 0 && (len(v.mine) > 0 || len(b.urgent)+len(b.ahead) > 0) {
		sooner(last.any.Add(v.ttl / 2)) // finds out in time when the tracker hangs
	}
	if when.After(now) {
		return nil, when
	}
	var q *planRequest
	if len(s.backlog) > 0 {
		q, s.backlog = s.backlog[0], s.backlog[1:]
		q.epoch, q.gen, q.log = s.epoch, s.gen, s.agreed
	} else {
		q = s.request(0)
	}
	q.want, q.urgent, q.ahead = true, clip(b.urgent, s.pieces), clip(b.ahead, s.pieces)
	last.any = now
	if b.changed {
		last.wish = now
	}
	if b.hurry {
		last.urgent = now
	}
	b.hurry, b.changed = false, false
	s.take(q)
	return q, now
}

// take moves complete pieces and their roots to q, as many as fit. Needs mu.
func (s *Session) take(q *planRequest) {
	b := &s.out
	n := min(len(b.complete), maxHave-len(q.have), maxRoots-len(q.roots))
	pieces := b.complete[:n]
	b.complete = slices.Clone(b.complete[n:])
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
	n = min(len(s.retell), maxRoots-len(q.roots))
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

// apply takes a reply in.
func (s *Session) apply(e endpoint, q *planRequest, r *planReply) {
	s.mu.Lock()
	s.status.URL, s.status.LastError = e.shown, ""
	s.status.LastReply = time.Now()
	s.status.Exchanges++
	s.status.Peers += len(r.peers)
	if r.nodes > 0 {
		s.status.Nodes = int(r.nodes)
	}
	s.mu.Unlock()
	if r.epoch != s.epoch {
		s.epoch, s.gen, s.agreed = r.epoch, 0, 0
		clear(s.dropped)
	}
	if r.resync {
		if len(s.backlog) == 0 {
			s.introduce()
		}
		return
	}
	if r.gen < s.gen {
		return // older than what the other lane has brought
	}
	s.gen, s.agreed = r.gen, r.log
	s.believe(r)
	state := Shared
	if r.solo {
		state = Solo
	}
	s.show(&view{state, r.lease, r.held, r.ttl})
	if s.o.OnPeers == nil || len(r.peers) == 0 {
		return
	}
	addrs := make([]netip.AddrPort, 0, len(r.peers))
	for _, p := range r.peers {
		if p.addr.Port() != 0 && p.id != s.o.PeerID {
			addrs = append(addrs, p.addr)
		}
	}
	if len(addrs) > 0 {
		s.o.OnPeers(addrs)
	}
}

// believe brings the claims and disputes of a reply to the store.
func (s *Session) believe(r *planReply) {
	changed := false
	for _, run := range r.disputed {
		for i := run.First; i < run.End(); i++ {
			if !s.dropped[i] {
				s.dropped[i], changed = true, true
				s.o.Store.DropClaim(i)
				s.log.Warn("nodes disagree about a piece: reading it from the origin", "piece", i)
			}
		}
	}
	for _, c := range r.roots {
		if s.o.Strict || s.dropped[c.piece] {
			continue
		}
		err := s.o.Store.SetRoot(c.piece, c.root, blob.Claimed)
		switch {
		case err == nil:
			changed = true
		case errors.Is(err, blob.ErrCorrupt):
			s.contradict(c.piece)
		default:
			s.log.Warn("root of a piece is not kept", "piece", c.piece, "err", err)
		}
	}
	if changed && s.o.OnRoots != nil {
		s.o.OnRoots()
	}
}

// contradict handles a claim that the store knows better than. If the bytes are here we say so, and the tracker
// disputes the piece; else it was a claim against another, older one, and neither is believed.
func (s *Session) contradict(piece uint32) {
	s.log.Warn("the tracker claims another root than ours", "piece", piece)
	if s.o.Store.PieceComplete(piece) {
		s.retell = append(s.retell, piece)
		return
	}
	s.o.Store.DropClaim(piece)
}

// lookHome asks the first tracker of the list, now and then, whether it answers again.
func (s *Session) lookHome(ctx context.Context, home chan<- struct{}) {
	for {
		if sleep(ctx, homeAfter); ctx.Err() != nil {
			return
		}
		// A goodbye of somebody who was never there changes nothing, and is answered.
		q := &planRequest{key: s.o.Key, peer: s.o.PeerID, geometry: s.o.Geometry, stop: true}
		if _, err := s.exchange(ctx, s.urls[0], q); err == nil {
			signal(home)
			return
		}
	}
}

// leave says goodbye, so that our leases are free at once.
func (s *Session) leave(e endpoint) {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	q := s.request(0)
	q.stop = true
	if _, err := s.exchange(ctx, e, q); err != nil {
		s.log.Debug("tracker was not told that we leave; it will find out", "tracker", e.shown, "err", err)
	}
}
