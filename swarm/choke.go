package swarm

import (
	"slices"
	"time"
)

// rotateAfter is how long a served peer keeps its slot while others wait for one. BEP 3 clients rotate every
// 10 s (choke round) to 30 s (optimistic).
const rotateAfter = 10 * time.Second

// seat is what the choker knows of a peer.
type seat struct {
	served     bool
	interested bool
	foreign    bool      // not a peer of ours
	since      time.Time // it got the slot, or joined
	asked      time.Time // it asked for a block last
}

// foreignSlots is how many of the slots peers that are not ours may have: they choose by their own lights, and
// what they take is missing in the plan. A fifth, but one at least.
func foreignSlots(slots int) int { return max(1, slots/5) }

// choose says whom to stop and whom to start serving: foreign peers within their part of the slots, ours in the
// rest.
func choose(seats []seat, slots int, at time.Time) (choke, unchoke []int) {
	var ours, foreign []int
	for i, s := range seats {
		if s.foreign {
			foreign = append(foreign, i)
		} else {
			ours = append(ours, i)
		}
	}
	taken := 0
	among := func(group []int, slots int) {
		own := make([]seat, len(group))
		for i, g := range group {
			own[i] = seats[g]
		}
		off, on := chooseAmong(own, slots, at)
		for i, s := range own {
			if s.served && !slices.Contains(off, i) || slices.Contains(on, i) {
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
	among(foreign, foreignSlots(slots))
	among(ours, max(1, slots-taken))
	return choke, unchoke
}

// chooseAmong chooses among peers of one kind. There is no tit-for-tat: everybody is served who fits into slots,
// interested or not, as that saves a round trip before the first block. When interested peers wait, seats that
// nobody uses are taken first, then the oldest one.
func chooseAmong(seats []seat, slots int, at time.Time) (choke, unchoke []int) {
	free := slots
	var waiting, idlers []int
	for i, s := range seats {
		switch {
		case s.served:
			free--
			if !s.interested {
				idlers = append(idlers, i)
			}
		case s.interested:
			waiting = append(waiting, i)
		}
	}
	// Who waits longest comes first: there is no other order among equals that is fair.
	slices.SortStableFunc(waiting, func(a, b int) int { return seats[a].since.Compare(seats[b].since) })
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
		if free > 0 && !s.served && !s.interested {
			free--
			unchoke = append(unchoke, i)
		}
	}
	return choke, unchoke
}

// victim is the served, interested peer that has had its slot longest and long enough; one that has not
// asked for anything in that time is preferred. -1: none.
func victim(seats []seat, taken []int, at time.Time) int {
	best := -1
	for i, s := range seats {
		if !s.served || !s.interested || at.Sub(s.since) < rotateAfter || slices.Contains(taken, i) {
			continue
		}
		if best < 0 {
			best = i
			continue
		}
		lazy, bestLazy := at.Sub(s.asked) >= rotateAfter, at.Sub(seats[best].asked) >= rotateAfter
		if lazy != bestLazy && lazy || lazy == bestLazy && s.since.Before(seats[best].since) {
			best = i
		}
	}
	return best
}
