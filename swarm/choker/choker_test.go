package choker

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestChoose keeps to the slots, and leaves none empty while somebody waits.
func TestChoose(t *testing.T) {
	start := time.Unix(1000, 0)
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(1, 6).Draw(t, "slots")
		var seats []Seat
		served := 0
		for range rapid.IntRange(0, 12).Draw(t, "peers") {
			s := Seat{
				Served: served < slots && rapid.Bool().Draw(t, "served"), Interested: rapid.Bool().Draw(t, "interested"),
				Since: start.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "since")) * time.Second),
				Asked: start.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "asked")) * time.Second),
			}
			if s.Served {
				served++
			}
			seats = append(seats, s)
		}
		at := start.Add(20 * time.Second)
		choke, unchoke := Choose(seats, slots, at)
		for _, i := range choke {
			if !seats[i].Served {
				t.Fatalf("peer %d is not served and choked", i)
			}
			if seats[i].Interested && at.Sub(seats[i].Since) < RotateAfter {
				t.Fatalf("peer %d loses its slot after %s", i, at.Sub(seats[i].Since))
			}
			seats[i].Served = false
		}
		for _, i := range unchoke {
			if seats[i].Served {
				t.Fatalf("peer %d is served twice", i)
			}
			seats[i].Served = true
		}
		n, waiting, idle := 0, 0, 0
		for _, s := range seats {
			switch {
			case s.Served && s.Interested:
				n++
			case s.Served:
				n++
				idle++
			case s.Interested:
				waiting++
			}
		}
		if n > slots || waiting > 0 && (n < slots || idle > 0) {
			t.Fatalf("%d of %d slots taken, %d by idle ones, %d wait", n, slots, idle, waiting)
		}
	})
}

// TestForeignSlots: foreign peers never have more than their part, and ours get the rest.
func TestForeignSlots(t *testing.T) {
	at := time.Unix(1000, 0)
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(1, 20).Draw(t, "slots")
		var seats []Seat
		for range rapid.IntRange(0, 40).Draw(t, "peers") {
			seats = append(seats, Seat{
				Interested: rapid.Bool().Draw(t, "interested"), Foreign: rapid.Bool().Draw(t, "foreign"), Since: at,
			})
		}
		_, unchoke := Choose(seats, slots, at)
		ours, foreign, hungry := 0, 0, 0
		for i, s := range seats {
			on := slices.Contains(unchoke, i)
			switch {
			case on && s.Foreign:
				foreign++
			case on:
				ours++
			case s.Interested && !s.Foreign:
				hungry++
			}
		}
		if foreign > ForeignSlots(slots) || ours+foreign > max(slots, 2) {
			t.Fatalf("%d foreign and %d of ours in %d slots", foreign, ours, slots)
		}
		if hungry > 0 && ours+foreign < slots {
			t.Fatalf("%d of ours wait and %d of %d slots are taken", hungry, ours+foreign, slots)
		}
	})
}
