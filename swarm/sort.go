package swarm

import (
	"cmp"
	"slices"
	"time"
)

func sortDurations(d []time.Duration) { slices.Sort(d) }

// sortBy sorts indexes by the time that key gives them, earliest first.
func sortBy(ix []int, key func(i int) time.Time) {
	slices.SortFunc(ix, func(a, b int) int { return cmp.Compare(key(a).UnixNano(), key(b).UnixNano()) })
}
