package tracker

import (
	"net/netip"
	"time"
)

// Desk is what a Server does for one swarm of nodes that plan, without network, goroutines and clock: package swarmtest
// drives it in virtual time. Messages are those of plan.go, bytes and all. It is not safe for concurrent use.
type Desk struct {
	room    *room
	polls   map[int64]*held
	byNode  map[*node]*held
	answers []DeskAnswer
}

// held is a poll that waits.
type held struct {
	vigil
	ticket int64
	n      *node
	alarm  time.Time // the earliest one that is set
}

// DeskAnswer is what is to be done about the request that came with a ticket: Body is its answer; without a body, Ring
// is to be called at that time.
type DeskAnswer struct {
	Ticket int64
	Body   []byte
	At     time.Time
}

// NewDesk is the desk of a tracker that has just been started. epoch is what a Server would draw.
func NewDesk(o ServerOptions, epoch int64, now time.Time) *Desk {
	d := &Desk{room: newRoom(o.rules(), epoch, now), polls: map[int64]*held{}, byNode: map[*node]*held{}}
	d.room.swarm.makePlanner = newPlanner
	return d
}

// Every is how often Tick is to be called.
func (d *Desk) Every() time.Duration { return d.room.swarm.every() }

// Take is called when a request has come from an address. No two requests that have not been answered have the same
// ticket. An error is a request that a Server would refuse.
func (d *Desk) Take(now time.Time, ticket int64, from netip.Addr, body []byte) error {
	q, err := parsePlanRequest(body)
	if err != nil {
		return err
	}
	n, reply, err := d.room.take(now, q, whence(from, netip.Addr{}, q.port))
	switch {
	case err != nil:
		return err
	case reply != nil:
		d.answer(ticket, reply)
	default:
		d.hold(now, ticket, n, q.wait)
	}
	d.wake(now)
	return nil
}

// hold keeps a poll.
func (d *Desk) hold(now time.Time, ticket int64, n *node, wait time.Duration) {
	if before := d.byNode[n]; before != nil {
		d.release(now, before) // a node polls once: the older poll is answered
	}
	h := &held{ticket: ticket, n: n}
	d.polls[ticket], d.byNode[n] = h, h
	d.room.swarm.poll(now, n, 1)
	_, soft := d.room.swarm.news(n)
	h.vigil = d.room.watch(now, n, wait)
	if soft {
		h.soften(now)
	}
	d.set(h)
}

// set has Ring be called when something is due at h.
func (d *Desk) set(h *held) {
	if at := h.due(); h.alarm.IsZero() || at.Before(h.alarm) {
		h.alarm = at
		d.answers = append(d.answers, DeskAnswer{Ticket: h.ticket, At: at})
	}
}

// drop ends a poll.
func (d *Desk) drop(now time.Time, h *held) {
	delete(d.polls, h.ticket)
	if d.byNode[h.n] == h {
		delete(d.byNode, h.n)
	}
	d.room.swarm.poll(now, h.n, -1)
}

// release answers a poll.
func (d *Desk) release(now time.Time, h *held) {
	d.drop(now, h)
	d.answer(h.ticket, d.room.told(h.n))
}

func (d *Desk) answer(ticket int64, r *planReply) {
	d.answers = append(d.answers, DeskAnswer{Ticket: ticket, Body: r.append(make([]byte, 0, 256+len(r.roots)*rootLen+len(r.peers)*peerLen))})
}

// wake lets the polls go that have something to tell.
func (d *Desk) wake(now time.Time) {
	for _, n := range d.room.swarm.drain() {
		h := d.byNode[n]
		if h == nil {
			continue
		}
		if hard, soft := d.room.swarm.news(n); hard {
			d.release(now, h)
		} else if soft {
			h.soften(now)
			d.set(h)
		}
	}
}

// Ring is called at a time that a DeskAnswer names. It does no harm when the poll is answered already.
func (d *Desk) Ring(now time.Time, ticket int64) {
	h := d.polls[ticket]
	if h == nil || now.Before(h.alarm) {
		return
	}
	h.alarm = time.Time{}
	tick, tell, over := h.rings(now)
	if tick {
		d.Tick(now)
	}
	if d.polls[ticket] == nil {
		return
	}
	hard, soft := d.room.swarm.news(h.n)
	if over || tell && (hard || soft) {
		d.release(now, h)
		d.wake(now)
		return
	}
	d.set(h)
}

// Hangup is called when the connection of a poll is gone.
func (d *Desk) Hangup(now time.Time, ticket int64) {
	if h := d.polls[ticket]; h != nil {
		d.drop(now, h)
	}
}

// Tick runs the swarm's clock.
func (d *Desk) Tick(now time.Time) {
	if len(d.room.swarm.nodes) > 0 {
		d.room.swarm.tick(now)
		d.wake(now)
	}
}

// Answers returns what has come since it was called last.
func (d *Desk) Answers() []DeskAnswer {
	list := d.answers
	d.answers = nil
	return list
}
