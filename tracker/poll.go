package tracker

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"

	"github.com/pantala/pantala/blob"
)

func (s *Server) servePlan(w http.ResponseWriter, r *http.Request) {
	s.plans.Add(1)
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		refuse(w, http.StatusBadRequest, "plan is a POST")
		return
	}
	// A body may not take for ever; a server without deadlines, or a recorder in a test, says so and is fine too.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(restWait))
	body, err := readBody(http.MaxBytesReader(w, r.Body, maxBody), r.ContentLength)
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	var q *planRequest
	if err == nil {
		q, err = parsePlanRequest(body)
	}
	var addr netip.AddrPort
	if err == nil {
		var ip, said netip.Addr
		if ip, err = remote(r); q.ip != "" {
			said, _ = netip.ParseAddr(q.ip) // a name is passed over
		}
		addr = whence(ip, said, q.port)
		if no := s.blocked.Load().refuses(&q.key, &q.peer, ip, addr.Addr()); err == nil && no != nil {
			s.refused.Add(1)
			refuse(w, http.StatusForbidden, no.Error())
			return
		}
	}
	if err != nil {
		s.refused.Add(1)
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if s.commons != nil && !q.stop {
		s.commons.ready(r.Context(), q.key)
	}
	room := s.room(q.key, !q.stop)
	if room == nil && !q.stop {
		refuse(w, http.StatusServiceUnavailable, errFull.Error())
		return
	}
	var reply *planReply
	if room != nil {
		reply, err = s.exchange(room, w, r, q, addr)
		room.mu.Unlock()
	} else {
		reply = &planReply{epoch: 1, resync: true}
	}
	switch {
	case errors.Is(err, errGeometry):
		s.refused.Add(1)
		refuse(w, http.StatusConflict, err.Error())
	case err != nil:
		refuse(w, http.StatusServiceUnavailable, err.Error())
	default:
		send(w, http.StatusOK, reply.append(make([]byte, 0, 256+len(reply.roots)*rootLen+len(reply.peers)*peerLen)))
	}
}

// readBody reads a request; size is what it announces, or -1.
func readBody(r io.Reader, size int64) ([]byte, error) {
	if size < 0 || size > maxBody {
		size = 512
	}
	b := make([]byte, 0, size+1)
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: request body: %v", blob.ErrInvalid, err)
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}

// exchange applies a request and waits for news when it is a poll. It is called, and returns, with the room
// locked.
func (s *Server) exchange(room *room, w http.ResponseWriter, r *http.Request, q *planRequest, addr netip.AddrPort) (*planReply, error) {
	n, reply, err := room.take(time.Now(), q, addr)
	defer room.wake()
	if n != nil && q.full && q.gen == 0 {
		s.plain.forget(&q.key, &q.peer) // it may have announced before it planned
	}
	if reply != nil || err != nil {
		return reply, err
	}
	s.hold(room, n, w, r, q.wait)
	return room.told(n), nil
}

// take applies a request. There is a reply, or an error, or the request is a poll that has to wait for news. Needs mu.
func (r *room) take(now time.Time, q *planRequest, addr netip.AddrPort) (*node, *planReply, error) {
	n, err := r.swarm.report(now, q, addr)
	if errors.Is(err, errStranger) {
		return nil, r.stranger(), nil
	}
	if err != nil {
		return nil, nil, err
	}
	if hard, _ := r.swarm.news(n); q.wait > 0 && !hard {
		return n, nil, nil
	}
	return n, r.swarm.reply(n), nil
}

// stranger is the reply to somebody who is not known here.
func (r *room) stranger() *planReply { return &planReply{epoch: r.swarm.epoch, resync: true} }

// told is the reply to a poll that has waited. Needs mu.
func (r *room) told(n *node) *planReply {
	if m := r.swarm.byID[n.member.id]; m != n.member || m.plan != n {
		return r.stranger() // it was removed meanwhile
	}
	return r.swarm.reply(n)
}

// vigil says how long a poll waits: for hard news, or until soft news have settled, or until wait is over. It is a
// state machine; who waits tells it what happens.
type vigil struct {
	settle time.Duration
	end    time.Time
	soon   time.Time // soft news have settled then; zero: there are none
	asked  time.Time // the answer of the node that was alone is overdue then; zero: nobody waits for one
}

// watch begins to wait. Needs mu.
func (r *room) watch(now time.Time, n *node, wait time.Duration) vigil {
	// Roots, peers and leases of others come in bursts; told together they cost one reply. The more nodes
	// there are, the longer a burst.
	v := vigil{end: now.Add(wait), settle: 2*time.Millisecond + r.swarm.pace()}
	// A time of its own: the janitor's clock is too coarse for the end of such a wait.
	if ask := r.swarm.waits(now, n); ask > 0 {
		v.asked = now.Add(ask)
	}
	return v
}

// soften notes that there are soft news.
func (v *vigil) soften(now time.Time) { v.soon = now.Add(v.settle) }

// due is when something is to be done at the latest: see rings.
func (v *vigil) due() time.Time {
	at := v.end
	for _, t := range []time.Time{v.soon, v.asked} {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	return at
}

// rings is called when something is due: tick says that the swarm's clock is to be run, tell that the node is to be told what there is, if
// there still is something, and over that the wait ends in any case.
func (v *vigil) rings(now time.Time) (tick, tell, over bool) {
	if !v.asked.IsZero() && !now.Before(v.asked) {
		tick, v.asked = true, time.Time{}
	}
	if !v.soon.IsZero() && !now.Before(v.soon) {
		tell, v.soon = true, time.Time{}
	}
	return tick, tell, !now.Before(v.end)
}

// hold keeps a poll until there is hard news for n, or soft news have settled, or wait is over, or one of
// both sides leaves. It is called, and returns, with the room locked.
func (s *Server) hold(room *room, n *node, w http.ResponseWriter, r *http.Request, wait time.Duration) {
	// The owner's server may bound how long a handler takes to write; a poll has reason to take longer.
	// A server without deadlines, or a recorder in a test, says so and is fine too.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + 10*time.Second))
	if before := room.waiting[n]; before != nil {
		signal(before.hard) // a node polls once: the older poll is answered
	}
	me := &waiter{make(chan struct{}, 1), make(chan struct{}, 1)}
	room.waiting[n] = me
	room.swarm.poll(time.Now(), n, 1)
	_, soft := room.swarm.news(n)
	if soft {
		signal(me.soft)
	}
	room.wake() // for others
	v := room.watch(time.Now(), n, wait)
	room.mu.Unlock()

	timer := time.NewTimer(time.Until(v.due()))
	defer timer.Stop()
	for {
		var tick, tell, over bool
		select {
		case <-me.soft:
			v.soften(time.Now())
			timer.Reset(time.Until(v.due()))
			continue
		case <-timer.C:
			tick, tell, over = v.rings(time.Now())
			timer.Reset(time.Until(v.due()))
		case <-me.hard:
			tell = true
		case <-r.Context().Done():
			over = true
		case <-s.closing:
			over = true
		}
		room.mu.Lock()
		if tick {
			room.swarm.tick(time.Now())
			room.wake()
		}
		if over || tell && room.waiting[n] != me {
			break
		}
		if hard, soft := room.swarm.news(n); tell && (hard || soft) {
			break
		}
		room.mu.Unlock() // a report of the same node has been told everything meanwhile
	}
	if room.waiting[n] == me {
		delete(room.waiting, n)
	}
	room.swarm.poll(time.Now(), n, -1)
}
