package swarm

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// book is what a torrent knows about addresses: whom to dial when, and whom never again. It is a pure state
// machine: time comes in as an argument.
type book struct {
	entries map[netip.AddrPort]*entry
	banned  map[[20]byte]bool
	jitter  func() float64 // in [0,1)
}

type entry struct {
	state addrState
	fails int       // in a row
	tries int       // ever
	known bool      // peer is set
	peer  [20]byte  // who answered there last
	next  time.Time // not to be dialled before
}

type addrState uint8

const (
	idle addrState = iota
	dialing
	connected
	never // ourselves, or banned
)

const (
	// maxAddrs bounds the book of one torrent; 100 bytes each.
	maxAddrs = 4096
	// maxFails is after how many failures in a row an address is forgotten (about 10 minutes); a tracker
	// that still believes in it names it again.
	maxFails = 20
	// The first retry comes after about half a second: a neighbour that just starts. Later ones back off to
	// half a minute.
	minBackoff = 500 * time.Millisecond
	maxBackoff = 30 * time.Second
)

func newBook() *book {
	return &book{entries: make(map[netip.AddrPort]*entry), banned: make(map[[20]byte]bool), jitter: rand.Float64}
}

// add makes an address known and reports whether it is new. Naming an idle one again makes it due at once
// if it has not failed.
func (b *book) add(a netip.AddrPort, at time.Time) bool {
	if !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
		return false
	}
	if b.entries[a] != nil || len(b.entries) >= maxAddrs {
		return false
	}
	b.entries[a] = &entry{next: at}
	return true
}

// due takes up to n addresses that are to be dialled now.
func (b *book) due(at time.Time, n int) (as []netip.AddrPort) {
	for a, e := range b.entries {
		if len(as) >= n {
			break
		}
		if e.state == idle && !e.next.After(at) {
			e.state = dialing
			as = append(as, a)
		}
	}
	return as
}

// next is when the next address is due; zero: none.
func (b *book) next() (t time.Time) {
	for _, e := range b.entries {
		if e.state == idle && (t.IsZero() || e.next.Before(t)) {
			t = e.next
		}
	}
	return t
}

// joined notes that an address is connected.
func (b *book) joined(a netip.AddrPort) {
	if e := b.entries[a]; e != nil && e.state != never {
		e.state, e.fails = connected, 0
	}
}

// failed notes that an address could not be dialled, or that the connection ended.
func (b *book) failed(a netip.AddrPort, at time.Time) {
	e := b.entries[a]
	if e == nil || e.state == never {
		return
	}
	e.state = idle
	e.fails++
	if e.fails > maxFails {
		delete(b.entries, a)
		return
	}
	e.next = at.Add(b.backoff(e.fails))
}

// backoff doubles from minBackoff to maxBackoff, each 75..125 %, so that nodes that lost the same peer do
// not come back together.
func (b *book) backoff(fails int) time.Duration {
	d := min(maxBackoff, minBackoff<<min(fails-1, 10))
	return time.Duration(float64(d) * (0.75 + b.jitter()/2))
}

// alias notes that the peer behind an address is connected in another way; while it is, the address need not
// be dialled.
func (b *book) alias(a netip.AddrPort, id [20]byte, at time.Time) {
	b.add(a, at)
	if e := b.entries[a]; e != nil {
		e.known, e.peer = true, id
		if e.state != connected {
			b.rest(a, at)
		}
	}
}

// rest puts an address aside for a while: the peer behind it is connected in another way.
func (b *book) rest(a netip.AddrPort, at time.Time) {
	if e := b.entries[a]; e != nil && e.state != never {
		e.state, e.fails, e.next = idle, 0, at.Add(maxBackoff)
	}
}

// ban makes sure that an address is never dialled again.
func (b *book) ban(a netip.AddrPort) {
	if a.IsValid() {
		b.entries[a] = &entry{state: never}
	}
}

// count is the number of addresses in a state.
func (b *book) count(s addrState) (n int) {
	for _, e := range b.entries {
		if e.state == s {
			n++
		}
	}
	return n
}
