package discovery

import (
	"context"
	"net/netip"
	"slices"

	"github.com/pantala/pantala/peerwire"
)

const (
	// alpha is how many nodes are asked at a time.
	alpha = 4
	// maxLookup bounds the nodes that one lookup asks. In a network of a million it takes about 30.
	maxLookup = 120
	// maxCandidates bounds those that wait to be asked: the nearest are kept.
	maxCandidates = 64
)

// candidate is a node of a lookup.
type candidate struct {
	contact
	state lookupState
	token []byte
}

type lookupState uint8

const (
	unasked lookupState = iota
	asked
	answers
	silent
)

// search is the state of one lookup: the nodes found so far, nearest to the target first. It is pure.
type search struct {
	target nodeID
	near   []candidate
	seen   map[netip.AddrPort]bool
	total  int // asked so far
	flying int
}

func newSearch(target nodeID, start []contact) *search {
	s := &search{target: target, seen: map[netip.AddrPort]bool{}}
	s.add(start)
	return s
}

// add takes nodes in that are new.
func (s *search) add(all []contact) {
	for _, c := range all {
		if s.seen[c.addr] || len(s.seen) > 8*maxLookup {
			continue
		}
		s.seen[c.addr] = true
		i, _ := slices.BinarySearchFunc(s.near, c, func(e candidate, c contact) int {
			if nearer(s.target, e.id, c.id) {
				return -1
			}
			return 1
		})
		s.near = slices.Insert(s.near, i, candidate{contact: c})
	}
	if len(s.near) > maxCandidates {
		s.near = slices.DeleteFunc(s.near, func(c candidate) bool { return c.state == silent })
		s.near = s.near[:min(len(s.near), maxCandidates)]
	}
}

// next is a node to ask now. It is over when the 8 nearest that are not silent have answered.
func (s *search) next() (contact, bool) {
	if s.flying >= alpha || s.total >= maxLookup {
		return contact{}, false
	}
	alive := 0
	for i := range s.near {
		c := &s.near[i]
		switch c.state {
		case unasked:
			c.state = asked
			s.total++
			s.flying++
			return c.contact, true
		case silent:
			continue
		}
		if alive++; alive == bucketSize {
			break
		}
	}
	return contact{}, false
}

// done notes what came of a query.
func (s *search) done(c contact, m krpc, err error) {
	s.flying--
	for i := range s.near {
		if e := &s.near[i]; e.contact == c {
			e.state, e.token = answers, m.token
			if err != nil {
				e.state = silent
			}
			break
		}
	}
	if err == nil {
		s.add(m.nodes)
	}
}

// found are the nearest nodes that have answered.
func (s *search) found() (all []candidate) {
	for _, c := range s.near {
		if c.state == answers && len(all) < bucketSize {
			all = append(all, c)
		}
	}
	return all
}

// lookup walks towards a target, several nodes at a time, and returns the nearest that have answered. each is
// called for every answer, on the caller's goroutine.
func (d *DHT) lookup(ctx context.Context, target nodeID, method string, each func(contact, krpc)) []candidate {
	type outcome struct {
		c   contact
		m   krpc
		err error
	}
	d.mu.Lock()
	s := newSearch(target, d.table.nearest(target, 2*bucketSize))
	d.mu.Unlock()
	results := make(chan outcome, alpha)
	for {
		for c, ok := s.next(); ok; c, ok = s.next() {
			d.wg.Go(func() {
				m, err := d.query(ctx, c, krpc{method: method, target: target})
				results <- outcome{c, m, err}
			})
		}
		if s.flying == 0 {
			return s.found()
		}
		o := <-results // a query ends within queryTimeout, or with ctx
		if o.err == nil && each != nil {
			each(o.c, o.m)
		}
		usable := o.m
		usable.nodes = slices.DeleteFunc(slices.Clone(o.m.nodes), func(c contact) bool {
			return c.id == d.self || c.addr.Addr().Is4() == d.six || peerwire.Scope(c.addr.Addr()) > peerwire.Scope(o.c.addr.Addr())
		})
		s.done(o.c, usable, o.err)
	}
}
