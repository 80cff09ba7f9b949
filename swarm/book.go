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
	jitter  func() float64     // in [0,1)
	heard   map[netip.Addr]int // how many entries each source of hearsay has in the book
	hearsay int                // their sum
}

type entry struct {
	state addrState
	fails int        // in a row
	tries int        // ever
	met   bool       // it was connected, or has said itself that it listens there
	known bool       // peer is set
	peer  [20]byte   // who answered there last
	next  time.Time  // not to be dialled before
	src   netip.Addr // the host that named it, when that is hearsay; zero: a tracker, the user, or the peer itself
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
	// maxHearsay bounds what is known only because somebody who is not trusted with it has said so (peer
	// exchange, local discovery, DHT), so that it cannot keep out what trackers name.
	maxHearsay = maxAddrs * 3 / 4
	// maxHeard is how much of that one host may have named. A full peer exchange message has 50, and one host
	// may be a dozen containers; with this, it takes 24 lying hosts to fill the book with hearsay.
	maxHeard = 128
	// maxHearsayFails is after how many failures hearsay is forgotten that never proved true: who still has it will say it again.
	maxHearsayFails = 4
	// maxHearsayDials bounds the dials under way to hearsay: the other half is for what trackers name.
	maxHearsayDials = maxDials / 2
)

func newBook() *book {
	return &book{entries: make(map[netip.AddrPort]*entry), banned: make(map[[20]byte]bool), jitter: rand.Float64, heard: make(map[netip.Addr]int)}
}

// add makes an address known and reports whether it is new. Naming an idle one again makes it due at once
// if it has not failed.
func (b *book) add(a netip.AddrPort, at time.Time) bool {
	if !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
		return false
	}
	if e := b.entries[a]; e != nil {
		b.believe(e)
		return false
	}
	if len(b.entries) >= maxAddrs {
		return false
	}
	b.entries[a] = &entry{next: at}
	return true
}

// hear makes an address known that src has named, within what one source and all together may name.
func (b *book) hear(a netip.AddrPort, src netip.Addr, at time.Time) bool {
	if b.entries[a] != nil || b.heard[src] >= maxHeard || b.hearsay >= maxHearsay || !b.add(a, at) {
		return false
	}
	b.entries[a].src = src
	b.heard[src]++
	b.hearsay++
	return true
}

// believe notes that an entry is no longer, or no longer only, hearsay.
func (b *book) believe(e *entry) {
	if !e.src.IsValid() {
		return
	}
	if b.heard[e.src]--; b.heard[e.src] == 0 {
		delete(b.heard, e.src)
	}
	b.hearsay--
	e.src = netip.Addr{}
}

// forget removes an address.
func (b *book) forget(a netip.AddrPort) {
	if e := b.entries[a]; e != nil {
		b.believe(e)
		delete(b.entries, a)
	}
}

// due takes up to n addresses that are to be dialled now.
func (b *book) due(at time.Time, n int) (as []netip.AddrPort) {
	rumours := 0 // being dialled
	for _, e := range b.entries {
		if e.src.IsValid() && e.state == dialing {
			rumours++
		}
	}
	for _, hearsay := range []bool{false, true} {
		for a, e := range b.entries {
			if len(as) >= n || hearsay && rumours >= maxHearsayDials {
				break
			}
			if e.state == idle && e.src.IsValid() == hearsay && !e.next.After(at) {
				e.state = dialing
				as = append(as, a)
				if hearsay {
					rumours++
				}
			}
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
		e.state, e.fails, e.met = connected, 0, true
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
	if e.fails > maxFails || e.src.IsValid() && !e.met && e.fails > maxHearsayFails {
		b.forget(a)
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
	b.hear(a, a.Addr(), at) // what a stranger says of itself is hearsay too, or one could fill the book with its ports
	if e := b.entries[a]; e != nil {
		e.known, e.met, e.peer = true, true, id
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
		b.forget(a)
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
