package tracker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/pantala/pantala/blob"
)

// errHome says that a tracker that is preferred to the one in use answers again.
var errHome = errors.New("a tracker that is preferred answers again")

// errLate says that a tracker has not answered in time, and that there is another one.
var errLate = fmt.Errorf("%w: it has not answered in time", blob.ErrUnavailable)

// errClosed ends a session.
var errClosed = fmt.Errorf("%w: tracker session", blob.ErrClosed)

// run is the session's goroutine: it keeps to one tracker as long as it answers.
func (s *Session) run(ctx context.Context) {
	cancel := s.o.Store.OnPiece(s.completed)
	defer cancel()
	retry := newRetry()
	failed, plain := map[string]bool{}, map[string]bool{} // trackers that failed in a row; that do not plan
	slow := map[string]int{}                              // how often in a row one was given up because it was late
	for ctx.Err() == nil {
		s.dir.refresh(ctx, time.Now())
		list := s.dir.order()
		at := slices.IndexFunc(list, func(e endpoint) bool { return !failed[e.shown] && !plain[e.shown] })
		if at < 0 {
			at = slices.IndexFunc(list, func(e endpoint) bool { return !failed[e.shown] })
		}
		if at < 0 { // all have, or there are none
			clear(failed)
			clear(plain)
			if len(list) == 0 {
				s.unresolved()
			}
			s.answered()
			sleep(ctx, s.pause(retry))
			continue
		}
		e := list[at]
		if s.o.Plain {
			plain[e.shown] = true
		}
		answered, err := false, errNoPlan
		if !plain[e.shown] {
			answered, err = s.live(ctx, e, len(list) > len(failed)+1, plain, min(lateAfter<<min(slow[e.shown], 4), exchangeLimit))
			if slow[e.shown]++; !errors.Is(err, errLate) {
				delete(slow, e.shown)
			}
		}
		switch {
		case errors.Is(err, errNoPlan) && !plain[e.shown]:
			plain[e.shown] = true // perhaps another one plans
			continue
		case errors.Is(err, errNoPlan):
			answered, err = s.announceOnly(ctx, e, plain)
		}
		if answered {
			clear(failed)
			retry.Reset()
		}
		switch {
		case ctx.Err() != nil:
			continue
		case errors.Is(err, errHome):
			clear(failed)
			clear(plain)
			continue
		}
		failed[e.shown] = true
		s.dead(e, err, len(list) > len(failed))
	}
	s.show(&view{state: Dead})
}

// newRetry is how long lies between two attempts after every tracker has failed; see pause.
func newRetry() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier, b.RandomizationFactor = firstRetry, lastRetry, 2, 0
	return b
}

// pause is what lies before the next attempt: the interval and up to half of it more or less, so that not all nodes
// of a swarm come at the same moment.
func (s *Session) pause(retry *backoff.ExponentialBackOff) time.Duration {
	d := retry.NextBackOff()
	return min(d/2+time.Duration(s.random(int64(d))), lastRetry)
}

// unresolved notes that no tracker is known.
func (s *Session) unresolved() {
	s.mu.Lock()
	s.status.LastError = "no tracker is known yet: looking up the SRV records failed"
	s.mu.Unlock()
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

// dead notes that a tracker has failed; others: there is another one, which gets a moment to answer before anybody
// goes on without.
func (s *Session) dead(e endpoint, err error, others bool) {
	s.mu.Lock()
	s.out.live, s.out.complete, s.out.blame, s.out.answer = false, nil, nil, time.Time{}
	was := s.status.LastError
	s.status.URL, s.status.LastError = e.shown, err.Error()
	s.mu.Unlock()
	if was != err.Error() {
		s.log.Warn("tracker does not answer: going on without it", "tracker", e.shown, "err", err)
	}
	if !others {
		s.show(&view{state: Dead})
	}
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
// others: there is another one to go to. plain are trackers that do not plan. within is how long a report may take:
// a tracker that is far away may need more than lateAfter until there is a connection, and gets more every time.
func (s *Session) live(ctx context.Context, e endpoint, others bool, plain map[string]bool, within time.Duration) (answeredOnce bool, err error) {
	child, cancel := context.WithCancel(ctx)
	var lanes sync.WaitGroup
	reports, polls := make(chan *planRequest, 1), make(chan *planRequest, 1)
	reported, polled := make(chan answer, 1), make(chan answer, 1)
	home := make(chan struct{}, 1)
	lanes.Go(func() { s.lane(child, e, reports, reported) })
	lanes.Go(func() { s.lane(child, e, polls, polled) })
	lanes.Go(func() { s.lookHome(child, e, plain, home) })
	d := newDialogue(s, e, time.Now(), others, within)
	defer func() {
		cancel()
		close(reports)
		close(polls)
		lanes.Wait()
		if d.answered && (ctx.Err() != nil || errors.Is(err, errHome)) {
			s.leave(e)
		}
	}()

	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		report, poll, again := d.next(time.Now())
		if report != nil {
			reports <- report
		}
		if poll != nil {
			polls <- poll
		}
		timer.Reset(time.Until(again))
		var a answer
		select {
		case <-ctx.Done():
			return d.answered, errClosed
		case <-home:
			return d.answered, errHome
		case <-s.kick:
			continue
		case <-timer.C:
			if err := d.elapse(time.Now()); err != nil {
				return d.answered, err
			}
			continue
		case a = <-reported:
		case a = <-polled:
		}
		if err := d.hear(time.Now(), a); err != nil {
			return d.answered, err
		}
	}
}

// apply takes a reply in.
func (s *Session) apply(now time.Time, e endpoint, r *planReply) {
	s.mu.Lock()
	s.status.URL, s.status.LastError = e.shown, ""
	s.status.LastReply = now
	s.status.Exchanges++
	s.status.Alone = r.alone
	s.status.Peers += len(r.peers)
	if r.nodes > 0 {
		s.status.Nodes = int(r.nodes)
	}
	s.mu.Unlock()
	if r.epoch != s.epoch {
		s.epoch, s.gen, s.agreed, s.tree = r.epoch, 0, 0, 0
		s.orphan, s.followed = now.Add(orphanFor), s.view.Load().state == Shared
		clear(s.dropped)
	}
	if r.resync {
		if len(s.backlog) == 0 {
			s.introduce()
		}
		return
	}
	// A reply that the other lane has overtaken says nothing about leases any more. The roots and peers in it
	// are in no other: the tracker takes for told what it has sent.
	current := r.gen >= s.gen
	s.gen, s.agreed = max(s.gen, r.gen), max(s.agreed, r.log)
	s.believe(r)
	if current {
		state := Shared
		if r.solo && !(s.followed && now.Before(s.orphan)) {
			state = Solo // and not only the first one to come from another tracker
		}
		s.company(now, state)
		s.show(&view{state, r.lease, r.held, r.ttl, r.pace})
	}
	addrs := make([]netip.AddrPort, 0, len(r.peers))
	for _, p := range r.peers {
		if p.addr.Port() != 0 && p.id != s.o.PeerID {
			addrs = append(addrs, p.addr)
		}
	}
	if r.place != nil {
		addrs = append(addrs, r.place.addrs...)
	}
	if len(addrs) > 0 && s.o.OnPeers != nil {
		s.o.OnPeers(addrs)
	}
	switch {
	case r.place != nil && r.place.number > s.tree:
		s.tree = r.place.number
		s.placed(r.place)
	case s.planned && s.tree == 0 && now.After(s.orphan):
		s.placed(&place{}) // from another tracker, and this one has no plan
	}
}

// placed brings this node's place in the trees to its owner.
func (s *Session) placed(p *place) {
	s.planned = p.Stripes > 0
	var tree *Tree
	if s.planned {
		tree = &Tree{Head: []int{}, Parents: make([][]netip.AddrPort, p.Stripes)}
		at := 0
		for k, parents := range p.Parents {
			if p.Head&(1<<k) != 0 {
				tree.Head = append(tree.Head, k)
			}
			tree.Parents[k] = p.addrs[at : at+len(parents)]
			at += len(parents)
		}
	}
	s.mu.Lock()
	s.status.Tree = tree
	s.mu.Unlock()
	if s.o.OnAssignment != nil {
		s.o.OnAssignment(p.Assignment)
	}
}

// company notes, before anybody can see state, that the tracker asks for the wish because we are no longer alone.
func (s *Session) company(now time.Time, state State) {
	if state != Shared || s.view.Load().state != Solo {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.alone = now
	s.out.answer = s.out.alone.Add(answerWithin)
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

// lookHome asks, now and then, the trackers that are preferred to e whether they answer again, and looks the list
// up anew. plain are those that do not plan; any other one is preferred to them. The caller changes neither the
// directory nor plain meanwhile.
func (s *Session) lookHome(ctx context.Context, e endpoint, plain map[string]bool, home chan<- struct{}) {
	if s.o.Plain || len(s.dir.names) == 0 && len(s.dir.static) == 1 {
		return
	}
	for {
		// Not all nodes at once: a swarm moves within homeAfter and a half.
		sleep(ctx, homeAfter/2+rand.N(homeAfter))
		if ctx.Err() != nil {
			return
		}
		s.dir.refresh(ctx, time.Now())
		for _, other := range s.dir.order() {
			if other.shown == e.shown && !plain[e.shown] {
				break
			}
			if !plain[other.shown] && s.there(ctx, other) {
				signal(home)
				return
			}
		}
	}
}

// there reports whether a tracker answers, and plans.
func (s *Session) there(ctx context.Context, e endpoint) bool {
	ctx, cancel := context.WithTimeout(ctx, exchangeLimit)
	defer cancel()
	// A goodbye of somebody who was never there changes nothing, and is answered.
	q := &planRequest{key: s.o.Key, peer: s.o.PeerID, geometry: s.o.Geometry, stop: true}
	_, err := s.exchange(ctx, e, q)
	return err == nil
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
