// Package choker decides which peers of a torrent are served.
//
// # Place
//
// Between the event loop of a torrent in swarm, which owns the peers, and the messages choke and unchoke. It is pure,
// so that the simulator of package swarmtest decides by it too. Who is served first of those that have a slot is not
// its matter: that goes by the class of what they ask for, and a run that somebody is blocked on needs no slot.
//
// # Goroutines
//
// None.
//
// # Locks
//
// None.
//
// # Errors
//
// None.
package choker

import (
	"slices"
	"time"
)

// RotateAfter is how long a served peer keeps its slot while others wait for one. BEP 3 clients rotate every
// 10 s (choke round) to 30 s (optimistic).
const RotateAfter = 10 * time.Second

// Seat is what the choker knows of a peer.
type Seat struct {
	Served     bool
	Interested bool
	Foreign    bool      // not a peer of ours
	Since      time.Time // it got the slot, or joined
	Asked      time.Time // it asked for a block last
}

// Room reports whether a peer that has just come may be served before it is known what it wants, which saves a round
// trip: served and foreign are how many are, and how many of them are not ours.
func Room(served, foreign, slots int) bool { return served < slots && foreign < ForeignSlots(slots) }

// ForeignSlots is how many of the slots peers that are not ours may have: they choose by their own lights, and
// what they take is missing in the plan. A fifth, but one at least.
func ForeignSlots(slots int) int { return max(1, slots/5) }

// Choose says whom to stop and whom to start serving: foreign peers within their part of the slots, ours in the
// rest.
func Choose(seats []Seat, slots int, at time.Time) (choke, unchoke []int) {
	var ours, foreign []int
	for i, s := range seats {
		if s.Foreign {
			foreign = append(foreign, i)
		} else {
			ours = append(ours, i)
		}
	}
	taken := 0
	among := func(group []int, slots int) {
		own := make([]Seat, len(group))
		for i, g := range group {
			own[i] = seats[g]
		}
		off, on := chooseAmong(own, slots, at)
		for i, s := range own {
			if s.Served && !slices.Contains(off, i) || slices.Contains(on, i) {
				taken++
			}
		}
		for _, i := range off {
			choke = append(choke, group[i])
		}
		for _, i := range on {
			unchoke = append(unchoke, group[i])
		}
	}
	among(foreign, ForeignSlots(slots))
	among(ours, max(1, slots-taken))
	return choke, unchoke
}

// chooseAmong chooses among peers of one kind. There is no tit-for-tat: everybody is served who fits into slots,
// interested or not, as that saves a round trip before the first block. When interested peers wait, seats that
// nobody uses are taken first, then the oldest one.
func chooseAmong(seats []Seat, slots int, at time.Time) (choke, unchoke []int) {
	free := slots
	var waiting, idlers []int
	for i, s := range seats {
		switch {
		case s.Served:
			free--
			if !s.Interested {
				idlers = append(idlers, i)
			}
		case s.Interested:
			waiting = append(waiting, i)
		}
	}
	// Who waits longest comes first: there is no other order among equals that is fair.
	slices.SortStableFunc(waiting, func(a, b int) int { return seats[a].Since.Compare(seats[b].Since) })
	for _, w := range waiting {
		switch {
		case free > 0:
			free--
		case len(idlers) > 0:
			choke, idlers = append(choke, idlers[0]), idlers[1:]
		default:
			v := victim(seats, choke, at)
			if v < 0 {
				return choke, unchoke
			}
			choke = append(choke, v)
		}
		unchoke = append(unchoke, w)
	}
	for i, s := range seats {
		if free > 0 && !s.Served && !s.Interested {
			free--
			unchoke = append(unchoke, i)
		}
	}
	return choke, unchoke
}

// victim is the served, interested peer that has had its slot longest and long enough; one that has not
// asked for anything in that time is preferred. -1: none.
func victim(seats []Seat, taken []int, at time.Time) int {
	best := -1
	for i, s := range seats {
		if !s.Served || !s.Interested || at.Sub(s.Since) < RotateAfter || slices.Contains(taken, i) {
			continue
		}
		if best < 0 {
			best = i
			continue
		}
		lazy, bestLazy := at.Sub(s.Asked) >= RotateAfter, at.Sub(seats[best].Asked) >= RotateAfter
		if lazy != bestLazy && lazy || lazy == bestLazy && s.Since.Before(seats[best].Since) {
			best = i
		}
	}
	return best
}
