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
	stranger := &planReply{epoch: room.swarm.epoch, resync: true}
	n, err := room.swarm.report(time.Now(), q, addr)
	defer room.wake()
	if errors.Is(err, errStranger) {
		return stranger, nil
	}
	if err != nil {
		return nil, err
	}
	if q.full && q.gen == 0 {
		s.plain.forget(&q.key, &q.peer) // it may have announced before it planned
	}
	if hard, _ := room.swarm.news(n); q.wait > 0 && !hard {
		s.hold(room, n, w, r, q.wait)
		if room.swarm.byID[q.peer] != n.member || n.member.plan != n {
			return stranger, nil
		}
	}
	return room.swarm.reply(n), nil
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
	// Roots, peers and leases of others come in bursts; told together they cost one reply. The more nodes
	// there are, the longer a burst.
	// A timer of its own: the janitor's clock is too coarse for the end of such a wait.
	ask := room.swarm.waits(time.Now(), n)
	settle := 2*time.Millisecond + room.swarm.pace()
	room.mu.Unlock()

	end, soon := time.NewTimer(wait), time.NewTimer(settle)
	defer end.Stop()
	defer soon.Stop()
	soon.Stop()
	asked := time.NewTimer(ask)
	defer asked.Stop()
	if ask == 0 {
		asked.Stop()
	}
	for {
		told := false
		select {
		case <-me.soft:
			soon.Reset(settle)
			continue
		case <-asked.C:
			room.mu.Lock()
			room.swarm.tick(time.Now())
			room.wake()
			room.mu.Unlock()
			continue
		case <-soon.C:
			told = true
		case <-me.hard:
			told = true
		case <-end.C:
		case <-r.Context().Done():
		case <-s.closing:
		}
		room.mu.Lock()
		if !told || room.waiting[n] != me {
			break
		}
		if hard, soft := room.swarm.news(n); hard || soft {
			break
		}
		room.mu.Unlock() // a report of the same node has been told everything meanwhile
	}
	if room.waiting[n] == me {
		delete(room.waiting, n)
	}
	room.swarm.poll(time.Now(), n, -1)
}
