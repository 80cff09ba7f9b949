package swarmtest

import (
	"time"

	"github.com/pantala/pantala/relay"
)

// reader is a program on a node that reads a block here and there while the rest comes in bulk: mapped files that are
// touched at random. It reads the next one a while after it has got the last.
type reader struct {
	on      bool
	waiting bool
	block   uint32
	since   int64
	tries   int32
}

const (
	// thinks is what lies between two reads of a reader.
	thinks = second
	// patience is how long a block is waited for before it is asked for elsewhere, too.
	patience = 300 * int64(time.Millisecond)
	// readLimit is when a read has failed.
	readLimit = 30 * time.Second
)

// wishReads decides whether somebody reads on n.
func (s *Sim) wishReads(n *node) {
	if s.Readers > 0 && n != s.source && s.rng.Float64() < s.Readers {
		n.reader.on = true
		s.push(s.rng.Int64N(thinks), event{kind: evRead, who: n.index, arg: -1})
	}
}

// read is when the reader of n wants a block (try -1), or has waited for one for a while.
func (s *Sim) read(n *node, try int32) {
	r := &n.reader
	switch {
	case !n.alive || n.done > 0:
		return
	case try < 0 && !r.waiting:
		r.block = uint32(s.rng.Int64N(int64(s.geo.Blocks())))
		if n.has(r.block) {
			s.push(thinks, event{kind: evRead, who: n.index, arg: -1})
			return
		}
		r.waiting, r.since, r.tries = true, s.now, 0
	case !r.waiting || try != r.tries:
		return
	default:
		r.tries++
	}
	s.askUrgent(n)
}

// retry has the reader ask again at once: what it has asked for will not come from there.
func (s *Sim) retry(n *node) {
	if n.reader.waiting {
		s.push(0, event{kind: evRead, who: n.index, arg: n.reader.tries})
	}
}

// askUrgent asks for the block that the reader of n is blocked on: a peer that has it first, then the source, in turn.
// It follows no plan.
func (s *Sim) askUrgent(n *node) {
	r := &n.reader
	var have []*conn
	for _, c := range n.conns {
		if c.open && c.parent.has(r.block) && c.parent != s.source && !s.apart(n, c.parent) {
			have = append(have, c)
		}
	}
	var c *conn
	if len(have) > 0 && r.tries%2 == 0 {
		c = have[s.rng.IntN(len(have))]
	} else if c = s.connect(n, s.source); !c.open {
		s.push(10*int64(time.Millisecond), event{kind: evRead, who: n.index, arg: r.tries})
		return
	}
	c.urgent.push(request{first: r.block, count: 1, lane: uint8(relay.Stripe(s.geo, s.geo.PieceOf(r.block), s.k)), urgent: true})
	c.parent.urgents++
	s.push(s.latency(n, c.parent), event{kind: evKick, who: c.parent.index})
	s.push(patience, event{kind: evRead, who: n.index, arg: r.tries})
}

// hasCome ends the read of a reader when its block is there.
func (s *Sim) hasCome(n *node) {
	r := &n.reader
	if !r.waiting || !n.has(r.block) {
		return
	}
	r.waiting = false
	took := time.Duration(s.now - r.since)
	s.res.reads = append(s.res.reads, took)
	if took > readLimit {
		s.res.Failed++
	}
	if s.tracker.left > 0 {
		s.res.AwayReads++
		s.res.AwayRead = max(s.res.AwayRead, took)
	}
	s.push(thinks, event{kind: evRead, who: n.index, arg: -1})
}
